//! Join: the one service for those who have no certificate yet.
//!
//! ```text
//! credential -> held off? -> known to the state, as of now? -> EnrolNode, Enrol (uses the token up) -> certificate
//! ```
//!
//! Whatever is wrong with a credential is refused in the same words. Nothing of it is written to the log unless the token is
//! good, so who has none costs the cluster a read.

use crate::client::Client;
use crate::credentials::{CredentialError, Credentials, certificates};
use crate::watch::Published;
use ollamamax_core::access::{AccessCommand, Hidden, JoinRole};
use ollamamax_core::{Command, Outcome, Rejection, State};
use ollamamax_gateway::ports::ControlError;
use ollamamax_gateway::{Gateway, join_token_id};
use ollamamax_proto::audit::Note;
use ollamamax_proto::wire::join_request::Member;
use ollamamax_proto::wire::join_server::Join;
use ollamamax_proto::wire::{JoinReply, JoinRequest};
use ollamamax_proto::{Millis, NodeId, WorkerId, limits};
use ollamamax_tls::{ConnectInfo, Credential, Role};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

/// The service of one node.
pub struct JoinServer {
    inner: Arc<Inner>,
    /// Signatures are made outside the runtime that carries Raft.
    runtime: Handle,
}

struct Inner {
    client: Client,
    published: Arc<Published>,
    credentials: Arc<Credentials>,
    gateway: Arc<Gateway>,
    places: Semaphore,
}

impl JoinServer {
    /// The service over these parts.
    pub fn new(
        client: Client,
        published: Arc<Published>,
        credentials: Arc<Credentials>,
        gateway: Arc<Gateway>,
        runtime: Handle,
    ) -> Self {
        let places = Semaphore::new(limits::JOINS_COUNT);
        Self { inner: Arc::new(Inner { client, published, credentials, gateway, places }), runtime }
    }
}

#[tonic::async_trait]
impl Join for JoinServer {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let info = request.extensions().get::<ConnectInfo>();
        let from = info.map(|info| info.remote.ip().to_canonical());
        let from = from.ok_or_else(|| Status::internal("a connection without an address"))?;
        let (inner, request) = (Arc::clone(&self.inner), request.into_inner());
        let joined = self.runtime.spawn(async move { inner.join(from, request).await }).await;
        let joined = joined.map_err(|error| Status::internal(error.to_string()))?;
        joined.map(Response::new)
    }
}

/// Who comes, and with what.
struct Comer {
    credential: Credential,
    member: Member,
    from: IpAddr,
}

impl Comer {
    fn note(&self, action: &str, object: String, outcome: &str) -> Note {
        Note {
            actor: format!("join-token:{}", self.credential.id()),
            via: "join-token".to_owned(),
            from: self.from.to_string(),
            request: String::new(),
            action: action.to_owned(),
            object,
            outcome: outcome.to_owned(),
        }
    }
}

