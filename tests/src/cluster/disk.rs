//! A small file system in memory, so that a disk can be full without filling the machine's.

use crate::error::HarnessError;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted as long as this lives.
#[derive(Debug)]
pub(super) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one of so many bytes at a directory, which is made.
    pub fn mount(at: &Path, bytes: u64) -> Result<Self, HarnessError> {
        std::fs::create_dir_all(at).map_err(HarnessError::io(at))?;
        let size = format!("size={bytes},mode=700");
        let mount = ["-t", "tmpfs", "-o", &size, "chaos"];
        let mounted = Command::new("mount").args(mount).arg(at).output();
        let mounted = mounted.map_err(HarnessError::io("mount"))?;
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
            return Err(HarnessError::Other(format!("no small disk without root: {why}")));
        }
        Ok(Self { at: at.to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has it open keeps it until its end.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
