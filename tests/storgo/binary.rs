//! Runs the real binary: data directories, commands with a deadline, nodes that end with their test.

use std::{
    cmp::Reverse,
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long a command may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Arguments of a node in a test, which connects only to the peers that the test names.
pub const ALONE: [&str; 4] = ["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0"];

/// A machine: a home folder with a data directory.
pub struct Machine {
    home: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        Self { home: TempDir::new().expect("a folder") }
    }

    /// The working directory of commands.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn data(&self) -> PathBuf {
        self.home().join("data")
    }

    /// Writes a file in the home folder. All have the same time, because the time is stored too.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.home().join(name);
        std::fs::write(&path, bytes).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("opened");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).expect("set");
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.home().join(name)).expect("a file")
    }

    /// `storgo-node` on this machine, without the environment of the tests.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storgo-node"));
        command
            .env_clear()
            .env("HOME", self.home())
            .env("STORGO_DATA_DIR", self.data())
            .env("STORGO_MDNS", "false")
            .current_dir(self.home())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        let mut command = self.command();
        command.args(args);
        Done::of(command)
    }

    /// Runs a command to its end with these bytes on stdin.
    pub fn run_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, stdin: &[u8]) -> Done {
        let mut command = self.command();
        command.args(args);
        run(command, Some(stdin.to_vec()))
    }

    /// Starts a command.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut command = self.command();
        command.args(args);
        Running::new(command)
    }

    /// Starts a command whose stdout is read as bytes.
    pub fn pipe<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Piped {
        let mut command = self.command();
        command.args(args);
        Piped::new(command)
    }

    /// Starts a command whose stdin is fed piece by piece.
    pub fn fed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Piped {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped());
        Piped::new(command)
    }

    /// Starts a node and waits until it serves the API.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Live {
        self.start_on(&ALONE, args)
    }

    /// Starts a node with other addresses and waits until it serves the API.
    pub fn start_on<S: AsRef<OsStr>>(&self, addrs: &[&str], args: impl IntoIterator<Item = S>) -> Live {
        let mut command = self.command();
        command.args(addrs).arg("--json").args(args);
        Live::of(command)
    }

    /// Stores a file on the running node and waits until it is announced.
    pub fn provide(&self, name: &str, bytes: &[u8]) -> Value {
        let path = self.file(name, bytes);
        self.run(["provide".as_ref(), path.as_os_str(), "--json".as_ref()]).ok().json()
    }

    /// The status of the running node.
    pub fn status(&self) -> Value {
        self.run(["status", "--json"]).ok().json()
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    pub args: String,
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Done {
    /// Runs a command to its end.
    pub fn of(command: Command) -> Self {
        run(command, None)
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.ends(0)
    }

    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        let start = self.text().chars().take(500).collect::<String>();
        assert_eq!(self.code, Some(code), "{}\n{start}\n{}", self.args, self.stderr);
        self
    }

    /// Asserts the exit code, parts of stderr, and an empty stdout.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        let done = self.ends(code);
        for word in words {
            assert!(done.stderr.contains(word), "{}: {word:?} is not in\n{}", done.args, done.stderr);
        }
        assert!(done.stdout.is_empty(), "{}: a result: {}", done.args, done.text());
        done
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The only line of stdout.
    #[track_caller]
    pub fn one_line(&self) -> String {
        let text = self.text();
        let line = text.strip_suffix('\n').expect("a whole line");
        assert!(!line.is_empty() && !line.contains('\n'), "{}: {text:?} is not one line", self.args);
        line.into()
    }

    /// stdout as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("{}: {e}: {}\n{}", self.args, self.text(), self.stderr))
    }
}

fn run(mut command: Command, stdin: Option<Vec<u8>>) -> Done {
    let args = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("the binary starts");
    let pid = Pid::from_child(&child);
    if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A command that ends early closes its side of the pipe.
        thread::spawn(move || drop(pipe.write_all(&bytes)));
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let Ok(output) = receiver.recv_timeout(DEADLINE) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("{args} does not end");
    };
    let output = output.expect("awaited");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Done { args, code: output.status.code(), stdout: output.stdout, stderr }
}

/// A running command; killed when dropped.
pub struct Running {
    args: String,
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

/// Lines of output in the channel.
const LINES: usize = 10_000;

impl Running {
    pub fn new(mut command: Command) -> Self {
        let args = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C on the tests must not reach the node, and the other way round.
        command.process_group(0);
        let mut child = command.spawn().expect("the binary starts");
        let stdout = lines(child.stdout.take().expect("piped"));
        let stderr = lines(child.stderr.take().expect("piped"));
        Self { args, child, stdout, stderr }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line on stdout.
    pub fn line(&self) -> String {
        self.stdout.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            let words: Vec<_> = self.stderr.try_iter().collect();
            panic!("{} says nothing more; stderr: {words:?}", self.args)
        })
    }

