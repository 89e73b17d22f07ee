//! The integration tests: real files, real sockets, the real binary.

mod cluster;
mod net;
mod swarm;
