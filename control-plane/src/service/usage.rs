//! Quotas: gateways tell each other what their callers used.
//!
//! ```text
//! every second: gateway.usage_news() -> all other nodes, at the same time -> gateway.absorb_usage()
//! ```
//!
//! Best effort: a node that does not answer misses what it was told, and lets through that much more.

use crate::raft::peers::{Lane, Peers};
use crate::raft::server::caller;
use crate::watch::Published;
use futures_util::future::join_all;
use ollamamax_core::quota::{News, Usage};
use ollamamax_gateway::Gateway;
use ollamamax_proto::wire::usage_client::UsageClient;
use ollamamax_proto::wire::usage_server::Usage as UsageService;
use ollamamax_proto::wire::{AccountUsage, UsageHeard, UsageNews};
use ollamamax_proto::{NodeId, limits};
use ollamamax_tls::Role;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// What other nodes tell.
pub struct UsageServer {
    gateway: Arc<Gateway>,
}

impl UsageServer {
    /// For the gateway of this node.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }
}

#[tonic::async_trait]
impl UsageService for UsageServer {
    async fn share(&self, request: Request<UsageNews>) -> Result<Response<UsageHeard>, Status> {
        let Some(Role::Node(from)) = caller(&request).map(|peer| peer.role) else {
            return Err(Status::permission_denied("only nodes tell of usage"));
        };
        let accounts = request.into_inner().accounts;
        let news: Vec<News> = accounts.into_iter().filter_map(parse).collect();
        self.gateway.absorb_usage(from, &news);
        Ok(Response::new(UsageHeard {}))
    }
}

/// An account that this node does not know how to read is left out: a later version may count something else.
fn parse(told: AccountUsage) -> Option<News> {
    let usage = Usage {
        requests: told.requests,
        prompt_tokens: told.prompt_tokens,
        output_tokens: told.output_tokens,
        models: told.models,
        blob_bytes: told.blob_bytes,
    };
    let fits = told.of.len() <= limits::QUOTA_NAME_BYTES;
    let of = fits.then(|| told.of.parse().ok()).flatten()?;
    Some(News { of, usage, streams: told.streams })
}

/// Tells the others for as long as the node runs.
pub async fn share(
    gateway: Arc<Gateway>,
    published: Arc<Published>,
    peers: Arc<Peers>,
    own: NodeId,
) {
    let period = Duration::from_millis(limits::QUOTA_NEWS_PERIOD_MS);
    loop {
        tokio::time::sleep(period).await;
        let news = gateway.usage_news();
        if news.is_empty() {
            continue;
        }
        let accounts = news.iter().map(|news| AccountUsage {
            of: news.of.to_string(),
            requests: news.usage.requests,
            prompt_tokens: news.usage.prompt_tokens,
            output_tokens: news.usage.output_tokens,
            models: news.usage.models,
            blob_bytes: news.usage.blob_bytes,
            streams: news.streams,
        });
        let told = UsageNews { accounts: accounts.collect() };
        let state = published.state();
        let others = state.nodes.values().filter(|node| node.id != own && !node.leaving);
        let calls = others.map(|node| {
            let (told, channel) = (told.clone(), peers.channel(node.id, &node.raft, Lane::Control));
            async move {
                let Ok(channel) = channel else { return };
                let call = async { UsageClient::new(channel).share(told).await };
                if !matches!(tokio::time::timeout(period, call).await, Ok(Ok(_))) {
                    tracing::debug!(node = %node.id, "a node was not told of usage");
                }
            }
        });
        join_all(calls).await;
    }
}
