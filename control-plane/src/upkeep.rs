//! The leader's upkeep of access: a key that signs access tokens is made, and another one when it is old; what has expired is
//! forgotten.

use crate::client::Client;
use crate::leader::Leadership;
use crate::watch::Published;
use ollamamax_core::access::{Access, AccessCommand};
use ollamamax_core::{Command, State};
use ollamamax_gateway::Gateway;
use ollamamax_proto::{Millis, limits};
use std::sync::Arc;
use std::time::Duration;

/// The loop's parts.
pub(crate) struct Upkeep {
    /// Who leads.
    pub leadership: Leadership,
    /// The state.
    pub published: Arc<Published>,
    /// The way to propose.
    pub client: Client,
    /// Makes keys.
    pub gateway: Arc<Gateway>,
    /// How long a key signs, in milliseconds.
    pub rotation_ms: u64,
}

impl Upkeep {
    /// Runs until cancelled.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(Duration::from_millis(limits::ACCESS_CHECK_MS)).await;
            if self.leadership.leads() {
                self.round(&self.published.state()).await;
            }
        }
    }

    async fn round(&self, state: &State) {
        if state.cluster.is_none() {
            return;
        }
        let now = Millis::now().max(state.counters.clock);
        if needs_key(&state.access, now, self.rotation_ms)
            && let Err(error) = self.gateway.make_signing_key().await
        {
            tracing::warn!(error, "no new key signs access tokens");
        }
        if state.access.has_expired(now) {
            let expire = Command::Access(Box::new(AccessCommand::Expire));
            if let Err(error) = self.client.propose(expire).await {
                tracing::debug!(%error, "what has expired is not forgotten yet");
            }
        }
    }
}

/// Whether another key should be made: none signs, or the one that does is old and has no successor yet.
fn needs_key(access: &Access, now: Millis, rotation_ms: u64) -> bool {
    let has_next = access.signing_keys.values().any(|key| key.signs_from > now);
    let is_young = access.signs(now).is_some_and(|key| now.since(key.signs_from) < rotation_ms);
    !has_next && !is_young
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_core::access::{AccessChange, Hidden, SigningKey, SigningKeyId};

    #[test]
    fn there_is_always_a_key_and_never_two_on_their_way() {
        let mut access = Access::default();
        let put = |access: &mut Access, id, signs_from| {
            access.evolve(AccessChange::SigningKeyPut(SigningKey {
                id: SigningKeyId(id),
                algorithm: "RS256".to_owned(),
                public: Vec::new(),
                sealed: Hidden(Vec::new()),
                created_at: Millis(0),
                signs_from: Millis(signs_from),
                believed_until: None,
            }));
        };
        assert!(needs_key(&access, Millis(5), 100), "there is none");
        put(&mut access, 1, 10);
        assert!(!needs_key(&access, Millis(5), 100), "one is on its way");
        assert!(!needs_key(&access, Millis(109), 100), "it is young");
        assert!(needs_key(&access, Millis(110), 100), "it is old");
        put(&mut access, 2, 200);
        assert!(!needs_key(&access, Millis(150), 100), "the next one is on its way");
    }
}
