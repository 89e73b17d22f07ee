//! Damage to each file of a data directory: the command that meets it says so, nothing acknowledged is lost, and the way out
//! that is named works.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    api::{Answer, Api},
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

const DAMAGES: [(&str, Damage); 9] = [
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
    ("a link to nowhere", |file, _, _| {
        fs::remove_file(file).and_then(|()| symlink("nowhere", file)).expect("made");
    }),
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
fn a_lost_or_damaged_identity_is_never_replaced_by_itself_and_both_ways_out_work() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(13);
    let id = sample.template.run(["id"]).ok().one_line();
    let backup = sample.template.run(["key", "backup", "-"]).ok().stdout;
    for (name, damage) in DAMAGES.iter().filter(|(name, _)| !matches!(*name, "older" | "damaged in places")) {
        for has_backup in [true, false] {
            let machine = sample.machine();
            let state = format!("identity {name}, backup: {has_backup}");
            damage(&machine.data().join("identity.key"), &sample.older, &mut rng);
            for args in [&["ls"][..], &["id"], &["init"], &["key", "backup", "other"]] {
                machine.run(args).fails(1, &["identity.key is ", "key restore", "key new"]);
            }
            let doctor = machine.run(["doctor"]).ends(1).text();
            assert!(doctor.contains("identity.key is ") && doctor.contains("key new"), "{state}: {doctor}");
            if has_backup {
                let restored = machine.run_with(["key", "restore", "-"], &backup).ok().one_line();
                assert_eq!(restored, id, "{state}");
            } else {
                let new = machine.run(["key", "new"]).ok().one_line();
                assert_ne!(new, id, "{state}");
                machine.run(["key", "new"]).fails(2, &["is intact"]);
                assert_eq!(machine.run(["id"]).ok().one_line(), new, "{state}");
            }
            sample.assert_kept(&machine, &state, true);
            machine.run(["doctor"]).ok();
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "no file must outlast a power cut here")]
fn a_damaged_token_is_never_replaced_and_names_a_way_out() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(14);
    for (name, damage) in
        DAMAGES.iter().filter(|(name, _)| !matches!(*name, "missing" | "cut" | "older" | "damaged in places"))
    {
        let machine = sample.machine();
        let path = machine.data().join("api.token");
        damage(&path, &sample.older, &mut rng);
        machine.run(["ls"]).fails(1, &["api.token", "remove it"]);
        let doctor = machine.run(["doctor"]).ends(1);
        assert!(doctor.text().contains("api.token"), "{name}: {}", doctor.text());
        fs::rename(&path, machine.home().join("moved away")).expect("moved");
        sample.assert_kept(&machine, &format!("api.token {name}"), true);
    }
}

/// Its name, how to make it, and the hint of the commands that meet it.
type State<'a> = (&'a str, &'a dyn Fn(), Option<&'a str>);

#[test]
fn a_settings_file_that_cannot_be_read_is_named_and_only_an_absent_one_counts_as_none() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let path = machine.data().join("config.toml");
    let elsewhere = machine.file("elsewhere.toml", b"region = \"here\"\n");
    let write = |bytes: &[u8]| fs::write(&path, bytes).expect("written");
    let link = |to: &Path| symlink(to, &path).expect("made");
    let states: [State; 9] = [
        ("missing", &|| {}, None),
        ("empty", &|| write(b""), None),
        ("a link to a file", &|| link(&elsewhere), None),
        ("cut", &|| write(b"region = \"he"), Some("correct the file")),
        ("garbage", &|| write(&[0xff; 100]), Some("text in UTF-8")),
        ("NUL bytes", &|| write(&[0; 100]), Some("correct the file")),
        ("a folder", &|| fs::create_dir(&path).expect("made"), Some("move it away")),
        ("a link to nowhere", &|| link(Path::new("nowhere")), Some("a symbolic link that leads nowhere")),
        ("a link to itself", &|| link(&path), Some("a symbolic link that leads nowhere")),
    ];
    for (state, damage, hint) in states {
        damage();
        match hint {
            None => drop(machine.run(["ls"]).ok()),
            Some(hint) => {
                drop(machine.run(["ls"]).fails(2, &["config.toml", hint]));
                let doctor = machine.run(["doctor"]).ends(1).text();
                assert!(doctor.contains("config.toml") && doctor.contains(hint), "{state}: {doctor}");
            }
        }
        if path.is_dir() {
            fs::remove_dir(&path).expect("removed");
        } else if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).expect("removed");
        }
        machine.run(["ls"]).ok();
    }
}

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");

