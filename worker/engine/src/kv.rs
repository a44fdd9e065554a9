//! Who holds which KV block: reference counts, and a cache of full blocks so that a known prefix is
//! not computed again.
//!
//! ```text
//!           grow               release (last reference)
//!   free ----------> used ------------------------------> free     a block nobody could find again
//!    ^                ^  \------------------------------> cached   full, found by tokens and parent
//!    |                |        claim_prefix                 |
//!    |                +-------------------------------------+
//!    +------------------- evicted, oldest first ------------+
//! ```
//!
//! A full block is found by (its parent in the chain, its tokens). The parent is a number that is
//! given out once and never again, so equality is exact: no hash decides whose attention a sequence
//! reads. Chains begin at a salt: only requests with the same one find each other's blocks. Blocks are released last one first, so that the tail of a chain is evicted before the
//! blocks it depends on.

use crate::backend::BlockId;
use crate::marks::{Ledger, Marks};
use ollamamax_proto::prefix::Salt;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A place in the forest of cached prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Chain {
    /// The empty prefix of those with this salt.
    Root(Salt),
    /// Behind a block: a number given out once.
    Behind(u64),
}

impl Default for Chain {
    fn default() -> Self {
        Self::Root(Salt::SHARED)
    }
}

/// How a full block is found.
type Key = (Chain, Box<[u32]>);

/// All blocks of a backend.
#[derive(Debug)]
pub struct BlockPool {
    block_tokens: usize,
    blocks: Vec<Block>,
    /// Blocks with neither references nor content.
    free: Vec<BlockId>,
    /// Blocks without references whose content can still be found, by the time of their release.
    cached: BTreeMap<u64, BlockId>,
    found: HashMap<Key, (BlockId, Chain)>,
    next_chain: u64,
    releases: u64,
    /// Where it is noted which hashes blocks stand for, once a sequence has brought some.
    ledger: Option<Arc<Ledger>>,
}

#[derive(Debug, Default)]
struct Block {
    refs: u32,
    /// How it is found, when it is.
    key: Option<Key>,
    /// When it was released, while it is cached.
    released: u64,
    /// The beginnings that end in it.
    marks: Vec<u64>,
}

/// The blocks one sequence holds. Give it back with [`BlockPool::release`]; dropping it would leak
/// its blocks.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Leading blocks that are known to the cache, or equal to known ones.
    committed: usize,
    chain: Chain,
}

impl BlockTable {
    /// The blocks, in order of position.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

/// How many blocks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held by sequences.
    pub used: u32,
    /// Not held, but with content that a prompt may reuse; available like free ones.
    pub cached: u32,
    /// Empty.
    pub free: u32,
}

impl BlockPool {
    /// A pool of empty blocks.
    pub fn new(blocks_count: u32, block_tokens: u32) -> Self {
        Self {
            block_tokens: block_tokens.max(1) as usize,
            blocks: (0..blocks_count).map(|_| Block::default()).collect(),
            // Popped from the end: the lowest first.
            free: (0..blocks_count).rev().map(BlockId).collect(),
            cached: BTreeMap::new(),
            found: HashMap::new(),
            next_chain: 0,
            releases: 0,
            ledger: None,
        }
    }

    /// Blocks that can be had.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// Blocks by state.
    pub fn usage(&self) -> Usage {
        let (cached, free) = (self.cached.len() as u32, self.free.len() as u32);
        Usage { used: self.blocks.len() as u32 - cached - free, cached, free }
    }

    /// Blocks it takes to hold so many positions.
    pub fn blocks_for(&self, positions: usize) -> usize {
        positions.div_ceil(self.block_tokens)
    }

    /// How many blocks that are now free or cached a sequence of `tokens` would take to hold
    /// `positions`: those it would share with running sequences cost nothing.
    pub fn cost(&self, salt: Salt, tokens: &[u32], positions: usize) -> usize {
        let shared = self.known_prefix(salt, tokens);
        let in_use = shared.iter().filter(|(id, _)| self.block(*id).refs > 0).count();
        self.blocks_for(positions).saturating_sub(in_use)
    }

