//! storgo: an encrypted, content-addressed, peer-to-peer file store.
//!
//! Programs that embed storgo start with [`node::Node`].
//!
//! # Layers
//!
//! ```text
//! cli, main      parse arguments, call the HTTP API, print
//! http           the API: sockets, TLS, tokens, sessions, routes, uploads, events, web page
//! node           Node: puts, reads, listings, health, jobs
//! catalogue      lists of files in any order, search by name
//! fetch          download scheduler: which provider is asked for which block
//! transfer       transfer protocol: client and server
//! net            swarm, DHT, discovery, cluster gate, streams
//! store          block files, index, uploads, cache, collection
//! wire           frames and messages (pure)
//! content        chunks, encryption, CIDs, node blocks, links (pure)
//! config, telemetry   settings and logging; used by cli only
//! ```
//! A module imports from the modules below it and from no other. The files inside a module form no circles. Pure modules
//! have no async, I/O, clock or randomness. `tests/storgo/layering.rs` checks these rules.
//!
//! # Direction of data
//!
//! - **Put**, downwards: `http` receives bytes, `node` cuts and seals them with `content`, `store` makes the blocks durable
//!   and lists the file, `net` announces its root.
//! - **Get**, upwards: `node` opens the root with the link's key and walks the tree with `content`. `fetch` takes each block
//!   from the store, or else from providers by way of `transfer`. `node` decrypts and checks it, `http` sends it.
//! - **Serving peers**: `net` accepts a stream, `transfer` reads requests and sends blocks from the store.
//!
//! # Where new code goes
//!
//! | addition | place |
//! |---|---|
//! | protocol between peers | a module above `net` like `transfer`: messages in `wire`, added to [`net::Protocols`] by `node` |
//! | door (another API for users) | a module above `http` that calls `Node`, maps error codes to its own words, and is served by [`http::serve`]; `cli/run.rs` starts it |
//! | HTTP endpoint | `http`, with the work in `node` |
//! | command | `cli`, as a client of the HTTP API |
//! | setting | `config/table.rs` |
//! | background job | `node` |
//! | change of the block format | `content`: a new version, with golden vectors |
//!
//! A new module gets its place in `LAYERS` of the layering test, in the list above and in `docs/architecture.md`.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod cli;
pub mod config;
pub mod content;
pub mod fetch;
pub mod http;
pub mod net;
pub mod node;
pub mod store;
pub mod telemetry;
pub mod transfer;
pub mod wire;
