//! storgo: an encrypted, content-addressed, peer-to-peer file store.
//!
//! ```text
//! cli, main      parse, call, print                               top floor
//! http           the API: sockets, tokens and sessions, routes, uploads, its document
//! node           Node: the one composition of all below
//! catalogue      the files that are listed here: in order, and by name
//! fetch          the download scheduler
//! transfer       the transfer protocol: client and server
//! net            swarm, DHT, discovery, cluster gate, streams
//! store          blocks on disk, index, uploads, cache, collection
//! wire           frames and messages (pure)
//! content        chunk, seal, CID, node block, link, encoder, decoder (pure)
//! config, telemetry   beside the floors, used by the top
//! ```
//! Imports go down only. A put flows down: bytes are cut and sealed by `content`, written by `store`, announced by
//! `net`. A get flows up: `node` opens a link, `fetch` asks the store and then every provider that `net` finds, and
//! `content` decrypts and checks what arrives. Whoever embeds storgo starts with [`node::Node`].
#![deny(missing_docs)]

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
