//! The addresses of a cluster's nodes, remembered between commands, so that a command finds another node when the one it knows
//! is down. One small file per address the user gives, replaced atomically; losing it costs nothing but a fallback.

use crate::host::{self, Endpoint};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Most nodes believed: a quorum has at most nine.
const NODES_MAX: usize = 16;
/// Largest file read back.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Where the memory lies.
#[derive(Clone, Debug)]
pub struct KnownNodes {
    directory: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    nodes: Vec<String>,
}

impl KnownNodes {
    /// In the user's cache directory; nowhere when there is none.
    pub fn of_user() -> Self {
        Self { directory: cache_directory().map(|cache| cache.join("nodes")) }
    }

    /// Nowhere: nothing is remembered.
    pub fn nowhere() -> Self {
        Self { directory: None }
    }

    /// In a directory of the caller's choice.
    #[cfg(test)]
    pub fn at(directory: &Path) -> Self {
        Self { directory: Some(directory.to_owned()) }
    }

    /// The nodes last seen behind `endpoint`, without itself.
    pub fn recall(&self, endpoint: &Endpoint) -> Vec<Endpoint> {
        let Some(path) = self.file(endpoint) else { return Vec::new() };
        let small = std::fs::metadata(&path).is_ok_and(|meta| meta.len() <= FILE_BYTES_MAX);
        if !small {
            return Vec::new();
        }
        let read = std::fs::read(&path).ok();
        let parsed = read.and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
        let nodes = parsed.map(|remembered| remembered.nodes).unwrap_or_default();
        nodes
            .iter()
            .take(NODES_MAX)
            .filter_map(|text| host::parse(text).ok()?.into_iter().next())
            .filter(|node| node != endpoint)
            .collect()
    }

    /// Remembers the nodes behind `endpoint`; only a changed list is written.
    pub fn remember(&self, endpoint: &Endpoint, nodes: &[Endpoint]) {
        let Some(path) = self.file(endpoint) else { return };
        let nodes: Vec<String> = nodes.iter().take(NODES_MAX).map(Endpoint::to_string).collect();
        let Ok(text) = serde_json::to_vec(&Remembered { nodes }) else { return };
        if std::fs::read(&path).is_ok_and(|known| known == text) {
            return;
        }
        if let Err(error) = write_atomically(&path, &text) {
            tracing::debug!(path = %path.display(), %error, "the nodes could not be remembered");
        }
    }

    fn file(&self, endpoint: &Endpoint) -> Option<PathBuf> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
        let name: String = endpoint.to_string().chars().map(safe).take(100).collect();
        Some(self.directory.as_ref()?.join(format!("{name}.json")))
    }
}

/// The nodes of a cluster status that make sense from here: a loopback address means the machine of the node that says it.
pub fn node_endpoints(status: &Value, told_by: &Endpoint) -> Vec<Endpoint> {
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|text| host::parse(text).ok()?.into_iter().next())
        .map(|node| Endpoint { scheme: told_by.scheme, ..node })
        .filter(|node| told_by.is_loopback() || !node.is_loopback())
        .collect()
}

/// `$XDG_CACHE_HOME/ollamamax` or `~/.cache/ollamamax`.
pub fn cache_directory() -> Option<PathBuf> {
    user_directory("XDG_CACHE_HOME", ".cache")
}

/// `$XDG_DATA_HOME/ollamamax` or `~/.local/share/ollamamax`.
pub fn data_directory() -> Option<PathBuf> {
    user_directory("XDG_DATA_HOME", ".local/share")
}

/// The directory of this program below a base directory of the user's.
pub fn user_directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name).map(PathBuf::from).filter(|directory| directory.is_absolute())
    };
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))?;
    Some(base.join("ollamamax"))
}

/// Writes a file so that a reader sees the old one or the new one, never a part.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = directory.join(name);
    let written = std::fs::File::create(&part)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // The half-written file is of no use to anyone.
        let _ = std::fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_nodes_come_back_without_the_asked_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let known = KnownNodes::at(directory.path());
        let nodes = host::parse("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3").expect("valid");
        assert_eq!(known.recall(&nodes[0]), []);
        known.remember(&nodes[0], &nodes);
        assert_eq!(known.recall(&nodes[0]), nodes[1..]);
        assert_eq!(known.recall(&nodes[1]), []);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let known = KnownNodes::at(directory.path());
        let node = host::parse("127.0.0.1:1").expect("valid").remove(0);
        let path = known.file(&node).expect("a directory is set");
        for bytes in [&b"{"[..], b"[]", b"{\"nodes\":[\"ftp://x\"]}", b"\xff\xfe"] {
            std::fs::write(&path, bytes).expect("writable");
            assert_eq!(known.recall(&node), []);
        }
    }
}
