//! What a node is told at its start, and the checks that need no disk and no network.

use crate::error::StartError;
use crate::export::{Headers, Target};
pub use crate::http::tls::TlsFiles;
pub use ollamamax_gateway::secrets::SealingKey;
use ollamamax_proto::limits;
use ollamamax_tls::JoinToken;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How to start one node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where everything of this node is kept. Whose it is decides what a restart does: a directory that already holds a
    /// node goes on as that node, whatever `bootstrap` and `join` say.
    pub data_dir: PathBuf,
    /// Where the gateway listens; port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// Where the gRPC services (Raft, control, blobs) listen; port 0 takes a free one.
    pub raft_listen: SocketAddr,
    /// `host:port` others reach the gateway by; the address listened on when absent.
    pub http_advertise: Option<String>,
    /// `host:port` others reach the gRPC services by; the address listened on when absent.
    pub raft_advertise: Option<String>,
    /// Start a new cluster with this node as its first.
    pub bootstrap: bool,
    /// Join the cluster of this token.
    pub join: Option<JoinToken>,
    /// Name of a new cluster, for people.
    pub cluster_name: String,
    /// Where the cluster's sealing key is: in this file, or already here; else in `sealing.key` of the data directory, made at
    /// the start of a new cluster.
    pub sealing: SealingSource,
    /// Certificate and key of the gateway; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Serve plain HTTP on an address that others reach, too: right behind a proxy that does TLS, or in a network that is
    /// trusted.
    pub insecure_http: bool,
    /// Where the trail is exported to.
    pub audit_export: Vec<Target>,
    /// What receivers of the trail want to see.
    pub audit_headers: Headers,
    /// Bounds on connections to the gateway.
    pub connections: ConnectionLimits,
    /// Waits and periods.
    pub timings: Timings,
    /// Settings of the gateway; its metrics are filled in by the node.
    pub gateway: ollamamax_gateway::Config,
}

/// Where a node has the cluster's sealing key from.
#[derive(Clone, Debug, Default)]
pub enum SealingSource {
    /// `sealing.key` in the data directory.
    #[default]
    DataDir,
    /// A file elsewhere, as an operator or systemd provides it.
    File(PathBuf),
    /// Given by whoever starts the node.
    Given(SealingKey),
}

