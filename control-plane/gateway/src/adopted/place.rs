//! Where an adopted server is, and how it is talked to: what an operator typed is not believed further than needed.
//!
//! Only `http` and `https`; no credentials in a URL; no redirect is followed and no proxy asked, so that a request goes where
//! it was said and nowhere else; addresses that only this machine's link or nobody has are refused, by name, too; certificates
//! are verified (a private authority is taken from `SSL_CERT_FILE`, as by other programs); answers are bounded.

use crate::error::Failure;
use axum::http::{HeaderName, HeaderValue, Method, header};
use bytes::Bytes;
use futures_util::StreamExt;
use ollamamax_proto::limits;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, Url};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Stands on what a gateway asks an adopted server.
pub(crate) const PASSED: HeaderName = HeaderName::from_static("x-ollamamax-passed");

/// A server's place and the key it wants.
#[derive(Clone)]
pub(crate) struct Place {
    pub url: String,
    authorization: Option<HeaderValue>,
}

impl Place {
    /// A key that cannot stand in a header is none.
    pub fn new(url: &str, key: Option<&[u8]>) -> Self {
        let bearer = |key: &[u8]| {
            let text = Zeroizing::new([b"Bearer ", key].concat());
            let mut value = HeaderValue::from_bytes(&text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Self { url: url.to_owned(), authorization: key.and_then(bearer) }
    }

    /// Whether it is asked with a key.
    pub fn has_key(&self) -> bool {
        self.authorization.is_some()
    }

    /// A request to one of its paths. Another cluster answers it by itself: what is passed on is not passed on again.
    pub fn request(&self, http: &Client, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = http.request(method, format!("{}{path}", self.url)).header(PASSED, "1");
        match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value.clone()),
            None => request,
        }
    }
}

/// What all of them are talked to with. A machine without any authority talks to none by `https`, and goes on with the others.
pub(crate) fn client() -> Client {
    let careful = |builder: reqwest::ClientBuilder| {
        builder
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_millis(limits::ADOPTED_CONNECT_MS))
            .pool_idle_timeout(Duration::from_millis(limits::ADOPTED_IDLE_MS))
            .dns_resolver(Arc::new(Careful))
            .build()
    };
    let client = careful(Client::builder()).or_else(|error| {
        tracing::warn!(error = cause(&error), "no adopted server can be asked by https");
        careful(Client::builder().tls_certs_only([]))
    });
    client.expect("without authorities the settings are constants that the client takes")
}

/// Resolves names to addresses that may be asked.
struct Careful;

impl Resolve for Careful {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let good: Vec<SocketAddr> = found.filter(|found| may_be_asked(found.ip())).collect();
            if good.is_empty() {
                return Err(format!("`{}` has no address that may be asked", name.as_str()).into());
            }
            let good: Addrs = Box::new(good.into_iter());
            Ok(good)
        })
    }
}

/// Whether an address can be that of a server: not one of a link, where clouds tell machines their secrets, and not nobody's.
fn may_be_asked(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let nobody = v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast();
            !(nobody || v4.is_link_local())
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

/// The place that somebody typed: a host alone is asked by `http`, a path of an API at its end is left out.
pub(crate) fn typed(text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        let shown: String = text.chars().take(200).collect();
        // What stands before an `@` may be a password.
        let shown = shown.rsplit_once('@').map_or(shown.as_str(), |(_, host)| host).to_owned();
        let text = format!(
            "`url` is `{shown}`: {why}; expected `http://host[:port]` or `https://host[:port]`"
        );
        Failure::InvalidField { field: "url", text }
    };
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let mut url = Url::parse(&full).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("only http and https are spoken"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a URL is shown to others and holds no credentials; give the key apart"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or a fragment"));
    }
    if let Some(address) = literal(&url)
        && !may_be_asked(address)
    {
        return Err(wrong("that address is of a link or of nobody, and is not asked"));
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").or(path.strip_suffix("/api")).unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

/// As it is kept: without a slash at its end.
pub(crate) fn kept(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether it means the machine of whoever asks.
pub(crate) fn is_everybodys_own(url: &Url) -> bool {
    let local = literal(url).is_some_and(|address| address.to_canonical().is_loopback());
    local || url.host_str().is_some_and(|host| host.eq_ignore_ascii_case("localhost"))
}

fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What went wrong at the bottom, without the URL.
pub(crate) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string().chars().take(limits::REASON_CHARS).collect()
}

/// All of an answer, if it has at most `limit` bytes.
pub(crate) async fn read(response: Response, limit: usize) -> Result<Bytes, String> {
    let mut body = response.bytes_stream();
    let mut all = Vec::new();
    while let Some(piece) = body.next().await {
        all.extend_from_slice(&piece.map_err(|error| cause(&error))?);
        if all.len() > limit {
            return Err(format!("its answer has more than {limit} bytes"));
        }
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_without_what_clients_add_to_it() {
        for (text, kept_as) in [
            ("10.0.0.5:11434", "http://10.0.0.5:11434"),
            ("http://gpu.lan:8000/v1/", "http://gpu.lan:8000"),
            ("https://h/ollama/api", "https://h/ollama"),
            ("http://[::1]:80/", "http://[::1]"),
        ] {
            assert_eq!(typed(text).map(|url| kept(&url)), Ok(kept_as.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_or_hold_a_secret_is_refused() {
        for text in [
            "",
            "ftp://h",
            "file:///etc/passwd",
            "http://user:geheim@h",
            "http://geheim@h",
            "http://h?x=1",
            "http://h#x",
            "http://169.254.169.254/latest",
            "http://[fe80::1]",
            "http://0.0.0.0:80",
            "http://[::ffff:169.254.169.254]",
            "http://2852039166/",
        ] {
            let error = typed(text).expect_err(text).to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
        assert!(typed("localhost:1").is_ok_and(|url| is_everybodys_own(&url)));
        assert!(typed("127.9.9.9:1").is_ok_and(|url| is_everybodys_own(&url)));
        assert!(typed("10.0.0.1").is_ok_and(|url| !is_everybodys_own(&url)));
    }

    #[tokio::test]
    async fn a_name_of_an_address_that_may_not_be_asked_is_none() {
        let resolve = |name: &str| Careful.resolve(name.parse().expect("a name"));
        assert!(resolve("169.254.169.254").await.is_err());
        assert!(resolve("127.0.0.1").await.is_ok());
    }
}
