//! The data directory as a whole: who may open it, and what it says when something is wrong.

mod common;

use common::{Machine, entry, identity, log_id, round};
use ollamamax_storage::*;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn bytes_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for item in fs::read_dir(dir).expect("a directory") {
        let path = item.expect("an item").path();
        if path.is_dir() {
            out.extend(bytes_of(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            out.insert(path, bytes);
        }
    }
    out
}

async fn node(dir: &Path) {
    let opened = Storage::create(dir, &identity()).expect("created");
    let mut log = opened.log.clone();
    log.blocking_append((0..10).map(|index| entry(1, index, b"data"))).await.expect("appended");
    log.close().await;
}

#[tokio::test]
async fn a_node_finds_everything_again() {
    let dir = TempDir::new().expect("a directory");
    assert_eq!(Storage::identity(dir.path()).expect("no error"), None);
    let missing = Storage::open(dir.path(), &Expect::default());
    assert!(matches!(missing, Err(StorageError::Missing { .. })), "{missing:?}");
    node(dir.path()).await;
    assert_eq!(Storage::identity(dir.path()).expect("no error"), Some(identity()));
    let opened = Storage::open(dir.path(), &Expect::exactly(&identity())).expect("opened");
    let mut log = opened.log.clone();
    let entries = log.try_get_log_entries(3..=7).await.expect("readable");
    assert_eq!(entries, (3..=7).map(|i| entry(1, i, b"data")).collect::<Vec<_>>());
    log.save_vote(&Vote::new(4, 2)).await.expect("saved");
    log.truncate_after(Some(log_id(1, 7))).await.expect("truncated");
    log.blocking_append([entry(4, 8, b"other")]).await.expect("appended");
    let wrong = log.append([entry(4, 12, b"")], openraft::storage::IOFlushed::noop()).await;
    assert!(wrong.is_err(), "a hole is refused");
    log.close().await;
    assert!(log.save_vote(&Vote::new(5, 2)).await.is_err(), "closed");
    let opened = Storage::open(dir.path(), &Expect::exactly(&identity())).expect("opened");
    assert_eq!(opened.log.last_log_id(), Some(log_id(4, 8)));
    assert_eq!(opened.log.vote(), Some(Vote::new(4, 2)));
    opened.log.close().await;
}

#[tokio::test]
async fn a_foreign_directory_is_refused_and_left_alone() {
    let dir = TempDir::new().expect("a directory");
    node(dir.path()).await;
    let before = bytes_of(dir.path());
    let cluster = Expect { cluster: Some("other".into()), node: None };
    let error = Storage::open(dir.path(), &cluster).expect_err("another cluster");
    assert!(matches!(error, StorageError::WrongCluster { .. }), "{error}");
    let error = Storage::open(dir.path(), &Expect { cluster: None, node: Some(9) });
    assert!(matches!(error, Err(StorageError::WrongNode { expected: 9, found: 1, .. })));
    let error = Storage::create(dir.path(), &identity()).expect_err("there is one");
    assert!(matches!(error, StorageError::Exists { node: 1, .. }), "{error}");
    assert_eq!(bytes_of(dir.path()), before);
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let opened = Storage::create(dir.path(), &identity()).expect("created");
    let error = Storage::open(dir.path(), &Expect::default()).expect_err("in use");
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    opened.log.close().await;
    drop(opened);
    Storage::open(dir.path(), &Expect::default()).expect("free again");
}

#[tokio::test]
async fn another_version_is_named_and_left_alone() {
    let dir = TempDir::new().expect("a directory");
    node(dir.path()).await;
    let path = dir.path().join("highwater");
    let mut bytes = fs::read(&path).expect("readable");
    for slot in 0..3 {
        let start = slot * 4096;
        bytes[start + 8] = 7;
        let len = u32::from_le_bytes(bytes[start + 12..start + 16].try_into().expect("four"));
        let body = start + 20..start + 20 + len as usize;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[start..start + 16]), &bytes[body]);
        bytes[start + 16..start + 20].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&path, &bytes).expect("written");
    let before = bytes_of(dir.path());
    let error = Storage::open(dir.path(), &Expect::default()).expect_err("another version");
    assert!(matches!(error, StorageError::Version { found: 7, expected: 1, .. }), "{error}");
    assert_eq!(bytes_of(dir.path()), before);
}

