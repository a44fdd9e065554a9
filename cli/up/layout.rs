//! What a local cluster looks like on this machine: which ports, which directories, which model. Kept in
//! `<data-dir>/cluster.json`, so that a restart goes on from where it was.
//!
//! [`settle`] is pure: it makes the layout of this run out of the last one and of what was asked, and takes free ports from
//! its caller.

use crate::exit::Failure;
use crate::known_nodes::write_atomically;
use ollamamax_proto::{Millis, limits};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The file's name.
const FILE: &str = "cluster.json";
/// The format written and read.
const FORMAT: u32 = 1;
/// Most workers one machine may be asked for.
const WORKERS_MAX: usize = 64;
const DEFAULT_NODES: usize = 3;
const DEFAULT_WORKERS: usize = 1;
/// The model served when none is named.
pub const DEFAULT_MODEL: &str = "smollm2:135m";

/// A local cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    format: u32,
    /// Where the first node's API listens; the others follow port by port.
    pub listen: SocketAddr,
    /// What was served last.
    pub model: Option<Model>,
    /// The nodes in order.
    pub nodes: Vec<Node>,
    /// The workers in order.
    pub workers: Vec<Worker>,
    /// The nodes' HTTPS; plain HTTP without.
    #[serde(default)]
    pub https: Option<Https>,
}

/// The certificate of the nodes' APIs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Https {
    /// The names it is for.
    pub names: Vec<String>,
    /// When it ends; 0: there is none yet.
    pub until: Millis,
}

/// A model as it was named and as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Catalogue name, path or URL.
    pub reference: String,
    /// The cluster's name for it.
    pub name: String,
}

/// A node's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where its gRPC services listen. Fixed: the others know it by this address.
    pub raft: SocketAddr,
    /// Whether it has been part of the quorum.
    pub joined: bool,
    /// Whether it has been taken out of the quorum: it is not started any more, and its ports stay unused.
    #[serde(default)]
    pub left: bool,
}

/// A worker's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Where its gRPC service listens. May change: it registers anew.
    pub listen: SocketAddr,
}

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many nodes.
    pub nodes: Option<usize>,
    /// How many workers.
    pub workers: Option<usize>,
    /// Where the first node's API listens.
    pub listen: Option<SocketAddr>,
    /// Whether the nodes serve HTTPS.
    pub tls: Option<bool>,
}

impl Layout {
    /// Where the API of node `index` (from 0) listens.
    pub fn http(&self, index: usize) -> SocketAddr {
        // `settle` has refused ports past the last.
        let port = self.listen.port().saturating_add(u16::try_from(index).unwrap_or(u16::MAX));
        SocketAddr::new(self.listen.ip(), port)
    }

    /// Where programs on this machine reach the API of node `index`.
    pub fn reached(&self, index: usize) -> SocketAddr {
        let address = self.http(index);
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, address.port())
    }

    /// Whether only programs on this machine reach the APIs.
    pub fn is_local(&self) -> bool {
        self.listen.ip().is_loopback()
    }

    /// The nodes that are part of the cluster or are to join it.
    pub fn members(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| !self.nodes[*index].left).collect()
    }

    /// The layout kept in a directory, if there is one.
    pub fn load(directory: &Path) -> Result<Option<Self>, Failure> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file("read", path)(error)),
        };
        let damaged = |why: String| {
            Failure::Other(format!(
                "`{}` is damaged: {why}; restore it, or choose another --data-dir",
                path.display()
            ))
        };
        let layout: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if layout.format != FORMAT {
            return Err(damaged(format!("format {}, expected {FORMAT}", layout.format)));
        }
        Ok(Some(layout))
    }

    /// Keeps it.
    pub fn save(&self, directory: &Path) -> Result<(), Failure> {
        let path = directory.join(FILE);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::Other(format!("cannot write {FILE}: {error}")))?;
        write_atomically(&path, &text).map_err(Failure::file("write", path))
    }
}

/// The name of node `index`, in logs and on disk.
pub fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// The name of worker `index`, in logs and on disk.
pub fn worker_name(index: usize) -> String {
    format!("worker-{}", index + 1)
}

