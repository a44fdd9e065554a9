//! The state on disk, in sled.
//!
//! sled 0.34 may panic on damage, or open and silently miss keys, so nothing it says is taken on trust: each value sits
//! in an envelope `[crc32c u32][raft index u64][schema u8][value]`, the checksum over the key too, and one more record,
//! written in the same batch as every round, knows how many records there must be and their digest. Opening reads
//! everything on a thread of its own, with a deadline; whatever goes wrong there ends in [`StorageError::Damaged`],
//! and the caller rebuilds the state in a fresh directory, out of reach of a handle that a panic may have leaked.

use crate::error::{Context, StorageError};
use crate::kv::{Applied, Dump, Kv, KvBatch, Pair, Sum, VALUE_SCHEMA};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, mpsc};
use std::time::Duration;

const VERIFY_THREAD: &str = "state-verify";
const META_KEY: &[u8] = b"m";
/// Before each key, so that the meta record can never be one of theirs.
const DATA_PREFIX: u8 = b'r';
const ENVELOPE_BYTES: usize = 13;
/// Records per sled batch while a snapshot is loaded: bounds the memory of one batch.
const REPLACE_RECORDS: usize = 1_000;
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How often sled hands its buffers to the operating system; what a crash takes is replayed from the log.
const FLUSH_PERIOD_MS: u64 = 500;
/// A killed process may hold sled's lock a little longer than it lives.
const LOCK_TRIES: u32 = 20;
const LOCK_RETRY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Meta {
    applied: Applied,
    sum: Sum,
}

/// A [`Kv`] in a directory of sled.
pub struct SledKv {
    /// `None` only while it is being dropped.
    db: Option<::sled::Db>,
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    meta: Meta,
    /// Why nothing is accepted any more.
    broken: Option<String>,
}

impl std::fmt::Debug for SledKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledKv").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Drop for SledKv {
    fn drop(&mut self) {
        let db = self.db.take();
        if self.lock().broken.is_some() {
            // The destructor of a broken sled may hang or panic; the process is about to end anyway.
            std::mem::forget(db);
        } else if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::warn!(dir = %self.dir.display(), "sled panicked while it was closed");
        }
    }
}

impl SledKv {
    /// Opens `dir` and verifies all of it within `deadline`. Damage of any kind is [`StorageError::Damaged`].
    pub fn open(dir: &Path, deadline: Duration) -> Result<Self, StorageError> {
        quiet_panics();
        let (sender, receiver) = mpsc::channel();
        let path = dir.to_owned();
        let work = move || {
            let result = catch_unwind(AssertUnwindSafe(|| open_and_verify(&path)))
                .unwrap_or_else(|panic| Err(StorageError::damaged(&path, describe(&*panic))));
            // When the deadline has passed, nobody takes the handle, and dropping it here is as good a place as any.
            if let Err(mpsc::SendError(Ok(late))) = sender.send(result) {
                late.lock().broken = Some("opened too late".into());
            }
        };
        let thread = std::thread::Builder::new().name(VERIFY_THREAD.into());
        thread.spawn(work).context("start the verification of", dir)?;
        match receiver.recv_timeout(deadline) {
            Ok(result) => result,
            Err(_) => {
                let reason = format!("sled did not open within {deadline:?}");
                Err(StorageError::damaged(dir, reason))
            }
        }
    }

    fn db(&self) -> &::sled::Db {
        self.db.as_ref().expect("only taken while dropping")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn healthy(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let state = self.lock();
        match &state.broken {
            None => Ok(state),
            Some(reason) => Err(StorageError::damaged(&self.dir, reason.clone())),
        }
    }

    /// Runs `work` on sled; its errors and panics become ours and stop all further use.
    fn guarded<T>(
        &self,
        state: &mut State,
        work: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(StorageError::damaged(&self.dir, describe(&*panic))));
        if let Err(error) = &result {
            state.broken = Some(error.to_string());
        }
        result
    }

    fn fetch(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let found = self.db().get(data_key(key)).map_err(|error| failure(&self.dir, error))?;
        found.map(|bytes| open_envelope(&self.dir, key, &bytes).map(<[u8]>::to_vec)).transpose()
    }

