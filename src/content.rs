//! What bytes become: chunks, sealed blocks, node blocks, links. Pure code: no I/O, no clock, no async.

pub mod cid;
pub mod hash;
pub mod secret;
