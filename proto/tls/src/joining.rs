//! How a process with a join token becomes a member.
//!
//! ```text
//! address after address of the token -> dial_pinned -> Join { credential, request } -> certificate, authorities -> Identity
//! ```

use crate::certificate::{Certificate, CertificateError};
use crate::identity::{Identity, IdentityError};
use crate::pinned::dial_pinned;
use crate::request::Request;
use crate::role::{Kind, Role};
use crate::tls::TlsError;
use crate::token::JoinToken;
use ollamamax_proto::wire::join_client::JoinClient;
use ollamamax_proto::wire::join_request::Member;
use ollamamax_proto::wire::{JoinReply, JoinRequest, JoiningNode, JoiningWorker};
use ollamamax_proto::{NodeId, WorkerId, backoff, limits};
use std::fmt;
use std::time::{Duration, Instant};
use tonic::{Code, Status};
use zeroize::Zeroizing;

/// What wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joining {
    /// A node, at these addresses; the cluster gives it its id.
    Node {
        /// `host:port` of its gateway.
        http: String,
        /// `host:port` of its gRPC services.
        raft: String,
    },
    /// This worker.
    Worker(WorkerId),
}

impl Joining {
    fn kind(&self) -> Kind {
        match self {
            Self::Node { .. } => Kind::Node,
            Self::Worker(_) => Kind::Worker,
        }
    }
}

/// What a new member was given.
pub struct Joined {
    /// What it is now.
    pub identity: Identity,
    /// `host:port` of the gRPC services of all nodes.
    pub addresses: Vec<String>,
    /// The cluster's sealing key, for a node whose cluster keeps it in data directories.
    pub sealing_key: Option<Zeroizing<String>>,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined")
            .field("identity", &self.identity)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is for the other kind.
    #[error(
        "the join token lets in a {expected}, this is a {got}; create one with `join-token create {got}`"
    )]
    OtherKind {
        /// Of the token.
        expected: Kind,
        /// Who came with it.
        got: Kind,
    },
    /// The token names no node.
    #[error("the join token names no node to ask; create another one once the cluster is up")]
    NoAddress,
    /// A node refused.
    #[error("`{address}` does not let this {kind} in: {words}")]
    Refused {
        /// The node's.
        address: String,
        /// Who came.
        kind: Kind,
        /// The node's words.
        words: String,
    },
    /// No node could be asked, or none had an answer in time.
    #[error(
        "no node of the join token let this {kind} in within {seconds} s; the last one, `{address}`: {reason}"
    )]
    Nobody {
        /// The last one asked.
        address: String,
        /// Who came.
        kind: Kind,
        /// What happened there.
        reason: String,
        /// How long it was tried.
        seconds: u64,
    },
    /// What was answered makes no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<CertificateError> for JoinError {
    fn from(error: CertificateError) -> Self {
        Self::Identity(error.into())
    }
}

enum Asked {
    Done(JoinReply),
    /// Asking again, or elsewhere, does not help.
    Refused(String),
    /// It may.
    Later(String),
}

/// Asks one node of the token after the other, for at most [`limits::JOIN_TIMEOUT_MS`], until one lets it in. `coin` gives
/// numbers from 0 to 1, so that many who join do not ask in step.
pub async fn join(
    token: &JoinToken,
    joining: &Joining,
    mut coin: impl FnMut() -> f64,
) -> Result<Joined, JoinError> {
    let kind = joining.kind();
    if token.kind != kind {
        return Err(JoinError::OtherKind { expected: token.kind, got: kind });
    }
    let request = Request::new()?;
    let begun = Instant::now();
    let most = Duration::from_millis(limits::JOIN_TIMEOUT_MS);
    let mut attempt = 0;
    loop {
        let mut last = None;
        for address in &token.addresses {
            match ask(token, joining, &request, address).await {
                Asked::Done(reply) => return joined(reply, request, joining),
                Asked::Refused(words) => {
                    let address = address.clone();
                    return Err(JoinError::Refused { address, kind, words });
                }
                Asked::Later(reason) => last = Some((address.clone(), reason)),
            }
        }
        let (address, reason) = last.ok_or(JoinError::NoAddress)?;
        let (first, longest) = (limits::WORKER_RETRY_FIRST_MS, limits::WORKER_RETRY_MAX_MS);
        let pause = Duration::from_millis(backoff::delay_ms(attempt, first, longest, coin()));
        if begun.elapsed() + pause > most {
            let seconds = most.as_secs();
            return Err(JoinError::Nobody { address, kind, reason, seconds });
        }
        tracing::info!(address, reason, "not let in yet, asking again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

async fn ask(token: &JoinToken, joining: &Joining, request: &Request, address: &str) -> Asked {
    let channel = match dial_pinned(address, token.authority).await {
        Ok(channel) => channel,
        // Another node may still be of the cluster of the token.
        Err(error @ TlsError::Pin { .. }) => return Asked::Later(error.to_string()),
        Err(error) => return Asked::Later(error.to_string()),
    };
    let member = match joining.clone() {
        Joining::Node { http, raft } => Member::Node(JoiningNode { http, raft }),
        Joining::Worker(id) => Member::Worker(JoiningWorker { worker: id.to_string() }),
    };
    let asked = JoinRequest {
        credential: token.credential.reveal().to_vec().into(),
        request: request.der().to_vec().into(),
        member: Some(member),
    };
    let mut client = JoinClient::new(channel).max_decoding_message_size(limits::JOIN_MESSAGE_BYTES);
    // Letting somebody in is a commit: it may have to wait for an election.
    let wait = Duration::from_millis(2 * limits::PROPOSE_TIMEOUT_MS);
    match tokio::time::timeout(wait, client.join(asked)).await {
        Ok(Ok(reply)) => Asked::Done(reply.into_inner()),
        Ok(Err(status)) => refused(&status),
        Err(_) => Asked::Later(format!("silent for {} ms", wait.as_millis())),
    }
}

fn refused(status: &Status) -> Asked {
    let words: String = status.message().chars().take(limits::AUDIT_TEXT_BYTES).collect();
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => {
            Asked::Refused(words)
        }
        _ => Asked::Later(words),
    }
}

fn joined(reply: JoinReply, request: Request, joining: &Joining) -> Result<Joined, JoinError> {
    let JoinReply { certificate, authorities, node, addresses, sealing_key, .. } = reply;
    let sealing_key = Zeroizing::new(sealing_key);
    let certificate = Certificate::from_der(&certificate)?;
    let trusted: Result<Vec<_>, _> =
        authorities.iter().map(|der| Certificate::from_der(der)).collect();
    let identity = request.identity(certificate, trusted?)?;
    let expected = match joining {
        Joining::Node { .. } => Role::Node(NodeId(node)),
        Joining::Worker(id) => Role::Worker(*id),
    };
    if identity.role() != expected {
        let names = vec![identity.role().to_string()];
        return Err(CertificateError::NoMember { names }.into());
    }
    let sealing_key = (!sealing_key.is_empty()).then_some(sealing_key);
    Ok(Joined { identity, addresses, sealing_key })
}
