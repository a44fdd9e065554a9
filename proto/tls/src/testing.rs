//! A cluster's authority and its members in one line, for the tests of other crates.

use crate::{Authority, Cluster, Identity, Request, Role, Tls};
use ollamamax_proto::{Millis, NodeId, WorkerId, limits};

/// An authority that signs whatever it is asked to.
#[derive(Clone, Debug)]
pub struct TestCluster(pub Authority);

impl TestCluster {
    /// A cluster of that name.
    pub fn new(name: &str) -> Self {
        let cluster: Cluster = name.parse().expect("the tests name valid clusters");
        Self(Authority::create(&cluster, Millis::now()).expect("keys can be made"))
    }

    /// A member of it, now.
    pub fn identity(&self, role: Role) -> Identity {
        self.identity_at(role, Millis::now())
    }

    /// A member whose certificate was made at `now`.
    pub fn identity_at(&self, role: Role, now: Millis) -> Identity {
        let request = Request::new().expect("keys can be made");
        let signed = self.0.sign(request.der(), role, limits::TLS_LIFETIME_MS, now);
        let certificate = signed.expect("a request of ours is signed");
        let trusted = vec![self.0.certificate().clone()];
        request.identity(certificate, trusted).expect("an identity of ours fits together")
    }

    /// Connections of that node.
    pub fn node(&self, id: u64) -> Tls {
        self.tls(Role::Node(NodeId(id)))
    }

    /// Connections of that worker.
    pub fn worker(&self, id: u128) -> Tls {
        self.tls(Role::Worker(WorkerId(id)))
    }

    fn tls(&self, role: Role) -> Tls {
        Tls::new(self.identity(role)).expect("an identity of ours can be used")
    }
}
