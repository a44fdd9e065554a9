//! The state as rows of a sorted key-value store: each change is one row put or removed, and all
//! rows together are the state.
//!
//! ```text
//! key   = table byte, then the identity (numbers big-endian, so that they sort; names as text)
//! value = format byte, then the record in postcard
//! ```

use crate::access::rows;
use crate::change::Change;
use crate::codec::{CodecError, decode, encode};
use crate::state::State;
use ollamamax_proto::{Digest, ModelName, limits};
use serde::Serialize;
use std::collections::BTreeMap;

/// The table bytes: fixed numbers, stored on disk.
pub mod prefix {
    /// The cluster, one row.
    pub const CLUSTER: u8 = 1;
    /// Counters, one row.
    pub const COUNTERS: u8 = 2;
    /// Nodes by id.
    pub const NODE: u8 = 3;
    /// Models by name.
    pub const MODEL: u8 = 4;
    /// Demands by model name.
    pub const DEMAND: u8 = 5;
    /// Workers by id.
    pub const WORKER: u8 = 6;
    /// Placements by assignment id.
    pub const PLACEMENT: u8 = 7;
    /// Checkpoints by name.
    pub const CHECKPOINT: u8 = 8;
    /// Deployments by model name.
    pub const DEPLOYMENT: u8 = 9;
    /// Operators' orders by worker id.
    pub const ORDERS: u8 = 10;
    /// Replicas of several stages by id.
    pub const REPLICA: u8 = 11;
    /// Migrations by model name.
    pub const MIGRATION: u8 = 12;
    /// Rollouts by model name.
    pub const ROLLOUT: u8 = 13;
    /// Former versions by digest and model name.
    pub const VERSION: u8 = 14;
    /// Users by name.
    pub const USER: u8 = 15;
    /// Roles by name.
    pub const ROLE: u8 = 16;
    /// API keys by id.
    pub const KEY: u8 = 17;
    /// Sessions by id.
    pub const SESSION: u8 = 18;
    /// Void access tokens by id.
    pub const REVOKED: u8 = 19;
    /// Signing keys by id.
    pub const SIGNING_KEY: u8 = 20;
    /// Authorities by fingerprint.
    pub const AUTHORITY: u8 = 21;
    /// Join tokens by id.
    pub const JOIN_TOKEN: u8 = 22;
    /// Enrolled workers by id.
    pub const ENROLMENT: u8 = 23;
    /// Quotas by whose they are.
    pub const QUOTA: u8 = 24;
    /// The audit trail by number.
    pub const TRAIL: u8 = 25;
    /// Bounds of what is made, by whose.
    pub const MAKING: u8 = 26;
    /// How far the trail was sent, by receiver.
    pub const EXPORTED: u8 = 27;
    /// Adopted servers by id.
    pub const ADOPTED: u8 = 28;
}

/// One row to put or remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub key: Vec<u8>,
    /// What; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// Rows that are no state: the store is damaged or foreign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A key of no table.
    #[error("row `{0}` belongs to no known table; a newer version of the program wrote it")]
    UnknownTable(String),
    /// A key that is not the one of its value.
    #[error("row `{key}` holds the record of row `{expected}`")]
    Misplaced {
        /// Where it was found, in hex.
        key: String,
        /// Where it belongs, in hex.
        expected: String,
    },
    /// A value that cannot be read.
    #[error("row `{key}` cannot be read")]
    Value {
        /// Where, in hex.
        key: String,
        /// Why.
        #[source]
        source: CodecError,
    },
}

