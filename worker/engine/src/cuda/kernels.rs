//! The kernels: their text, and their machine code, compiled once per machine and kept.
//!
//! A kept file is `magic, SHA-256 of the rest, machine code`, under the hash of everything it depends on; one that is damaged is
//! made anew.

use super::nvrtc::{CompileError, Nvrtc};
use ollamamax_proto::Digest;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const PRELUDE: &str = include_str!("../../kernels/prelude.h");
/// What every kernel is compiled with: sums keep their order, and nothing is contracted that does not say so.
const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "-diag-suppress=177"];
const MAGIC: &[u8; 8] = b"OMXCUB01";

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Its name.
    pub name: &'static str,
    text: &'static str,
    /// Its kernels.
    pub kernels: &'static [&'static str],
}

/// All of them.
pub const UNITS: [Unit; 3] = [
    Unit {
        name: "rows.cu",
        text: include_str!("../../kernels/rows.cu"),
        kernels: &["norm", "renorm", "add", "gate", "cap", "gather", "levels", "halves"],
    },
    Unit {
        name: "multiply.cu",
        text: include_str!("../../kernels/multiply.cu"),
        kernels: &[
            "four_bits_1",
            "four_bits_4",
            "four_bits_8",
            "eight_bits_1",
            "eight_bits_4",
            "eight_bits_8",
            "eight_signed_1",
            "eight_signed_4",
            "eight_signed_8",
            "eight_halves_1",
            "eight_halves_4",
            "eight_halves_8",
            "float_16_1",
            "float_16_4",
            "float_16_8",
            "brain_16_1",
            "brain_16_4",
            "brain_16_8",
            "floats",
        ],
    },
    Unit {
        name: "attention.cu",
        text: include_str!("../../kernels/attention.cu"),
        kernels: &["heads", "attend", "join_chunks"],
    },
];

impl Unit {
    /// What the compiler is given.
    pub fn source(&self) -> String {
        format!("{PRELUDE}\n#line 1 \"{}\"\n{}", self.name, self.text)
    }

    /// Compiles it for an architecture, as in `sm_90`.
    pub fn compile(&self, nvrtc: &Nvrtc, architecture: &str) -> Result<Vec<u8>, CompileError> {
        nvrtc.compile(self.name, &self.source(), architecture, &OPTIONS)
    }

    fn key(&self, version: &str, architecture: &str) -> String {
        let all = [&self.source(), version, architecture, &OPTIONS.join(" ")].join("\0");
        Digest::of(all.as_bytes()).hex()
    }
}

/// The machine code of all units for an architecture, from the files kept in `kept` or compiled, at the same time.
pub fn machine_code(
    nvrtc: &Nvrtc,
    architecture: &str,
    kept: Option<&Path>,
) -> Result<Vec<(Unit, Vec<u8>)>, CompileError> {
    let one = |unit: Unit| -> Result<(Unit, Vec<u8>), CompileError> {
        let path = kept.map(|dir| dir.join(unit.key(&nvrtc.version(), architecture)));
        if let Some(code) = path.as_deref().and_then(read) {
            return Ok((unit, code));
        }
        let code = unit.compile(nvrtc, architecture)?;
        if let Some(path) = path {
            // It is compiled again next time.
            let _ = write(&path, &code);
        }
        Ok((unit, code))
    };
    std::thread::scope(|scope| {
        let work: Vec<_> = UNITS.map(|unit| scope.spawn(move || one(unit))).into();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        work.into_iter().map(join).collect()
    })
}

/// Where machine code is kept by default; nowhere without a home.
pub fn default_dir() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Some(cache.or_else(home)?.join("ollamamax/kernels"))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (digest, code) = rest.split_at_checked(32)?;
    (Digest::of(code).0 == digest && !code.is_empty()).then(|| code.to_vec())
}

/// Written aside and renamed: two processes may do it at the same time.
fn write(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::File::create(&aside)?;
    file.write_all(MAGIC)?;
    file.write_all(&Digest::of(code).0)?;
    file.write_all(code)?;
    drop(file);
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_named() {
        for unit in UNITS {
            let plain = unit.text.matches("\nKERNEL(").count();
            let products = unit.text.matches("\nMULTIPLY(").count() * 3;
            assert_eq!(unit.kernels.len(), plain + products, "{}", unit.name);
            for kernel in unit.kernels {
                let base = kernel.trim_end_matches(['1', '4', '8']).trim_end_matches('_');
                let named = [format!("KERNEL({kernel},"), format!("MULTIPLY({base},")];
                assert!(named.iter().any(|name| unit.text.contains(name)), "{kernel}");
            }
        }
    }

    #[test]
    fn kept_code_is_had_again_unless_it_is_damaged() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("kernels/one");
        assert_eq!(read(&path), None);
        write(&path, b"code").expect("written");
        assert_eq!(read(&path).as_deref(), Some(&b"code"[..]));
        let whole = fs::read(&path).expect("readable");
        for damaged in [&whole[..whole.len() - 1], &whole[..5], &[][..]] {
            fs::write(&path, damaged).expect("written");
            assert_eq!(read(&path), None);
        }
        let mut flipped = whole;
        flipped[41] ^= 1;
        fs::write(&path, flipped).expect("written");
        assert_eq!(read(&path), None);
    }

    #[test]
    fn what_code_depends_on_changes_its_name() {
        let [rows, multiply, _] = UNITS;
        let key = rows.key("12.9", "sm_90");
        assert_eq!(key, rows.key("12.9", "sm_90"));
        for other in
            [rows.key("13.0", "sm_90"), rows.key("12.9", "sm_80"), multiply.key("12.9", "sm_90")]
        {
            assert_ne!(key, other);
        }
    }
}
