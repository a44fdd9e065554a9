//! The consensus library's own storage suite over the real log and the real state machine.

use ollamamax_control_plane::raft::machine::Machine;
use ollamamax_control_plane::watch::Published;
use ollamamax_storage::{Identity, LogStore, Storage, TypeConfig, WalSizes};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a temporary directory");
        let identity = Identity { cluster: "suite".to_owned(), node: 1 };
        let opened = Storage::create_with(dir.path(), &identity, WalSizes::default())
            .expect("an empty directory");
        let machine =
            Machine::open(&opened, Arc::new(Published::default())).expect("an empty state");
        Ok((dir, opened.log, machine))
    }
}

#[test]
fn the_storage_suite_passes() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(Suite::test_all(Builder)).expect("the suite passes");
}