/// The row that `change` puts or removes.
///
/// # Errors
/// When a record is longer than a command may be, which nothing that `decide` returned is.
pub fn row(change: &Change) -> Result<Row, CodecError> {
    let key = key(change);
    let value = match change {
        Change::ClusterPut(record) => Some(value(record)?),
        Change::NodePut(record) => Some(value(record)?),
        Change::ModelPut(record) => Some(value(record)?),
        Change::DemandPut(record) => Some(value(record)?),
        Change::WorkerPut(record) => Some(value(record)?),
        Change::PlacementPut(record) => Some(value(record)?),
        Change::CheckpointPut(record) => Some(value(record)?),
        Change::Advanced(counters) => Some(value(counters)?),
        Change::DeploymentPut(record) => Some(value(record)?),
        Change::OrdersPut(record) => Some(value(record)?),
        Change::ReplicaPut(record) => Some(value(record)?),
        Change::MigrationPut(record) => Some(value(record)?),
        Change::RolloutPut(record) => Some(value(record)?),
        Change::VersionPut(record) => Some(value(record)?),
        Change::AdoptedPut(record) => Some(value(record)?),
        Change::Access(change) => rows::bytes(change)?,
        Change::NodeRemoved(_)
        | Change::ModelRemoved(_)
        | Change::DemandRemoved(_)
        | Change::WorkerRemoved(_)
        | Change::PlacementRemoved(_)
        | Change::CheckpointRemoved(_)
        | Change::DeploymentRemoved(_)
        | Change::OrdersRemoved(_)
        | Change::ReplicaRemoved(_)
        | Change::MigrationRemoved(_)
        | Change::RolloutRemoved(_)
        | Change::AdoptedRemoved(_)
        | Change::VersionRemoved(..) => None,
    };
    Ok(Row { key, value })
}

/// The rows that hold `state`, values by key.
///
/// # Errors
/// See [`row`].
pub fn rows(state: &State) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CodecError> {
    let changes = state.to_changes();
    let pairs = changes.iter().map(|change| {
        let row = row(change)?;
        // A state is made of puts alone.
        Ok((row.key, row.value.unwrap_or_default()))
    });
    pairs.collect()
}

/// The state that `rows` hold, in any order.
///
/// # Errors
/// When a row is no row of this program's.
pub fn load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    rows: impl IntoIterator<Item = (K, V)>,
) -> Result<State, LoadError> {
    let mut state = State::default();
    for (key, value) in rows {
        state.evolve(&change(key.as_ref(), value.as_ref())?);
    }
    Ok(state)
}

/// The change that put this row.
///
/// # Errors
/// When it is no row of this program's.
pub fn change(key_found: &[u8], bytes: &[u8]) -> Result<Change, LoadError> {
    let fail = |source| LoadError::Value { key: hex(key_found), source };
    let change = match key_found.first().copied() {
        Some(prefix::CLUSTER) => Change::ClusterPut(read(bytes).map_err(fail)?),
        Some(prefix::COUNTERS) => Change::Advanced(read(bytes).map_err(fail)?),
        Some(prefix::NODE) => Change::NodePut(read(bytes).map_err(fail)?),
        Some(prefix::MODEL) => Change::ModelPut(read(bytes).map_err(fail)?),
        Some(prefix::DEMAND) => Change::DemandPut(read(bytes).map_err(fail)?),
        Some(prefix::WORKER) => Change::WorkerPut(read(bytes).map_err(fail)?),
        Some(prefix::PLACEMENT) => Change::PlacementPut(read(bytes).map_err(fail)?),
        Some(prefix::CHECKPOINT) => Change::CheckpointPut(read(bytes).map_err(fail)?),
        Some(prefix::DEPLOYMENT) => Change::DeploymentPut(read(bytes).map_err(fail)?),
        Some(prefix::ORDERS) => Change::OrdersPut(read(bytes).map_err(fail)?),
        Some(prefix::REPLICA) => Change::ReplicaPut(read(bytes).map_err(fail)?),
        Some(prefix::MIGRATION) => Change::MigrationPut(read(bytes).map_err(fail)?),
        Some(prefix::ROLLOUT) => Change::RolloutPut(read(bytes).map_err(fail)?),
        Some(prefix::VERSION) => Change::VersionPut(read(bytes).map_err(fail)?),
        Some(prefix::ADOPTED) => Change::AdoptedPut(read(bytes).map_err(fail)?),
        Some(table) => match rows::change(table, bytes).map_err(fail)? {
            Some(change) => Change::Access(change),
            None => return Err(LoadError::UnknownTable(hex(key_found))),
        },
        None => return Err(LoadError::UnknownTable(hex(key_found))),
    };
    let expected = key(&change);
    if expected != key_found {
        return Err(LoadError::Misplaced { key: hex(key_found), expected: hex(&expected) });
    }
    Ok(change)
}

