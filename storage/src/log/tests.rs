//! The writer thread: order, group commit, reading back, and the end after the first failure.

use super::*;
use crate::fault::{Coins, Fault, FaultDisk};
use crate::types::{Batch, EntryPayload, LeaderId};
use openraft::storage::RaftLogStorageExt;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use std::time::{Duration, Instant};

const ROOT: &str = "/node";
const SIZES: WalSizes = WalSizes { segment_bytes: 16 * 1024, cache_bytes: 2_000 };

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 1 }, index)
}

fn entry(index: u64) -> Entry {
    let data = vec![index as u8; 100];
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(Batch(data)) }
}

fn create(disk: &FaultDisk) -> LogStore {
    disk.create_dir_all(Path::new(ROOT)).expect("always");
    let identity = Identity { cluster: "test".into(), node: 1 };
    LogStore::create_on(Arc::new(disk.clone()), Path::new(ROOT), &identity, SIZES)
        .expect("no fault")
}

fn open(disk: &FaultDisk) -> LogStore {
    LogStore::open_on(Arc::new(disk.clone()), Path::new(ROOT), SIZES).expect("opens")
}

type Flushed = OneshotReceiverOf<TypeConfig, Result<(), io::Error>>;

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<Flushed> {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.map(|()| receiver)
}

#[tokio::test]
async fn entries_are_readable_at_once_and_share_syncs() {
    let disk = FaultDisk::new();
    let mut log = create(&disk);
    let before = disk.changes();
    let mut flushed = Vec::new();
    for index in 0..500 {
        flushed.push(append(&mut log, vec![entry(index)]).await.expect("accepted"));
        let read = log.try_get_log_entries(index..=index).await.expect("readable");
        assert_eq!(read, vec![entry(index)]);
    }
    for receiver in flushed {
        receiver.await.expect("answered").expect("durable");
    }
    assert!(disk.changes() > before, "the disk was used");
    let all = log.try_get_log_entries(..).await.expect("readable, most from the file");
    assert_eq!(all, (0..500).map(entry).collect::<Vec<_>>());
    let some = log.limited_get_log_entries(10, 20).await.expect("readable");
    assert_eq!(some, (10..20).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_waits_during_a_sync_shares_the_next_one() {
    let disk = FaultDisk::new();
    let mut log = create(&disk);
    disk.slow_syncs(Duration::from_millis(50));
    let mut flushed = Vec::new();
    let before = disk.changes();
    for index in 0..200 {
        flushed.push(append(&mut log, vec![entry(index)]).await.expect("accepted"));
    }
    for receiver in flushed {
        receiver.await.expect("answered").expect("durable");
    }
    // A batch costs a write and a sync of the log and a write of the high-water record; alone, 200 would cost 600.
    let changes = disk.changes() - before;
    assert!(changes < 150, "{changes} changes for 200 entries");
}

#[tokio::test]
async fn everything_acknowledged_survives_a_power_cut_under_load() {
    for seed in 0..20 {
        let disk = FaultDisk::new();
        let mut log = create(&disk);
        disk.power_off_after(disk.changes() + seed * 7);
        let mut acknowledged = None;
        let mut waiting = Vec::new();
        for index in 0..60 {
            let Ok(receiver) = append(&mut log, vec![entry(index)]).await else { break };
            waiting.push((index, receiver));
            if index % 7 == 0 {
                for (index, receiver) in waiting.drain(..) {
                    if matches!(receiver.await, Ok(Ok(()))) {
                        acknowledged = Some(index);
                    }
                }
            }
        }
        let log = open(&disk.crash(&mut Coins::new(seed)));
        let last = log.last_log_id().map(|log_id| log_id.index);
        assert!(last >= acknowledged, "seed {seed}: {last:?} of {acknowledged:?}");
    }
}

#[tokio::test]
async fn the_first_failure_fails_everything_queued_and_everything_after() {
    for fault in [Fault::Sync, Fault::Full, Fault::Short] {
        let disk = FaultDisk::new();
        let mut log = create(&disk);
        log.blocking_append([entry(0)]).await.expect("no fault yet");
        let mut failed = log.failed();
        assert_eq!(*failed.borrow(), None);
        for change in 0..3 {
            disk.fail_at(disk.changes() + change, fault);
        }
        let receiver = append(&mut log, vec![entry(1)]).await.expect("accepted");
        assert!(receiver.await.expect("answered").is_err(), "{fault:?}");
        let wait = failed.wait_for(Option::is_some);
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect("soon").expect("told");
        assert!(append(&mut log, vec![entry(2)]).await.is_err(), "{fault:?}");
        assert!(log.save_vote(&Vote::new(7, 1)).await.is_err(), "{fault:?}");
        assert!(log.purge(log_id(0)).await.is_err(), "{fault:?}");
        log.close().await;
        let log = open(&disk.crash(&mut Coins::new(1)));
        assert!(log.last_log_id() >= Some(log_id(0)), "{fault:?}");
        assert_eq!(log.vote(), None, "{fault:?}");
    }
}

#[tokio::test]
async fn the_committed_position_becomes_durable_by_itself() {
    let disk = FaultDisk::new();
    let mut log = create(&disk);
    log.blocking_append([entry(0), entry(1)]).await.expect("no fault");
    let before = disk.changes();
    log.save_committed(Some(log_id(1))).await.expect("accepted");
    assert_eq!(log.read_committed().await.expect("read"), Some(log_id(1)));
    let start = Instant::now();
    while disk.changes() < before + 3 && start.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut log = open(&disk.crash(&mut Coins::new(3)));
    assert_eq!(log.read_committed().await.expect("read"), Some(log_id(1)));
}

#[tokio::test]
async fn purged_segments_are_removed_and_the_rest_stays_readable() {
    let disk = FaultDisk::new();
    let mut log = create(&disk);
    for index in 0..600 {
        log.blocking_append([entry(index)]).await.expect("no fault");
    }
    let dir = Path::new(ROOT).join(crate::wal::DIR);
    let segments = || disk.list(&dir).expect("listed").len();
    let before = segments();
    log.purge(log_id(500)).await.expect("purged");
    log.close().await;
    assert!(segments() < before, "{before} segments before and after");
    let mut log = open(&disk.crash(&mut Coins::new(5)));
    let rest = log.try_get_log_entries(..).await.expect("readable");
    assert_eq!(rest, (501..600).map(entry).collect::<Vec<_>>());
}
