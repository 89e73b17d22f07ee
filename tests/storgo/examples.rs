//! The programs in `examples/`.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

use rustix::process::Signal;

use super::{
    binary::{Done, Machine, Running},
    swarm::noise,
};

/// The folder of the examples. Builds them first: `cargo test --test` does not.
fn examples() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let tests = env::current_exe().expect("this program");
        let profile = tests.ancestors().nth(2).expect("target/<profile>/deps/<program>");
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Cargo sets these for this program. With them, the build script of `ring` would run again, and with it all of libp2p
        // would be compiled once more.
        let of_this_package =
            |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
        for name in env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| of_this_package(name))
        {
            build.env_remove(name);
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--locked", "--offline"]);
        build.args(["--example", "share", "--example", "fetch", "--target-dir"]);
        build.arg(profile.parent().expect("target"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let done = build.stdin(Stdio::null()).output().expect("cargo runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        profile.join("examples")
    })
}

fn example(machine: &Machine, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(examples().join(name));
    command
        .args(args)
        .env_clear()
        .env("HOME", machine.home())
        .env("TMPDIR", machine.home())
        .current_dir(machine.home())
        .stdin(Stdio::null());
    command
}

#[test]
fn the_fetch_example_reads_what_the_share_example_serves() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let bytes = noise(1, 3 << 20);
    writer.file("file.bin", &bytes);
    let mut share = Running::new(example(&writer, "share", &["file.bin"]));
    let link = share.says("link: ");
    let link = link.strip_prefix("link: ").expect("a link").to_owned();
    assert!(link.starts_with("storgo://"), "{link}");
    let at = share.says("at: ");
    let addr = at.split_whitespace().nth(1).expect("an address");
    assert!(addr.starts_with("/ip4/127.0.0.1/tcp/") && addr.contains("/p2p/"), "{at}");

    let got = Done::of(example(&reader, "fetch", &[addr, &link])).ok();
    assert!(got.stdout == bytes, "{} bytes, {}", got.stdout.len(), got.stderr);
    // The binary reads it too.
    let read = reader.run(["get", &link, "-o", "-", "--bootstrap", addr]).ok();
    assert!(read.stdout == bytes);
    share.signal(Signal::INT);
    assert_eq!(share.wait(), Some(0));
    // They remove their files.
    for (machine, left) in [(&writer, vec!["file.bin"]), (&reader, vec!["data"])] {
        let names = std::fs::read_dir(machine.home()).expect("read");
        let names: Vec<_> = names.map(|item| item.expect("an item").file_name()).collect();
        assert_eq!(names, left);
    }
    assert!(Done::of(example(&reader, "fetch", &["nowhere", &link])).code != Some(0));
}
