//! The integration tests: real files, real sockets, the real binary.
