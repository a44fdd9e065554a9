//! Keeps a node's credentials in line with the state, as long as the node runs.

use super::{CredentialError, Credentials};
use crate::error::NodeFailure;
use crate::life::set_once;
use crate::watch::Published;
use ollamamax_proto::Millis;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Looks whenever authorities change and when the certificate is due; reports a sealing key that opens nothing.
pub(crate) async fn keep(
    credentials: Arc<Credentials>,
    published: Arc<Published>,
    failed: watch::Sender<Option<NodeFailure>>,
) {
    let mut revisions = published.revisions();
    loop {
        revisions.mark_unchanged();
        let (state, now) = (published.state(), Millis::now());
        match credentials.follow(&state, now) {
            Ok(()) => {}
            Err(error @ CredentialError::OtherSealingKey) => {
                let failure = NodeFailure::Credentials(error.to_string());
                failed.send_if_modified(|before| set_once(before, failure));
                return;
            }
            Err(error) => tracing::warn!(%error, "the certificate is not renewed yet"),
        }
        let wait = Duration::from_millis(credentials.next_look_ms(&state, now));
        let until = tokio::time::Instant::now() + wait;
        // Most of what changes in the state is of no interest here.
        while published.state().access.authorities == state.access.authorities {
            let changed = tokio::time::timeout_at(until, revisions.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                break;
            }
        }
    }
}
