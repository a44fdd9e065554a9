//! A disk in memory that behaves as badly as a real one may: it forgets what was not synced.
//!
//! Every change is kept twice: as the running program sees it, and as a list of changes not yet durable. At
//! [`FaultDisk::crash`] each of those is kept, torn or dropped at random, independently of its neighbours and of their
//! order; creations, renames and removals are such changes of their directory. Seeded failures make a chosen operation
//! fail, and [`FaultDisk::power_off_after`] cuts the power before the n-th change. No file system is this mean, so what survives
//! here survives.

use crate::disk::{Disk, DiskFile, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const SECTOR_BYTES: usize = 512;

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A sync fails with EIO, and what it should have made durable is dropped, as the page cache does.
    Sync,
    /// A write fails with ENOSPC before its first byte.
    Full,
    /// A write fails with ENOSPC after its first half.
    Short,
}

/// The modelled disk. Clones share it.
#[derive(Clone, Debug)]
pub struct FaultDisk(Arc<Mutex<Model>>);

#[derive(Debug, Default)]
struct Model {
    files: BTreeMap<u64, FileModel>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    next_file: u64,
    /// Changes so far, and the number of the change before which the power fails.
    changes: u64,
    power_off_at: Option<u64>,
    faults: Vec<(u64, Fault)>,
    sync_delay: Duration,
}

#[derive(Clone, Debug, Default)]
struct FileModel {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// A small generator, so that this module needs no crate for its coins.
#[derive(Clone, Debug)]
pub struct Coins(u64);

impl Coins {
    /// The coins of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

impl Default for FaultDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultDisk {
    /// An empty disk.
    pub fn new() -> Self {
        let model = Model { dirs: BTreeSet::from([PathBuf::from("/")]), ..Model::default() };
        Self(Arc::new(Mutex::new(model)))
    }

    /// Changes made so far: writes, syncs, and changes of names.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Cuts the power before the change with this number (the first is 0): it and everything after it fails.
    pub fn power_off_after(&self, changes: u64) {
        self.lock().power_off_at = Some(changes);
    }

    /// Makes the change with this number fail, if it is of the kind `fault` speaks of.
    pub fn fail_at(&self, change: u64, fault: Fault) {
        self.lock().faults.push((change, fault));
    }

    /// Makes each sync of a file take this long: a slow disk.
    pub fn slow_syncs(&self, delay: Duration) {
        self.lock().sync_delay = delay;
    }

    /// The disk as it is found after a power cut now. The old handles keep the old, dead disk.
    pub fn crash(&self, coins: &mut Coins) -> Self {
        let mut model = self.lock();
        // Some crashes lose everything, some nothing, most a part.
        let keep_percent = [0, 100, 10, 50, 90][coins.below(5) as usize];
        let mut after = Model {
            dirs: model.dirs.clone(),
            next_file: model.next_file,
            durable_names: model.durable_names.clone(),
            ..Model::default()
        };
        for change in &model.pending_names {
            if coins.below(100) < keep_percent {
                change.apply(&mut after.durable_names);
            }
        }
        after.names = after.durable_names.clone();
        for id in after.names.values() {
            let Some(file) = model.files.get(id) else { continue };
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                change.apply_torn(&mut bytes, keep_percent, coins);
            }
            let file = FileModel { now: bytes.clone(), durable: bytes, pending: Vec::new() };
            after.files.insert(*id, file);
        }
        model.power_off_at = Some(0);
        Self(Arc::new(Mutex::new(after)))
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.0.lock().expect("nothing panics while holding the model lock")
    }
}

impl Model {
    /// Counts a change; says whether it has to fail.
    fn change(&mut self) -> io::Result<Option<Fault>> {
        self.alive()?;
        let number = self.changes;
        self.changes += 1;
        Ok(self.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault))
    }

