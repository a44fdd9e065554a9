//! What a certificate says its holder is, as DNS names.
//!
//! ```text
//! node 3         n3.<cluster>.ollamamax            node.<cluster>.ollamamax
//! worker ab..    w<32 hex>.<cluster>.ollamamax     worker.<cluster>.ollamamax
//! authority      ca.<cluster>.ollamamax
//! ```
//!
//! Who dials one certain node asks for the first name, who dials any node for the second.

use ollamamax_proto::{NodeId, WorkerId};
use std::fmt;
use std::str::FromStr;

/// The last label of every name. Nobody looks these names up, they are only compared.
const ZONE: &str = "ollamamax";

/// Longest label of a DNS name (RFC 1035, 2.3.4).
const LABEL_CHARS: usize = 63;

/// The id of a cluster: one label of a DNS name, 1 to 63 lower-case letters, digits and inner `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cluster(String);

/// Text that is no cluster id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid cluster id `{got}`: expected 1 to 63 lower-case letters, digits or inner `-`")]
pub struct InvalidCluster {
    /// What came, cut to 100 characters.
    pub got: String,
}

impl FromStr for Cluster {
    type Err = InvalidCluster;

    fn from_str(text: &str) -> Result<Self, InvalidCluster> {
        let valid = (1..=LABEL_CHARS).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidCluster { got: text.chars().take(100).collect() })
        }
    }
}

impl Cluster {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The zone of all names of this cluster.
    pub(crate) fn zone(&self) -> String {
        format!("{self}.{ZONE}")
    }

    /// The name that only an authority's certificate has.
    pub(crate) fn authority_name(&self) -> String {
        format!("ca.{}", self.zone())
    }

    /// The cluster whose authority has exactly these names.
    pub(crate) fn of_authority<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut names = names.into_iter();
        let name = names.next()?;
        let cluster: Self = split(name)?.1.parse().ok()?;
        (names.next().is_none() && cluster.authority_name() == name).then_some(cluster)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.0)
    }
}

/// The two kinds of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A Raft member and gateway.
    Node,
    /// Runs models.
    Worker,
}

impl Kind {
    /// The name that every member of this kind has.
    pub(crate) fn name(self, cluster: &Cluster) -> String {
        format!("{self}.{}", cluster.zone())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Worker => "worker",
        })
    }
}

/// What a certificate says its holder is. Shown as `node 3`, `worker <32 hex digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// This node.
    Node(NodeId),
    /// This worker.
    Worker(WorkerId),
}

impl Role {
    /// Without the id.
    pub fn kind(self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Worker(_) => Kind::Worker,
        }
    }

    /// The name that only this member has.
    pub(crate) fn name(self, cluster: &Cluster) -> String {
        match self {
            Self::Node(id) => format!("n{id}.{}", cluster.zone()),
            Self::Worker(id) => format!("w{id}.{}", cluster.zone()),
        }
    }

    /// The role and cluster of a certificate with exactly these names, in any order. One name more or less, a name twice,
    /// names of two members or clusters: nothing.
    pub(crate) fn of_names<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Option<(Self, Cluster)> {
        let mut names = names.into_iter();
        let (first, second) = (names.next()?, names.next()?);
        if names.next().is_some() {
            return None;
        }
        let (role, own, other) = match (Self::of_label(first), Self::of_label(second)) {
            (Some(role), None) => (role, first, second),
            (None, Some(role)) => (role, second, first),
            _ => return None,
        };
        let cluster: Cluster = split(own)?.1.parse().ok()?;
        let exact = role.name(&cluster) == own && role.kind().name(&cluster) == other;
        exact.then_some((role, cluster))
    }

    /// By the first label of a name; it may be written otherwise than we write it.
    fn of_label(name: &str) -> Option<Self> {
        let (label, _) = split(name)?;
        if let Some(id) = label.strip_prefix('n').and_then(|digits| digits.parse().ok()) {
            return Some(Self::Node(NodeId(id)));
        }
        label.strip_prefix('w').and_then(|hex| hex.parse().ok()).map(Self::Worker)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::Worker(id) => write!(f, "worker {id}"),
        }
    }
}

/// The first two labels of a name with three.
fn split(name: &str) -> Option<(&str, &str)> {
    name.strip_suffix(ZONE)?.strip_suffix('.')?.split_once('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cluster() -> Cluster {
        "0123456789abcdef0123456789abcdef".parse().expect("a label")
    }

    #[test]
    fn a_cluster_is_one_label() {
        for text in ["a", "0", "a-b", &"f".repeat(63)] {
            assert!(text.parse::<Cluster>().is_ok(), "{text}");
        }
        for text in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", "*", &"f".repeat(64)] {
            assert!(text.parse::<Cluster>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_could_be_two_things_are_nothing() {
        let c = "c.ollamamax";
        let n = |label: &str| format!("{label}.{c}");
        let node = Role::of_names([n("node").as_str(), n("n3").as_str()]);
        assert_eq!(node, Some((Role::Node(NodeId(3)), "c".parse().expect("a label"))));
        for names in [
            vec![],
            vec![n("n3")],
            vec![n("node")],
            vec![n("n3"), n("n3")],
            vec![n("n3"), n("n4")],
            vec![n("n3"), n("worker")],
            vec![n("n03"), n("node")],
            vec![n("n+3"), n("node")],
            vec![n("N3"), n("node")],
            vec![n("n3"), n("node"), n("worker")],
            vec![n("n3"), "node.d.ollamamax".to_owned()],
            vec![n("n3"), "node.c.example".to_owned()],
            vec![n("n99999999999999999999999"), n("node")],
            vec![n("*"), n("node")],
            vec![n("ca"), n("node")],
            vec![n(&format!("w{}", "A".repeat(32))), n("worker")],
            vec!["n3.a.c.ollamamax".to_owned(), "node.a.c.ollamamax".to_owned()],
        ] {
            assert_eq!(Role::of_names(names.iter().map(String::as_str)), None, "{names:?}");
        }
    }

    proptest! {
        #[test]
        fn a_role_is_read_as_it_was_written(node: u64, worker: u128, swap: bool) {
            for role in [Role::Node(NodeId(node)), Role::Worker(WorkerId(worker))] {
                let (own, kind) = (role.name(&cluster()), role.kind().name(&cluster()));
                let names = if swap { [&kind, &own] } else { [&own, &kind] };
                let read = Role::of_names(names.map(String::as_str));
                prop_assert_eq!(read, Some((role, cluster())));
            }
        }

        #[test]
        fn any_names_are_read_without_panic(names in proptest::collection::vec("[nw*.a-f0-9]{0,9}(\\.c\\.ollamamax)?", 0..4)) {
            let names = || names.iter().map(String::as_str);
            let _ = Cluster::of_authority(names());
            if let Some((role, cluster)) = Role::of_names(names()) {
                prop_assert!(names().any(|name| name == role.name(&cluster)));
            }
        }
    }
}
