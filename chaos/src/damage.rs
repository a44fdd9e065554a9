//! What happens to files: a disk without room, and a byte that is not what was written.

use ollamamax_tests::HarnessError;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Fills a file system up; the file to be removed afterwards.
///
/// # Errors
/// When it is not the file system's size that stops it.
pub fn fill(directory: &Path) -> Result<PathBuf, HarnessError> {
    let path = directory.join("filled-by-chaos");
    let mut file = File::create(&path).map_err(HarnessError::io(&path))?;
    let block = vec![0x55; 64 * 1024];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(path),
            Err(error) => return Err(HarnessError::io(&path)(error)),
        }
    }
}

/// Changes bits of one byte that holds something, in the newest file of a directory and those below it.
///
/// # Errors
/// When there is no file, or it cannot be changed.
pub fn corrupt(directory: &Path, coin: u64) -> Result<(), HarnessError> {
    let mut coin = StdRng::seed_from_u64(coin);
    let mut files = Vec::new();
    files_in(directory, &mut files);
    files.sort();
    // The largest: where most is. Of segments the newest has what was acknowledged last.
    let largest = files.into_iter().max_by_key(|(path, bytes)| (*bytes, path.clone()));
    let (path, _) = largest.filter(|(_, bytes)| *bytes > 0).ok_or_else(|| {
        HarnessError::Other(format!("nothing to damage in `{}`", directory.display()))
    })?;
    let failed = |error| HarnessError::io(&path)(error);
    let mut bytes = Vec::new();
    let mut file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    file.read_to_end(&mut bytes).map_err(failed)?;
    // Room that was kept free ahead is zero; nobody wrote there.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let first = used / 4;
    let written: Vec<usize> = (first..used / 2).filter(|at| bytes[*at] != 0).collect();
    let at = match written.is_empty() {
        true => used,
        false => written[coin.random_range(0..written.len())],
    };
    file.seek(SeekFrom::Start(at as u64)).map_err(failed)?;
    file.write_all(&[bytes[at] ^ 0x5a]).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn files_in(directory: &Path, found: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files_in(&entry.path(), found),
            Ok(metadata) => found.push((entry.path(), metadata.len())),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_that_was_written_is_changed_and_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let below = directory.path().join("below");
        std::fs::create_dir(&below).expect("made");
        let mut written = vec![7; 1_000];
        written.resize(5_000, 0);
        std::fs::write(below.join("log"), &written).expect("written");
        for coin in 0..20 {
            let before = std::fs::read(below.join("log")).expect("read");
            corrupt(directory.path(), coin).expect("changed");
            let after = std::fs::read(below.join("log")).expect("read");
            let changed: Vec<usize> =
                (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
            assert!(matches!(changed[..], [at] if at < 1_000), "{changed:?}");
        }
        assert!(corrupt(&directory.path().join("nowhere"), 1).is_err());
    }
}