impl NodeConfig {
    /// A node that keeps its data in `data_dir` and listens on free ports of the loopback interface.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir: data_dir.into(),
            http_listen: loopback,
            raft_listen: loopback,
            http_advertise: None,
            raft_advertise: None,
            bootstrap: false,
            join: None,
            cluster_name: "ollamamax".to_owned(),
            sealing: SealingSource::default(),
            tls: None,
            insecure_http: false,
            audit_export: Vec::new(),
            audit_headers: Headers::default(),
            connections: ConnectionLimits::default(),
            timings: Timings::default(),
            gateway: ollamamax_gateway::Config::default(),
        }
    }

    /// Says loudly what was asked for and is dangerous.
    pub(crate) fn warn(&self) {
        let address = self.http_listen;
        if self.tls.is_none() && !address.ip().to_canonical().is_loopback() {
            tracing::warn!(
                %address,
                "serving plain HTTP to others: prompts, answers and keys can be read and changed on the way; this is \
                 right only behind a proxy that does TLS, or in a network you trust"
            );
        }
        let edge = &self.gateway.edge;
        if edge.allowed_hosts.iter().any(|name| name == "*") {
            tracing::warn!(
                "any `Host` is answered: a page can reach this node through DNS rebinding"
            );
        }
        if edge.allowed_origins.iter().any(|origin| origin == "*") {
            tracing::warn!("any origin may ask: every page a user opens can use this node");
        }
    }

    /// Refuses what cannot work.
    pub fn validate(&self) -> Result<(), StartError> {
        let invalid =
            |field: &'static str, reason: String| Err(StartError::Config { field, reason });
        if self.bootstrap && self.join.is_some() {
            return invalid("join", "a node bootstraps or joins, not both".to_owned());
        }
        for (nth, target) in self.audit_export.iter().enumerate() {
            if self.audit_export[..nth].contains(target) {
                return invalid("audit_export", format!("`{target}` is named twice"));
            }
        }
        for (field, listen, advertise) in [
            ("http_advertise", self.http_listen, &self.http_advertise),
            ("raft_advertise", self.raft_listen, &self.raft_advertise),
        ] {
            match advertise {
                None if listen.ip().is_unspecified() => {
                    let reason =
                        format!("listening on `{listen}`, name the address others reach it by");
                    return invalid(field, reason);
                }
                Some(address) if !is_host_port(address) => {
                    return invalid(field, format!("`{address}` is not `host:port`"));
                }
                _ => {}
            }
        }
        let address = self.http_listen;
        if self.tls.is_none() && !self.insecure_http && !address.ip().to_canonical().is_loopback() {
            let reason = format!(
                "others reach `{address}`, and whatever they send could be read on the way; give `--tls-cert` and \
                 `--tls-key`, or `--insecure-http` behind a proxy that does TLS or in a network you trust"
            );
            return invalid("listen", reason);
        }
        if let Err((field, reason)) = self.gateway.edge.validate() {
            return invalid(field, reason);
        }
        self.connections.validate()?;
        if self.gateway.anonymous.is_some() && !address.ip().to_canonical().is_loopback() {
            let reason = format!(
                "whoever needs no credential must be on this machine, and the API listens on `{address}`"
            );
            return invalid("anonymous", reason);
        }
        self.timings.validate()
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Bounds on connections to the gateway. The defaults are the documented limits; tests shorten some.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections served at once; more wait to be accepted.
    pub connections: usize,
    /// Of these, from one address; more are closed at once.
    pub connections_per_address: usize,
    /// How long a client may take for the head of a request, or for a TLS handshake.
    pub header_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle: Duration,
    /// How long a client may read nothing of what is written to it.
    pub write_stall: Duration,
    /// Between two looks at the certificates.
    pub tls_reload: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: limits::CONNECTIONS_COUNT,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS_COUNT,
            header_timeout: Duration::from_millis(limits::HEADER_TIMEOUT_MS),
            idle: Duration::from_millis(limits::CONNECTION_IDLE_MS),
            write_stall: Duration::from_millis(limits::CLIENT_STALL_MS),
            tls_reload: Duration::from_millis(limits::TLS_RELOAD_MS),
        }
    }
}

impl ConnectionLimits {
    fn validate(&self) -> Result<(), StartError> {
        for (field, count) in [
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
        ] {
            if count == 0 {
                let reason = "nobody could connect; expected 1 or more".to_owned();
                return Err(StartError::Config { field, reason });
            }
        }
        Ok(())
    }
}

/// Waits and periods, in milliseconds unless the name says otherwise. The defaults are the documented limits; tests
/// shorten some.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Between two Raft heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_min_ms: u64,
    /// Longest election timeout.
    pub election_max_ms: u64,
    /// Log entries between two snapshots.
    pub snapshot_entries: u64,
    /// Log entries kept behind a snapshot.
    pub keep_entries: u64,
    /// Between two comparisons of what is with what should be, when nothing wakes the leader earlier.
    pub reconcile_ms: u64,
    /// How long a write waits for a quorum.
    pub propose_ms: u64,
    /// How long a linearizable read waits for a quorum.
    pub read_ms: u64,
    /// Silence of the quorum after which writes and reads fail without waiting.
    pub quorum_lost_ms: u64,
    /// How long a stopping node waits for requests in flight.
    pub drain_ms: u64,
    /// How long bytes no model needs stay in the blob store.
    pub blob_grace_ms: u64,
    /// How often each blob is read again to see whether it has rotted.
    pub blob_scrub_ms: u64,
    /// How long a certificate of a node or worker is good.
    pub certificate_ms: u64,
    /// How long an authority is trusted before it signs.
    pub authority_lead_ms: u64,
    /// How long a key signs access tokens.
    pub signing_key_rotation_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat_ms: limits::RAFT_HEARTBEAT_MS,
            election_min_ms: limits::RAFT_ELECTION_MIN_MS,
            election_max_ms: limits::RAFT_ELECTION_MAX_MS,
            snapshot_entries: limits::RAFT_SNAPSHOT_ENTRIES,
            keep_entries: limits::RAFT_KEEP_ENTRIES,
            reconcile_ms: limits::RECONCILE_PERIOD_MS,
            propose_ms: limits::PROPOSE_TIMEOUT_MS,
            read_ms: limits::READ_TIMEOUT_MS,
            quorum_lost_ms: limits::QUORUM_LOST_MS,
            drain_ms: limits::DRAIN_TIMEOUT_MS,
            blob_grace_ms: limits::BLOB_GRACE_MS,
            blob_scrub_ms: limits::BLOB_SCRUB_MS,
            certificate_ms: limits::TLS_LIFETIME_MS,
            authority_lead_ms: limits::AUTHORITY_LEAD_MS,
            signing_key_rotation_ms: limits::SIGNING_KEY_ROTATION_MS,
        }
    }
}

