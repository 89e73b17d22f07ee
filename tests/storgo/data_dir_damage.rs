//! Damage to each file of a data directory: the command that meets it says so, nothing acknowledged is lost, and the way out
//! that is named works.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    binary::{Done, Machine},
    swarm::noise,
};

/// Rounds of each kind of random damage to the index.
const ROUNDS: u64 = 8;
const LEN: usize = 200_000;
const REBUILD: &str = "verify --rebuild-index";

/// A data directory with a few files, and copies of its files from before the last one was stored.
struct Sample {
    template: Machine,
    older: PathBuf,
    links: Vec<String>,
}

/// The behaviour that is required of a damaged machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Commands work, also the first, which says these words.
    Healed(&'static str),
    /// Commands work and say nothing.
    Silent,
    /// Commands fail with one of these codes and name a rebuild, which works.
    Rebuilt,
    /// Commands that only read work and name a rebuild, those that remove fail; the rebuild works.
    Behind,
}

type Damage = fn(&Path, &Path, &mut StdRng);

const DAMAGES: [(&str, Damage); 8] = [
    ("missing", |file, _, _| fs::remove_file(file).expect("removed")),
    ("empty", |file, _, _| fs::write(file, b"").expect("emptied")),
    ("cut", |file, _, rng| {
        let len = fs::metadata(file).expect("there").len();
        // Often within the header.
        let len = if rng.random() { rng.random_range(1..len.min(100)) } else { rng.random_range(1..len) };
        fs::File::options().write(true).open(file).and_then(|file| file.set_len(len)).expect("cut");
    }),
    ("garbage", |file, _, rng| {
        let mut bytes = fs::read(file).expect("read");
        rng.fill(&mut bytes[..]);
        fs::write(file, bytes).expect("written");
    }),
    ("NUL bytes", |file, _, _| {
        let len = fs::read(file).expect("read").len();
        fs::write(file, vec![0; len]).expect("written");
    }),
    ("damaged in places", |file, _, rng| {
        let mut bytes = fs::read(file).expect("read");
        for _ in 0..rng.random_range(1..20) {
            let at = rng.random_range(0..bytes.len());
            let end = (at + rng.random_range(1..200)).min(bytes.len());
            rng.fill(&mut bytes[at..end]);
        }
        fs::write(file, bytes).expect("written");
    }),
    ("older", |file, older, _| drop(fs::copy(older.join(file.file_name().expect("named")), file))),
    ("a folder", |file, _, _| fs::remove_file(file).and_then(|()| fs::create_dir(file)).expect("made")),
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for item in fs::read_dir(from).expect("listed") {
        let item = item.expect("listed");
        let to = to.join(item.file_name());
        if item.path().is_dir() {
            copy(&item.path(), &to);
        } else {
            fs::copy(item.path(), &to).expect("copied");
        }
    }
}

impl Sample {
    fn new() -> Self {
        let template = Machine::new();
        let mut links = Vec::new();
        let older = template.home().join("older");
        let short = template.file("short", b"short");
        let short =
            template.run(["provide".as_ref(), short.as_os_str(), "--no-serve".as_ref()]).ok().one_line();
        for n in 0..3 {
            if n == 2 {
                copy(&template.data(), &older);
            }
            let path = template.file(&format!("file-{n}"), &noise(n, LEN));
            links.push(
                template.run(["provide".as_ref(), path.as_os_str(), "--no-serve".as_ref()]).ok().one_line(),
            );
        }
        links.push(short);
        Self { template, older, links }
    }

    /// Makes a copy of the machine.
    fn machine(&self) -> Machine {
        let machine = Machine::new();
        copy(&self.template.data(), &machine.data());
        machine
    }

    /// Checks that all files are here after everything unneeded was removed. Without `short_ones`, those of up to 16 KiB, which
    /// only the index had, are known to be missing.
    fn assert_kept(&self, machine: &Machine, state: &str, short_ones: bool) {
        machine.run(["gc", "--now"]).ok();
        for (n, link) in (0..3).zip(&self.links) {
            let read = machine.run(["get", link, "-o", "-"]).ok();
            assert!(read.stdout == noise(n, LEN), "{state}: file {n}");
        }
        let verified = machine.run(["verify", "--json"]).ends(if short_ones { 0 } else { 7 }).json();
        assert_eq!(verified["bad"], serde_json::json!([]), "{state}");
        if short_ones {
            assert_eq!(machine.run(["get", &self.links[3], "-o", "-"]).ok().stdout, b"short", "{state}");
        }
        let listed = machine.run(["ls", "--json"]).ok().json();
        assert_eq!(listed.as_array().map(Vec::len), Some(4), "{state}: {listed}");
    }

    fn check(&self, machine: &Machine, state: &str, expected: Expected) {
        let doctor = machine.run(["doctor"]);
        let told = |done: &Done, words: &str| {
            let said = done.text() + &done.stderr;
            assert!(
                said.contains(words) && !said.contains("report this"),
                "{state}, {}: {words:?} is not in {said}",
                done.args
            );
        };
        match expected {
            Expected::Silent => {
                assert_eq!(doctor.code, Some(0), "{state}: {}", doctor.text());
                assert_eq!(machine.run(["ls"]).ok().stderr, "", "{state}");
                self.assert_kept(machine, state, true);
            }
            Expected::Healed(words) => {
                told(&doctor, words);
                told(&machine.run(["ls"]).ok(), words);
                assert_eq!(machine.run(["ls"]).ok().stderr, "", "{state}: said once");
                self.assert_kept(machine, state, true);
            }
            Expected::Behind => {
                assert_eq!(doctor.code, Some(1), "{state}: {}", doctor.text());
                told(&doctor, REBUILD);
                told(&machine.run(["ls"]).ok(), REBUILD);
                told(&machine.run(["verify"]).ends(7), REBUILD);
                told(&machine.run(["gc", "--now"]).ends(7), REBUILD);
                self.rebuild(machine, state);
            }
            Expected::Rebuilt => {
                assert_eq!(doctor.code, Some(1), "{state}: {}", doctor.text());
                told(&doctor, REBUILD);
                for args in [&["ls"][..], &["verify"], &["gc", "--now"], &["get", &self.links[0], "-o", "-"]]
                {
                    told(&machine.run(args).ends(7), REBUILD);
                }
                self.rebuild(machine, state);
            }
        }
        machine.run(["doctor"]).ok();
    }

