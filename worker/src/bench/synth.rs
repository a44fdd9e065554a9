//! Files with random weights of real shapes, to be measured where no such model can be had.

use ollamamax_engine::synth::Synth;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes such a file and returns its bytes. It appears whole or not at all.
///
/// # Errors
/// In words: a family, shape or weight type that is not known, or a file that cannot be written.
pub fn synth(family: &str, shape: &str, kind: &str, seed: u64, path: &Path) -> Result<u64, String> {
    let synth = Synth::of_shape(family, shape, kind, seed).map_err(|error| error.to_string())?;
    let name = path.file_name().ok_or_else(|| format!("`{}` names no file", path.display()))?;
    let mut aside = name.to_owned();
    aside.push(format!(".{}.part", std::process::id()));
    let aside = path.with_file_name(aside);
    let write = || -> std::io::Result<u64> {
        let mut file = BufWriter::new(File::create(&aside)?);
        let bytes = synth.write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&aside, path)?;
        Ok(bytes)
    };
    write().map_err(|error| {
        // What is half written is of no use; that it could not be written is the error to tell.
        let _ = fs::remove_file(&aside);
        format!("`{}` cannot be written: {error}", path.display())
    })
}
