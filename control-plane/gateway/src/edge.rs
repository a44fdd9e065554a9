//! What a request must be before anything of it is believed: from where, for whom, in which form.
//!
//! ```text
//! arrive: whose address is it?           -> observe -> guard: URL, host, framing, origin, pace -> routes
//! answer: with the headers browsers obey <- ------- <- with what CORS allows <- ---------------- <-
//! ```
//!
//! A browser on an operator's machine is the way in for any page it shows: a page can send requests here (CSRF), and by DNS
//! rebinding read the answers too. Names this node does not have and origins nobody allowed are therefore refused, whoever asks.

pub mod hosts;
pub mod network;
pub mod origins;
mod pace;

pub use network::{ClientAddress, LocalAddress, Network};

use crate::Gateway;
use crate::error::Failure;
use crate::ports::ControlPlane;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use hosts::{Authority, Hosts};
use ollamamax_proto::limits;
use origins::Origins;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Settings of the edge. The defaults are the documented limits, and nothing but this machine's names.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Names this node is reached by beside its addresses and `localhost`: `name`, `*.name`, or `*` for any.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may ask, beside those Ollama allows: `https://name:port`, with at most one `*`.
    pub allowed_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// How long a body may bring nothing.
    pub body_stall: Duration,
    /// Bytes per second a body must bring on average once it has been waited for so long.
    pub body_bytes_per_s: u64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            body_stall: Duration::from_millis(limits::BODY_STALL_MS),
            body_bytes_per_s: limits::BODY_BYTES_PER_S,
        }
    }
}

impl EdgeConfig {
    /// Refuses what means nothing, with the field and the reason.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let host = self.allowed_hosts.iter().find(|name| !hosts::is_pattern(name));
        if let Some(name) = host {
            let reason =
                format!("{name:?} is no name of a host; expected e.g. `models.example.com`");
            return Err(("allowed_host", reason));
        }
        let origin = self.allowed_origins.iter().find(|origin| !origins::is_pattern(origin));
        if let Some(origin) = origin {
            let reason =
                format!("{origin:?} is no origin; expected e.g. `https://chat.example.com`");
            return Err(("allowed_origin", reason));
        }
        Ok(())
    }
}

/// The rules, read from the settings once.
pub(crate) struct Edge {
    hosts: Hosts,
    origins: Origins,
    trusted: Vec<Network>,
    pace: pace::Pace,
}

impl Edge {
    pub(crate) fn new(config: &EdgeConfig) -> Self {
        Self {
            hosts: Hosts::new(&config.allowed_hosts),
            origins: Origins::new(&config.allowed_origins),
            trusted: config.trusted_proxies.clone(),
            pace: pace::Pace { stall: config.body_stall, bytes_per_s: config.body_bytes_per_s },
        }
    }

    /// The origin to tell the browser of, when there is one and it may ask.
    fn check(
        &self,
        request: &Request,
        control: &dyn ControlPlane,
    ) -> Result<Option<HeaderValue>, Failure> {
        let bytes = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
        if bytes > limits::URL_BYTES {
            return Err(Failure::LongUrl { limit: limits::URL_BYTES });
        }
        let host = self.host(request, control)?;
        framing(request)?;
        self.origins.check(request, host.as_ref())
    }

