//! The materialised state: a table of checked records, rebuildable from snapshot and log.
//!
//! Keys and values are bytes to this crate. Each apply round is one [`KvBatch`], written atomically together with what
//! it brings the state to ([`Applied`]), so that the state can always say which log entry it stands at. Two twins
//! implement [`Kv`]: `sled` on disk, `memory` for tests; both keep a digest over all records, so that a record which
//! was lost or altered behind our back shows.

use crate::error::StorageError;
use crate::types::{LogId, StoredMembership};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The shape of the values; counted up when the control plane changes how it encodes them.
pub const VALUE_SCHEMA: u8 = 1;

/// A record: key and value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Which log entry the state stands at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The last entry applied, none in a new state.
    pub log_id: Option<LogId>,
    /// The membership as of that entry.
    pub membership: StoredMembership,
}

/// One apply round. A key occurs at most once in it; later mentions win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvBatch {
    /// Records to write.
    pub puts: Vec<Pair>,
    /// Keys to remove; unknown ones are ignored.
    pub deletes: Vec<Vec<u8>>,
    /// Where the state stands afterwards.
    pub applied: Applied,
}

/// Everything in the state at one moment, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Where it stands.
    pub applied: Applied,
    /// All records.
    pub records: Vec<Pair>,
}

/// A table of records. All methods block; call them off the runtime.
pub trait Kv: Send + Sync + std::fmt::Debug {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;
    /// The records whose key starts with `prefix`, in key order.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StorageError>;
    /// Writes one round, all of it or nothing.
    fn apply(&self, batch: KvBatch) -> Result<(), StorageError>;
    /// Where the state stands.
    fn applied(&self) -> Applied;
    /// Number and digest of the records: equal exactly when the records are.
    fn sum(&self) -> Sum;
    /// All records and where they stand, as of one moment.
    fn dump(&self) -> Result<Dump, StorageError>;
    /// Replaces everything by the records of a snapshot. After an error the state is unusable until it was rebuilt.
    fn replace(
        &self,
        applied: Applied,
        records: &mut dyn Iterator<Item = Result<Pair, StorageError>>,
    ) -> Result<(), StorageError>;
    /// Makes everything applied so far durable.
    fn checkpoint(&self) -> Result<(), StorageError>;
}

/// Number and digest of a set of records, kept up to date record by record and independent of their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many records.
    pub records: u64,
    /// Wrapping sum of the records' hashes.
    pub digest: u128,
}

impl Sum {
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.digest = self.digest.wrapping_add(hash(key, value));
    }

    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(hash(key, value));
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let digest = hasher.finalize();
    u128::from_le_bytes(digest[..16].try_into().expect("sixteen of thirty-two bytes"))
}
