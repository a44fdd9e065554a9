//! The log against a plain model: random work, reopening, and power cuts at every step on the modelled disk.

use super::record::Record;
use super::view::{Found, Summary, View};
use super::{DIR, Wal, WalSizes, segment};
use crate::disk::{Disk, DiskFile, OpenMode, read_to_end};
use crate::error::StorageError;
use crate::fault::{Coins, Fault, FaultDisk};
use crate::highwater::HighWater;
use crate::types::{Batch, Entry, EntryPayload, Identity, LeaderId, LogId, Vote};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const ROOT: &str = "/node";
const SIZES: WalSizes = WalSizes { segment_bytes: 6 * 1024, cache_bytes: 600 };

/// What a log should hold, in the plainest form.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    summary: Summary,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn fold(&mut self, record: &Record) {
        match record {
            Record::Entry { log_id, bytes } => {
                let entry = postcard::from_bytes(bytes).expect("own bytes");
                self.entries.insert(log_id.index, entry);
            }
            Record::Vote(vote) => self.summary.vote = Some(*vote),
            Record::Committed(committed) => self.summary.committed = *committed,
            Record::TruncateAfter(kept) => {
                self.entries.retain(|index, _| Some(*index) <= kept.map(|id| id.index));
            }
            Record::Purge(log_id) => {
                self.entries.retain(|index, _| *index > log_id.index);
                self.summary.purged = Some(*log_id);
            }
            Record::Seal(_) => {}
        }
        let last = self.entries.values().next_back().map(|entry| entry.log_id);
        self.summary.last = last.or(self.summary.purged);
    }
}

struct Node {
    disk: FaultDisk,
    wal: Wal,
    view: View,
    high: Arc<HighWater>,
}

fn identity() -> Identity {
    Identity { cluster: "test".into(), node: 1 }
}

fn create(disk: &FaultDisk) -> Result<(), StorageError> {
    let root = Path::new(ROOT);
    disk.create_dir_all(root).expect("always");
    let mark = Wal::create(disk, root, &identity(), SIZES)?;
    HighWater::create(disk, root, &mark)
}

impl Node {
    fn open(disk: &FaultDisk) -> Result<Self, StorageError> {
        let root = Path::new(ROOT);
        let (high, mark) = HighWater::open(disk, root)?;
        let high = Arc::new(high);
        let (wal, view) = Wal::open(Arc::new(disk.clone()), root, high.clone(), &mark, SIZES)?;
        Ok(Self { disk: disk.clone(), wal, view, high })
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), StorageError> {
        for record in records {
            match record {
                Record::Entry { bytes, .. } => {
                    let entry: Entry = postcard::from_bytes(bytes).expect("own bytes");
                    self.view.append(Arc::new(entry), bytes.len(), None);
                }
                record => self.view.fold(record),
            }
        }
        let places = self.wal.commit(&records.iter().collect::<Vec<_>>())?;
        for (record, place) in records.iter().zip(places) {
            if let Record::Entry { log_id, .. } = record {
                self.view.place(log_id, place);
            }
        }
        self.view.evict(SIZES.cache_bytes);
        if records.iter().any(|record| matches!(record, Record::Purge(_))) {
            self.wal.collect(self.view.oldest_segment())?;
        }
        Ok(())
    }

    /// Everything the log says it holds, read the way a reader does.
    fn content(&self) -> Model {
        let mut entries = BTreeMap::new();
        if let Some((first, last)) = self.view.bounds() {
            for index in first..=last {
                let entry = match self.view.get(index).expect("within the bounds").0 {
                    Found::Here(entry) => (*entry).clone(),
                    Found::At(_, place) => {
                        let segments = self.wal.segments();
                        let segments = segments.lock().expect("no panic");
                        let file = &segments[&place.segment];
                        segment::read_entry(&**file, self.wal.dir(), place).expect("readable")
                    }
                };
                entries.insert(index, entry);
            }
        }
        Model { summary: self.view.summary().clone(), entries }
    }
}

fn entry(term: u64, index: u64, bytes: u64) -> Record {
    let log_id = LogId::new(LeaderId { term, node_id: 1 }, index);
    let data = (0..bytes).map(|byte| (byte ^ index ^ term) as u8).collect();
    let entry = Entry { log_id, payload: EntryPayload::Normal(Batch(data)) };
    Record::Entry { log_id, bytes: postcard::to_stdvec(&entry).expect("encodes") }
}

