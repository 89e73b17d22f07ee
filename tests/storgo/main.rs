//! The integration tests: real files, real sockets, the real binary.

mod cluster;
mod layering;
mod net;
mod swarm;
mod transfer_hostile;
mod transfer_providers;
mod wire_messages;