/// Begins an upload of 6 bytes; returns its path.
fn begin(api: &Api) -> String {
    let begun = api.ask("POST", "/api/v1/uploads", &[TUS, ("upload-length", "6")], b"").is(201);
    begun.header("location").expect("a place").to_owned()
}

fn patch(api: &Api, path: &str, at: &str, bytes: &[u8]) -> Answer {
    let part = ("content-type", "application/offset+octet-stream");
    api.ask("PATCH", path, &[TUS, part, ("upload-offset", at)], bytes)
}

#[test]
fn damage_to_an_unfinished_upload_costs_no_file_and_no_other_upload() {
    let sample = Sample::new();
    let mut rng = StdRng::seed_from_u64(15);
    let node = sample.template.start::<&str>([]);
    let api = Api::of(&sample.template, &node);
    let [damaged, whole] = [(), ()].map(|()| begin(&api));
    for path in [&damaged, &whole] {
        patch(&api, path, "0", b"abc").is(204);
    }
    drop(node);
    let id = damaged.rsplit('/').next().expect("an id");
    for (name, damage) in DAMAGES {
        for kind in ["json", "part"] {
            let machine = sample.machine();
            damage(&machine.data().join(format!("uploads/{id}.{kind}")), &sample.older, &mut rng);
            let node = machine.start::<&str>([]);
            let api = Api::of(&machine, &node);
            let state = api.get(&damaged);
            match (kind, name) {
                // There is no older copy.
                (_, "older") => assert_eq!(state.is(200).json()["offset"], 3),
                // The text of a record may still be one.
                ("json", "damaged in places") => {}
                ("json", _) => drop(state.refuses(404, "not_found")),
                _ => drop(state.is(200)),
            }
            patch(&api, &whole, "3", b"def").is(204);
            drop(node);
            machine.run(["verify"]).ok();
        }
    }
    // A file in the place of the folder.
    let machine = sample.machine();
    fs::remove_dir_all(machine.data().join("uploads")).expect("removed");
    fs::write(machine.data().join("uploads"), b"mine").expect("written");
    sample.assert_kept(&machine, "uploads is a file", true);
    assert_eq!(fs::read(machine.data().join("uploads.old")).expect("moved away"), b"mine");
}

#[test]
fn folders_that_somebody_removes_under_a_running_node_are_made_again() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let unfinished = begin(&api);
    patch(&api, &unfinished, "0", b"abc").is(204);
    let mut links = Vec::new();
    for (n, lost) in (0..).zip(["uploads", "blocks/tmp", "blocks/epoch", "blocks"]) {
        fs::remove_dir_all(machine.data().join(lost)).expect("removed");
        if lost == "uploads" {
            patch(&api, &unfinished, "3", b"def").refuses(404, "not_found");
        }
        let stored = machine.provide(&format!("file-{n}"), &noise(n, LEN));
        links.push(stored["link"].as_str().expect("a link").to_owned());
        let link = links.last().expect("a link");
        assert!(machine.run(["get", link, "-o", "-"]).ok().stdout == noise(n, LEN), "{lost}");
        let path = begin(&api);
        patch(&api, &path, "0", b"abcdef").is(204);
    }
    drop(node);
    // The last one was stored after all older blocks were gone.
    assert!(machine.run(["get", &links[3], "-o", "-"]).ok().stdout == noise(3, LEN));
    machine.run(["verify"]).ends(7);
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