/// The next batch of a random but legal history.
fn batch(model: &Model, term: &mut u64, coins: &mut Coins) -> Vec<Record> {
    let ids: Vec<LogId> = model.entries.values().map(|entry| entry.log_id).collect();
    match coins.below(12) {
        0 => {
            *term += 1;
            vec![Record::Vote(Vote::new(*term, 1))]
        }
        1 if !ids.is_empty() => {
            let kept = coins.below(ids.len() as u64 + 1) as usize;
            let kept = kept.checked_sub(1).map(|at| ids[at]).or(model.summary.purged);
            *term += 1;
            let next = kept.map_or(0, |id| id.index + 1);
            vec![Record::TruncateAfter(kept), entry(*term, next, coins.below(300))]
        }
        2 if !ids.is_empty() => vec![Record::Purge(ids[coins.below(ids.len() as u64) as usize])],
        3 => vec![Record::Committed(model.summary.last)],
        4 if coins.below(10) == 0 => {
            let next = model.summary.last.map_or(5, |id| id.index + 5);
            vec![Record::Purge(LogId::new(LeaderId { term: *term, node_id: 1 }, next))]
        }
        _ => {
            let next = model.summary.last.map_or(0, |id| id.index + 1);
            let count = 1 + coins.below(4);
            (next..next + count).map(|index| entry(*term, index, coins.below(700))).collect()
        }
    }
}

/// Works until done or until the power fails; returns what was acknowledged and what was under way.
fn work(
    node: &mut Node,
    model: &mut Model,
    term: &mut u64,
    coins: &mut Coins,
    steps: u32,
) -> Option<Model> {
    for _ in 0..steps {
        if coins.below(6) == 0 && node.high.sync().is_err() {
            return Some(model.clone());
        }
        let records = batch(model, term, coins);
        let mut after = model.clone();
        records.iter().for_each(|record| after.fold(record));
        if node.commit(&records).is_err() {
            return Some(after);
        }
        *model = after;
    }
    None
}

/// Runs the history of `seed`, cuts the power before change `cut`, and looks at what is left.
fn crash_at(seed: u64, cut: u64) -> bool {
    let mut coins = Coins::new(seed);
    let disk = FaultDisk::new();
    create(&disk).expect("no fault yet");
    let mut node = Node::open(&disk).expect("no fault yet");
    let mut model = Model::default();
    let mut term = 1;
    disk.power_off_after(disk.changes() + cut);
    let pending = work(&mut node, &mut model, &mut term, &mut coins, 30);
    let mut coins = Coins::new(seed ^ (cut << 32));
    let disk = node.disk.crash(&mut coins);
    let node = Node::open(&disk);
    let mut node = node.unwrap_or_else(|error| unreachable!("seed {seed} cut {cut}: {error}"));
    let found = node.content();
    let fits = found == model || pending.as_ref() == Some(&found);
    assert!(fits, "seed {seed} cut {cut}: {found:?}\nacknowledged {model:?}\nor {pending:?}");
    // Life goes on, power fails again right after, and nothing of the torn tail may come back.
    let mut model = found;
    assert!(work(&mut node, &mut model, &mut term, &mut coins, 4).is_none());
    let node = Node::open(&node.disk.crash(&mut coins));
    let node = node.unwrap_or_else(|error| unreachable!("seed {seed} cut {cut} again: {error}"));
    assert_eq!(node.content(), model, "seed {seed} cut {cut}: after the second crash");
    pending.is_some()
}

#[test]
fn ten_thousand_power_cuts_lose_nothing_acknowledged() {
    let mut crashes = 0;
    let mut seed = 0;
    while crashes < 10_000 {
        seed += 1;
        let mut cut = 0;
        while crash_at(seed, cut) {
            crashes += 1;
            cut += 1;
        }
    }
}

#[test]
fn a_power_cut_while_a_node_is_made_leaves_it_made_or_not() {
    for seed in 0..20 {
        for cut in 0.. {
            let disk = FaultDisk::new();
            disk.power_off_after(cut);
            let made = create(&disk).is_ok();
            let disk = disk.crash(&mut Coins::new(seed ^ (cut << 32)));
            match HighWater::peek(&disk, Path::new(ROOT)) {
                Ok(None) => assert!(!made, "seed {seed} cut {cut}"),
                Ok(Some(_)) => {
                    let node = Node::open(&disk);
                    let node = node.unwrap_or_else(|error| unreachable!("cut {cut}: {error}"));
                    assert_eq!(node.content(), Model::default());
                }
                Err(error) => unreachable!("seed {seed} cut {cut}: {error}"),
            }
            if made {
                break;
            }
        }
    }
}

#[test]
fn the_log_is_a_list_over_any_history_and_reopening() {
    for seed in 0..60 {
        let mut coins = Coins::new(seed);
        let disk = FaultDisk::new();
        create(&disk).expect("no faults");
        let (mut model, mut term) = (Model::default(), 1);
        for _ in 0..6 {
            let mut node = Node::open(&disk).expect("no faults");
            assert_eq!(node.content(), model, "seed {seed}");
            assert!(work(&mut node, &mut model, &mut term, &mut coins, 20).is_none());
            assert_eq!(node.content(), model, "seed {seed}");
        }
    }
}

