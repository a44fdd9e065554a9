//! How a new node gets in: it asks any running node for an id over the admin API. And how one that has an id makes sure
//! that it is still the same cluster that answers there.

use crate::error::StartError;
use ollamamax_proto::{backoff, limits};
use ollamamax_storage::Identity;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What a joining node says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct JoinRequest {
    /// `host:port` of its gateway.
    pub http: String,
    /// `host:port` of its gRPC services.
    pub raft: String,
    /// Whether it shall vote.
    pub voter: bool,
}

#[derive(Deserialize)]
struct JoinReply {
    node: u64,
    cluster: String,
}

/// Asks one URL after the other until one admits this node. A lost answer does no harm: the same address gets the same
/// id again.
pub async fn join(urls: &[String], request: &JoinRequest) -> Result<Identity, StartError> {
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
        .timeout(Duration::from_millis(2 * limits::PROPOSE_TIMEOUT_MS))
        .build()
        .map_err(|error| StartError::Join { url: urls.join(", "), reason: error.to_string() })?;
    let deadline = Instant::now() + Duration::from_millis(limits::JOIN_TIMEOUT_MS);
    let mut attempt = 0;
    loop {
        let mut last = (urls.join(", "), "nobody was asked".to_owned());
        for url in urls {
            match ask(&client, url, request).await {
                Ok(identity) => return Ok(identity),
                Err(Refusal::Final(reason)) => {
                    return Err(StartError::Join { url: url.clone(), reason });
                }
                Err(Refusal::Later(reason)) => last = (url.clone(), reason),
            }
        }
        let pause = backoff::delay_ms(attempt, 100, 2_000, rand::random());
        if Instant::now() + Duration::from_millis(pause) > deadline {
            let (url, reason) = last;
            return Err(StartError::Join { url, reason });
        }
        tracing::info!(url = %last.0, reason = %last.1, "not admitted yet, asking again");
        tokio::time::sleep(Duration::from_millis(pause)).await;
        attempt += 1;
    }
}

/// The cluster that answers at one of `urls`, if any answers soon.
pub async fn cluster_at(urls: &[String]) -> Option<String> {
    #[derive(Deserialize)]
    struct Status {
        cluster: String,
    }
    let soon = Duration::from_millis(limits::CONNECT_TIMEOUT_MS);
    let client = reqwest::Client::builder().timeout(soon).build().ok()?;
    for url in urls {
        let target = format!("{}/admin/v1/cluster", url.trim_end_matches('/'));
        let Ok(reply) = client.get(target).send().await else { continue };
        if let Ok(status) = reply.json::<Status>().await {
            return Some(status.cluster);
        }
    }
    None
}

enum Refusal {
    /// Asking again will not help.
    Final(String),
    /// It may: nobody there, or no quorum yet.
    Later(String),
}

async fn ask(
    client: &reqwest::Client,
    url: &str,
    request: &JoinRequest,
) -> Result<Identity, Refusal> {
    let target = format!("{}/admin/v1/cluster/nodes", url.trim_end_matches('/'));
    let reply = client
        .post(target)
        .json(request)
        .send()
        .await
        .map_err(|error| Refusal::Later(chain(&error)))?;
    let status = reply.status();
    if status.is_success() {
        let reply: JoinReply = reply.json().await.map_err(|error| Refusal::Later(chain(&error)))?;
        return Ok(Identity { cluster: reply.cluster, node: reply.node });
    }
    let text: String = reply.text().await.unwrap_or_default().chars().take(300).collect();
    let reason = format!("{status}: {text}");
    Err(if status.is_client_error() { Refusal::Final(reason) } else { Refusal::Later(reason) })
}

/// An error with its causes: reqwest's own text names only the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
