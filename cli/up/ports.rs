//! Ports on this machine: free ones to choose from, and whether a chosen one is still free.

use crate::exit::Failure;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

/// Chosen ports lie here: above the well-known ones, below those the system hands out to outgoing connections, so that a
/// restart finds them free.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: u32 = 1_000;

/// Whether something can listen there now.
pub fn is_free(address: SocketAddr) -> Result<bool, Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(Failure::Other(format!("cannot listen on {address}: {error}"))),
    }
}

/// Hands out free loopback addresses, none twice.
#[derive(Debug, Default)]
pub struct FreePorts {
    taken: BTreeSet<u16>,
}

impl FreePorts {
    /// Never hands this one out.
    pub fn reserve(&mut self, port: u16) {
        self.taken.insert(port);
    }

    /// A free one.
    pub fn next(&mut self) -> Result<SocketAddr, Failure> {
        for _ in 0..ATTEMPTS {
            let port = rand::random_range(RANGE);
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if self.taken.insert(port) && is_free(address)? {
                return Ok(address);
            }
        }
        let (first, end) = (RANGE.start, RANGE.end);
        Err(Failure::Other(format!("no free port found on 127.0.0.1 from {first} to {end}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_seen_and_none_is_handed_out_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert!(!is_free(listener.local_addr().expect("bound")).expect("loopback works"));
        let mut ports = FreePorts::default();
        let all: BTreeSet<_> = (0..50).map(|_| ports.next().expect("a port")).collect();
        assert_eq!(all.len(), 50);
    }
}
