//! The node: the one place where content, store and network meet.

pub mod error;
pub mod report;