    fn rebuild(&self, machine: &Machine, state: &str) {
        let rebuilt = machine.run(["verify", "--rebuild-index"]);
        let short_ones = rebuilt.code == Some(0);
        assert!(short_ones || rebuilt.code == Some(7), "{state}: {}", rebuilt.stderr);
        self.assert_kept(machine, state, short_ones);
    }
}

/// Whether `doctor` finds nothing: the damage hit bytes that the index does not use.
fn is_unharmed(machine: &Machine) -> bool {
    machine.run(["doctor"]).code == Some(0)
}

#[test]
fn each_damage_to_the_index_is_named_and_a_rebuild_loses_nothing_that_the_blocks_have() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(11);
    let mut harmed = 0;
    for (name, damage) in DAMAGES {
        let rounds = if matches!(name, "cut" | "damaged in places") { ROUNDS } else { 1 };
        for round in 0..rounds {
            let (machine, state) = (sample.machine(), format!("index {name}, round {round}"));
            damage(&machine.data().join("index.redb"), &sample.older, &mut rng);
            if name == "damaged in places" && is_unharmed(&machine) {
                sample.assert_kept(&machine, &state, true);
                continue;
            }
            harmed += 1;
            let expected = if name == "older" { Expected::Behind } else { Expected::Rebuilt };
            sample.check(&machine, &state, expected);
        }
    }
    assert!(harmed > ROUNDS + 8, "{harmed}");
}

#[test]
fn each_damage_to_a_small_file_is_named_and_loses_nothing() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(12);
    for (name, damage) in DAMAGES {
        let journal = match name {
            "older" => Expected::Silent,
            // A cut at the end of a record is one that was written when the power failed.
            "cut" => continue,
            _ => Expected::Healed("the journal"),
        };
        let version = match name {
            "missing" | "older" => Expected::Silent,
            "cut" => continue,
            _ => Expected::Rebuilt,
        };
        for (file, expected) in [
            ("journal", journal),
            ("version", version),
            ("layout", Expected::Silent),
            ("reserve", Expected::Silent),
            ("lock", Expected::Silent),
        ] {
            let (machine, state) = (sample.machine(), format!("{file} {name}"));
            damage(&machine.data().join(file), &sample.older, &mut rng);
            sample.check(&machine, &state, expected);
        }
    }
}

#[test]
fn an_older_index_beside_a_lost_or_older_journal_is_named_and_removes_nothing() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(13);
    for (name, damage) in DAMAGES.iter().filter(|(name, _)| *name != "cut") {
        let machine = sample.machine();
        fs::copy(sample.older.join("index.redb"), machine.data().join("index.redb")).expect("copied");
        damage(&machine.data().join("journal"), &sample.older, &mut rng);
        sample.check(&machine, &format!("older index, journal {name}"), Expected::Behind);
    }
    // A whole backup was copied over the newer directory.
    let machine = sample.machine();
    copy(&sample.older, &machine.data());
    sample.check(&machine, "older backup", Expected::Behind);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "no file must outlast a power cut here")]
fn damaged_keys_and_tokens_are_never_replaced_and_name_a_way_out() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(14);
    for (name, damage) in
        DAMAGES.iter().filter(|(name, _)| !matches!(*name, "missing" | "cut" | "older" | "damaged in places"))
    {
        for (file, words) in [("identity.key", "move it away"), ("api.token", "remove it")] {
            let machine = sample.machine();
            let path = machine.data().join(file);
            damage(&path, &sample.older, &mut rng);
            let refused = machine.run(["ls"]).ends(1);
            assert!(
                refused.stderr.contains(words) && refused.stderr.contains(file),
                "{file} {name}: {}",
                refused.stderr
            );
            let doctor = machine.run(["doctor"]).ends(1);
            assert!(doctor.text().contains(file), "{file} {name}: {}", doctor.text());
            fs::rename(&path, machine.home().join("moved away")).expect("moved");
            sample.assert_kept(&machine, &format!("{file} {name}"), true);
        }
    }
}

/// Runs a command. Root, who may read every file, loses its capabilities first.
fn run_without_privileges(machine: &Machine, command: &str) -> Done {
    let plain = machine.command();
    if !rustix::process::geteuid().is_root() {
        return machine.run([command]);
    }
    let mut limited = Command::new("setpriv");
    limited
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(plain.get_program())
        .arg(command)
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(machine.home())
        .stdin(Stdio::null());
    Done::of(limited)
}

#[test]
fn files_that_this_user_may_not_read_are_named() {
    let sample = Sample::new();
    for file in ["index.redb", "version", "identity.key", "api.token", "lock"] {
        let machine = sample.machine();
        let path = machine.data().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("set");
        let refused = run_without_privileges(&machine, "ls").ends(6);
        assert!(
            refused.stderr.contains(file) && refused.stderr.contains("permissions"),
            "{file}: {}",
            refused.stderr
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        sample.assert_kept(&machine, file, true);
    }
}
