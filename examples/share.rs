//! Stores a file on a node of its own and serves it until Ctrl-C: `cargo run --example share -- FILE`.

use storgo::node::{Node, NodeOptions, PutOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which file?")?;
    let data_dir = std::env::temp_dir().join(format!("storgo-share-{}", std::process::id()));
    let options =
        NodeOptions { listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?], ..NodeOptions::new(&data_dir) };
    let node = Node::start(options).await?;
    let report = node.put(tokio::fs::File::open(&path).await?, PutOptions::named(path)).await?;
    println!("link: {}", report.link);
    println!("at:   {}", node.status().await?.listen.join(" "));
    tokio::signal::ctrl_c().await?;
    node.shutdown().await;
    std::fs::remove_dir_all(data_dir)?;
    Ok(())
}
