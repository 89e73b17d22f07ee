//! Reads a link from a node at a known address to stdout: `cargo run --example fetch -- MULTIADDR LINK`.

use futures::TryStreamExt;
use storgo::node::{Node, NodeOptions, Reference};
use tokio::io::AsyncWriteExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (addr, link) = (args.next().ok_or("which address?")?, args.next().ok_or("which link?")?);
    let data_dir = std::env::temp_dir().join(format!("storgo-fetch-{}", std::process::id()));
    let node = Node::start(NodeOptions::new(&data_dir)).await?;
    node.connect(addr.parse()?).await?;
    let opened = node.open(&Reference::from(link.as_str()), None).await?;
    let mut pieces = std::pin::pin!(opened.read(None));
    let mut out = tokio::io::stdout();
    while let Some(piece) = pieces.try_next().await? {
        out.write_all(&piece).await?;
    }
    out.flush().await?;
    node.shutdown().await;
    std::fs::remove_dir_all(data_dir)?;
    Ok(())
}
