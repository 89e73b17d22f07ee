//! Network namespaces and veth pairs: machines on networks of their own, and cables between them.
//!
//! A namespace lives as long as the process that holds it, which ends with the test.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// A network namespace, until it is dropped.
pub struct Island {
    holder: Child,
    /// Whether it has a user namespace, because the user is not root. Processes in it become root there.
    user: bool,
}

impl Island {
    /// Makes a namespace. A user who is not root also needs a user namespace.
    fn new() -> Self {
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        if !root {
            command.args(["--user", "--map-root-user"]);
        }
        Self::hold(command, !root)
    }

    fn hold(mut command: Command, user: bool) -> Self {
        // The holder ends with the test, because its stdin does.
        command.args(["--net", "sh", "-c", "echo made && exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("this test needs `unshare` (util-linux)");
        let mut line = String::new();
        let stdout = holder.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        assert_eq!(
            line.trim(),
            "made",
            "this test needs a network namespace: run it as root, or where users may make namespaces"
        );
        Self { holder, user }
    }

    /// Returns a command that runs `inner` in this namespace, with its environment and working directory.
    pub fn enter(&self, inner: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command.env_clear().arg("--net").arg("--target").arg(self.holder.id().to_string());
        if self.user {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = inner.get_current_dir() {
            command.current_dir(folder);
        }
        command
    }

    /// Makes a second namespace with the same owner.
    fn neighbour(&self) -> Self {
        let mut command = self.enter(&Command::new("unshare"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self::hold(command, self.user)
    }

    fn ip(&self, words: &str) {
        let mut ip = Command::new("ip");
        ip.args(words.split(' ')).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output =
            self.enter(&ip).output().expect("this test needs `nsenter` and `ip` (util-linux, iproute2)");
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Three networks around a relay.
pub struct Star {
    /// Has the address 203.0.113.1 for all others.
    pub relay: Island,
    /// Have the private addresses 10.1.0.2 and 10.2.0.2.
    pub homes: [Island; 2],
    /// Has the address 203.0.113.2.
    pub public: Island,
}

/// Makes a star: each network reaches only the relay.
pub fn star() -> Star {
    let relay = Island::new();
    relay.ip("link set lo up");
    let leaf = |cable: &str, ends: [&str; 2]| {
        let leaf = relay.neighbour();
        relay.ip(&format!("link add {cable} type veth peer name cable netns {}", leaf.holder.id()));
        relay.ip(&format!("addr add {}/24 dev {cable}", ends[0]));
        relay.ip(&format!("link set {cable} up"));
        leaf.ip("link set lo up");
        leaf.ip(&format!("addr add {}/24 dev cable", ends[1]));
        leaf.ip("link set cable up");
        leaf
    };
    let public = leaf("public", ["203.0.113.1", "203.0.113.2"]);
    let homes = [1, 2].map(|n| {
        let home = leaf(&format!("home{n}"), [&format!("10.{n}.0.1"), &format!("10.{n}.0.2")]);
        home.ip(&format!("route add 203.0.113.1 via 10.{n}.0.1"));
        home
    });
    Star { relay, homes, public }
}

impl Island {
    /// Makes a network of one machine with these addresses.
    pub fn with_addrs(addrs: &[&str]) -> Self {
        let island = Self::new();
        island.ip("link set lo up");
        for addr in addrs {
            island.ip(&format!("addr add {addr} dev lo"));
        }
        island
    }
}

/// Makes two networks that reach only each other.
pub fn joined_by_a_cable() -> [Island; 2] {
    let first = Island::new();
    let second = first.neighbour();
    first.ip(&format!("link add cable type veth peer name cable netns {}", second.holder.id()));
    for (island, addr) in [(&first, "192.0.2.1/24"), (&second, "192.0.2.2/24")] {
        island.ip("link set lo up");
        island.ip(&format!("addr add {addr} dev cable"));
        island.ip("link set cable up");
        island.ip("route add default dev cable");
    }
    [first, second]
}
