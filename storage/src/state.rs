//! Choosing the materialised state at a start: the one on disk when it is sound and fits the log, a new one otherwise.
//!
//! Each build of the state has a numbered directory under `state/`, and the highest number counts. A rebuild begins the
//! next number, so neither a leaked handle of a broken sled nor its files can reach the new state.

use crate::error::{Context, StorageError};
use crate::kv::{Applied, Kv};
use crate::sled::SledKv;
use crate::snapshot::SnapshotFile;
use crate::types::LogId;
use crate::wal::view::View;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Name of the state's directory in the data directory.
pub(crate) const DIR: &str = "state";

/// A state that is sound, and why it had to be built anew, if so.
pub(crate) struct Chosen {
    pub kv: Arc<SledKv>,
    pub rebuilt: Option<String>,
}

/// Opens the newest state, or builds one from `snapshot`; the log replays what is missing.
pub(crate) fn choose(
    dir: &Path,
    log: &View,
    snapshot: Option<&SnapshotFile>,
    deadline: Duration,
) -> Result<Chosen, StorageError> {
    let root = dir.join(DIR);
    fs::create_dir_all(&root).context("create", &root)?;
    let builds = builds(&root)?;
    let newest = builds.last().copied();
    let mut reason = None;
    if let Some(number) = newest {
        match SledKv::open(&build_path(&root, number), deadline) {
            Ok(kv) => match misfit(&kv.applied(), log, snapshot) {
                None => {
                    remove_others(&root, &builds, number);
                    return Ok(Chosen { kv: Arc::new(kv), rebuilt: None });
                }
                Some(why) => reason = Some(why),
            },
            Err(StorageError::Damaged { reason: why, .. }) => reason = Some(why),
            Err(error) => return Err(error),
        }
    }
    let covered = snapshot.and_then(|snapshot| snapshot.meta().last_log_id);
    check_covered(dir, log, covered.as_ref())?;
    let number = newest.map_or(1, |number| number + 1);
    let kv = SledKv::open(&build_path(&root, number), deadline)?;
    if let Some(snapshot) = snapshot {
        let meta = snapshot.meta();
        let applied =
            Applied { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        kv.replace(applied, &mut snapshot.records())?;
        kv.checkpoint()?;
    }
    remove_others(&root, &builds, number);
    Ok(Chosen { kv: Arc::new(kv), rebuilt: reason })
}

/// Why a sound state cannot be used, if so.
fn misfit(applied: &Applied, log: &View, snapshot: Option<&SnapshotFile>) -> Option<String> {
    let covered = snapshot.and_then(|snapshot| snapshot.meta().last_log_id);
    let at = applied.log_id.map(|log_id| log_id.index);
    let purged = log.summary().purged.map(|log_id| log_id.index);
    if at < purged {
        return Some(format!("it stands at {at:?}, but the log begins behind {purged:?}"));
    }
    if at < covered.map(|log_id| log_id.index) {
        return Some(format!("it stands at {at:?}, behind the newest snapshot"));
    }
    let log_id = applied.log_id?;
    if applied.log_id > log.summary().last && applied.log_id > covered {
        return Some(format!("it stands at {log_id}, which the log does not reach"));
    }
    let logged = log.log_id_at(log_id.index);
    if logged.is_some_and(|logged| logged != log_id) {
        return Some(format!("it stands at {log_id}, where the log has another entry"));
    }
    None
}

fn check_covered(dir: &Path, log: &View, covered: Option<&LogId>) -> Result<(), StorageError> {
    let reached = covered.map(|log_id| log_id.index);
    match log.summary().purged {
        Some(purged) if reached < Some(purged.index) => Err(StorageError::Uncovered {
            dir: dir.to_owned(),
            purged: purged.index,
            covered: reached.map_or_else(|| "nothing".to_owned(), |index| index.to_string()),
        }),
        _ => Ok(()),
    }
}

fn build_path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{number:06}"))
}

fn builds(root: &Path) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    for item in fs::read_dir(root).context("list", root)? {
        let name = item.context("list", root)?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn remove_others(root: &Path, builds: &[u64], keep: u64) {
    for number in builds.iter().filter(|number| **number != keep) {
        let path = build_path(root, *number);
        // They are only a waste of space; the next start tries again.
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old build of the state");
        }
    }
}
