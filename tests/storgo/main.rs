//! The integration tests: real files, real sockets, the real binary.

mod cluster;
mod layering;
mod net;
mod swarm;