fn key(change: &Change) -> Vec<u8> {
    let with = |table: u8, rest: &[u8]| [&[table], rest].concat();
    match change {
        Change::ClusterPut(_) => with(prefix::CLUSTER, &[]),
        Change::Advanced(_) => with(prefix::COUNTERS, &[]),
        Change::NodePut(record) => with(prefix::NODE, &record.id.0.to_be_bytes()),
        Change::NodeRemoved(id) => with(prefix::NODE, &id.0.to_be_bytes()),
        Change::ModelPut(record) => with(prefix::MODEL, record.name.to_string().as_bytes()),
        Change::ModelRemoved(name) => with(prefix::MODEL, name.to_string().as_bytes()),
        Change::DemandPut(record) => with(prefix::DEMAND, record.model.to_string().as_bytes()),
        Change::DemandRemoved(name) => with(prefix::DEMAND, name.to_string().as_bytes()),
        Change::WorkerPut(record) => with(prefix::WORKER, &record.id.0.to_be_bytes()),
        Change::WorkerRemoved(id) => with(prefix::WORKER, &id.0.to_be_bytes()),
        Change::PlacementPut(record) => {
            with(prefix::PLACEMENT, &record.assignment.id.0.to_be_bytes())
        }
        Change::PlacementRemoved(id) => with(prefix::PLACEMENT, &id.0.to_be_bytes()),
        Change::CheckpointPut(record) => with(prefix::CHECKPOINT, record.name.as_bytes()),
        Change::CheckpointRemoved(name) => with(prefix::CHECKPOINT, name.as_bytes()),
        Change::DeploymentPut(record) => {
            with(prefix::DEPLOYMENT, record.model.to_string().as_bytes())
        }
        Change::DeploymentRemoved(name) => with(prefix::DEPLOYMENT, name.to_string().as_bytes()),
        Change::OrdersPut(record) => with(prefix::ORDERS, &record.worker.0.to_be_bytes()),
        Change::OrdersRemoved(id) => with(prefix::ORDERS, &id.0.to_be_bytes()),
        Change::ReplicaPut(record) => with(prefix::REPLICA, &record.id.0.to_be_bytes()),
        Change::ReplicaRemoved(id) => with(prefix::REPLICA, &id.0.to_be_bytes()),
        Change::MigrationPut(record) => {
            with(prefix::MIGRATION, record.model.to_string().as_bytes())
        }
        Change::MigrationRemoved(name) => with(prefix::MIGRATION, name.to_string().as_bytes()),
        Change::RolloutPut(record) => with(prefix::ROLLOUT, record.model.to_string().as_bytes()),
        Change::RolloutRemoved(name) => with(prefix::ROLLOUT, name.to_string().as_bytes()),
        Change::VersionPut(record) => version(&record.model, &record.version.digest),
        Change::VersionRemoved(name, digest) => version(name, digest),
        Change::Access(change) => rows::key(change),
        Change::AdoptedPut(record) => with(prefix::ADOPTED, &record.id.0.to_be_bytes()),
        Change::AdoptedRemoved(id) => with(prefix::ADOPTED, &id.0.to_be_bytes()),
    }
}

fn version(name: &ModelName, digest: &Digest) -> Vec<u8> {
    [&[prefix::VERSION], &digest.0[..], name.to_string().as_bytes()].concat()
}

/// A record is at most a command and the few numbers the state adds to it.
const RECORD_BYTES: usize = limits::COMMAND_BYTES + 4_096;

pub(crate) fn value<T: Serialize>(record: &T) -> Result<Vec<u8>, CodecError> {
    encode("record", record, RECORD_BYTES)
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode("record", bytes, RECORD_BYTES)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
