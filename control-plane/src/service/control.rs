//! Control: what nodes ask of each other and workers ask of nodes.
//!
//! Any node answers. What only the leader can do is passed on once.

use super::members::{enrolled, in_own_name, known, membership};
use crate::client::{Client, NOTHING_PROPOSED};
use crate::credentials::{CredentialError, Credentials, certificates};
use crate::raft::server::check_cluster;
use crate::watch::{News, Published};
use crate::workers::Workers;
use futures_util::stream::BoxStream;
use ollamamax_core::record::Placement;
use ollamamax_core::{Change, State, codec};
use ollamamax_gateway::ports::ControlError;
use ollamamax_proto::placement::{Assigned, AssignmentReport, Device};
use ollamamax_proto::wire::control_server::Control;
use ollamamax_proto::wire::{
    AssignmentSet, HeartbeatReply, HeartbeatRequest, ProposeReply, ProposeRequest, ReadIndexReply,
    ReadIndexRequest, RegisterReply, RegisterRequest, RenewReply, RenewRequest, StateEvent,
    WatchAssignmentsRequest, WatchStateRequest,
};
use ollamamax_proto::{Incarnation, Millis, Revision, WorkerId, limits};
use ollamamax_tls::Role;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

/// Events waiting for a slow watcher: each holds the whole news since the one before.
const EVENTS_QUEUED: usize = 4;

/// The service of one node.
pub struct ControlServer {
    client: Client,
    published: Arc<Published>,
    workers: Arc<Workers>,
    credentials: Arc<Credentials>,
    cluster: String,
    /// Streams live outside the runtime that carries Raft.
    runtime: Handle,
}

impl ControlServer {
    /// The service over these parts; its streams run on `runtime`.
    pub fn new(
        client: Client,
        published: Arc<Published>,
        workers: Arc<Workers>,
        credentials: Arc<Credentials>,
        cluster: &str,
        runtime: Handle,
    ) -> Self {
        let cluster = cluster.to_owned();
        Self { client, published, workers, credentials, cluster, runtime }
    }

    /// Another cluster's node must neither be answered from this state nor change it.
    fn check_cluster(&self, meant: &str) -> Result<(), Status> {
        check_cluster(&self.cluster, meant).map_err(nothing_proposed)
    }
}

/// A control error as a gRPC status; one that proves that nothing was proposed says so in its metadata.
pub fn status(error: ControlError) -> Status {
    let text = error.to_string();
    let (status, nothing) = match error {
        ControlError::Rejected(_) | ControlError::TooLarge { .. } => {
            (Status::invalid_argument(text), true)
        }
        ControlError::NoQuorum { proposed, .. } => (Status::unavailable(text), !proposed),
        ControlError::Busy { .. } => (Status::resource_exhausted(text), true),
    };
    if nothing { nothing_proposed(status) } else { status }
}

fn nothing_proposed(mut status: Status) -> Status {
    status.metadata_mut().insert(NOTHING_PROPOSED, MetadataValue::from_static("1"));
    status
}

