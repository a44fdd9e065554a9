//! Random damage to the real files of a node: whatever opens afterwards must tell the truth, and whatever cannot must
//! say so.

mod common;

use common::{Machine, entry, identity, log_id, round};
use ollamamax_storage::*;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SIZES: WalSizes = WalSizes { segment_bytes: 32 * 1024, cache_bytes: 1024 };
const LAST: u64 = 120;
const PURGED: u64 = 60;
const SNAPSHOT: u64 = 80;

fn payload(index: u64) -> Vec<u8> {
    (0..200 + index * 13 % 700).map(|at| (at * 31 + index) as u8).collect()
}

/// A node with a snapshot, a purged log, a state ahead of the snapshot and a log ahead of the state.
async fn build(dir: &Path) {
    let opened = Storage::create_with(dir, &identity(), SIZES).expect("created");
    let mut log = opened.log.clone();
    log.save_vote(&Vote::new(3, 1)).await.expect("saved");
    let mut machine = Machine { kv: opened.kv.clone(), snapshots: opened.snapshots.clone() };
    for index in 0..=LAST {
        log.blocking_append([entry(3, index, &payload(index))]).await.expect("appended");
        if index <= SNAPSHOT + 20 {
            let entry = entry(3, index, &payload(index));
            opened.kv.apply(round(&entry, opened.kv.applied())).expect("applied");
        }
        if index == SNAPSHOT {
            machine.build_snapshot().await.expect("built");
        }
    }
    log.save_committed(Some(log_id(3, LAST - 5))).await.expect("saved");
    log.purge(log_id(3, PURGED)).await.expect("purged");
    opened.kv.checkpoint().expect("synced");
    log.close().await;
}

/// Holds an opened node against the truth; what it lacks in state must be in the log.
async fn check(opened: &Opened, what: &str) {
    let mut log = opened.log.clone();
    assert_eq!(log.vote(), Some(Vote::new(3, 1)), "{what}");
    let state = log.get_log_state().await.expect("a state");
    assert_eq!(state.last_log_id, Some(log_id(3, LAST)), "{what}");
    assert_eq!(state.last_purged_log_id, Some(log_id(3, PURGED)), "{what}");
    let entries = log.try_get_log_entries(..).await.expect("readable");
    let want: Vec<Entry> = (PURGED + 1..=LAST).map(|i| entry(3, i, &payload(i))).collect();
    assert_eq!(entries, want, "{what}");
    let at = opened.kv.applied().log_id.map_or(0, |log_id| log_id.index);
    assert!(at >= PURGED, "{what}: the state stands at {at}");
    for entry in entries.iter().filter(|entry| entry.log_id.index > at) {
        opened.kv.apply(round(entry, opened.kv.applied())).expect("applied");
    }
    let found: BTreeMap<_, _> = opened.kv.dump().expect("readable").records.into_iter().collect();
    let want: BTreeMap<_, _> = (0..=LAST).map(|i| (common::key(i), payload(i))).collect();
    assert!(found == want, "{what}: the state differs");
    if let Some(snapshot) = &opened.newest {
        assert_eq!(snapshot.meta().last_log_id, Some(log_id(3, SNAPSHOT)), "{what}");
        let records: Result<Vec<Pair>, _> = snapshot.records().collect();
        assert_eq!(records.expect("verified").len() as u64, SNAPSHOT + 1, "{what}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for item in fs::read_dir(dir).expect("a directory") {
        let path = item.expect("an item").path();
        if path.is_dir() {
            out.extend(files(&path));
        } else if path.metadata().expect("a file").len() > 0 {
            out.push(path);
        }
    }
    out.sort();
    out
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).expect("inside"));
        fs::create_dir_all(target.parent().expect("inside")).expect("made");
        fs::copy(&path, &target).expect("copied");
    }
}

/// Damages one file; returns what was done, and whether any byte changed.
fn damage(path: &Path, rng: &mut SmallRng) -> (String, bool) {
    let mut bytes = fs::read(path).expect("readable");
    let before = bytes.clone();
    // Most of a preallocated file is zeros nobody wrote; half of the damage goes where the data is.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
    let bound = if rng.random_bool(0.7) { used } else { bytes.len() };
    let at = rng.random_range(0..bound);
    let what = match rng.random_range(0..4) {
        0 | 1 => {
            let bit = rng.random_range(0..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        2 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            let size = [16, 512, 4096][rng.random_range(0..3)];
            let start = at / size * size;
            let end = (start + size).min(bytes.len());
            bytes[start..end].fill(0);
            format!("{size} bytes zeroed at {start}")
        }
    };
    fs::write(path, &bytes).expect("written");
    (format!("{} of {} bytes: {what}", path.display(), before.len()), bytes != before)
}

/// Damages one file of each copy whose path contains `part`; returns how often the damage was refused or repaired.
async fn trials(part: &str, count: u64) -> (u64, u64) {
    let original = TempDir::new().expect("a directory");
    build(original.path()).await;
    let (mut refused, mut repaired) = (0, 0);
    for seed in 0..count {
        let mut rng = SmallRng::seed_from_u64(seed);
        let dir = TempDir::new().expect("a directory");
        copy(original.path(), dir.path());
        let mut candidates = files(dir.path());
        candidates.retain(|path| path.to_string_lossy().contains(part));
        let path = &candidates[rng.random_range(0..candidates.len())];
        let (what, _) = damage(path, &mut rng);
        match Storage::open_with(dir.path(), &Expect::exactly(&identity()), SIZES) {
            Ok(opened) => {
                repaired += u64::from(!opened.repaired.is_empty());
                check(&opened, &format!("seed {seed}: {what}")).await;
                opened.log.close().await;
            }
            Err(error) => {
                assert!(error.must_not_vote(), "seed {seed}: {what}: {error}");
                refused += 1;
            }
        }
    }
    (refused, repaired)
}

#[tokio::test]
async fn damage_to_the_log_is_refused_or_harmless() {
    let (refused, _) = trials("/wal/", 160).await;
    assert!(refused > 60, "only {refused} of 160 were noticed, the damage is too kind");
}

#[tokio::test]
async fn damage_to_the_high_water_record_is_refused_or_harmless() {
    trials("/highwater", 60).await;
}

#[tokio::test]
async fn damage_to_the_snapshot_is_noticed() {
    let (refused, repaired) = trials("/snapshots/", 80).await;
    assert_eq!((refused, repaired), (0, 80), "every damage shows, and the state stands without it");
}

#[tokio::test]
async fn damage_to_the_state_is_repaired_from_snapshot_and_log() {
    let (refused, repaired) = trials("/state/", 200).await;
    assert_eq!(refused, 0, "the state is only a copy");
    assert!(repaired > 60, "only {repaired} of 200 were noticed, the damage is too kind");
}
