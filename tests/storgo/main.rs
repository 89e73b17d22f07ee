//! The integration tests: real files, real sockets, the real binary.

mod binary;
mod cli_alone;
mod cli_cluster;
mod cli_failures;
mod cli_hostile;
mod cli_kills;
mod cli_sizes;
mod cli_swarm;
mod cli_verbs;
mod cluster;
mod docs;
mod fuzz_bodies;
mod layering;
mod net;
mod net_discovery;
mod net_gate;
mod net_open;
mod store_full_disk;
mod store_kills;
mod store_sample;
mod swarm;
mod transfer_hostile;
mod transfer_providers;
mod vectors;
mod wire_messages;
