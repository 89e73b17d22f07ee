//! Archives as GNU tar writes them become folders with the same contents, or are refused by name.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use storgo::node::{ErrorCode, Node, NodeError, PutOptions, Reason, report::FileKind};
use tempfile::TempDir;
use tokio_util::io::ReaderStream;

use super::swarm::{TestNode, get, start_with};

/// Runs GNU tar in `folder` and returns what it writes to its output.
fn gnu_tar(folder: &Path, args: &[&str]) -> Vec<u8> {
    let done = Command::new("tar").current_dir(folder).args(args).output().expect("GNU tar runs");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

async fn put(node: &Node, archive: &[u8]) -> Result<String, NodeError> {
    let options = PutOptions::named("folder");
    node.put_stream(ReaderStream::new(archive), options, FileKind::Dir).await.map(|report| report.link)
}

/// The files of a stored folder.
async fn files(node: &Node, link: &str) -> BTreeMap<String, Vec<u8>> {
    let stream = get(node, link).await.expect("read");
    let mut archive = tar::Archive::new(&stream[..]);
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("read");
        if entry.header().entry_type().is_file() {
            files.insert(path, bytes);
        }
    }
    files
}

async fn offline() -> TestNode {
    start_with(|options| options.offline = true).await
}

/// Asserts that nothing of this archive is stored, for a reason that names `what`.
#[track_caller]
fn refused(stored: Result<String, NodeError>, reason: Reason, what: &str) {
    let error = stored.expect_err(what);
    assert_eq!((error.code, error.reason), (ErrorCode::BadRequest, Some(reason)), "{}", error.message);
    assert!(error.message.contains(what), "{:?} does not contain {what:?}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_of_sparse_files_is_stored_with_its_holes() {
    let (node, dir) = (offline().await, TempDir::new().expect("a folder"));
    let sparse = File::create(dir.path().join("sparse")).expect("made");
    // More segments than one header and one further block describe.
    for number in 0..40_u8 {
        sparse.write_all_at(&[number + 1; 4096], u64::from(number) * 16384).expect("written");
    }
    sparse.set_len(700_001).expect("long");
    File::create(dir.path().join("hole")).expect("made").set_len(100_000).expect("long");
    fs::write(dir.path().join("after"), "after").expect("written");
    let whole = fs::read(dir.path().join("sparse")).expect("read");
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let args =
            [format, &["--sparse", "--hole-detection=raw", "-cf", "-", "sparse", "hole", "after"]].concat();
        let archive = gnu_tar(dir.path(), &args);
        assert!(archive.len() < 300_000, "{format:?}: the archive has no holes");
        let stored = files(&node, &put(&node, &archive).await.expect("stored")).await;
        assert!(stored["sparse"] == whole, "{format:?}");
        assert!(stored["hole"] == vec![0; 100_000] && stored["after"] == b"after", "{format:?}");
        assert_eq!(stored.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_inside_an_archive_become_copies() {
    let (node, dir) = (offline().await, TempDir::new().expect("a folder"));
    fs::create_dir(dir.path().join("sub")).expect("made");
    fs::write(dir.path().join("a"), "content").expect("written");
    fs::hard_link(dir.path().join("a"), dir.path().join("sub/hard")).expect("linked");
    std::os::unix::fs::symlink("../a", dir.path().join("sub/soft")).expect("linked");
    std::os::unix::fs::symlink("sub/soft", dir.path().join("1-soft")).expect("linked");
    for format in ["--format=gnu", "--format=posix", "--format=ustar"] {
        let archive = gnu_tar(dir.path(), &[format, "-cf", "-", "1-soft", "a", "sub"]);
        let stored = files(&node, &put(&node, &archive).await.expect("stored")).await;
        let names: Vec<_> = stored.keys().map(String::as_str).collect();
        assert_eq!(names, ["1-soft", "a", "sub/hard", "sub/soft"], "{format}");
        assert!(stored.values().all(|bytes| bytes == b"content"), "{format}");
    }
    let archive = gnu_tar(dir.path(), &["-cf", "-", "sub"]);
    refused(put(&node, &archive).await, Reason::TarUnsupported, "symbolic link to \"../a\"");
    fs::remove_file(dir.path().join("sub/soft")).expect("removed");
    let archive = gnu_tar(dir.path(), &["-cf", "-", "sub/hard", "a"]);
    // Now `a` is the link, to a file that comes before it.
    assert_eq!(files(&node, &put(&node, &archive).await.expect("stored")).await["a"], b"content");
    let link = &archive[1024..];
    refused(put(&node, link).await, Reason::TarUnsupported, "hard link to \"sub/hard\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_comments_and_long_names_are_understood() {
    let (node, dir) = (offline().await, TempDir::new().expect("a folder"));
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    fs::create_dir(dir.path().join("d".repeat(200))).expect("made");
    for name in ["ä", &long] {
        fs::write(dir.path().join(name), name).expect("written");
    }
    for args in [
        &["--format=gnu", "-V", "backup"][..],
        &["--format=posix", "-V", "backup"],
        // What `git archive` writes before the first entry.
        &["--format=posix", "--pax-option=globexthdr.name=pax_global_header,comment=dcd7f60"],
    ] {
        let archive = gnu_tar(dir.path(), &[args, &["-cf", "-", "."]].concat());
        let stored = files(&node, &put(&node, &archive).await.expect("stored")).await;
        let names: Vec<_> = stored.keys().collect();
        assert_eq!(names, [&long, "ä"], "{args:?}");
        assert!(stored.iter().all(|(name, bytes)| name.as_bytes() == bytes), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_file_may_have_the_name_of_another_format() {
    let (node, dir) = (offline().await, TempDir::new().expect("a folder"));
    for name in ["070701.txt", "BZhou.jpg"] {
        fs::write(dir.path().join(name), "a photo").expect("written");
        let archive = gnu_tar(dir.path(), &["-cf", "-", name]);
        let stored = files(&node, &put(&node, &archive).await.expect("stored")).await;
        assert_eq!(stored, BTreeMap::from([(name.to_owned(), b"a photo".to_vec())]));
    }
    refused(put(&node, b"070701 and so on").await, Reason::TarUnsupported, "a cpio archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_stored_as_a_whole_or_not_at_all() {
    let (node, dir) = (offline().await, TempDir::new().expect("a folder"));
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), [name.as_bytes()[0]; 600]).expect("written");
    }
    let archive = gnu_tar(dir.path(), &["-b1", "-cf", "-", "a", "b"]);
    let contents = archive.len() - 1024;
    for len in (512..=contents).step_by(512).chain([1, contents - 1]) {
        refused(put(&node, &archive[..len]).await, Reason::TarInvalid, "cut short");
    }
    refused(put(&node, b"").await, Reason::TarInvalid, "it is empty");
    for whole in [contents + 512, archive.len()] {
        assert_eq!(files(&node, &put(&node, &archive[..whole]).await.expect("stored")).await.len(), 2);
    }
    let joined = [&archive[..], &archive[..]].concat();
    refused(put(&node, &joined).await, Reason::TarUnsupported, "two archives had been joined");
    let nothing = gnu_tar(dir.path(), &["-cf", "-", "-T", "/dev/null"]);
    assert!(files(&node, &put(&node, &nothing).await.expect("stored")).await.is_empty());
    let mut damaged = archive.clone();
    damaged[3] ^= 1;
    refused(put(&node, &damaged).await, Reason::TarInvalid, "the checksum of a header is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_cannot_hold_is_refused_by_name() {
    let (node, dir) = (offline().await, TempDir::new().expect("a folder"));
    fs::create_dir(dir.path().join("sub")).expect("made");
    fs::write(dir.path().join("sub/file"), "content").expect("written");
    let pipe = Command::new("mkfifo").arg(dir.path().join("pipe")).status().expect("mkfifo runs");
    assert!(pipe.success());
    fs::write(dir.path().join("large"), vec![1; 30_000]).expect("written");
    gnu_tar(dir.path(), &["-cf", "appended.tar", "large"]);
    gnu_tar(dir.path(), &["-rf", "appended.tar", "large"]);
    for (args, what) in [
        (
            &["--format=gnu", "-g", "1.snar", "-cf", "-", "sub"][..],
            "\"sub/\": it belongs to an incremental archive",
        ),
        (&["--format=posix", "-g", "2.snar", "-cf", "-", "sub"], "incremental archive"),
        (&["-cf", "-", "pipe"], "\"pipe\": it is a named pipe"),
        (&["-C", "/dev", "-cf", "-", "null"], "\"null\": it is a device"),
        (&["-zcf", "-", "sub"], "it is compressed with gzip"),
    ] {
        refused(put(&node, &gnu_tar(dir.path(), args)).await, Reason::TarUnsupported, what);
    }
    let appended = fs::read(dir.path().join("appended.tar")).expect("read");
    refused(put(&node, &appended).await, Reason::TarUnsupported, "\"large\": it occurs twice");
    let volumes = ["1.tar", "2.tar", "3.tar", "4.tar"];
    let mut split = vec!["--format=gnu", "-M", "-L", "12", "-c", "large"];
    split.extend(volumes.iter().flat_map(|volume| ["-f", volume]));
    gnu_tar(dir.path(), &split);
    let second = fs::read(dir.path().join("2.tar")).expect("read");
    refused(put(&node, &second).await, Reason::TarUnsupported, "\"large\": it continues from another volume");
    let first = fs::read(dir.path().join("1.tar")).expect("read");
    refused(put(&node, &first).await, Reason::TarInvalid, "cut short");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crafted_archive_costs_neither_memory_nor_time() {
    let node = offline().await;
    let header = |kind: u8, size: u64, real_size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path("f").expect("set");
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(size);
        header.as_gnu_mut().expect("GNU").set_real_size(real_size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    refused(put(&node, &header(b'x', 1 << 40, 0)).await, Reason::TarInvalid, "more than 1048576 bytes");
    refused(put(&node, &header(b'L', u64::MAX, 0)).await, Reason::TarInvalid, "more than 1048576 bytes");
    refused(put(&node, &header(b'0', u64::MAX, 0)).await, Reason::TarInvalid, "too long");
    refused(
        put(&node, &header(b'S', 0, 1 << 60)).await,
        Reason::TarUnsupported,
        "holes of more than 128 GiB",
    );
}