/// Where node or worker `name` keeps its data.
pub fn member_directory(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

/// The layout of this run, and how many of its workers are to be started.
pub fn settle(
    last: Option<Layout>,
    asked: &Asked,
    mut free: impl FnMut() -> Result<SocketAddr, Failure>,
) -> Result<(Layout, usize), Failure> {
    let default_listen = SocketAddr::from(([127, 0, 0, 1], crate::host::DEFAULT_PORT));
    let mut layout = last.unwrap_or(Layout {
        format: FORMAT,
        listen: default_listen,
        model: None,
        nodes: Vec::new(),
        workers: Vec::new(),
        https: None,
    });
    match asked.tls {
        Some(false) => layout.https = None,
        Some(true) => drop(layout.https.get_or_insert_default()),
        None => {}
    }
    let known = layout.members().len();
    let nodes = asked.nodes.unwrap_or(if known == 0 { DEFAULT_NODES } else { known });
    let known_workers = layout.workers.len();
    let fallback = if known == 0 { DEFAULT_WORKERS } else { known_workers };
    let workers = asked.workers.unwrap_or(fallback);
    let usage = |text: String| Err(Failure::Usage(text));
    if nodes == 0 || nodes > limits::NODES_COUNT {
        return usage(format!("--nodes {nodes}: expected 1 to {}", limits::NODES_COUNT));
    }
    if workers > WORKERS_MAX {
        return usage(format!("--workers {workers}: expected at most {WORKERS_MAX}"));
    }
    if nodes < known {
        return usage(format!(
            "this cluster has {known} nodes and cannot be started with {nodes}: start it with --nodes {known} and take \
             nodes out with `ollamamax cluster remove`, or choose another --data-dir"
        ));
    }
    layout.listen = asked.listen.unwrap_or(layout.listen);
    let port = layout.listen.port();
    let ports = nodes + layout.nodes.len() - known;
    if port == 0 || usize::from(u16::MAX - port) < ports - 1 {
        return usage(format!(
            "--listen {}: {ports} ports from there on are needed, each from 1 to 65535",
            layout.listen
        ));
    }
    while layout.members().len() < nodes {
        layout.nodes.push(Node { raft: free()?, joined: false, left: false });
    }
    while layout.workers.len() < workers {
        layout.workers.push(Worker { listen: free()? });
    }
    Ok((layout, workers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> impl FnMut() -> Result<SocketAddr, Failure> {
        let mut next = 20_000;
        move || {
            next += 1;
            Ok(SocketAddr::from(([127, 0, 0, 1], next)))
        }
    }

    fn asked(nodes: Option<usize>, workers: Option<usize>) -> Asked {
        Asked { nodes, workers, ..Asked::default() }
    }

    #[test]
    fn a_new_cluster_has_three_nodes_and_a_worker() {
        let (layout, workers) = settle(None, &Asked::default(), ports()).expect("valid");
        assert_eq!((layout.nodes.len(), layout.workers.len(), workers), (3, 1, 1));
        assert_eq!(layout.http(2).to_string(), "127.0.0.1:11436");
    }

    #[test]
    fn a_restart_goes_on_with_what_was() {
        let first = settle(None, &asked(Some(1), Some(2)), ports()).expect("valid").0;
        let (again, workers) =
            settle(Some(first.clone()), &Asked::default(), || unreachable!("no port is needed"))
                .expect("valid");
        assert_eq!((again, workers), (first, 2));
    }

    #[test]
    fn a_cluster_grows_and_workers_may_rest_but_nodes_may_not() {
        let first = settle(None, &asked(Some(3), Some(2)), ports()).expect("valid").0;
        let (grown, _) =
            settle(Some(first.clone()), &asked(Some(5), None), ports()).expect("valid");
        assert_eq!(grown.nodes[..3], first.nodes[..]);
        assert_eq!(grown.nodes.len(), 5);
        let (rested, workers) =
            settle(Some(first.clone()), &asked(None, Some(1)), ports()).expect("valid");
        assert_eq!((rested.workers.len(), workers), (2, 1));
        let failure = settle(Some(first), &asked(Some(1), None), ports()).expect_err("too few");
        assert!(failure.to_string().starts_with("this cluster has 3 nodes"), "{failure}");
    }

    #[test]
    fn a_node_that_left_is_not_started_again_and_may_be_replaced() {
        let mut first = settle(None, &Asked::default(), ports()).expect("valid").0;
        first.nodes[1].left = true;
        let none = || unreachable!("no port is needed");
        let (again, _) = settle(Some(first.clone()), &Asked::default(), none).expect("valid");
        assert_eq!(again.members(), [0, 2]);
        let (grown, _) = settle(Some(first), &asked(Some(3), None), ports()).expect("valid");
        assert_eq!(grown.members(), [0, 2, 3]);
    }

    #[test]
    fn https_stays_until_it_is_said_otherwise() {
        let asked = |tls| Asked { tls, ..Asked::default() };
        let first = settle(None, &asked(Some(true)), ports()).expect("valid").0;
        let none = || unreachable!("no port is needed");
        let (again, _) = settle(Some(first.clone()), &asked(None), none).expect("valid");
        assert!(first.https.is_some() && again == first);
        let (plain, _) = settle(Some(again), &asked(Some(false)), none).expect("valid");
        assert_eq!(plain.https, None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (nodes, workers, listen) in [
            (Some(0), None, None),
            (Some(10), None, None),
            (None, Some(65), None),
            (None, None, Some("127.0.0.1:0")),
            (Some(3), None, Some("127.0.0.1:65534")),
        ] {
            let listen = listen.map(|text| text.parse().expect("an address"));
            let asked = Asked { nodes, workers, listen, tls: None };
            let failure = settle(None, &asked, ports()).expect_err("cannot be");
            assert!(matches!(failure, Failure::Usage(_)), "{failure}");
        }
    }

    #[test]
    fn a_layout_comes_back_from_disk_and_a_damaged_one_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(Layout::load(directory.path()).expect("absent").is_none());
        let layout = settle(None, &Asked::default(), ports()).expect("valid").0;
        layout.save(directory.path()).expect("saved");
        assert_eq!(Layout::load(directory.path()).expect("there"), Some(layout));
        std::fs::write(directory.path().join(FILE), "{").expect("written");
        assert!(Layout::load(directory.path()).is_err());
    }
}
