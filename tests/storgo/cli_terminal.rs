//! Output on a terminal, with a pseudo-terminal.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::{
    binary::{DEADLINE, Machine, link},
    swarm::noise,
};

/// A command on its own terminal; killed when dropped.
struct Terminal {
    child: Child,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

/// Pieces of output in the channel.
const PIECES: usize = 100_000;

impl Terminal {
    /// Starts a command whose stdout and stderr are a terminal of this width.
    fn new(mut command: Command, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let slave =
            File::options().read(true).write(true).open(name.to_str().expect("a path")).expect("opened");
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).expect("set");
        let other = slave.try_clone().expect("cloned");
        command.env("TERM", "xterm-256color").stdout(Stdio::from(slave)).stderr(Stdio::from(other));
        let child = command.spawn().expect("the binary starts");
        // Close our copies of the terminal's other end, so that reading ends with the command.
        drop(command);
        let (sender, screen) = mpsc::sync_channel(PIECES);
        thread::spawn(move || read(master, &sender));
        Self { child, screen, seen: Vec::new() }
    }

    /// Waits until this text appears.
    #[track_caller]
    fn shows(&mut self, word: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.text().contains(word) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.screen.recv_timeout(left) else {
                panic!("{word:?} is never shown: {:?}", self.text());
            };
            self.seen.extend(bytes);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for the end. Returns the exit code and everything shown.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end: {:?}", self.text()),
            }
        }
        let code = self.child.wait().expect("awaited").code();
        (code, self.text())
    }

    /// Everything shown so far; a character may have arrived in two pieces.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read(master: OwnedFd, sender: &mpsc::SyncSender<Vec<u8>>) {
    let mut master = File::from(master);
    let mut buf = [0; 4096];
    // Reading fails once nobody has the terminal open.
    while let Ok(len) = master.read(&mut buf) {
        if len == 0 || sender.send(buf[..len].to_vec()).is_err() {
            return;
        }
    }
}

/// Whether the screen contains `ESC [ … m`, which sets a colour or a weight.
fn is_coloured(screen: &str) -> bool {
    screen.split("\u{1b}[").skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
        end.is_some_and(|end| rest[end..].starts_with('m') && !matches!(&rest[..end], "" | "0"))
    })
}

/// The text of a screen without escape sequences.
fn words(screen: &str) -> String {
    let mut out = String::new();
    let mut chars = screen.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next() == Some('[') {
            chars.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    out
}

fn machine_command(machine: &Machine, args: &[&str], plain: bool) -> Command {
    let mut command = machine.command();
    command.args(args);
    if plain {
        command.env("NO_COLOR", "1");
    }
    command
}

#[test]
fn provide_shows_progress_bars_that_fit_the_terminal() {
    let (writer, peer) = (Machine::new(), Machine::new());
    let first = peer.start::<&str>([]);
    let _node = writer.start(["--bootstrap", &first.addr()]);
    super::binary::eventually("they are connected", || writer.status()["peers"] == 1);
    writer.file("file", &noise(1, 24 << 20));
    for plain in [true, false] {
        // The peer does not answer, so announcing takes long enough to be seen.
        first.running.signal(Signal::STOP);
        let command = machine_command(&writer, &["provide", "file", "--no-dedup"], plain);
        let columns = if plain { 100 } else { 80 };
        let mut terminal = Terminal::new(command, columns);
        terminal.shows("sealing");
        terminal.shows("sealed 24.00 MiB");
        terminal.shows("placing");
        first.running.signal(Signal::CONT);
        let (code, screen) = terminal.end();
        assert_eq!(code, Some(0), "{screen:?}");
        let text = words(&screen);
        assert!(text.contains("24.00 MiB") && text.contains("B/s") && text.contains("storgo://"), "{text:?}");
        assert!(text.contains("placed"), "{text:?}");
        // The bars are cleared at the end, and no line is wider than the terminal.
        let last = text.trim_end().lines().last().expect("a line");
        assert!(last.contains("placed"), "{last:?}");
        let bars =
            text.split(['\r', '\n']).filter(|line| line.contains("sealing") || line.contains("placing"));
        for line in bars {
            assert!(line.trim_end().chars().count() <= columns.into(), "{line:?}");
        }
        assert!(!plain || !is_coloured(&screen), "{screen:?}");
    }
}

#[test]
fn a_download_shows_the_remaining_time_after_a_second() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(["--upload-limit", "1 MiB"]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let report = writer.provide("file", &noise(2, 32 << 20));
    let mut terminal = Terminal::new(machine_command(&reader, &["get", link(&report)], true), 80);
    terminal.shows("left");
    terminal.signal(Signal::INT);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(130), "{screen:?}");
    for line in words(&screen).split(['\r', '\n']).filter(|line| line.contains("fetching")) {
        assert!(line.trim_end().chars().count() <= 80, "{line:?}");
    }
}

