//! The state in memory: the twin that `sled` is checked against, and the state of tests without a disk.

use crate::error::StorageError;
use crate::kv::{Applied, Dump, Kv, KvBatch, Pair, Sum};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// A [`Kv`] that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryKv(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    applied: Applied,
    sum: Sum,
}

impl MemoryKv {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while holding the state lock")
    }
}

impl Inner {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.delete(&key);
        self.sum.add(&key, &value);
        self.records.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.records.remove(key) {
            self.sum.remove(key, &old);
        }
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.lock().records.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StorageError> {
        let inner = self.lock();
        let from = inner.records.range(prefix.to_vec()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: KvBatch) -> Result<(), StorageError> {
        let mut inner = self.lock();
        for (key, value) in batch.puts {
            inner.put(key, value);
        }
        for key in &batch.deletes {
            inner.delete(key);
        }
        inner.applied = batch.applied;
        Ok(())
    }

    fn applied(&self) -> Applied {
        self.lock().applied.clone()
    }

    fn sum(&self) -> Sum {
        self.lock().sum
    }

    fn dump(&self) -> Result<Dump, StorageError> {
        let inner = self.lock();
        let records = inner.records.iter().map(|(key, value)| (key.clone(), value.clone()));
        Ok(Dump { applied: inner.applied.clone(), records: records.collect() })
    }

    fn replace(
        &self,
        applied: Applied,
        records: &mut dyn Iterator<Item = Result<Pair, StorageError>>,
    ) -> Result<(), StorageError> {
        let mut inner = self.lock();
        *inner = Inner::default();
        for record in records {
            let (key, value) = record?;
            inner.put(key, value);
        }
        inner.applied = applied;
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