    /// Adds one record to `batch` and the sum; `old` is what it replaces.
    fn stage(
        batch: &mut ::sled::Batch,
        sum: &mut Sum,
        index: u64,
        (key, value): &Pair,
        old: Option<&[u8]>,
    ) {
        if let Some(old) = old {
            sum.remove(key, old);
        }
        sum.add(key, value);
        batch.insert(data_key(key), envelope(key, index, value));
    }

    fn write(&self, batch: ::sled::Batch) -> Result<(), StorageError> {
        self.db().apply_batch(batch).map_err(|error| failure(&self.dir, error))
    }

    fn apply_round(&self, meta: &Meta, round: KvBatch) -> Result<Meta, StorageError> {
        let mut meta = meta.clone();
        let index = round.applied.log_id.map_or(0, |log_id| log_id.index);
        let mut batch = ::sled::Batch::default();
        // The last mention of a key is the one that counts, a delete after all puts.
        let mut last = std::collections::BTreeMap::new();
        for pair in &round.puts {
            last.insert(pair.0.as_slice(), Some(pair));
        }
        for key in &round.deletes {
            last.insert(key.as_slice(), None);
        }
        for (key, put) in last {
            let old = self.fetch(key)?;
            match (put, &old) {
                (Some(pair), _) => {
                    Self::stage(&mut batch, &mut meta.sum, index, pair, old.as_deref());
                }
                (None, Some(old)) => {
                    meta.sum.remove(key, old);
                    batch.remove(data_key(key));
                }
                (None, None) => {}
            }
        }
        meta.applied = round.applied;
        batch.insert(META_KEY, meta_bytes(&meta));
        self.write(batch)?;
        Ok(meta)
    }

    fn load(
        &self,
        applied: Applied,
        records: &mut dyn Iterator<Item = Result<Pair, StorageError>>,
    ) -> Result<Meta, StorageError> {
        // While there are records but no meta record the state counts as damaged, so a crash in here is noticed.
        self.db().remove(META_KEY).map_err(|error| failure(&self.dir, error))?;
        self.db().clear().map_err(|error| failure(&self.dir, error))?;
        let index = applied.log_id.map_or(0, |log_id| log_id.index);
        let mut meta = Meta { applied, sum: Sum::default() };
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut batch = ::sled::Batch::default();
            let mut staged = 0;
            for record in (&mut *records).take(REPLACE_RECORDS) {
                let pair = record?;
                if last.as_ref().is_some_and(|last| *last >= pair.0) {
                    return Err(StorageError::invalid("snapshot records are not in key order"));
                }
                Self::stage(&mut batch, &mut meta.sum, index, &pair, None);
                last = Some(pair.0);
                staged += 1;
            }
            if staged == 0 {
                batch.insert(META_KEY, meta_bytes(&meta));
                self.write(batch)?;
                return Ok(meta);
            }
            self.write(batch)?;
        }
    }

    fn records(&self, prefix: &[u8]) -> Result<Vec<Pair>, StorageError> {
        let mut out = Vec::new();
        for item in self.db().scan_prefix(data_key(prefix)) {
            let (key, bytes) = item.map_err(|error| failure(&self.dir, error))?;
            let key = key[1..].to_vec();
            let value = open_envelope(&self.dir, &key, &bytes)?.to_vec();
            out.push((key, value));
        }
        Ok(out)
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let mut state = self.healthy()?;
        self.guarded(&mut state, || self.fetch(key))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StorageError> {
        let mut state = self.healthy()?;
        self.guarded(&mut state, || self.records(prefix))
    }

    fn apply(&self, batch: KvBatch) -> Result<(), StorageError> {
        let mut state = self.healthy()?;
        let before = state.meta.clone();
        state.meta = self.guarded(&mut state, || self.apply_round(&before, batch))?;
        Ok(())
    }

    fn applied(&self) -> Applied {
        self.lock().meta.applied.clone()
    }

    fn sum(&self) -> Sum {
        self.lock().meta.sum
    }

    fn dump(&self) -> Result<Dump, StorageError> {
        let mut state = self.healthy()?;
        let records = self.guarded(&mut state, || self.records(&[]))?;
        Ok(Dump { applied: state.meta.applied.clone(), records })
    }

    fn replace(
        &self,
        applied: Applied,
        records: &mut dyn Iterator<Item = Result<Pair, StorageError>>,
    ) -> Result<(), StorageError> {
        let mut state = self.healthy()?;
        state.meta = self.guarded(&mut state, || self.load(applied, records))?;
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), StorageError> {
        let mut state = self.healthy()?;
        self.guarded(&mut state, || {
            self.db().flush().map_err(|error| failure(&self.dir, error))?;
            // sled's flush ends in `sync_file_range`, which promises nothing about a crash.
            let file = self.dir.join("db");
            let synced = fs::File::open(&file).and_then(|file| file.sync_data());
            synced.context("sync", &file)
        })
    }
}

