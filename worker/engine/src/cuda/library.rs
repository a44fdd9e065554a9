//! Shared libraries of CUDA, looked for where systems and Python packages put them.

use libloading::Library;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories of CUDA installations.
const SYSTEM: [&str; 4] = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
];
/// Where Python packages lie, below a prefix.
const PYTHON: [&str; 2] = ["lib", "lib64"];
/// Names a directory there, to be searched before all others.
const VARIABLE: &str = "OLLAMAMAX_CUDA_LIBRARIES";

/// A library that is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no {what}: looked for {} where the system looks, in `{VARIABLE}`, in {} and in Python's `nvidia/*/lib`", 
    names.join(", "), SYSTEM.join(", ")
)]
pub struct NotFound {
    what: &'static str,
    names: Vec<String>,
}

impl NotFound {
    pub(super) fn new(what: &'static str, names: &[&str]) -> Self {
        Self { what, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }
}

/// Opens the first of `names` that there is.
pub(super) fn open(what: &'static str, names: &[&str]) -> Result<Library, NotFound> {
    let found = names.iter().find_map(|name| load(Path::new(name)));
    let found = found.or_else(|| {
        let directories = directories();
        let paths = directories.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
        paths.filter(|path| path.exists()).find_map(|path| load(&path))
    });
    found.ok_or_else(|| NotFound::new(what, names))
}

fn load(path: &Path) -> Option<Library> {
    // SAFETY: the names are those of NVIDIA's libraries, whose initialisers any program may run.
    unsafe { Library::new(path) }.ok()
}

/// The directory that is named, and those below which Python's packages lie: all that is searched beside the system's places.
pub fn prefixes() -> Vec<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    named.into_iter().chain(python_prefixes()).collect()
}

fn python_prefixes() -> impl Iterator<Item = PathBuf> {
    let set = [std::env::var_os("VIRTUAL_ENV"), std::env::var_os("CONDA_PREFIX")];
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local"));
    set.into_iter().flatten().map(PathBuf::from).chain(home)
}

fn directories() -> Vec<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let prefixes = python_prefixes().chain(["/usr/local", "/usr"].map(PathBuf::from));
    let packages = prefixes.flat_map(|prefix| python_packages(&prefix));
    named.into_iter().chain(SYSTEM.map(PathBuf::from)).chain(packages).collect()
}

/// `PREFIX/lib/python3*/{site,dist}-packages/nvidia/*/lib`.
fn python_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let pythons = PYTHON.iter().flat_map(|lib| entries(&prefix.join(lib)));
    for python in pythons.filter(|path| name(path).starts_with("python3")) {
        for packages in ["site-packages", "dist-packages"] {
            let parts = entries(&python.join(packages).join("nvidia"));
            found.extend(parts.map(|part| part.join("lib")).filter(|lib| lib.is_dir()));
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_python_are_found() {
        let prefix = tempfile::tempdir().expect("a temporary directory");
        let lib = prefix.path().join("lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib");
        fs::create_dir_all(&lib).expect("created");
        fs::create_dir_all(prefix.path().join("lib/python3.12/site-packages/other/lib"))
            .expect("created");
        assert_eq!(python_packages(prefix.path()), [lib]);
        assert!(python_packages(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn what_is_nowhere_is_said_with_where_it_was_looked_for() {
        let error = open("driver", &["libnowhere.so.1"]).expect_err("there is none").to_string();
        assert!(error.contains("libnowhere.so.1") && error.contains("/usr/local/cuda"), "{error}");
    }
}