    /// A table that starts with the blocks of `tokens` that are known under `salt`, and how many positions
    /// they cover. At least one token is always left to compute: its logits are needed.
    pub fn claim_prefix(&mut self, salt: Salt, tokens: &[u32]) -> (BlockTable, usize) {
        let mut table = BlockTable { chain: Chain::Root(salt), ..BlockTable::default() };
        for (id, chain) in self.known_prefix(salt, tokens) {
            let block = &mut self.blocks[id.0 as usize];
            if block.refs == 0 {
                self.cached.remove(&block.released);
            }
            block.refs += 1;
            table.blocks.push(id);
            table.chain = chain;
        }
        table.committed = table.blocks.len();
        let positions = table.committed * self.block_tokens;
        (table, positions)
    }

    /// Makes the table cover `positions`; changes nothing and returns false when there are not
    /// enough blocks.
    #[must_use]
    pub fn grow(&mut self, table: &mut BlockTable, positions: usize) -> bool {
        let missing = self.blocks_for(positions).saturating_sub(table.blocks.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let id = self.take_empty().expect("counted just above");
            self.blocks[id.0 as usize].refs = 1;
            table.blocks.push(id);
        }
        true
    }

    /// Makes the table's full blocks findable; `computed` are the tokens whose positions are
    /// computed.
    pub fn commit(&mut self, table: &mut BlockTable, computed: &[u32]) {
        let full = (computed.len() / self.block_tokens).min(table.blocks.len());
        for index in table.committed..full {
            let tokens = &computed[index * self.block_tokens..][..self.block_tokens];
            let key: Key = (table.chain, tokens.into());
            // Another sequence may have computed the same block meanwhile: its copy stays the one
            // that is found.
            table.chain = if let Some((_, chain)) = self.found.get(&key) {
                *chain
            } else {
                let (id, chain) = (table.blocks[index], Chain::Behind(self.next_chain));
                self.next_chain += 1;
                self.blocks[id.0 as usize].key = Some(key.clone());
                self.found.insert(key, (id, chain));
                chain
            };
            table.committed = index + 1;
        }
    }

    /// Notes which beginnings end in the table's findable blocks.
    pub fn mark(&mut self, table: &BlockTable, marks: &mut Marks) {
        while let Some((index, hash)) = marks.next_within(table.committed, self.block_tokens) {
            let block = &mut self.blocks[table.blocks[index].0 as usize];
            // A copy of a known block is not the one that is found.
            if block.key.is_none() || block.marks.contains(&hash) {
                continue;
            }
            if let Some(ledger) = marks.ledger() {
                block.marks.push(hash);
                ledger.stored(hash);
                self.ledger.get_or_insert_with(|| Arc::clone(ledger));
            }
        }
    }

    /// Takes a table's blocks back.
    pub fn release(&mut self, table: BlockTable) {
        for id in table.blocks.into_iter().rev() {
            let block = &mut self.blocks[id.0 as usize];
            block.refs -= 1;
            if block.refs > 0 {
                continue;
            }
            if block.key.is_some() {
                block.released = self.releases;
                self.cached.insert(self.releases, id);
                self.releases += 1;
            } else {
                self.free.push(id);
            }
        }
    }

    /// The longest chain of known blocks that `tokens` starts with, one token short at least.
    fn known_prefix(&self, salt: Salt, tokens: &[u32]) -> Vec<(BlockId, Chain)> {
        let mut prefix = Vec::new();
        let mut chain = Chain::Root(salt);
        let usable = tokens.len().saturating_sub(1) / self.block_tokens * self.block_tokens;
        for tokens in tokens[..usable].chunks_exact(self.block_tokens) {
            let Some(&(id, next)) = self.found.get(&(chain, tokens.into())) else { break };
            prefix.push((id, next));
            chain = next;
        }
        prefix
    }

    /// A block without references: an empty one, or the one released longest ago.
    fn take_empty(&mut self) -> Option<BlockId> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let (_, id) = self.cached.pop_first()?;
        if let Some(key) = self.blocks[id.0 as usize].key.take() {
            self.found.remove(&key);
        }
        let marks = std::mem::take(&mut self.blocks[id.0 as usize].marks);
        if let Some(ledger) = &self.ledger {
            marks.into_iter().for_each(|hash| ledger.evicted(hash));
        }
        Some(id)
    }

    fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.0 as usize]
    }
}

#[cfg(test)]
mod tests;
