//! The state machine: committed entries in, agreed state out.
//!
//! ```text
//! entries -> decode -> core::apply on a copy of the state -> rows -> one Kv batch -> publish -> answer
//! ```
//!
//! Deciding is pure, so its only error is a rejection, the same on every node. Any other failure (a disk, an entry that
//! cannot be decoded) stops the node: skipping an entry would make it tell another story than the others.

use crate::watch::Published;
use futures_util::{Stream, StreamExt};
use ollamamax_core::{Change, Entry as CoreEntry, State, codec, invariant, table};
use ollamamax_proto::{Revision, limits};
use ollamamax_storage::{
    Applied, Entry, EntryPayload, Kv, KvBatch, LogId, Opened, Reply, Snapshot, SnapshotFile,
    SnapshotMeta, SnapshotStore, StorageError, StoredMembership, TypeConfig,
};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The state, where it stands, and where it is kept.
#[derive(Clone)]
pub struct Machine {
    kv: Arc<dyn Kv>,
    snapshots: SnapshotStore,
    newest: Arc<Mutex<Option<SnapshotFile>>>,
    state: State,
    applied: Applied,
    published: Arc<Published>,
}

/// What one round made of its entries.
struct Round {
    state: State,
    applied: Applied,
    changes: Vec<(Revision, Vec<Change>)>,
    replies: Vec<Reply>,
}

impl Machine {
    /// The machine over an open data directory, with the state as stored there; publishes it. Blocks.
    pub fn open(opened: &Opened, published: Arc<Published>) -> Result<Self, StorageError> {
        let dump = opened.kv.dump()?;
        let state = table::load(dump.records).map_err(|error| StorageError::Invalid {
            reason: format!("the stored state: {error}"),
        })?;
        let applied = dump.applied;
        published.replace(state.clone(), index_of(applied.log_id));
        Ok(Self {
            kv: Arc::clone(&opened.kv),
            snapshots: opened.snapshots.clone(),
            newest: Arc::new(Mutex::new(opened.newest.clone())),
            state,
            applied,
            published,
        })
    }

    fn newest(&self) -> Option<SnapshotFile> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_newest(&self, snapshot: SnapshotFile) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    async fn round(&mut self, items: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let (entries, responders): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let (kv, state, applied) = (Arc::clone(&self.kv), self.state.clone(), self.applied.clone());
        let round = blocking(move || {
            let (round, batch) = decide(state, applied, &entries)?;
            kv.apply(batch)?;
            Ok(round)
        })
        .await?;
        self.state = round.state.clone();
        self.applied = round.applied;
        self.published.advance(round.state, round.changes, index_of(self.applied.log_id));
        for (responder, reply) in responders.into_iter().zip(round.replies) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }
}

/// Pure: what these entries make of the state, and the batch that stores it.
fn decide(
    mut state: State,
    mut applied: Applied,
    entries: &[Entry],
) -> io::Result<(Round, KvBatch)> {
    let mut changes = Vec::new();
    let mut replies = Vec::with_capacity(entries.len());
    let mut rows = BTreeMap::new();
    for entry in entries {
        applied.log_id = Some(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => replies.push(Reply::default()),
            EntryPayload::Membership(membership) => {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                replies.push(Reply::default());
            }
            EntryPayload::Normal(batch) => {
                let batch =
                    codec::decode_batch(&batch.0).map_err(|error| undecodable(entry, &error))?;
                let mut answers = Vec::with_capacity(batch.commands.len());
                for command in batch.commands {
                    let asked = CoreEntry { index: entry.log_id.index, at: batch.at, command };
                    let (answer, made) = ollamamax_core::apply(&mut state, &asked);
                    for change in &made {
                        let row = table::row(change).map_err(io::Error::other)?;
                        rows.insert(row.key, row.value);
                    }
                    if !made.is_empty() {
                        changes.push((state.revision(), made));
                    }
                    answers.push(answer);
                }
                replies.push(Reply(codec::encode_replies(&answers).map_err(io::Error::other)?));
            }
        }
    }
    if cfg!(debug_assertions)
        && let Some(violation) = invariant::check(&state).first()
    {
        return Err(io::Error::other(format!("invariant violated: {violation:?}")));
    }
    let mut batch = KvBatch { applied: applied.clone(), ..KvBatch::default() };
    for (key, value) in rows {
        match value {
            Some(value) => batch.puts.push((key, value)),
            None => batch.deletes.push(key),
        }
    }
    Ok((Round { state, applied, changes, replies }, batch))
}

fn undecodable(entry: &Entry, error: &codec::CodecError) -> io::Error {
    io::Error::other(format!("log entry {} cannot be applied: {error}", entry.log_id))
}

fn index_of(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.log_id, self.applied.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut rounds = entries.ready_chunks(limits::APPLY_ENTRIES);
        while let Some(items) = rounds.next().await {
            let items = items.into_iter().collect::<io::Result<Vec<_>>>()?;
            self.round(items).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        // A clone shares the state's structure, so entries applied meanwhile neither wait nor show up.
        SnapshotBuilder { machine: self.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let applied =
            Applied { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        let (kv, store, stands_at) =
            (Arc::clone(&self.kv), self.snapshots.clone(), applied.clone());
        let (state, file) = blocking(move || {
            let records = snapshot.records().collect::<Result<Vec<_>, StorageError>>()?;
            // The snapshot is durable before the state is touched: a crash in between rebuilds from it.
            let file = store.install(snapshot)?;
            kv.replace(stands_at, &mut records.iter().cloned().map(Ok))?;
            kv.checkpoint()?;
            let state = table::load(records).map_err(io::Error::other)?;
            Ok((state, file))
        })
        .await?;
        self.set_newest(file);
        self.state = state.clone();
        self.applied = applied;
        self.published.replace(state, index_of(self.applied.log_id));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.newest().map(|file| Snapshot { meta: file.meta().clone(), snapshot: file }))
    }
}

/// Writes the state as it was when the builder was made.
pub struct SnapshotBuilder {
    machine: Machine,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let machine = self.machine.clone();
        let meta = SnapshotMeta {
            last_log_id: machine.applied.log_id,
            last_membership: machine.applied.membership.clone(),
        };
        let (store, state) = (machine.snapshots.clone(), machine.state.clone());
        let written = blocking(move || {
            let rows = table::rows(&state).map_err(io::Error::other)?;
            Ok(store.write(&meta, rows.into_iter().map(Ok))?)
        })
        .await?;
        self.machine.set_newest(written.clone());
        Ok(Snapshot { meta: written.meta().clone(), snapshot: written })
    }
}
