//! storgo: an encrypted, content-addressed, peer-to-peer file store.
#![deny(missing_docs)]

pub mod cli;
pub mod config;
pub mod content;
pub mod fetch;
pub mod http;
pub mod net;
pub mod node;
pub mod store;
pub mod telemetry;
pub mod wire;
