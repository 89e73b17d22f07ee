//! Folders that are damaged, or that cannot be stored whole: the rest is read or stored, and what is missing is named.

use std::{fs, os::unix::fs::symlink};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    api::Api,
    binary::{Machine, eventually, link},
    cli_failures::damage_a_block,
    swarm::noise,
};

/// A folder with small files around one whose blocks are the longest.
fn folder(machine: &Machine) {
    fs::create_dir_all(machine.home().join("top/sub")).expect("made");
    for (name, bytes) in
        [("a", &b"first"[..]), ("sub/big", &noise(1, 300_000)), ("sub/c", b"third"), ("z", b"last")]
    {
        machine.file(&format!("top/{name}"), bytes);
    }
}

fn entries(tar: &[u8]) -> Vec<(String, u32)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let named = entries.map(|entry| {
        (entry.path().expect("a path").display().to_string(), entry.header().mode().expect("a mode"))
    });
    named.collect()
}

#[test]
fn get_writes_all_of_a_damaged_folder_but_the_damaged_file_and_names_it() {
    let machine = Machine::new();
    folder(&machine);
    let provided =
        machine.run(["--chunker", "fixed:64KiB", "provide", "top", "--no-serve", "--json"]).ok().json();
    damage_a_block(&machine);
    let got =
        machine.run(["get", "top", "-o", "out", "--timeout", "2s"]).fails(3, &["sub/big", "without 1 item"]);
    assert!(got.stderr.contains("left out sub/big: no intact copy of block"), "{}", got.stderr);
    for (name, bytes) in [("a", "first"), ("sub/c", "third"), ("z", "last")] {
        assert_eq!(machine.read(&format!("out/{name}")), bytes.as_bytes());
    }
    let names = |dir: &str| {
        let items = fs::read_dir(machine.home().join(dir)).expect("read");
        let mut names: Vec<_> =
            items.map(|item| item.expect("an item").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    assert_eq!(
        (names("out"), names("out/sub")),
        (vec!["a".into(), "sub".into(), "z".into()], vec!["c".into()])
    );

    let tar = machine.run(["get", "top", "-o", "-", "--timeout", "2s"]).ends(3);
    let report = format!("storgo-left-out-{}.json", provided["cid"].as_str().expect("a CID"));
    let listed: Vec<String> = entries(&tar.stdout).into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["a", "sub/", "sub/c", "z", &report]);

    let json = machine.run(["get", "top", "-o", "again", "--timeout", "2s", "--json"]).ends(3);
    let error: Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "partial");
    assert_eq!(error["error"]["left_out"][0]["path"], "sub/big");

    // Storing the original again completes it.
    machine.run(["--chunker", "fixed:64KiB", "provide", "top", "--no-serve"]).ok();
    machine.run(["get", "top", "-o", "whole"]).ok();
    assert_eq!(machine.read("whole/sub/big"), noise(1, 300_000));
}

#[test]
fn the_api_sends_what_is_left_of_a_folder_and_says_what_it_lacks() {
    let machine = Machine::new();
    folder(&machine);
    let set = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    fs::set_permissions(machine.home().join("top/z"), set).expect("set");
    let node = machine.start(["--chunker", "fixed:64KiB", "--timeout", "2s"]);
    let report = machine.run(["provide", "top", "--json"]).ok().json();
    let api = Api::of(&machine, &node);
    let cid = report["cid"].as_str().expect("a CID");
    let content = format!("/api/v1/files/{cid}/content");
    let whole = api.get(&content).is(200);
    let modes = entries(&whole.body);
    assert_eq!(modes.last(), Some(&("z".into(), 0o755)), "no setuid bit leaves by HTTP");
    api.get(&format!("/api/v1/errors/{}", whole.header("x-request-id").expect("an id")))
        .refuses(404, "not_found");
    let after = api.get(&format!("{content}?after=sub%2Fbig")).is(200);
    assert_eq!(entries(&after.body), [("sub/c".into(), 0o644), ("z".into(), 0o755)]);

    damage_a_block(&machine);
    let part = api.get(&content).is(200);
    let listed: Vec<String> = entries(&part.body).into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["a", "sub/", "sub/c", "z", &format!("storgo-left-out-{cid}.json")]);
    let mut archive = tar::Archive::new(&part.body[..]);
    let found = archive
        .entries()
        .expect("a tar")
        .find_map(|entry| serde_json::from_reader(entry.expect("whole")).ok());
    let found: Value = found.expect("a list");
    assert_eq!((&found["count"], &found["left_out"][0]["path"]), (&1.into(), &"sub/big".into()));
    let problem = api.get(&format!("/api/v1/errors/{}", part.header("x-request-id").expect("an id")));
    let problem = problem.refuses(207, "partial").json();
    assert_eq!((&problem["left_out_count"], &problem["left_out"]), (&1.into(), &found["left_out"]));
}

