//! Requests to places that somebody else has named: judged, bounded in time, redirected by hand.
//!
//! A redirect is another request: it is judged as the first one, there are few of them, and what says who asks goes no further
//! than the origin it was meant for. Bodies come as they are sent: nothing is unpacked, so nothing small becomes large.

use crate::error::SourceError;
use crate::guard::{Guard, Way, is_public, not_public, shown};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use ollamamax_proto::limits;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Certificate, Client, Method, Response, StatusCode, Url};
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Finds the addresses of a name.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// What makes requests.
#[derive(Clone)]
pub struct Http {
    guard: Guard,
    public: Client,
    allowed: Client,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// A request.
pub struct Ask<'a> {
    /// How.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// With what; `Authorization` goes to the origin of `url` alone.
    pub headers: HeaderMap,
    /// A body, made anew for each try.
    pub body: Option<&'a (dyn Fn() -> Body + Send + Sync)>,
    /// Whether plain HTTP will do, where the operator allows the host.
    pub insecure: bool,
}

impl Ask<'_> {
    /// A `GET` without anything.
    pub fn get(url: Url, insecure: bool) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: None, insecure }
    }
}

/// A name that has an address which is not public.
#[derive(Debug)]
struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name leads to an address that is not public")
    }
}

impl Error for NotPublic {}

/// Resolves names whose addresses are all public.
struct PublicOnly(Lookup);

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.0)(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await?;
            // One that has both is no host of the world, but somebody's trick.
            if !found.iter().copied().all(is_public) {
                return Err(NotPublic.into());
            }
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(found) as Addrs)
        })
    }
}

/// As the system finds them.
pub fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

impl Http {
    /// For requests that `guard` judges; `authorities` are believed beside the system's.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(
        guard: Guard,
        authorities: Vec<Certificate>,
        lookup: Lookup,
    ) -> Result<Self, SourceError> {
        let builder = || {
            Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                // A proxy would resolve names itself, after all that is checked here.
                .no_proxy()
                // Ranges that come at once shall not share one window.
                .http1_only()
                .tls_certs_merge(authorities.clone())
                .connect_timeout(Duration::from_millis(limits::PULL_CONNECT_MS))
                .read_timeout(Duration::from_millis(limits::PULL_STALL_MS))
                .user_agent(concat!("ollamamax/", env!("CARGO_PKG_VERSION")))
        };
        let made = |error: reqwest::Error| SourceError::Io(io::Error::other(error));
        let public = builder().dns_resolver(PublicOnly(lookup)).build().map_err(made)?;
        let allowed = builder().build().map_err(made)?;
        Ok(Self { guard, public, allowed })
    }

    /// Judges a URL before anything is sent.
    ///
    /// # Errors
    /// When it may not be asked.
    pub fn check(&self, url: &Url, insecure: bool) -> Result<(), SourceError> {
        self.guard.check(url, insecure).map(drop)
    }

    /// Sends a request, follows its redirects, and returns the answer, whatever its status.
    ///
    /// # Errors
    /// When it may not be asked, does not answer, or leads nowhere.
    pub async fn send(&self, ask: Ask<'_>) -> Result<Response, SourceError> {
        let Ask { method, mut url, mut headers, body, insecure } = ask;
        let follows = matches!(method, Method::GET | Method::HEAD);
        for _ in 0..=limits::PULL_REDIRECTS_COUNT {
            let client = match self.guard.check(&url, insecure)? {
                Way::Public => &self.public,
                Way::Allowed => &self.allowed,
            };
            let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = body {
                request = request.body(body());
            }
            let answer = request.send().await.map_err(|error| failed(&url, error))?;
            let encoding = answer.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
            if !matches!(encoding, None | Some(b"identity" | b"")) {
                let what = "sends a packed body, which was not asked for".to_owned();
                return Err(SourceError::Lied { host: shown(&url), what });
            }
            let is_redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !is_redirect {
                return Ok(answer);
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let Some(next) = next.filter(|_| follows) else {
                let what = "redirects to where nothing can be sent".to_owned();
                return Err(SourceError::Lied { host: shown(&url), what });
            };
            if next.origin() != url.origin() {
                headers.remove(AUTHORIZATION);
            }
            url = next;
        }
        let most = limits::PULL_REDIRECTS_COUNT;
        let what = format!("redirects more than {most} times");
        Err(SourceError::Lied { host: shown(&url), what })
    }
}

/// What a request that brought no answer says. Addresses of links are left out: they may hold secrets.
pub fn failed(url: &Url, error: reqwest::Error) -> SourceError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    let mut words = String::new();
    while let Some(of) = cause {
        if of.is::<NotPublic>() {
            return not_public(&shown(url));
        }
        words = of.to_string();
        cause = of.source();
    }
    let why = match () {
        () if error.is_timeout() => "it does not answer in time".to_owned(),
        () if error.is_connect() => format!("no connection: {words}"),
        () => format!("the connection broke off: {words}"),
    };
    SourceError::Broken { host: shown(url), why }
}

/// What a status says that is no success.
pub fn refused(url: &Url, status: StatusCode) -> SourceError {
    let (host, status) = (shown(url), status.as_u16());
    match status {
        401 | 403 => SourceError::Denied {
            host,
            status,
            why: "its owner must let this node in: the operator names credentials in `--pull-credentials`",
        },
        404 | 410 => SourceError::NotFound(format!("`{host}` has no `{}`", url.path())),
        408 | 429 | 500.. => SourceError::Broken { host, why: format!("it answers {status}") },
        _ => SourceError::Answered { host, status },
    }
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// When it has more, or breaks off.
pub async fn read(answer: Response, limit: u64, what: &str) -> Result<Vec<u8>, SourceError> {
    let url = answer.url().clone();
    let too_large = |bytes| SourceError::TooLarge {
        what: format!("{what} of `{}`", shown(&url)),
        bytes,
        limit,
    };
    if let Some(bytes) = answer.content_length().filter(|bytes| *bytes > limit) {
        return Err(too_large(bytes));
    }
    let (mut body, mut bytes) = (answer.bytes_stream(), Vec::new());
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|error| failed(&url, error))?);
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64));
        }
    }
    Ok(bytes)
}