#[tokio::test]
async fn a_lost_identity_or_log_is_never_mistaken_for_a_new_node() {
    let dir = TempDir::new().expect("a directory");
    node(dir.path()).await;
    let path = dir.path().join("highwater");
    let high = fs::read(&path).expect("readable");
    fs::remove_file(&path).expect("removed");
    for result in [
        Storage::open(dir.path(), &Expect::default()).map(drop),
        Storage::create(dir.path(), &identity()).map(drop),
    ] {
        assert!(result.expect_err("no identity").must_not_vote());
    }
    fs::write(&path, high).expect("written");
    fs::remove_dir_all(dir.path().join("wal")).expect("removed");
    fs::create_dir(dir.path().join("wal")).expect("made");
    let error = Storage::open(dir.path(), &Expect::default()).expect_err("no log");
    assert!(matches!(error, StorageError::Amnesia { .. }), "{error}");
}

#[tokio::test]
async fn a_lost_state_comes_back_from_snapshot_and_log_and_without_a_snapshot_it_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let opened = Storage::create(dir.path(), &identity()).expect("created");
    let mut log = opened.log.clone();
    for index in 0..20 {
        let entry = entry(1, index, &[index as u8]);
        log.blocking_append([entry.clone()]).await.expect("appended");
        opened.kv.apply(round(&entry, opened.kv.applied())).expect("applied");
    }
    let mut machine = Machine { kv: opened.kv.clone(), snapshots: opened.snapshots.clone() };
    machine.build_snapshot().await.expect("built");
    log.purge(log_id(1, 15)).await.expect("purged");
    let sum = opened.kv.sum();
    log.close().await;
    drop((machine, opened));
    fs::remove_dir_all(dir.path().join("state")).expect("removed");
    let opened = Storage::open(dir.path(), &Expect::default()).expect("rebuilt");
    assert_eq!((opened.kv.sum(), opened.kv.applied().log_id), (sum, Some(log_id(1, 19))));
    opened.log.close().await;
    drop(opened);
    fs::remove_dir_all(dir.path().join("state")).expect("removed");
    fs::remove_dir_all(dir.path().join("snapshots")).expect("removed");
    let error = Storage::open(dir.path(), &Expect::default()).expect_err("nothing to build from");
    assert!(matches!(error, StorageError::Uncovered { purged: 15, .. }), "{error}");
}

#[test]
fn blobs_are_verified_resumed_and_listed() {
    use ollamamax_proto::ids::Digest;
    let dir = TempDir::new().expect("a directory");
    let store = BlobStore::open(dir.path()).expect("opened");
    let bytes = vec![7u8; 3_000_000];
    let digest = Digest::of(&bytes);
    let mut writer = store.writer(&digest).expect("begun");
    writer.write(&bytes[..1_000_000]).expect("written");
    let second = store.writer(&digest).map(drop);
    assert!(matches!(second, Err(StorageError::InUse { .. })), "{second:?}");
    drop(writer);
    assert_eq!(store.stat(&digest).expect("no error"), None, "a part is no blob");
    let store = BlobStore::open(dir.path()).expect("opened");
    let mut writer = store.writer(&digest).expect("resumed");
    assert_eq!(writer.offset(), 1_000_000);
    writer.write(&bytes[1_000_000..]).expect("written");
    let path = writer.commit().expect("the digest fits");
    assert_eq!(fs::read(path).expect("readable"), bytes);
    assert_eq!(store.list().expect("listed"), vec![(digest, 3_000_000)]);
    let other = Digest::of(b"other");
    let mut writer = store.writer(&other).expect("begun");
    writer.write(b"not it").expect("written");
    let error = writer.commit().expect_err("another digest");
    assert!(matches!(error, StorageError::DigestMismatch { bytes: 6, .. }), "{error}");
    assert_eq!(store.writer(&other).expect("begun anew").offset(), 0);
    assert_eq!(store.put(&mut &b"other"[..]).expect("stored"), (other, 5));
    assert!(store.remove(&digest).expect("removed") && !store.remove(&digest).expect("gone"));
}