#[test]
fn after_the_first_failure_nothing_is_accepted_and_nothing_acknowledged_is_lost() {
    for fault in [Fault::Sync, Fault::Full, Fault::Short] {
        for at in 0..60 {
            let disk = FaultDisk::new();
            create(&disk).expect("no fault yet");
            let mut node = Node::open(&disk).expect("no fault yet");
            let (mut model, mut term, mut coins) = (Model::default(), 1, Coins::new(at));
            disk.fail_at(disk.changes() + at, fault);
            let Some(pending) = work(&mut node, &mut model, &mut term, &mut coins, 30) else {
                continue;
            };
            if node.wal.failed.is_some() {
                let again = node.commit(&[Record::Committed(None)]);
                assert!(matches!(again, Err(StorageError::Stopped { .. })), "{again:?}");
            }
            // The process starts again on the page cache as it is, believes what it reads, and then the power fails.
            let node = Node::open(&disk);
            let node = node.unwrap_or_else(|error| unreachable!("{fault:?} at {at}: {error}"));
            let found = node.content();
            assert!(found == model || found == pending, "{fault:?} at {at}: {found:?}");
            let node = Node::open(&disk.crash(&mut coins));
            let node = node.unwrap_or_else(|error| unreachable!("{fault:?} at {at}: {error}"));
            assert_eq!(node.content(), found, "{fault:?} at {at}: believed before, gone after");
        }
    }
}

#[test]
fn a_log_that_lost_its_tail_is_amnesia_and_a_torn_one_above_high_water_is_not() {
    let disk = FaultDisk::new();
    create(&disk).expect("no faults");
    let mut node = Node::open(&disk).expect("no faults");
    node.commit(&[entry(1, 0, 100), entry(1, 1, 100)]).expect("no faults");
    let end = node.wal.end.offset;
    let path = segment::path(&Path::new(ROOT).join(DIR), 1);
    let file = disk.open(&path, OpenMode::Write).expect("there");
    let bytes = read_to_end(&*file, 0, u64::MAX).expect("readable");
    let padding = bytes[..end as usize].iter().rev().take_while(|byte| **byte == 0).count();
    for cut in segment::HEAD_PAGE..end - padding as u64 {
        write_all(&*file, &bytes[..cut as usize]);
        let error = Node::open(&disk).err().expect("a cut batch below high water");
        assert!(error.must_not_vote(), "cut at {cut}: {error}");
    }
    // The same cuts in a batch that was never acknowledged are a torn tail.
    write_all(&*file, &bytes);
    let mut torn = Vec::new();
    entry(1, 2, 100).frame(&mut torn, 1, end);
    Record::Seal(super::Seal { batch: 2, records: 1 }).frame(&mut torn, 1, end);
    let padding = torn.iter().rev().take_while(|byte| **byte == 0).count();
    for cut in 0..torn.len() - padding {
        write_all(&*file, &bytes[..end as usize]);
        file.write_at(end, &torn[..cut]).expect("no faults");
        let node = Node::open(&disk).expect("a torn tail is dropped");
        assert_eq!(node.view.bounds(), Some((0, 1)), "cut at {cut}");
        assert_eq!(node.wal.end.offset, end);
    }
}

#[test]
fn damage_before_a_later_batch_is_corruption_even_when_the_high_water_record_lags() {
    let disk = FaultDisk::new();
    create(&disk).expect("no faults");
    let mut node = Node::open(&disk).expect("no faults");
    let high = disk.open(&Path::new(ROOT).join("highwater"), OpenMode::Write).expect("there");
    let lagging = read_to_end(&*high, 0, u64::MAX).expect("readable");
    let mut ends = vec![node.wal.end.offset];
    for index in 0..3 {
        node.commit(&[entry(1, index, 50)]).expect("no faults");
        ends.push(node.wal.end.offset);
    }
    let path = segment::path(&Path::new(ROOT).join(DIR), 1);
    let file = disk.open(&path, OpenMode::Write).expect("there");
    let bytes = read_to_end(&*file, 0, u64::MAX).expect("readable");
    for at in ends[0]..ends[3] {
        let mut bad = bytes.clone();
        bad[at as usize] ^= 0x10;
        write_all(&*file, &bad);
        write_all(&*high, &lagging);
        match Node::open(&disk) {
            Err(error) => assert!(error.must_not_vote(), "byte {at}: {error}"),
            // Only the last batch can pass for a torn one, and only padding can change without harm.
            Ok(node) => {
                let last = node.view.bounds().map_or(0, |(_, last)| last);
                assert!(last == 2 || (last == 1 && at >= ends[2]), "byte {at}: up to {last}");
            }
        }
    }
}

#[test]
fn the_mark_of_a_vote_is_durable_with_the_vote() {
    for seed in 0..20 {
        let disk = FaultDisk::new();
        create(&disk).expect("no faults");
        let mut node = Node::open(&disk).expect("no faults");
        node.commit(&[Record::Vote(Vote::new(9, 1))]).expect("no faults");
        let disk = disk.crash(&mut Coins::new(seed));
        let mark = HighWater::peek(&disk, Path::new(ROOT)).expect("intact").expect("there");
        assert_eq!(mark.vote, Some(Vote::new(9, 1)));
    }
}

fn write_all(file: &dyn DiskFile, bytes: &[u8]) {
    file.set_len(0).expect("no faults");
    file.write_at(0, bytes).expect("no faults");
}
