//! Moving blocks: `/storgo/transfer/1.0.0` over raw streams.
//!
//! `server` answers what peers ask of our store. `client` asks: one long-lived stream per peer, many requests in
//! flight on it, answers in order. Neither holds more than a bounded number of bytes for any peer.

mod client;
mod frame;
mod limit;
mod server;

pub use client::{Failure, Transfers};
pub use limit::Limiter;
pub use server::{Counters, ServeOptions, serve};
