//! Real nodes on loopback ports, in one process, over real data directories.
#![allow(missing_docs)]

mod certificates;
mod cluster;
mod edge;
mod export;
mod fetches;
mod keeping;
mod members;
mod restart;
mod signing;
mod storage;
mod support;
mod tls;
mod watch;
mod workers;
