//! Renews this worker's certificate before it ends, and at once when the nodes trust or sign with another authority.

use crate::credentials::{CredentialError, Credentials};
use crate::peers::Peers;
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::{RenewReply, RenewRequest};
use ollamamax_proto::{Millis, WorkerId, limits};
use ollamamax_tls::{Certificate, CertificateError, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Status;

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    /// No node signed.
    #[error("no node signed: {0}")]
    Nobody(Status),
    /// What was answered makes no identity.
    #[error(transparent)]
    Answer(#[from] CertificateError),
    /// It could not be kept or used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// Runs as long as the worker does.
pub async fn run(worker: WorkerId, credentials: Arc<Credentials>, peers: Arc<Peers>) {
    let mut trust = credentials.trust();
    loop {
        let own = credentials.tls.identity();
        let other = trust.borrow_and_update().is_some_and(|mark| mark != own.trust_mark());
        if other || Millis::now() >= own.renew_at() {
            match renew(worker, &credentials, &peers).await {
                Ok(()) => tracing::info!("the certificate was renewed"),
                Err(error) => tracing::warn!(%error, "the certificate is not renewed yet"),
            }
            sleep(Duration::from_millis(limits::RENEW_RETRY_MS)).await;
            continue;
        }
        let left = own.renew_at().since(Millis::now());
        let left = left.clamp(limits::RENEW_RETRY_MS, limits::RENEW_CHECK_MS);
        // The sender lives as long as the credentials do.
        let _ = timeout(Duration::from_millis(left), trust.changed()).await;
    }
}

async fn renew(
    worker: WorkerId,
    credentials: &Credentials,
    peers: &Peers,
) -> Result<(), RenewError> {
    let request = Request::new().map_err(CredentialError::from)?;
    let asked = RenewRequest { worker: worker.to_string(), request: request.der().to_vec().into() };
    let mut last = Status::unavailable("no control-plane node is known");
    for peer in peers.ordered() {
        let mut client = ControlClient::new(peer.channel.clone());
        let wait = Duration::from_millis(limits::WORKER_CALL_TIMEOUT_MS);
        match timeout(wait, client.renew(asked.clone())).await {
            Ok(Ok(reply)) => {
                let RenewReply { certificate, authorities } = reply.into_inner();
                let trusted: Result<Vec<_>, _> =
                    authorities.iter().map(|der| Certificate::from_der(der)).collect();
                let identity = request.identity(Certificate::from_der(&certificate)?, trusted?);
                return Ok(credentials.renew(identity.map_err(CredentialError::from)?)?);
            }
            Ok(Err(status)) => last = status,
            Err(_) => last = Status::deadline_exceeded(format!("`{}` was silent", peer.address)),
        }
    }
    Err(RenewError::Nobody(last))
}