#[test]
fn colours_appear_on_terminals_without_no_color() {
    let machine = Machine::new();
    let nowhere = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("/ip4/127.0.0.1/tcp/{}", socket.local_addr().expect("an address").port())
    };
    let cid = "bafyrcfh5k23alp4qlyr3ux4w7lulfao2d3zbibi";
    for plain in [true, false] {
        // An error and a warning.
        let (code, screen) = Terminal::new(machine_command(&machine, &["ls", "--nonsense"], plain), 80).end();
        assert_eq!((code, is_coloured(&screen)), (Some(2), !plain), "{screen:?}");
        let get = machine_command(&machine, &["get", cid, "--bootstrap", &nowhere], plain);
        let mut terminal = Terminal::new(get, 200);
        terminal.shows("cannot be reached");
        terminal.signal(Signal::INT);
        let (code, screen) = terminal.end();
        assert_eq!((code, is_coloured(&screen)), (Some(130), !plain), "{screen:?}");
    }
}

#[test]
fn a_list_fits_the_terminal_and_is_whole_in_a_pipe() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let long = format!("{} \u{202e}end.tar.gz", "long name ".repeat(20));
    let report = machine.run_with(["provide", "-", "--name", &long, "--json"], b"x").ok().json();
    let cid = report["cid"].as_str().expect("a CID");
    machine.provide("日本語の名前", b"y");
    for columns in [200, 130, 100, 80] {
        let (code, screen) = Terminal::new(machine_command(&machine, &["ls"], true), columns).end();
        assert_eq!(code, Some(0), "{screen:?}");
        for line in screen.lines().filter(|line| !line.contains("CIDs are shortened")) {
            assert!(line.trim_end().chars().count() <= columns.into(), "{columns}: {line:?}");
        }
        assert!(screen.contains("end.tar.gz") || screen.contains(".tar.gz"), "{screen:?}");
        assert!(screen.contains('…') && !screen.contains('\u{202e}'), "{screen:?}");
        assert_eq!(screen.contains(cid), columns > 120, "{columns}: {screen:?}");
        assert_eq!(screen.contains("CIDs are shortened"), columns <= 120, "{columns}: {screen:?}");
    }
    let piped = machine.run(["ls"]).ok().text();
    assert!(
        piped.contains(cid) && piped.contains(&"long name ".repeat(20)) && !piped.contains('…'),
        "{piped}"
    );
}

#[test]
fn keys_on_a_terminal_come_with_a_warning_even_with_quiet() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    for quiet in [&["key", "backup", "-"][..], &["-q", "key", "backup", "-"]] {
        let (code, screen) = Terminal::new(machine_command(&machine, quiet, true), 80).end();
        assert_eq!(code, Some(0));
        let warned = screen.find("anybody who sees these keys can act as this node").expect("a warning");
        assert!(screen.find("\"identity\"").is_some_and(|keys| warned < keys), "{screen:?}");
    }
}
