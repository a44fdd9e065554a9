//! Free ports of the loopback interface, below those the system hands out to outgoing connections, so that a restarted process
//! finds its port free.

use crate::error::HarnessError;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;

const RANGE: std::ops::Range<u16> = 12_000..20_000;
const ATTEMPTS: u32 = 2_000;
/// Handed out by this process already; another test process picks at random too and is told apart by the bind.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A free port.
pub fn free() -> Result<u16, HarnessError> {
    run_of(1)
}

/// The first of `count` free ports that follow each other.
pub fn run_of(count: u16) -> Result<u16, HarnessError> {
    let mut taken = TAKEN.lock().map_err(|_| HarnessError::Other("ports are lost".to_owned()))?;
    for _ in 0..ATTEMPTS {
        let first: u16 = rand::random_range(RANGE.start..RANGE.end - count);
        let ports = first..first + count;
        let free = |port| !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok();
        if ports.clone().all(free) {
            taken.extend(ports);
            return Ok(first);
        }
    }
    Err(HarnessError::Other(format!("no {count} free ports in {RANGE:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice() {
        let first = run_of(5).expect("free ports");
        for _ in 0..100 {
            let other = free().expect("a free port");
            assert!(!(first..first + 5).contains(&other));
        }
    }
}
