//! A small state machine over the storage types, as the tests of this crate need one: it keeps every payload under its
//! index.

#![allow(dead_code)]

use futures_util::{Stream, TryStreamExt};
use ollamamax_storage::*;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::io;
use std::sync::Arc;

#[derive(Clone)]
pub struct Machine {
    pub kv: Arc<dyn Kv>,
    pub snapshots: SnapshotStore,
}

pub fn key(index: u64) -> Vec<u8> {
    index.to_be_bytes().to_vec()
}

/// The round that applying `entry` makes.
pub fn round(entry: &Entry, before: Applied) -> KvBatch {
    let mut batch = KvBatch { applied: before, ..KvBatch::default() };
    batch.applied.log_id = Some(entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(data) => batch.puts.push((key(entry.log_id.index), data.0.clone())),
        EntryPayload::Membership(membership) => {
            batch.applied.membership =
                StoredMembership::new(Some(entry.log_id), membership.clone());
        }
    }
    batch
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let dump = self.kv.dump()?;
        let meta = SnapshotMeta {
            last_log_id: dump.applied.log_id,
            last_membership: dump.applied.membership,
        };
        let snapshot = self.snapshots.write(&meta, dump.records.into_iter().map(Ok))?;
        Ok(Snapshot { meta, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.kv.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.kv.apply(round(&entry, self.kv.applied()))?;
            if let Some(responder) = responder {
                responder.send(Reply::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let mut receiving = self.snapshots.receive()?;
        loop {
            let chunk = snapshot.read_chunk(receiving.offset())?;
            if chunk.is_empty() {
                break;
            }
            receiving.append(&chunk)?;
        }
        let installed = self.snapshots.install(receiving.finish()?)?;
        assert_eq!(installed.meta(), meta);
        let applied =
            Applied { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        Ok(self.kv.replace(applied, &mut installed.records())?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let newest = self.snapshots.newest()?.newest;
        Ok(newest.map(|snapshot| Snapshot { meta: snapshot.meta().clone(), snapshot }))
    }
}

pub fn identity() -> Identity {
    Identity { cluster: "test".into(), node: 1 }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

pub fn entry(term: u64, index: u64, data: &[u8]) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Batch(data.to_vec())) }
}
