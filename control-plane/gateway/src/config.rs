//! What a node tells its gateway at start.

use crate::adopted::Adopting;
use crate::auth::oidc::OidcConfig;
use crate::edge::EdgeConfig;
use crate::secrets::SealingKey;
use crate::sharing::Sharing;
use ollamamax_core::route::Policy;
use ollamamax_proto::{ModelName, limits};
use ollamamax_tls::Tls;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Renders the metrics of this process in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The Ollama version whose contract is met: clients compare it with what they need.
pub const OLLAMA_VERSION: &str = "0.33.0";

/// Settings of one gateway. The defaults are the documented limits.
#[derive(Clone)]
pub struct Config {
    /// What `GET /metrics` answers.
    pub metrics: RenderMetrics,
    /// How long a model stays wanted after its last use when nobody says otherwise, in milliseconds; negative: forever.
    pub keep_alive_ms: i64,
    /// On how many workers a model is wanted when a request is the first to want it.
    pub replicas: u32,
    /// Tokens a sequence may hold when neither request nor model says otherwise; 0: as the planner has it.
    pub context_tokens: u32,
    /// How long a request waits for its model to be loaded somewhere.
    pub load_timeout: Duration,
    /// How long a request waits while no worker at all can be used.
    pub no_worker_timeout: Duration,
    /// Silence of a worker in the middle of a stream after which the stream goes on elsewhere.
    pub stall: Duration,
    /// How long a broken stream waits for another worker that can go on with it.
    pub resume_timeout: Duration,
    /// How long a client may leave a full stream unread.
    pub client_stall: Duration,
    /// Attempts over workers, the first included.
    pub attempts: u32,
    /// Whose requests share what workers have cached of prompts.
    pub sharing: Sharing,
    /// How requests are spread over workers where nobody says otherwise.
    pub balancing: Policy,
    /// And for single models.
    pub balancing_of: BTreeMap<ModelName, Policy>,
    /// Whether a second attempt may be made beside a slow first one.
    pub hedging: bool,
    /// Largest body of an API request other than a blob, in bytes.
    pub body_bytes: usize,
    /// Requests held for one model before their first token.
    pub requests_queued: usize,
    /// Roles of whoever comes from this machine without a credential; `None`: nobody comes without one.
    pub anonymous: Option<BTreeSet<String>>,
    /// Seals what is replicated, and makes refresh tokens: the same on every node of a cluster.
    pub sealing: SealingKey,
    /// An OpenID provider whose tokens are believed, too.
    pub oidc: Option<OidcConfig>,
    /// What is pulled from, and pushed to.
    pub sources: ollamamax_sources::Settings,
    /// What workers are called with; the node fills it in.
    pub tls: Option<Tls>,
    /// How long a certificate of a node or worker is good, in milliseconds.
    pub certificate_ms: u64,
    /// How long an authority is trusted before it signs, in milliseconds.
    pub authority_lead_ms: u64,
    /// How long an access token is good, in milliseconds.
    pub access_token_ms: u64,
    /// How long after this node last heard of the others it still believes access tokens.
    pub stale_after: Duration,
    /// How patient it is with adopted servers.
    pub adopting: Adopting,
    /// Whom it answers at all.
    pub edge: EdgeConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metrics: Arc::new(String::new),
            keep_alive_ms: limits::KEEP_ALIVE_MS,
            replicas: limits::DEMAND_REPLICAS_COUNT,
            context_tokens: 0,
            load_timeout: Duration::from_millis(limits::LOAD_TIMEOUT_MS),
            no_worker_timeout: Duration::from_millis(limits::NO_WORKER_TIMEOUT_MS),
            stall: Duration::from_millis(limits::STREAM_STALL_MS),
            resume_timeout: Duration::from_millis(limits::RESUME_TIMEOUT_MS),
            client_stall: Duration::from_millis(limits::CLIENT_STALL_MS),
            attempts: limits::ATTEMPTS_COUNT,
            sharing: Sharing::default(),
            balancing: Policy::default(),
            balancing_of: BTreeMap::new(),
            hedging: true,
            body_bytes: limits::BODY_BYTES,
            requests_queued: limits::REQUESTS_QUEUED,
            anonymous: None,
            sealing: SealingKey::random(),
            oidc: None,
            sources: ollamamax_sources::Settings::default(),
            tls: None,
            certificate_ms: limits::TLS_LIFETIME_MS,
            authority_lead_ms: limits::AUTHORITY_LEAD_MS,
            access_token_ms: limits::ACCESS_TOKEN_MAX_MS,
            stale_after: Duration::from_millis(limits::STALE_VIEW_MS),
            adopting: Adopting::default(),
            edge: EdgeConfig::default(),
        }
    }
}

impl Config {
    /// How requests for a model are spread: as this node was told for it, else as its deployment asks, else as usual.
    pub fn policy(&self, model: &ModelName, deployed: Option<Policy>) -> Policy {
        self.balancing_of.get(model).copied().or(deployed).unwrap_or(self.balancing)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("keep_alive_ms", &self.keep_alive_ms)
            .field("replicas", &self.replicas)
            .field("balancing", &self.balancing)
            .finish_non_exhaustive()
    }
}
