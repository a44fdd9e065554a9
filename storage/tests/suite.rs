//! openraft's own storage suite, on the log with each of the two states.

mod common;

use common::Machine;
use ollamamax_storage::*;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder {
    memory: bool,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore, Machine), openraft::StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a temporary directory");
        let sizes = WalSizes { segment_bytes: 16 * 1024, cache_bytes: 200 };
        let opened = Storage::create_with(dir.path(), &common::identity(), sizes).expect("created");
        let kv: Arc<dyn Kv> = if self.memory { Arc::new(MemoryKv::default()) } else { opened.kv };
        Ok((dir, opened.log, Machine { kv, snapshots: opened.snapshots }))
    }
}

#[tokio::test]
async fn the_suite_passes_on_sled() {
    Suite::test_all(Builder { memory: false }).await.expect("the suite passes");
}

#[tokio::test]
async fn the_suite_passes_in_memory() {
    Suite::test_all(Builder { memory: true }).await.expect("the suite passes");
}
