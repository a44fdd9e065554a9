//! A worker as the partition sees it: its room, its speed and how far away it is.

use super::load::Load;
use ollamamax_proto::WorkerId;
use ollamamax_proto::placement::Device;

/// The slowest speed that counts; slower is no better than this. Keeps every time within 63 bits.
const SLOWEST_NS_PER_MIB: u64 = 1 << 22;

/// A time in nanoseconds times 2^20: what bytes times nanoseconds per MiB gives without a division.
pub(super) type Time = u64;

/// Nanoseconds as a [`Time`].
pub(super) fn time(ns: u64) -> Time {
    ns.min(1 << 30) << 20
}

/// A [`Time`] in nanoseconds.
pub(super) fn to_ns(time: Time) -> u64 {
    time >> 20
}

/// One worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Who.
    pub worker: WorkerId,
    /// Bytes it has left for weights and KV cache.
    pub free_bytes: u64,
    /// Nanoseconds it takes to read a MiB of weights while computing with them.
    pub ns_per_mib: u64,
    /// Nanoseconds from a worker of the same place to it.
    pub near_ns: u64,
    /// Nanoseconds from a worker of another place to it.
    pub far_ns: u64,
    /// Which place: workers of one place are near each other.
    pub place: u32,
}

impl Site {
    /// Nanoseconds per MiB of a device nobody has measured: a core reads some 5 GB/s and four of them fill a socket's
    /// channels, a GPU reads 1 TB/s.
    pub fn unmeasured_ns_per_mib(device: &Device) -> u64 {
        match device.kind.as_str() {
            "cuda" => 1_000,
            _ => 200_000 / u64::from(device.threads.clamp(1, 8)),
        }
    }

    pub(super) fn speed(&self) -> u64 {
        self.ns_per_mib.clamp(1, SLOWEST_NS_PER_MIB)
    }

    pub(super) fn hop(&self) -> Time {
        time(self.far_ns)
    }

    /// Time of layers `[first, end)` on it, hop included.
    pub(super) fn time(&self, load: &Load, first: usize, end: usize) -> Time {
        load.read(first, end) * self.speed() + self.hop()
    }

    /// Whether the search need not tell them apart.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        Self { worker: self.worker, ..*other } == *self
    }
}