    fn alive(&self) -> io::Result<()> {
        match self.power_off_at {
            Some(at) if self.changes >= at => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    fn name(&mut self, change: NameChange) -> io::Result<()> {
        self.change()?;
        change.apply(&mut self.names);
        self.pending_names.push(change);
        Ok(())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Add(path, id) => drop(names.insert(path.clone(), *id)),
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            Self::Remove(path) => drop(names.remove(path)),
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Add(path, _) | Self::Rename(_, path) | Self::Remove(path) => path.parent(),
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => write(bytes, *offset, data),
            Self::SetLen(len) => bytes.resize(*len as usize, 0),
        }
    }

    /// Applies what a power cut leaves of this change: some of its sectors, and sometimes half of one.
    fn apply_torn(&self, bytes: &mut Vec<u8>, keep_percent: u64, coins: &mut Coins) {
        let Self::Write(offset, data) = self else {
            if coins.below(100) < keep_percent {
                self.apply(bytes);
            }
            return;
        };
        let mut at = 0;
        while at < data.len() {
            let in_sector = SECTOR_BYTES - (*offset as usize + at) % SECTOR_BYTES;
            let end = (at + in_sector).min(data.len());
            if coins.below(100) < keep_percent {
                write(bytes, offset + at as u64, &data[at..end]);
            } else if coins.below(3) == 0 {
                // Short records live at the start of a sector: tear there as often as anywhere.
                let most = if coins.below(2) == 0 { end - at } else { (end - at).min(64) };
                let part = at + coins.below(most as u64) as usize;
                write(bytes, offset + at as u64, &data[at..part]);
            }
            at = end;
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + data.len());
    if bytes.len() < end && !data.is_empty() {
        bytes.resize(end, 0);
    }
    bytes[start.min(end)..end].copy_from_slice(data);
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut model = self.lock();
        model.alive()?;
        let existing = model.names.get(path).copied();
        let id = match (mode, existing) {
            (OpenMode::Read | OpenMode::Write, Some(id)) => id,
            (OpenMode::Read | OpenMode::Write, None) => return Err(io::ErrorKind::NotFound.into()),
            (OpenMode::Create, Some(id)) => {
                model.change()?;
                if let Some(file) = model.files.get_mut(&id) {
                    file.now.clear();
                    file.pending.push(Change::SetLen(0));
                }
                id
            }
            (OpenMode::Create, None) => {
                let id = model.next_file;
                model.next_file += 1;
                model.name(NameChange::Add(path.to_owned(), id))?;
                model.files.insert(id, FileModel::default());
                id
            }
        };
        Ok(Arc::new(FaultFile { disk: self.clone(), id }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // Directories are durable at once: the loss of a whole tree has its own, simpler tests.
        self.lock().dirs.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let model = self.lock();
        model.alive()?;
        let inside = model.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        Ok(names.collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.lock();
        if !model.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        model.name(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.lock();
        if !model.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        model.name(NameChange::Remove(path.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut model = self.lock();
        if model.change()? == Some(Fault::Sync) {
            model.pending_names.retain(|change| change.dir() != Some(dir));
            return Err(io::Error::other("injected EIO"));
        }
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut model.pending_names)
            .into_iter()
            .partition(|change| change.dir() == Some(dir));
        model.pending_names = later;
        now.iter().for_each(|change| change.apply(&mut model.durable_names));
        Ok(())
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    id: u64,
}

impl FaultFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut model = self.disk.lock();
        let fault = model.change()?;
        let file = model.files.entry(self.id).or_default();
        let (change, full) = match (change, fault) {
            (Change::Write(..), Some(Fault::Full)) => return Err(full()),
            (Change::Write(offset, mut data), Some(Fault::Short)) => {
                data.truncate(data.len() / 2);
                (Change::Write(offset, data), true)
            }
            (change, _) => (change, false),
        };
        change.apply(&mut file.now);
        file.pending.push(change);
        if full { Err(self::full()) } else { Ok(()) }
    }
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "injected ENOSPC")
}

impl DiskFile for FaultFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let model = self.disk.lock();
        model.alive()?;
        let Some(file) = model.files.get(&self.id) else { return Ok(0) };
        let rest = file.now.get(offset as usize..).unwrap_or_default();
        let got = rest.len().min(buffer.len());
        buffer[..got].copy_from_slice(&rest[..got]);
        Ok(got)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn sync(&self) -> io::Result<()> {
        // What is written while a slow sync runs is not covered by it.
        let (delay, covered) = {
            let model = self.disk.lock();
            let file = model.files.get(&self.id);
            (model.sync_delay, file.map_or(0, |file| file.pending.len()))
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut model = self.disk.lock();
        let fault = model.change()?;
        let file = model.files.entry(self.id).or_default();
        let covered = covered.min(file.pending.len());
        let pending: Vec<Change> = file.pending.drain(..covered).collect();
        if fault == Some(Fault::Sync) {
            return Err(io::Error::other("injected EIO"));
        }
        pending.iter().for_each(|change| change.apply(&mut file.durable));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let model = self.disk.lock();
        model.alive()?;
        Ok(model.files.get(&self.id).map_or(0, |file| file.now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }
}
