//! Folders nested as deep as a path allows need no deep stack.

use storgo::node::{ErrorCode, Node, PutOptions, Reason, Reference, report::FileKind};
use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;

use super::swarm::start_with;

/// A tar stream with a file below this many folders.
fn tower(folders: usize) -> Vec<u8> {
    let mut records = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    records.append_data(&mut header, format!("{}f", "d/".repeat(folders)), &b"abc"[..]).expect("appended");
    records.into_inner().expect("a stream")
}

async fn read(node: &Node, link: &str) -> Vec<u8> {
    let opened = node.open(&Reference::from(link), None).await.expect("opened");
    let mut pieces = std::pin::pin!(opened.read(None));
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.expect("read"));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deepest_path_is_stored_and_comes_back_and_a_deeper_one_is_refused() {
    let node = start_with(|options| options.offline = true).await;
    // Two bytes each; Linux limits paths to 4096 bytes.
    let put = async |bytes: &[u8]| {
        let options = PutOptions::named("tower");
        node.put_stream(ReaderStream::new(bytes), options, FileKind::Dir).await
    };
    let report = put(&tower(2047)).await.expect("stored");
    let stream = read(&node, &report.link).await;
    let mut archive = tar::Archive::new(&stream[..]);
    let deepest = archive.entries().expect("entries").map(|entry| entry.expect("an entry")).last();
    let path = deepest.expect("a file").path().expect("a path").into_owned();
    assert_eq!(path.components().count(), 2048);

    // Refused by its path; dropping what was read before needs no deep stack either.
    let error = put(&tower(2048)).await.expect_err("too deep");
    assert_eq!(error.code, ErrorCode::BadRequest);
    let mut broken = tower(2047);
    broken.truncate(broken.len() - 1024);
    broken.extend_from_slice(&[0xff; 512]);
    assert_eq!(put(&broken).await.expect_err("broken").code, ErrorCode::BadRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_too_long_is_an_error_of_the_input() {
    let node = start_with(|options| options.offline = true).await;
    let mut archive = tar::Builder::new(Vec::new());
    let path = format!("folder/{}", "n".repeat(256));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, path, &b""[..]).expect("appended");
    let bytes = archive.into_inner().expect("written");
    let stream = ReaderStream::new(&bytes[..]);
    let error =
        node.put_stream(stream, PutOptions::named("long"), FileKind::Dir).await.expect_err("too long");
    assert_eq!((error.code, error.reason), (ErrorCode::BadRequest, Some(Reason::PathInvalid)));
    assert!(error.message.contains("longer than 255 bytes"), "{}", error.message);
}