#[test]
fn a_folder_of_which_nothing_can_be_read_is_an_error() {
    let machine = Machine::new();
    fs::create_dir(machine.home().join("top")).expect("made");
    machine.file("top/only", &noise(2, 300_000));
    machine.run(["provide", "top", "--no-serve"]).ok();
    damage_a_block(&machine);
    machine.run(["get", "top", "-o", "out", "--timeout", "2s"]).fails(7, &["no intact copy", "provide"]);
    assert!(!machine.home().join("out").exists());
}

#[test]
fn items_that_cannot_be_stored_are_named_and_the_rest_is_stored() {
    let machine = Machine::new();
    folder(&machine);
    let path = |name: &str| machine.home().join(name);
    machine.file("secret", b"outside");
    symlink("../secret", path("top/leak")).expect("made");
    symlink("..", path("top/sub/loop")).expect("made");
    symlink("nowhere", path("top/dangling")).expect("made");
    symlink("a", path("top/inside")).expect("made");
    let provided = machine.run(["provide", "top", "--no-serve"]).ends(3);
    for words in [
        "top/leak: it is a symbolic link to ../secret, outside the folder (--follow",
        "top/sub/loop: it leads back",
        "top/dangling: it is a symbolic link to nowhere, which does not exist",
        "stored without 3 items",
    ] {
        assert!(provided.stderr.contains(words), "{words}: {}", provided.stderr);
    }
    let tar = machine.run(["get", &provided.one_line(), "-o", "-"]).ok().stdout;
    let names: Vec<String> = entries(&tar).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "inside", "sub/", "sub/big", "sub/c", "z"]);
    let followed = machine.run(["provide", "top", "--no-serve", "--follow"]).ends(3);
    assert!(followed.stderr.contains("stored without 2 items"), "{}", followed.stderr);
    let tar = machine.run(["get", &followed.one_line(), "-o", "-"]).ok().stdout;
    assert!(entries(&tar).iter().any(|(name, _)| name == "leak"));
}

#[test]
fn files_that_claim_to_be_empty_are_read_to_their_end() {
    let machine = Machine::new();
    let proc = "/proc/sys/kernel/random";
    assert_eq!(fs::metadata(format!("{proc}/boot_id")).expect("there").len(), 0);
    let provided = machine.run(["provide", proc, "--no-serve", "--name", "random"]);
    machine.run(["get", &provided.one_line(), "-o", "out"]).ok();
    assert_eq!(machine.read("out/boot_id"), fs::read(format!("{proc}/boot_id")).expect("read"));
    let file = machine.run(["provide", &format!("{proc}/boot_id"), "--no-serve"]).ok().one_line();
    assert_eq!(machine.run(["get", &file, "-o", "-"]).ok().stdout, machine.read("out/boot_id"));
}

#[test]
fn several_files_are_stored_whether_or_not_somebody_reads_their_links() {
    let machine = Machine::new();
    let names: Vec<String> = (0..20).map(|n| format!("file {n}")).collect();
    for name in &names {
        machine.file(name, name.as_bytes());
    }
    let words = |more: &[&str]| -> Vec<String> {
        ["provide", "--no-serve"].iter().chain(more).map(ToString::to_string).chain(names.clone()).collect()
    };
    // As `| head -0` does.
    let mut command = machine.command();
    command.args(words(&[])).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("started");
    drop(child.stdout.take());
    assert!(child.wait_with_output().expect("ended").status.success());
    assert_eq!(machine.run(["ls", "--json"]).ok().json().as_array().map(Vec::len), Some(20));

    let done = machine.run(words(&[])).ok();
    for (line, name) in done.text().lines().zip(&names) {
        let (link, path) = line.split_once('\t').expect("a link and a path");
        assert!(link.starts_with("storgo://") && path == name, "{line}");
    }
    assert_eq!(done.text().lines().count(), 20);
    let progress: Vec<&str> = done.stderr.lines().collect();
    assert!(progress.len() == 2 && progress[0].starts_with("sealed 20 files, "), "{}", done.stderr);
    let done = machine.run(words(&["--json"])).ok();
    let reports: Vec<Value> =
        done.text().lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(
        reports.iter().map(|report| report["name"].clone()).collect::<Vec<_>>(),
        json!(names).as_array().expect("names").clone()
    );
}

#[test]
fn an_interrupted_command_says_what_is_kept_and_how_to_go_on() {
    let machine = Machine::new();
    let mut provide = machine.fed(["provide", "-", "--name", "half"]);
    // More than a pipe holds: it has started to read.
    provide.feed(&noise(5, 1 << 20));
    machine.run(["status"]).ok();
    let done = {
        provide.signal(Signal::INT);
        provide.finish().1
    };
    assert_eq!(done.code, Some(130));
    assert!(
        done.stderr.contains("interrupted: 0 of 1 stored; run the same command again"),
        "{}",
        done.stderr
    );
    let get = machine.spawn(["get", "bafyrcfh5k23alp4qlyr3ux4w7lulfao2d3zbibi"]);
    get.notes("no peer is connected yet");
    get.signal(Signal::INT);
    assert!(get.notes("interrupted").contains("run the same command again"));
}