fn open_and_verify(dir: &Path) -> Result<SledKv, StorageError> {
    let mut tries = 0;
    let db = loop {
        let config = ::sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_PERIOD_MS));
        match config.open() {
            Ok(db) => break db,
            Err(::sled::Error::Io(error)) if locked(&error) && tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_RETRY);
            }
            Err(error) => return Err(failure(dir, error)),
        }
    };
    // Unwinding must not run sled's destructor over damage: a second panic there would abort the process.
    let db = std::mem::ManuallyDrop::new(db);
    let meta = verify(dir, &db)?;
    let db = Some(std::mem::ManuallyDrop::into_inner(db));
    Ok(SledKv { db, dir: dir.to_owned(), state: Mutex::new(State { meta, broken: None }) })
}

fn locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

/// Reads everything and holds it against the meta record.
fn verify(dir: &Path, db: &::sled::Db) -> Result<Meta, StorageError> {
    let damaged = |reason: &str| Err(StorageError::damaged(dir, reason));
    let mut meta = None;
    let mut sum = Sum::default();
    let mut last: Option<::sled::IVec> = None;
    for item in db.iter() {
        let (key, bytes) = item.map_err(|error| failure(dir, error))?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return damaged("keys are out of order");
        }
        if &*key == META_KEY {
            let value = open_envelope(dir, META_KEY, &bytes)?;
            let Ok(read) = postcard::from_bytes::<Meta>(value) else {
                return damaged("the meta record does not decode");
            };
            meta = Some(read);
        } else if key.first() == Some(&DATA_PREFIX) {
            sum.add(&key[1..], open_envelope(dir, &key[1..], &bytes)?);
        } else {
            return damaged("there is a key nobody wrote");
        }
        last = Some(key);
    }
    match meta {
        None if sum.records == 0 => Ok(Meta::default()),
        None => damaged("the meta record is missing"),
        Some(meta) if meta.sum != sum => {
            let reason = format!(
                "{} records should be there, {} are, or others",
                meta.sum.records, sum.records
            );
            damaged(&reason)
        }
        Some(meta) => Ok(meta),
    }
}

fn data_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(DATA_PREFIX);
    out.extend_from_slice(key);
    out
}

fn meta_bytes(meta: &Meta) -> Vec<u8> {
    let index = meta.applied.log_id.map_or(0, |log_id| log_id.index);
    let bytes = postcard::to_stdvec(meta).expect("plain data always encodes");
    envelope(META_KEY, index, &bytes)
}

fn envelope(key: &[u8], index: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + value.len());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&index.to_le_bytes());
    out.push(VALUE_SCHEMA);
    out.extend_from_slice(value);
    let crc = envelope_checksum(key, &out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn open_envelope<'a>(dir: &Path, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], StorageError> {
    let damaged = |reason: &str| Err(StorageError::damaged(dir, reason));
    if bytes.len() < ENVELOPE_BYTES {
        return damaged("a value is cut");
    }
    let crc = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if envelope_checksum(key, &bytes[4..]) != crc {
        return damaged("the checksum of a value does not match");
    }
    if bytes[12] != VALUE_SCHEMA {
        return damaged("a value has another schema");
    }
    Ok(&bytes[ENVELOPE_BYTES..])
}

fn envelope_checksum(key: &[u8], rest: &[u8]) -> u32 {
    let len = crc32c::crc32c(&(key.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(len, key), rest)
}

/// A full disk or a refused permission is not damage: building the state anew would not help.
fn failure(dir: &Path, error: ::sled::Error) -> StorageError {
    match error {
        ::sled::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied
            ) =>
        {
            StorageError::Io { action: "use the state in", path: dir.to_owned(), source }
        }
        error => StorageError::damaged(dir, error.to_string()),
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let text: String = text.chars().take(200).collect();
    format!("sled panicked: {text}")
}

/// Keeps the panics of a sled under verification off the terminal; they are reported as errors.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if name != VERIFY_THREAD && !name.starts_with("sled") {
                before(info);
            }
        }));
    });
}
