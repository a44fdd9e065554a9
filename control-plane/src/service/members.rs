//! Who asks: a worker speaks for itself alone, and only as long as it is enrolled.

use crate::client::Client;
use crate::credentials::mark;
use crate::watch::Published;
use ollamamax_core::State;
use ollamamax_proto::wire::Membership;
use ollamamax_proto::{Millis, WorkerId};
use ollamamax_tls::{Peer, Role, removed};
use tonic::{Request, Status};

/// Refuses a request in the name of worker `id` from anybody but that worker, or a node that passes it on.
pub fn in_own_name<T>(request: &Request<T>, id: WorkerId) -> Result<(), Status> {
    match request.extensions().get::<Peer>().map(|peer| peer.role) {
        Some(Role::Worker(own)) if own == id => Ok(()),
        Some(Role::Node(_)) => Ok(()),
        Some(role) => {
            let text = format!("{role} may not speak for {}", Role::Worker(id));
            Err(Status::permission_denied(text))
        }
        None => Err(Status::unauthenticated("this is for workers with a certificate")),
    }
}

/// Refuses a worker that this node does not know to be enrolled. It may lag behind, so the worker asks another.
pub fn known<T>(request: &Request<T>, published: &Published) -> Result<(), Status> {
    match request.extensions().get::<Peer>().map(|peer| peer.role) {
        Some(Role::Worker(id)) if !is_enrolled(&published.state(), id) => {
            let text = format!("{} is not known here, or not yet", Role::Worker(id));
            Err(Status::unavailable(text))
        }
        _ => Ok(()),
    }
}

/// Refuses a worker that is not enrolled as of now, whatever this node has heard of: it was removed.
pub async fn enrolled(client: &Client, published: &Published, id: WorkerId) -> Result<(), Status> {
    if is_enrolled(&published.state(), id) {
        return Ok(());
    }
    let state = client.linearizable().await.map_err(super::control::status)?;
    if is_enrolled(&state, id) { Ok(()) } else { Err(removed(Role::Worker(id))) }
}

fn is_enrolled(state: &State, id: WorkerId) -> bool {
    state.access.enrolments.contains_key(&id)
}

/// What a worker is told of who belongs to the cluster.
pub fn membership(state: &State) -> Membership {
    Membership {
        nodes: state.nodes.keys().map(|node| node.0).collect(),
        last_node: state.counters.last_node.0,
        trust: mark(state, Millis::now()).0.to_vec().into(),
    }
}