#[test]
fn a_signal_ends_the_walk_of_folders_that_link_to_each_other() {
    const INTERRUPT: u64 = 1 << 1;
    let machine = Machine::new();
    let names: Vec<String> = (0..12).map(|n| format!("top/d{n}")).collect();
    for name in &names {
        fs::create_dir_all(machine.home().join(name)).expect("made");
        for other in 0..12 {
            let link = machine.home().join(format!("{name}/d{other}"));
            symlink(format!("../d{other}"), link).expect("made");
        }
    }
    let mut provide = machine.spawn(["provide", "top", "--no-serve"]);
    // From now on, the signal does not end the process by itself.
    let status = format!("/proc/{}/status", provide.id());
    eventually("it catches the signal", || {
        let status = fs::read_to_string(&status).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        u64::from_str_radix(caught.trim(), 16).expect("a number") & INTERRUPT != 0
    });
    provide.signal(Signal::INT);
    provide.notes("interrupted: nothing was stored");
    assert_eq!(provide.wait(), Some(130));
}

#[test]
fn links_and_invites_come_from_standard_input_or_a_file() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let report = machine.provide("file", b"bytes");
    let text = format!("{}\n", link(&report));
    assert_eq!(machine.run_with(["get", "-", "-o", "-"], text.as_bytes()).ok().stdout, b"bytes");
    machine.file("link", text.as_bytes());
    assert_eq!(machine.run(["get", "--file", "link", "-o", "-"]).ok().stdout, b"bytes");
    for verb in ["info", "verify", "health", "repair", "rm"] {
        machine.run_with([verb, "-", "--json"], text.as_bytes()).ok().json();
    }
    machine.run_with(["get", "-"], b"\n").fails(2, &["standard input holds no text"]);
    machine.run(["get", "--file", "nothing"]).fails(4, &["nothing"]);
    machine.run(["get"]).fails(2, &["REFERENCE"]);

    let (member, other) = (Machine::new(), Machine::new());
    member.run(["init", "--cluster"]).ok();
    let invite = member.run(["invite", "--quiet"]).ok().stdout;
    for joins in [Machine::new(), other] {
        joins.file("invite", &invite);
        joins.run(["join", "--file", "invite"]).ok();
        joins.run_with(["join", "-"], &invite).ok();
    }
}

#[test]
fn an_output_that_exists_is_refused_before_anything_is_fetched() {
    let machine = Machine::new();
    machine.file("there", b"mine");
    let cid = "bafyrcfh5k23alp4qlyr3ux4w7lulfao2d3zbibi";
    machine.run(["get", cid, "-o", "there"]).fails(2, &["there already exists", "--force"]);
    assert!(!machine.data().exists(), "no node was started");
}

#[test]
fn a_name_is_found_in_both_unicode_forms_and_keeps_its_own() {
    let machine = Machine::new();
    let (composed, decomposed) = ("caf\u{e9}.txt", "cafe\u{301}.txt");
    machine.run_with(["provide", "-", "--name", decomposed, "--no-serve"], b"black").ok();
    for name in [composed, decomposed] {
        assert_eq!(machine.run(["get", name, "-o", "-"]).ok().stdout, b"black");
        assert_eq!(machine.run(["info", name, "--json"]).ok().json()["name"], decomposed);
    }
    for part in ["F\u{c9}", "fe\u{301}"] {
        let found = machine.run(["ls", part, "--json"]).ok().json();
        assert_eq!(found[0]["name"], decomposed, "{part}");
    }
    machine.run(["rm", composed]).ok();
}

#[test]
fn hints_name_the_next_step_and_rm_says_what_is_freed() {
    let machine = Machine::new();
    machine
        .run(["provide", "no such file", "--no-serve"])
        .fails(4, &["hint: check its spelling; it was looked for in"]);
    machine.run(["init"]).ok();
    machine.run(["token", "create", "--ttl", "bad"]).fails(2, &["--ttl", "for example 12h or 30d"]);
    machine.run_with(["provide", "-", "--name", "x", "--no-serve"], &noise(4, 100_000)).ok();
    let removed = machine.run(["rm", "x"]).ok();
    assert!(
        removed.stderr.contains("KiB will be freed in 1h, except blocks that other files need"),
        "{}",
        removed.stderr
    );
    assert!(removed.stderr.contains("gc --now"), "{}", removed.stderr);
    for verb in [&["get"][..], &["token", "create"]] {
        let help = machine.run(verb.iter().chain(&["--help"])).ok().text();
        assert!(help.contains("`storgo-node --help`") && !help.contains("--bootstrap"), "{help}");
    }
    assert!(machine.run(["--help"]).ok().text().contains("--bootstrap"));
    let elsewhere = machine.home().join("elsewhere");
    machine.run(["init", "--data-dir", elsewhere.to_str().expect("UTF-8")]).ok();
    assert!(elsewhere.join("identity.key").exists(), "a global flag works behind the command");
}