    /// The next line on stdout; `None` if there is none yet.
    pub fn try_line(&self) -> Option<String> {
        self.stdout.try_recv().ok()
    }

    /// Waits for a line on stdout that contains this.
    pub fn says(&self, word: &str) -> String {
        wait_for(&self.stdout, word).unwrap_or_else(|| panic!("{} never says {word:?}", self.args))
    }

    /// Waits for a line on stderr that contains this.
    pub fn notes(&self, word: &str) -> String {
        wait_for(&self.stderr, word).unwrap_or_else(|| panic!("{} never notes {word:?}", self.args))
    }

    /// Kills the process, as a power cut does, and waits for its end.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("awaited");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Stops it and waits. Returns its exit code and how long that took.
    pub fn stop(self) -> (Option<i32>, Duration) {
        self.end_by(Signal::TERM)
    }

    /// Ends it with a signal. Returns its exit code and how long that took.
    pub fn end_by(mut self, signal: Signal) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        self.signal(signal);
        let code = self.wait();
        (code, asked.elapsed())
    }

    /// Waits for its end. Returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        // Its stdout ends with the process.
        let deadline = Instant::now() + DEADLINE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Err(mpsc::RecvTimeoutError::Disconnected) = self.stdout.recv_timeout(left) {
                return self.child.wait().expect("awaited").code();
            }
        }
        panic!("{} does not end", self.args)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A command with pipes for stdin and stdout; killed when dropped.
pub struct Piped {
    args: String,
    child: Child,
}

impl Piped {
    fn new(mut command: Command) -> Self {
        let args = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { args, child: command.spawn().expect("the binary starts") }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().expect("piped").write_all(bytes).expect("fed");
    }

    /// Closes its stdin.
    pub fn close(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Reads the next bytes of its stdout.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.child.stdout.as_mut().expect("piped").read_exact(&mut bytes).expect("so many bytes");
        bytes
    }

    /// Waits for its end with stdin open. Returns the exit code and the rest of stdout.
    pub fn finish(mut self) -> (Vec<u8>, Done) {
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        let guard = Guard::new(Pid::from_child(&self.child), &self.args);
        self.child.stdout.take().expect("piped").read_to_end(&mut stdout).expect("read");
        self.child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("read");
        let code = self.child.wait().expect("awaited").code();
        drop(guard);
        (stdout, Done { args: self.args.clone(), code, stdout: Vec::new(), stderr })
    }

    /// As [`Piped::finish`], with all of stdout.
    pub fn done(self) -> Done {
        let (stdout, done) = self.finish();
        Done { stdout, ..done }
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("awaited");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Ends it with a signal. Returns its exit code.
    pub fn end_by(self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.finish().1.code
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Kills a process that outlives its deadline, so that the waiting test fails.
struct Guard(Option<mpsc::SyncSender<()>>);

impl Guard {
    fn new(pid: Pid, args: &str) -> Self {
        let (sender, receiver) = mpsc::sync_channel(1);
        let args = args.to_owned();
        thread::spawn(move || {
            if receiver.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{args} does not end");
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self(Some(sender))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

fn lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(LINES);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn wait_for(lines: &mpsc::Receiver<String>, word: &str) -> Option<String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let line = lines.recv_timeout(deadline.checked_duration_since(Instant::now())?).ok()?;
        if line.contains(word) {
            return Some(line);
        }
    }
}

/// The link in the output of `provide --json` or `info --json`.
#[track_caller]
pub fn link(report: &Value) -> &str {
    report["link"].as_str().expect("a link")
}

/// The finished block files of a machine, the longest first.
pub fn block_files(machine: &Machine) -> Vec<PathBuf> {
    blocks_in(&machine.data())
}

/// The finished block files in a data directory, the longest first.
pub fn blocks_in(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("blocks")];
    while let Some(folder) = folders.pop() {
        // A folder may disappear meanwhile.
        for item in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = item.path();
            if !path.is_dir() {
                found.push(path);
            } else if path.file_name() != Some("tmp".as_ref()) {
                folders.push(path);
            }
        }
    }
    found.sort_by_cached_key(|path| (Reverse(path.metadata().map_or(0, |meta| meta.len())), path.clone()));
    found
}

/// Waits until the condition holds.
#[track_caller]
pub fn eventually(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// A running node.
pub struct Live {
    pub running: Running,
    pub status: Value,
}

impl Live {
    /// Starts a node with `--json` and waits until it serves the API.
    pub fn of(command: Command) -> Self {
        let running = Running::new(command);
        let status = serde_json::from_str(&running.line()).expect("a status");
        Self { running, status }
    }

    /// Its first address, with its peer id.
    pub fn addr(&self) -> String {
        self.status["listen"][0].as_str().expect("an address").into()
    }

    /// Its first address without the peer id.
    pub fn bare_addr(&self) -> String {
        self.addr().split("/p2p/").next().expect("an address").into()
    }

    pub fn stop(self) -> (Option<i32>, Duration) {
        self.running.stop()
    }
}
