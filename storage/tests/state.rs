//! The two states against each other, and snapshots against damage.

mod common;

use common::{Machine, identity, log_id};
use ollamamax_storage::*;
use openraft::storage::RaftSnapshotBuilder;
use proptest::prelude::*;
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// Puts and deletes, the keys as small numbers.
type Round = (Vec<(u8, Vec<u8>)>, Vec<u8>);

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let puts = prop::collection::vec((0..40u8, prop::collection::vec(any::<u8>(), 0..50)), 0..12);
    let deletes = prop::collection::vec(0..40u8, 0..6);
    prop::collection::vec((puts, deletes), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sled_and_memory_are_twins(rounds in rounds(), reopen_at in 0..12usize, prefix in 0..2u8) {
        let dir = TempDir::new().expect("a directory");
        let mut sled = SledKv::open(dir.path(), DEADLINE).expect("opened");
        let memory = MemoryKv::default();
        let key = |key: u8| vec![key / 20, key];
        for (at, (puts, deletes)) in rounds.into_iter().enumerate() {
            let applied = Applied { log_id: Some(log_id(1, at as u64)), ..Applied::default() };
            let puts = puts.into_iter().map(|(name, value)| (key(name), value)).collect();
            let deletes = deletes.into_iter().map(key).collect();
            let batch = KvBatch { puts, deletes, applied };
            sled.apply(batch.clone()).expect("applied");
            memory.apply(batch).expect("applied");
            if at == reopen_at {
                drop(sled);
                sled = SledKv::open(dir.path(), DEADLINE).expect("opened again");
            }
            prop_assert_eq!(sled.sum(), memory.sum());
            prop_assert_eq!(sled.dump().expect("read"), memory.dump().expect("read"));
            prop_assert_eq!(sled.scan(&[prefix]).expect("read"), memory.scan(&[prefix]).expect("read"));
            prop_assert_eq!(sled.get(&key(7)).expect("read"), memory.get(&key(7)).expect("read"));
        }
        let dump = memory.dump().expect("read");
        let other = MemoryKv::default();
        other.replace(dump.applied.clone(), &mut dump.records.clone().into_iter().map(Ok)).expect("loaded");
        sled.replace(dump.applied.clone(), &mut dump.records.clone().into_iter().map(Ok)).expect("loaded");
        prop_assert_eq!(sled.dump().expect("read"), other.dump().expect("read"));
        prop_assert_eq!(sled.sum(), other.sum());
    }
}

fn snapshots(dir: &TempDir) -> (SnapshotStore, Arc<dyn Kv>) {
    let opened = Storage::create(dir.path(), &identity()).expect("created");
    (opened.snapshots, opened.kv)
}

#[tokio::test]
async fn a_small_snapshot_survives_its_journey_and_shows_damage_at_every_byte() {
    let (from, to) = (TempDir::new().expect("made"), TempDir::new().expect("made"));
    let (store, kv) = snapshots(&from);
    let puts = (0..5u8).map(|at| (vec![at], vec![at; 40])).collect();
    let applied = Applied { log_id: Some(log_id(2, 9)), ..Applied::default() };
    kv.apply(KvBatch { puts, deletes: vec![], applied }).expect("applied");
    let mut machine = Machine { kv: kv.clone(), snapshots: store };
    let snapshot = machine.build_snapshot().await.expect("built").snapshot;
    let (other, _) = snapshots(&to);
    let receive = |bytes: &[u8]| {
        let mut receiving = other.receive().expect("begun");
        for chunk in bytes.chunks(100) {
            receiving.append(chunk).expect("written");
        }
        receiving.finish()
    };
    let bytes = fs::read(snapshot.path()).expect("readable");
    let installed = other.install(receive(&bytes).expect("intact")).expect("installed");
    let records: Vec<Pair> = installed.records().collect::<Result<_, _>>().expect("intact");
    assert_eq!(records, kv.dump().expect("read").records);
    assert_eq!(installed.meta(), snapshot.meta());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(receive(&bad).is_err(), "byte {at} flipped");
        assert!(receive(&bytes[..at]).is_err(), "cut at {at}");
    }
    let mut long = bytes.clone();
    long.push(0);
    assert!(receive(&long).is_err(), "a byte too many");
    let newest = other.newest().expect("listed").newest.expect("one");
    assert_eq!(newest.meta(), snapshot.meta());
}

#[tokio::test]
async fn a_snapshot_that_nobody_could_take_in_is_not_written() {
    let dir = TempDir::new().expect("made");
    let (store, _) = snapshots(&dir);
    for second in [1, 2] {
        let records = [2, second].map(|key| Ok((vec![key], vec![0])));
        let refused = store.write(&SnapshotMeta::default(), records).expect_err("no order");
        assert!(refused.to_string().contains("not in key order"), "{refused}");
    }
    assert!(store.newest().expect("listed").newest.is_none());
}

#[tokio::test]
async fn the_newest_intact_snapshot_counts_and_older_ones_go() {
    let dir = TempDir::new().expect("made");
    let (store, _) = snapshots(&dir);
    let record = || [Ok((vec![1], vec![2]))];
    let meta = |index| SnapshotMeta {
        last_log_id: Some(log_id(1, index)),
        last_membership: StoredMembership::default(),
    };
    let first = store.write(&meta(5), record()).expect("written");
    let kept = fs::read(first.path()).expect("readable");
    let second = store.write(&meta(7), record()).expect("written");
    assert!(!first.path().exists(), "replaced");
    assert_eq!(first.records().count(), 1, "but readable for who holds it");
    // A crash between the two steps leaves both; damage to the newer one leaves the older.
    fs::write(first.path(), kept).expect("written");
    let mut bytes = fs::read(second.path()).expect("readable");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(second.path(), bytes).expect("written");
    let found = store.newest().expect("listed");
    assert_eq!(found.newest.expect("the older one").meta(), &meta(5));
    assert_eq!(found.damaged.len(), 1);
}
