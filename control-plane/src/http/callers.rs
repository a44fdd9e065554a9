//! Connections by the address they come from: one client must not take all places.

use ollamamax_gateway::edge::Network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Who has how many.
pub(super) struct Callers {
    most: usize,
    /// Proxies that are trusted speak for many, and are not counted.
    trusted: Vec<Network>,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection, counted until it is dropped.
pub(super) struct Seat {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of: Option<IpAddr>,
}

impl Callers {
    pub(super) fn new(most: usize, trusted: Vec<Network>) -> Self {
        Self { most, trusted, counts: Arc::default() }
    }

    /// A seat for a connection from this address, if it has not too many.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Seat> {
        let counts = Arc::clone(&self.counts);
        if self.trusted.iter().any(|network| network.contains(address)) {
            return Some(Seat { counts, of: None });
        }
        let key = household(address);
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(all);
        Some(Seat { counts, of: Some(key) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(key) = self.of else { return };
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&key);
            }
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 beside it, too.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6((address.to_bits() >> 64 << 64).into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_gets_them_back() {
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        let callers = Callers::new(2, vec!["10.0.0.0/8".parse().expect("valid")]);
        let (first, _second) = (callers.admit(ip("1.2.3.4")), callers.admit(ip("::ffff:1.2.3.4")));
        assert!(first.is_some());
        assert!(callers.admit(ip("1.2.3.4")).is_none(), "as IPv4 or IPv6, it is the same one");
        drop(first);
        assert!(callers.admit(ip("1.2.3.4")).is_some());
        let _six = (callers.admit(ip("2001:db8::1")), callers.admit(ip("2001:db8::2")));
        assert!(callers.admit(ip("2001:db8::3")).is_none());
        assert!(callers.admit(ip("2001:db8:0:1::1")).is_some());
        let proxied: Vec<_> = (0..9).map(|_| callers.admit(ip("10.0.0.1"))).collect();
        assert!(proxied.iter().all(Option::is_some), "a proxy speaks for many");
        drop((proxied, _six, _second));
        assert!(callers.counts.lock().expect("whole").is_empty(), "nothing is remembered");
    }
}