    /// The name the client believes to speak to, if it is one of ours. RFC 9112, 3.2: exactly one `Host`, and an absolute URL
    /// before it.
    fn host(
        &self,
        request: &Request,
        control: &dyn ControlPlane,
    ) -> Result<Option<Authority>, Failure> {
        let named = request.uri().authority().map(|authority| authority.as_str());
        let mut given = request.headers().get_all(header::HOST).iter();
        let (first, more) = (given.next(), given.next());
        if more.is_some() {
            return Err(Failure::invalid("the request has several `Host` headers, expected one"));
        }
        let first = first.map(|value| value.to_str().unwrap_or("\0"));
        if first.is_none() && (request.version() == Version::HTTP_11 || named.is_some()) {
            let in_url = request.version() == Version::HTTP_2 && named.is_some();
            if !in_url {
                return Err(Failure::invalid("the request has no `Host` header"));
            }
        }
        let mut host = None;
        for text in [first, named].into_iter().flatten() {
            let authority = Authority::parse(text).ok_or_else(|| {
                Failure::Misdirected("the request names no host that could be one".to_owned())
            })?;
            let local = request.extensions().get::<LocalAddress>().map(|local| local.0.ip());
            let state = control.state();
            let nodes = state.nodes.values().map(|node| node.http.as_str());
            if !self.hosts.allow(&authority, local, nodes) {
                let name = &authority.name;
                return Err(Failure::Misdirected(format!(
                    "this node is not called `{name}`; `--allowed-host {name}` says that it is"
                )));
            }
            host = Some(authority);
        }
        Ok(host)
    }
}

/// Bodies come as they are: nothing is unpacked, and what hides its length twice is refused.
fn framing(request: &Request) -> Result<(), Failure> {
    let headers = request.headers();
    let mut transfers = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if transfers.next().is_some_and(|value| !chunked(value)) || transfers.next().is_some() {
        return Err(Failure::invalid("`Transfer-Encoding` may be `chunked` only, and once"));
    }
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(identity) {
        return Err(Failure::MediaType("compressed bodies are not accepted".to_owned()));
    }
    Ok(())
}

/// Ollama's and OpenAI's endpoints take whatever `curl -d` calls it; a form that a page can send stays out of ours.
pub(crate) fn no_form(request: &Request) -> Result<(), Failure> {
    let administers = request.uri().path().starts_with("/admin/");
    if administers && request.method() == Method::POST && !is_json(request.headers()) {
        return Err(Failure::MediaType("expected `Content-Type: application/json`".to_owned()));
    }
    Ok(())
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().all(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        essence == "application/json"
            || essence.starts_with("application/") && essence.ends_with("+json")
    })
}

/// The outermost layer: whose address it is, and the headers that every answer has.
pub(crate) async fn arrive(
    State(gateway): State<Arc<Gateway>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        let client = network::client(peer.ip(), request.headers(), &gateway.edge.trusted);
        request.extensions_mut().insert(ClientAddress(client));
    }
    let administers = request.uri().path().starts_with("/admin/");
    let mut response = next.run(request).await;
    dress(response.headers_mut(), administers);
    response
}

fn dress(headers: &mut HeaderMap, administers: bool) {
    const REFERRER_POLICY: HeaderName = header::REFERRER_POLICY;
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let html = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/html"));
    if !html {
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    }
    if administers {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}

/// The layer before the routes: only what passes the rules is answered, and what dawdles is cut.
pub(crate) async fn guard(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let id = request
        .extensions()
        .get::<crate::request::RequestId>()
        .map_or_else(String::new, |id| id.0.clone());
    let keeps = request.version() >= Version::HTTP_2;
    // Whoever begins like this is not listened to any further.
    let refuse = |failure| {
        let mut response = crate::shaped_at(&path, &id, failure);
        if !keeps {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    };
    let origin = match gateway.edge.check(&request, &*gateway.control) {
        Ok(origin) => origin,
        Err(failure) => return refuse(failure),
    };
    let mut response = match &origin {
        Some(_) if origins::is_preflight(&request) => origins::preflight(request.headers()),
        _ => {
            let slow = Arc::new(AtomicBool::new(false));
            let pace = gateway.edge.pace;
            let request = request.map(|body| pace::paced(body, pace, Arc::clone(&slow)));
            let response = next.run(request).await;
            // Whatever the handler made of a body that did not come, this is why.
            if slow.load(Ordering::Relaxed) { refuse(pace.failure()) } else { response }
        }
    };
    origins::tell(response.headers_mut(), origin);
    response
}
