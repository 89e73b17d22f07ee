//! Measurements for `scripts/bench` that need the library.
//!
//! ```text
//! measure pipeline MIB          cuts, hashes and seals in memory, on all cores and on one
//! measure stream MIB            sends over one raw libp2p stream between two swarms, TCP, loopback
//! measure find RUNS             finds a provider through the DHT, three nodes
//! measure fill DIR BLOCKS LEN   creates a store with that many blocks
//! ```
//! Each prints one JSON object.

use std::{
    env,
    error::Error,
    thread,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, StreamProtocol, identity::Keypair};
use storgo::{
    content::{
        chunk::{Chunker, Cutter},
        cid::{Cid, Codec},
        hash::sha1,
        seal::{Sealing, seal_chunk},
        secret::{ConvergenceSecret, Key},
    },
    net::{IncomingStreams, Net, NetOptions, Protocols},
    store::{PutMode, RootKind, RootRecord, Store, StoreOptions},
};

type Outcome = Result<(), Box<dyn Error>>;

const MIB: usize = 1 << 20;

fn main() -> Outcome {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pipeline", mib] => pipeline(mib.parse()?),
        ["stream", mib] => runtime()?.block_on(stream(mib.parse()?)),
        ["find", runs] => runtime()?.block_on(find(runs.parse()?)),
        ["fill", dir, blocks, len] => fill(dir, blocks.parse()?, len.parse()?),
        _ => Err("usage: measure pipeline MIB | stream MIB | find RUNS | fill DIR BLOCKS LEN".into()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Pseudorandom bytes, other ones for each `seed`.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// MiB per second of `work` over `mib` MiB.
fn rate(mib: usize, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    #[allow(clippy::cast_precision_loss)]
    let mib = mib as f64;
    mib / begin.elapsed().as_secs_f64()
}

/// Cuts `bytes` and gives each chunk to `take`.
fn cut(cutter: &Cutter, mut bytes: &[u8], mut take: impl FnMut(&[u8])) {
    while !bytes.is_empty() {
        let len = cutter.cut(bytes, true).unwrap_or(bytes.len());
        take(&bytes[..len]);
        bytes = &bytes[len..];
    }
}

fn pipeline(mib: usize) -> Outcome {
    let cores = thread::available_parallelism()?.get();
    let bytes = noise(mib * MIB, 0);
    let secret = ConvergenceSecret::new(Key::new(rand::random()));
    let cutter = Cutter::new(Chunker::FastCdc, &secret);
    let sealing = Sealing::Secret(secret);
    let seal = |chunk: &[u8]| drop(seal_chunk(&sealing, chunk.to_vec(), false));
    let cutting = rate(mib, || cut(&cutter, &bytes, |_| {}));
    let hashing = rate(mib, || {
        bytes.chunks(MIB).for_each(|piece| {
            sha1(piece);
        });
    });
    let sealing_rate = rate(mib, || bytes.chunks(MIB).for_each(seal));
    let one = rate(mib, || cut(&cutter, &bytes, seal));
    let all = rate(mib, || {
        thread::scope(|scope| {
            for share in bytes.chunks(bytes.len().div_ceil(cores)) {
                scope.spawn(|| cut(&cutter, share, seal));
            }
        });
    });
    println!(
        r#"{{"cores":{cores},"cut_one_core":{cutting:.1},"sha1_one_core":{hashing:.1},"seal_one_core":{sealing_rate:.1},"pipeline_one_core":{one:.1},"pipeline_all_cores":{all:.1}}}"#
    );
    Ok(())
}

/// The protocol whose streams are measured.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/measure/1.0.0");

/// A swarm on loopback that knows `bootstrap`.
async fn swarm(bootstrap: Vec<Multiaddr>) -> Result<(Net, IncomingStreams), Box<dyn Error>> {
    let options = NetOptions {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        bootstrap,
        mdns: false,
        ..NetOptions::new(Keypair::generate_ed25519())
    };
    let mut protocols = Protocols::default();
    let incoming = protocols.accept(PROTOCOL);
    Ok((Net::start(options, protocols).await?, incoming))
}

async fn stream(mib: usize) -> Outcome {
    let (giver, _streams) = swarm(Vec::new()).await?;
    let (taker, mut incoming) = swarm(Vec::new()).await?;
    let peer = giver.connect(taker.listen_addrs()[0].clone()).await?;
    let reading = tokio::spawn(async move {
        let (_, mut stream) = incoming.recv().await.ok_or("no stream came")?;
        let mut buffer = vec![0; MIB];
        let mut left = mib * MIB;
        while left > 0 {
            match stream.read(&mut buffer).await.map_err(|e| e.to_string())? {
                0 => return Err("the stream ended early".to_owned()),
                n => left -= n,
            }
        }
        Ok(())
    });
    let mut stream = giver.open(peer, PROTOCOL).await?;
    let piece = noise(MIB, 0);
    let begin = Instant::now();
    for _ in 0..mib {
        stream.write_all(&piece).await?;
    }
    stream.flush().await?;
    reading.await??;
    #[allow(clippy::cast_precision_loss)]
    let rate = mib as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"mib_per_s":{rate:.1}}}"#);
    Ok(())
}

async fn find(runs: u64) -> Outcome {
    let (first, _a) = swarm(Vec::new()).await?;
    let known = vec![first.listen_addrs()[0].clone()];
    let (provider, _b) = swarm(known.clone()).await?;
    let (asker, _c) = swarm(known).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while provider.connected().is_empty() || asker.connected().is_empty() {
        if Instant::now() > deadline {
            return Err("the three nodes did not find each other".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut millis = Vec::new();
    for run in 0..runs {
        let root = Cid::of(Codec::DagCbor, &noise(64, run));
        provider.provide(root).await;
        provider.announced(root).await?;
        let begin = Instant::now();
        let mut found = asker.find_providers(root).await;
        while found.recv().await.ok_or("the provider was not found")? != provider.peer_id() {}
        millis.push(format!("{:.3}", begin.elapsed().as_secs_f64() * 1000.0));
    }
    println!(r#"{{"ms":[{}]}}"#, millis.join(","));
    Ok(())
}

/// Blocks that one root refers to.
const PER_ROOT: u64 = 10_000;

fn fill(dir: &str, blocks: u64, len: usize) -> Outcome {
    let store = Store::open(StoreOptions::new(dir))?;
    let threads = 16;
    let begin = Instant::now();
    let mut done = 0;
    while done < blocks {
        let count = PER_ROOT.min(blocks - done);
        let upload = store.upload();
        thread::scope(|scope| {
            let upload = &upload;
            let workers: Vec<_> = (0..threads)
                .map(|worker| {
                    scope.spawn(move || {
                        (done + worker..done + count).step_by(16).try_for_each(|seed| {
                            let block = noise(len, seed);
                            upload.put(&Cid::of(Codec::Raw, &block), &block, PutMode::Sealed).map(drop)
                        })
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().map_err(|_| "a worker panicked")?.map_err(|e| e.to_string())
            })
        })?;
        upload.commit(RootRecord {
            cid: Cid::of(Codec::DagCbor, &noise(64, done)),
            key: None,
            kind: RootKind::File,
            name: Some(format!("file {done}")),
            size: count * len as u64,
            blocks: count,
            stored_len: count * len as u64,
            media_type: None,
            created: 0,
            pinned: true,
            owner: Vec::new(),
            public: false,
        })?;
        done += count;
    }
    println!(r#"{{"blocks":{},"seconds":{:.1}}}"#, store.usage().blocks, begin.elapsed().as_secs_f64());
    Ok(())
}
