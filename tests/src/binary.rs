//! Where the `ollamamax` binary is: tests know it from cargo, the other programs find it beside themselves.

use crate::error::HarnessError;
use std::path::PathBuf;

/// `OLLAMAMAX_BINARY`, or the binary in the directory of this executable or the one above it.
pub fn find() -> Result<PathBuf, HarnessError> {
    if let Some(path) = std::env::var_os("OLLAMAMAX_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().map_err(HarnessError::io("current executable"))?;
    let found = own.ancestors().skip(1).take(2).map(|above| above.join("ollamamax"));
    let mut looked = Vec::new();
    for path in found {
        if path.is_file() {
            return Ok(path);
        }
        looked.push(path.display().to_string());
    }
    Err(HarnessError::NoBinary(format!("looked at {}", looked.join(", "))))
}