#[tonic::async_trait]
impl Control for ControlServer {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster)?;
        let command = codec::decode_command(&request.command)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (result, log_index) = if request.forwarded {
            let applied = self.client.propose_here(command).await.map_err(status)?;
            (applied.result, applied.index)
        } else {
            let result = match self.client.propose(command).await {
                Ok(outcome) => Ok(outcome),
                Err(ControlError::Rejected(rejection)) => Err(rejection),
                Err(error) => return Err(status(error)),
            };
            (result, self.published.applied())
        };
        let revision = match &result {
            Ok(outcome) => outcome.revision(),
            Err(_) => self.published.state().revision(),
        };
        let outcome =
            codec::encode_reply(&result).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ProposeReply { outcome: outcome.into(), revision: revision.0, log_index }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.check_cluster(&request.get_ref().cluster)?;
        let log_index = if request.get_ref().forwarded {
            self.client.read_index_here().await
        } else {
            self.client.linearizable().await.map(|_| self.published.applied())
        };
        let log_index = log_index.map_err(status)?;
        Ok(Response::new(ReadIndexReply { log_index }))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterReply>, Status> {
        let id: WorkerId = request.get_ref().worker.parse().map_err(invalid)?;
        in_own_name(&request, id)?;
        enrolled(&self.client, &self.published, id).await?;
        let request = request.into_inner();
        let device = request
            .device
            .ok_or_else(|| Status::invalid_argument("`RegisterRequest` lacks `device`"))?;
        let command = ollamamax_core::Command::RegisterWorker {
            id,
            incarnation: Incarnation(request.incarnation),
            name: request.name.chars().take(200).collect(),
            address: request.address,
            device: Device::try_from(device)?,
            pid: request.pid,
        };
        let outcome = self.client.propose(command).await.map_err(status)?;
        let state = self.published.state();
        Ok(Response::new(RegisterReply {
            revision: outcome.revision().0,
            heartbeat_ms: u32::try_from(limits::WORKER_HEARTBEAT_MS).unwrap_or(u32::MAX),
            control_planes: control_planes(&state),
            membership: Some(membership(&state)),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let id: WorkerId = request.get_ref().worker.parse().map_err(invalid)?;
        in_own_name(&request, id)?;
        let request = request.into_inner();
        let incarnation = Incarnation(request.incarnation);
        if !request.forwarded && !self.workers.leads() {
            return self.workers.forward(request).await.map(Response::new);
        }
        if !self.workers.leads() {
            return Err(Status::unavailable("this node does not lead"));
        }
        enrolled(&self.client, &self.published, id).await?;
        let reports: Vec<AssignmentReport> =
            request.reports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let state = self.published.state();
        let (known, fenced) = match state.workers.get(&id) {
            None => (false, false),
            Some(worker) if worker.incarnation > incarnation => (true, true),
            Some(worker) if worker.incarnation < incarnation => (false, false),
            Some(_) => (true, false),
        };
        if known && !fenced {
            let (draining, speed) = (request.draining, request.ns_per_mib);
            let health = request.health.map(Into::into);
            self.workers.heard(id, incarnation, reports, draining, speed, health);
        }
        let control_planes = control_planes(&state);
        let membership = Some(membership(&state));
        Ok(Response::new(HeartbeatReply { known, fenced, control_planes, membership }))
    }

    type WatchAssignmentsStream = BoxStream<'static, Result<AssignmentSet, Status>>;

    async fn watch_assignments(
        &self,
        request: Request<WatchAssignmentsRequest>,
    ) -> Result<Response<Self::WatchAssignmentsStream>, Status> {
        let id: WorkerId = request.get_ref().worker.parse().map_err(invalid)?;
        in_own_name(&request, id)?;
        known(&request, &self.published)?;
        let request = request.into_inner();
        let (events, stream) = mpsc::channel(EVENTS_QUEUED);
        let published = Arc::clone(&self.published);
        self.runtime.spawn(watch_assignments(
            published,
            id,
            Incarnation(request.incarnation),
            events,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let id: WorkerId = request.get_ref().worker.parse().map_err(invalid)?;
        in_own_name(&request, id)?;
        enrolled(&self.client, &self.published, id).await?;
        let request = request.into_inner().request;
        ollamamax_tls::Request::check(&request).map_err(invalid)?;
        let state = self.published.state();
        let signed = self.credentials.sign(&state, &request, Role::Worker(id), Millis::now());
        let unsigned = |error: CredentialError| Status::unavailable(error.to_string());
        let certificate = signed.map_err(unsigned)?.der().to_vec().into();
        let authorities = certificates(&state).map_err(|error| unsigned(error.into()))?;
        let authorities = authorities.iter().map(|one| one.der().to_vec().into()).collect();
        Ok(Response::new(RenewReply { certificate, authorities }))
    }

    type WatchStateStream = BoxStream<'static, Result<StateEvent, Status>>;

    async fn watch_state(
        &self,
        request: Request<WatchStateRequest>,
    ) -> Result<Response<Self::WatchStateStream>, Status> {
        let from = request.into_inner().from_revision;
        let (events, stream) = mpsc::channel(EVENTS_QUEUED);
        let published = Arc::clone(&self.published);
        self.runtime.spawn(watch_state(published, (from > 0).then_some(Revision(from)), events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// gRPC addresses of all nodes that stay.
pub fn control_planes(state: &State) -> Vec<String> {
    state.nodes.values().filter(|node| !node.leaving).map(|node| node.raft.clone()).collect()
}

/// Sends the worker's assignments whenever they change, until the watcher goes or a newer incarnation takes over.
///
/// A node that has not applied the worker's registration yet says nothing: an empty set would make the worker unload
/// everything.
async fn watch_assignments(
    published: Arc<Published>,
    id: WorkerId,
    incarnation: Incarnation,
    events: mpsc::Sender<Result<AssignmentSet, Status>>,
) {
    let mut revisions = published.revisions();
    let mut sent: Option<Vec<ollamamax_proto::wire::Assignment>> = None;
    loop {
        revisions.mark_unchanged();
        let state = published.state();
        match state.workers.get(&id) {
            Some(worker) if worker.incarnation > incarnation => {
                let text = format!("worker `{id}` runs as incarnation {} now", worker.incarnation);
                let _ = events.send(Err(Status::failed_precondition(text))).await;
                return;
            }
            Some(worker) if worker.incarnation == incarnation => {
                let held = state.placements.values().filter(|placement| placement.worker == id);
                let assigned = |placement: &Placement| Assigned {
                    assignment: placement.assignment.clone(),
                    // With the addresses and generations of now: what changes there is sent again.
                    ring: state
                        .replica_of(placement.assignment.id)
                        .map(|replica| replica.ring(&state)),
                };
                let assignments: Vec<_> =
                    held.map(|placement| (&assigned(placement)).into()).collect();
                if sent.as_ref() != Some(&assignments) {
                    sent = Some(assignments.clone());
                    let set = AssignmentSet { revision: state.revision().0, assignments };
                    if events.send(Ok(set)).await.is_err() {
                        return;
                    }
                }
            }
            // Unknown here, or known by an older life: this node lags behind.
            _ => {}
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
    }
}

/// A snapshot first (or the changes since `from`, when they are still kept), then changes as they come.
async fn watch_state(
    published: Arc<Published>,
    mut from: Option<Revision>,
    events: mpsc::Sender<Result<StateEvent, Status>>,
) {
    let mut revisions = published.revisions();
    loop {
        revisions.mark_unchanged();
        if let Some(news) = published.since(from) {
            let event = match state_event(&news) {
                Ok(event) => event,
                Err(error) => {
                    let _ = events.send(Err(Status::internal(error.to_string()))).await;
                    return;
                }
            };
            from = Some(Revision(event.revision));
            if events.send(Ok(event)).await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
    }
}

fn state_event(news: &News) -> Result<StateEvent, codec::CodecError> {
    let encode = |changes: &[Change]| codec::encode_changes(changes).map(bytes::Bytes::from);
    let empty = bytes::Bytes::new();
    Ok(match news {
        News::Snapshot(state) => StateEvent {
            revision: state.revision().0,
            snapshot: encode(&state.to_changes())?,
            changes: empty,
        },
        News::Changes { revision, changes } => {
            StateEvent { revision: revision.0, snapshot: empty, changes: encode(changes)? }
        }
    })
}