impl Timings {
    fn validate(&self) -> Result<(), StartError> {
        let ordered = self.heartbeat_ms > 0
            && self.heartbeat_ms * 2 < self.election_min_ms
            && self.election_min_ms < self.election_max_ms;
        if !ordered {
            let reason = format!(
                "heartbeat {} ms must lie below half the election timeout, {} to {} ms",
                self.heartbeat_ms, self.election_min_ms, self.election_max_ms
            );
            return Err(StartError::Config { field: "timings", reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_proto::Digest;
    use ollamamax_tls::{Credential, Kind};

    #[test]
    fn contradictions_are_refused_by_field() {
        let good = NodeConfig::new("/tmp/x");
        assert!(good.validate().is_ok());
        let token = JoinToken {
            kind: Kind::Node,
            credential: Credential::generate().expect("random bytes"),
            authority: Digest([0; 32]),
            addresses: Vec::new(),
        };
        let both = NodeConfig { bootstrap: true, join: Some(token), ..good.clone() };
        let anywhere =
            NodeConfig { raft_listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..good.clone() };
        let no_port = NodeConfig { http_advertise: Some("host".to_owned()), ..good.clone() };
        let outside = NodeConfig {
            http_listen: "10.0.0.1:11434".parse().expect("an address"),
            ..good.clone()
        };
        let nobody = NodeConfig {
            connections: ConnectionLimits { connections: 0, ..ConnectionLimits::default() },
            ..good.clone()
        };
        let mut no_host = good.clone();
        no_host.gateway.edge.allowed_hosts.push("https://x".to_owned());
        let mut open = NodeConfig { insecure_http: true, ..outside.clone() };
        open.gateway.anonymous = Some(["user".to_owned()].into());
        let twice = vec![Target::Stdout, Target::Stdout];
        let twice = NodeConfig { audit_export: twice, ..good.clone() };
        let slow = Timings { heartbeat_ms: 400, ..Timings::default() };
        let slow = NodeConfig { timings: slow, ..good };
        for (config, field) in [
            (both, "join"),
            (anywhere, "raft_advertise"),
            (no_port, "http_advertise"),
            (outside, "listen"),
            (nobody, "connections"),
            (no_host, "allowed_host"),
            (open, "anonymous"),
            (twice, "audit_export"),
            (slow, "timings"),
        ] {
            let error = config.validate().expect_err(field).to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    /// The transport part of the start matrix.
    #[test]
    fn plain_http_is_served_to_others_only_when_that_is_said() {
        let files = TlsFiles { cert: "c".into(), key: "k".into() };
        for (listen, tls, insecure, starts) in [
            ("127.0.0.1:1", false, false, true),
            ("127.255.0.9:1", false, false, true),
            ("[::1]:1", false, false, true),
            ("[::ffff:127.0.0.1]:1", false, false, true),
            ("10.0.0.1:1", false, false, false),
            ("0.0.0.0:1", false, false, false),
            ("[::]:1", false, false, false),
            ("[fd00::1]:1", false, false, false),
            ("10.0.0.1:1", false, true, true),
            ("0.0.0.0:1", false, true, true),
            ("10.0.0.1:1", true, false, true),
            ("0.0.0.0:1", true, false, true),
            ("127.0.0.1:1", true, true, true),
        ] {
            let config = NodeConfig {
                http_listen: listen.parse().expect(listen),
                http_advertise: Some("node1.example:1".to_owned()),
                tls: tls.then(|| files.clone()),
                insecure_http: insecure,
                ..NodeConfig::new("/tmp/x")
            };
            let refused = config.validate().err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), starts, "{listen} {tls} {insecure}: {refused:?}");
            for word in ["--tls-cert", "--tls-key", "--insecure-http"] {
                assert!(refused.as_ref().is_none_or(|text| text.contains(word)), "{refused:?}");
            }
        }
    }
}
