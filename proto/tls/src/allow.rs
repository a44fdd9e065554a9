//! Who may call what: a table of services and methods, asked at every request.
//!
//! What is not in the table nobody may call. Handlers find the [`Peer`] in the extensions of their request.

use crate::role::{Kind, Role};
use crate::stream::{ConnectInfo, Peer};
use crate::tls::Tls;
use futures_util::future::{Either, Ready, ready};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::codegen::http::{Request, Response};
use tonic::metadata::MetadataValue;
use tower::{Layer, Service};

/// Who may call a service or a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Also who has no certificate.
    Anyone,
    /// Nodes.
    Node,
    /// Workers.
    Worker,
    /// Every member.
    NodeOrWorker,
}

impl Who {
    fn includes(self, kind: Kind) -> bool {
        match self {
            Self::Anyone | Self::NodeOrWorker => true,
            Self::Node => kind == Kind::Node,
            Self::Worker => kind == Kind::Worker,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anyone => "anyone",
            Self::Node => "nodes",
            Self::Worker => "workers",
            Self::NodeOrWorker => "nodes and workers",
        })
    }
}

/// A layer for a tonic server on [`Tls::incoming`].
#[derive(Clone, Debug)]
pub struct Allow {
    tls: Tls,
    /// By `service` or `service/method`.
    rules: Arc<HashMap<String, Who>>,
}

impl Allow {
    /// Allows nothing yet. Peers that `tls` refuses are refused whatever their role.
    pub fn new(tls: Tls) -> Self {
        Self { tls, rules: Arc::default() }
    }

    /// All methods of `service` (`ollamamax.v1.Raft`) that have no rule of their own.
    #[must_use]
    pub fn service(mut self, service: &str, who: Who) -> Self {
        Arc::make_mut(&mut self.rules).insert(service.to_owned(), who);
        self
    }

    /// One method (`Append`) of `service`, whatever the rule of the service.
    #[must_use]
    pub fn method(mut self, service: &str, method: &str, who: Who) -> Self {
        Arc::make_mut(&mut self.rules).insert(format!("{service}/{method}"), who);
        self
    }

    /// Whether `peer` may call `path` (`/service/method`).
    pub fn check(&self, path: &str, peer: Option<&Peer>) -> Result<(), Status> {
        let call = path.strip_prefix('/').unwrap_or_default();
        let service = call.split_once('/').map_or(call, |(service, _)| service);
        let rule = self.rules.get(call).or_else(|| self.rules.get(service)).copied();
        if rule == Some(Who::Anyone) {
            return Ok(());
        }
        let Some(peer) = peer else {
            let text =
                format!("`{service}` is not for callers without a certificate of the cluster");
            return Err(Status::unauthenticated(text));
        };
        let role = peer.role;
        if self.tls.refuses(peer) {
            return Err(removed(role));
        }
        match rule {
            Some(who) if who.includes(role.kind()) => Ok(()),
            Some(who) => {
                let text = format!("{role} may not call `{service}`: it is for {who}");
                Err(Status::permission_denied(text))
            }
            // As a server answers that does not know the call: to newer members this one is such a server.
            None => Err(Status::unimplemented(format!("{role} may not call `{call}`: nobody may"))),
        }
    }
}

/// Marks the refusal of a member that was removed; it is no other refusal by mistake.
const REMOVED: &str = "ollamamax-member";

/// Tells a member that it was removed from the cluster; it ends then, so whoever says it must be sure.
pub fn removed(role: Role) -> Status {
    let mut status = Status::permission_denied(format!("{role} was removed from the cluster"));
    status.metadata_mut().insert(REMOVED, MetadataValue::from_static("removed"));
    status
}

/// Whether `status` says that the caller was removed from the cluster.
pub fn says_removed(status: &Status) -> bool {
    status.code() == tonic::Code::PermissionDenied && status.metadata().get(REMOVED).is_some()
}

impl<S> Layer<S> for Allow {
    type Service = Allowed<S>;

    fn layer(&self, inner: S) -> Allowed<S> {
        Allowed { allow: self.clone(), inner }
    }
}

/// A service behind [`Allow`].
#[derive(Clone, Debug)]
pub struct Allowed<S> {
    allow: Allow,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Allowed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let info = request.extensions().get::<ConnectInfo>();
        let peer = info.and_then(|info| info.peer);
        match self.allow.check(request.uri().path(), peer.as_ref()) {
            Ok(()) => {
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                }
                Either::Left(self.inner.call(request))
            }
            Err(status) => {
                tracing::debug!(path = request.uri().path(), %status, "a call was refused");
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}
