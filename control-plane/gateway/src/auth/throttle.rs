//! Slows down who tries credentials: failures per address, and tries per user name, in a bounded table.
//!
//! A leaky bucket each: so many at once, then one in so many seconds. Successes cost nothing.

use crate::error::Failure;
use ollamamax_proto::{Millis, limits};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Address(IpAddr),
    Login(String, Option<IpAddr>),
}

/// Failures of late.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When each would be forgiven everything.
    until: Mutex<BTreeMap<Whom, Millis>>,
}

impl Throttle {
    /// Why what comes from `address` without a good credential has to wait.
    pub fn refuses(&self, address: Option<IpAddr>) -> Option<Failure> {
        let (burst, ms) = (limits::AUTH_FAILURES_COUNT, limits::AUTH_FAILURE_MS);
        self.wait_ms(&Whom::Address(network(address?)), burst, ms, Millis::now()).map(too_many)
    }

    /// A credential from `address` was not good.
    pub fn failed(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.count(Whom::Address(network(address)), limits::AUTH_FAILURE_MS, Millis::now());
        }
    }

    /// A password from `address` was not good: as bad as several other credentials, for passwords can be guessed.
    pub fn failed_login(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            let ms = limits::AUTH_FAILURE_MS * limits::LOGIN_FAILURE_WEIGHT;
            self.count(Whom::Address(network(address)), ms, Millis::now());
        }
    }

    /// Counts a login as `user` from `address`, or refuses to try it.
    pub fn login(&self, user: &str, address: Option<IpAddr>) -> Result<(), Failure> {
        let user: String = user.chars().take(limits::ACCESS_NAME_CHARS).collect();
        let (whom, now) = (Whom::Login(user, address.map(network)), Millis::now());
        let (burst, ms) = (limits::LOGINS_COUNT, limits::LOGIN_MS);
        if let Some(wait) = self.wait_ms(&whom, burst, ms, now) {
            return Err(too_many(wait));
        }
        self.count(whom, ms, now);
        Ok(())
    }

    /// How long to wait until less than `burst` failures of `each_ms` are unforgiven.
    fn wait_ms(&self, whom: &Whom, burst: u64, each_ms: u64, now: Millis) -> Option<u64> {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let owed = until.get(whom)?.since(now);
        owed.checked_sub(burst.saturating_sub(1) * each_ms).filter(|wait| *wait > 0)
    }

    fn count(&self, whom: Whom, each_ms: u64, now: Millis) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= limits::THROTTLED_COUNT {
            until.retain(|_, end| *end > now);
        }
        // When all of them are guilty, the one that is forgiven soonest goes: filling the table forgives no old sinner.
        if until.len() >= limits::THROTTLED_COUNT && !until.contains_key(&whom) {
            let soonest = until.iter().min_by_key(|(_, end)| **end).map(|(whom, _)| whom.clone());
            soonest.map(|whom| until.remove(&whom));
        }
        let end = until.entry(whom).or_insert(now);
        *end = (*end).max(now).plus(each_ms);
    }
}

/// One customer has a whole IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

fn too_many(wait_ms: u64) -> Failure {
    Failure::TooMany {
        reason: "too many failed attempts; wait before the next one".to_owned(),
        retry_after_s: u32::try_from(wait_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn failures_are_counted_per_address_and_forgiven_with_time() {
        let throttle = Throttle::default();
        for _ in 0..limits::AUTH_FAILURES_COUNT {
            assert_eq!(throttle.refuses(v4(1)), None);
            throttle.failed(v4(1));
        }
        assert!(matches!(throttle.refuses(v4(1)), Some(Failure::TooMany { .. })));
        assert_eq!(throttle.refuses(v4(2)), None);
        let whom = Whom::Address(v4(1).expect("one"));
        let later = Millis::now().plus(limits::AUTH_FAILURE_MS);
        let (burst, ms) = (limits::AUTH_FAILURES_COUNT, limits::AUTH_FAILURE_MS);
        assert_eq!(throttle.wait_ms(&whom, burst, ms, later), None);
    }

    #[test]
    fn logins_are_counted_per_user_and_address_and_the_table_is_bounded() {
        let throttle = Throttle::default();
        for _ in 0..limits::LOGINS_COUNT {
            throttle.login("alice", v4(1)).expect("not yet");
        }
        throttle.login("alice", v4(1)).expect_err("too many");
        throttle.login("alice", v4(2)).expect("from elsewhere");
        throttle.login("bob", v4(1)).expect("somebody else");
        for nth in 0..2 * limits::THROTTLED_COUNT as u128 {
            throttle.failed(Some(IpAddr::V6((nth << 64).into())));
        }
        assert!(throttle.until.lock().expect("not poisoned").len() <= limits::THROTTLED_COUNT);
        throttle.login("alice", v4(1)).expect_err("still");
    }
}