impl Inner {
    async fn join(&self, from: IpAddr, request: JoinRequest) -> Result<JoinReply, Status> {
        let busy = || Status::resource_exhausted("too many join at once; try again in a moment");
        let _place = self.places.try_acquire().map_err(|_| busy())?;
        if self.gateway.holds_off(from) {
            return Err(Status::resource_exhausted(
                "too much from this address was refused; wait before the next try",
            ));
        }
        let JoinRequest { credential, request, member } = request;
        let credential = Zeroizing::new(credential.to_vec());
        let missing = || Status::invalid_argument("`JoinRequest` lacks a part");
        let member = member.ok_or_else(missing)?;
        let credential = Credential::from_bytes(&credential).ok_or_else(missing)?;
        let comer = Comer { credential, member, from };
        // Before the token is used up: what follows should not fail any more.
        ollamamax_tls::Request::check(&request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !self.is_good(&comer).await? {
            return Err(self.refuse(&comer));
        }
        let state = self.published.state();
        self.credentials.check_sealing(&state, Millis::now()).map_err(failed)?;
        let role = match self.let_in(&comer).await {
            Ok(role) => role,
            Err(ControlError::Rejected(Rejection::NotLetIn)) => return Err(self.refuse(&comer)),
            Err(error) => return Err(super::control::status(error)),
        };
        let state = self.published.state();
        let signed = self.credentials.sign(&state, &request, role, Millis::now());
        let certificate = signed.map_err(failed)?;
        tracing::info!(member = %role, %from, token = comer.credential.id(), "joined");
        self.reply(&state, role, certificate.der())
    }

    /// Whether the state has a token for this credential and this kind of member. A node that lags behind asks the others
    /// before it says no.
    async fn is_good(&self, comer: &Comer) -> Result<bool, Status> {
        if opens(&self.published.state(), comer) {
            return Ok(true);
        }
        let state = self.client.linearizable().await.map_err(super::control::status)?;
        Ok(opens(&state, comer))
    }

    fn refuse(&self, comer: &Comer) -> Status {
        self.gateway.count_refusal(comer.from);
        let (object, words) = (object(&comer.member), Rejection::NotLetIn.to_string());
        tracing::warn!(from = %comer.from, object, "somebody was not let in");
        self.gateway.note_refusal(comer.note("join.refused", object, &format!("refused: {words}")));
        Status::permission_denied(words)
    }

    /// Uses the token up.
    async fn let_in(&self, comer: &Comer) -> Result<Role, ControlError> {
        let token = join_token_id(&comer.credential);
        let presented = Hidden(comer.credential.hash().0);
        let (command, worker) = match &comer.member {
            Member::Node(node) => {
                let (http, raft) = (node.http.clone(), node.raft.clone());
                (AccessCommand::EnrolNode { token, presented, http, raft }, None)
            }
            Member::Worker(worker) => {
                let worker: WorkerId = worker.worker.parse().map_err(|_| Rejection::NotLetIn)?;
                (AccessCommand::Enrol { token, presented, worker }, Some(worker))
            }
        };
        let note = Box::new(comer.note("join", object(&comer.member), ""));
        let command = Box::new(Command::Access(Box::new(command)));
        match (self.client.propose(Command::Noted { note, command }).await?, worker) {
            (Outcome::Admitted { node, .. }, None) => Ok(Role::Node(node)),
            (_, Some(worker)) => Ok(Role::Worker(worker)),
            // The core answers a node that it lets in with its id.
            (_, None) => Ok(Role::Node(NodeId(0))),
        }
    }

    fn reply(&self, state: &State, role: Role, certificate: &[u8]) -> Result<JoinReply, Status> {
        let authorities = certificates(state).map_err(|error| failed(error.into()))?;
        let (node, sealing_key) = match role {
            Role::Node(node) if self.credentials.hands_out_sealing => {
                (node.0, self.credentials.sealing.reveal().to_string())
            }
            Role::Node(node) => (node.0, String::new()),
            Role::Worker(_) => (0, String::new()),
        };
        Ok(JoinReply {
            certificate: certificate.to_vec().into(),
            authorities: authorities.iter().map(|one| one.der().to_vec().into()).collect(),
            cluster: self.credentials.tls.identity().cluster().to_string(),
            node,
            addresses: super::control::control_planes(state),
            sealing_key,
        })
    }
}

/// What the member wants to be, for the trail.
fn object(member: &Member) -> String {
    match member {
        Member::Node(node) => format!("node at {}", node.raft),
        Member::Worker(worker) => format!("worker {}", worker.worker),
    }
}

fn opens(state: &State, comer: &Comer) -> bool {
    let token = state.access.join_tokens.get(&join_token_id(&comer.credential));
    token.is_some_and(|token| {
        let fits = matches!(
            (&token.role, &comer.member),
            (JoinRole::Node { .. }, Member::Node(_)) | (JoinRole::Worker { .. }, Member::Worker(_))
        );
        let good = comer.credential.matches(&ollamamax_proto::Digest(token.hash.0));
        fits && good && Millis::now() < token.expires_at
    })
}

fn failed(error: CredentialError) -> Status {
    tracing::error!(%error, "nobody can be let in here");
    Status::unavailable("this node cannot sign certificates now; ask another one")
}
