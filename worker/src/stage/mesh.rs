//! The connections between the shards of a stage, and the sums over them.
//!
//! Every shard sends its products to every other and adds up all of them in the order of the shards: the result depends on
//! no arrival, and all shards go on with the same bits.

use super::frame::{put_f32, take_f32};
use ollamamax_engine::backend::Shards;
use ollamamax_tls::Blocking;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What every buffer of a connection takes without being read: up to this both sides may write before they read.
const BOTH_WRITE_BYTES: usize = 32 * 1024;

/// All shards of a stage, seen from one of them.
#[derive(Debug)]
pub struct Mesh {
    rank: usize,
    /// By rank; none for this one.
    peers: Vec<Option<Blocking>>,
    /// How long to wait for the others, in milliseconds.
    patience_ms: Arc<AtomicU64>,
    /// What the connections have been told of it.
    set_ms: u64,
    bytes: Vec<u8>,
    others: Vec<Vec<u8>>,
}

impl Mesh {
    /// Connections by rank, with none for `rank` itself.
    pub fn new(rank: usize, peers: Vec<Option<Blocking>>, patience_ms: Arc<AtomicU64>) -> Self {
        let others = peers.iter().map(|_| Vec::new()).collect();
        Self { rank, peers, patience_ms, set_ms: 0, bytes: Vec::new(), others }
    }

    fn exchange(&mut self) -> std::io::Result<()> {
        let patience_ms = self.patience_ms.load(Ordering::Relaxed).max(1);
        if patience_ms != self.set_ms {
            for peer in self.peers.iter().flatten() {
                peer.tcp().set_read_timeout(Some(Duration::from_millis(patience_ms)))?;
                peer.tcp().set_write_timeout(Some(Duration::from_millis(patience_ms)))?;
            }
            self.set_ms = patience_ms;
        }
        let len = self.bytes.len();
        let short = len <= BOTH_WRITE_BYTES;
        if short {
            for peer in self.peers.iter_mut().flatten() {
                peer.write_all(&self.bytes)?;
                peer.flush()?;
            }
        }
        for (rank, (peer, other)) in self.peers.iter_mut().zip(&mut self.others).enumerate() {
            let Some(peer) = peer else { continue };
            other.resize(len, 0);
            // Of two shards one writes first and the other reads first, pair after pair in one order for all.
            if !short && self.rank < rank {
                peer.write_all(&self.bytes)?;
                peer.flush()?;
            }
            peer.read_exact(other)?;
            if !short && self.rank > rank {
                peer.write_all(&self.bytes)?;
                peer.flush()?;
            }
        }
        Ok(())
    }
}

impl Shards for Mesh {
    fn sum(&mut self, products: &mut [f32]) -> Result<(), String> {
        self.bytes.clear();
        put_f32(&mut self.bytes, products);
        self.exchange().map_err(|error| format!("a shard is gone: {error}"))?;
        let mut part = vec![0.0; products.len()];
        let mut sum: Option<Vec<f32>> = None;
        for (rank, other) in self.others.iter().enumerate() {
            if rank == self.rank {
                part.copy_from_slice(products);
            } else {
                take_f32(other, &mut part);
            }
            match &mut sum {
                None => sum = Some(part.clone()),
                Some(sum) => sum.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part),
            }
        }
        if let Some(sum) = sum {
            products.copy_from_slice(&sum);
        }
        Ok(())
    }
}
