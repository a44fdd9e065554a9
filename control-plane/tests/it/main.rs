//! Real nodes on loopback ports, in one process, over real data directories.
#![allow(missing_docs)]

mod cluster;
mod restart;
mod storage;
mod support;
mod watch;
mod workers;
