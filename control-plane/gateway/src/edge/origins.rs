//! Which pages may ask. What Ollama allows is allowed: pages of this machine, apps and browser extensions; and pages of this
//! node itself. All others are refused, and not only kept from reading the answer: their request may change something.
//!
//! The origin that asked is told back, never `*`, and credentials of the browser are never asked for.

use super::hosts::Authority;
use crate::error::Failure;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use ollamamax_proto::limits;

/// What a browser says of the page that made it ask.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const ASKS_PRIVATE: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Hosts of this machine, as Ollama's defaults name them.
const MACHINE: [&str; 4] = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"];
/// Schemes of apps and browser extensions, as Ollama's defaults name them: no page on the network has them.
const APPS: [&str; 9] = [
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
    "chrome-extension://",
    "moz-extension://",
    "safari-extension://",
    "ms-browser-extension://",
];

/// Headers a page may send when its preflight names none.
const HEADERS: &str =
    "authorization, content-type, traceparent, x-priority, x-request-id, x-request-timeout";
/// Headers of answers that a page may read.
const READABLE: &str =
    "etag, retry-after, x-ollamamax-worker, x-request-id, x-revision, x-stream-id";
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const VARIES: &str = "origin, access-control-request-method, access-control-request-headers";

/// Whether a text is `null`, a scheme and a host, or anything with one `*`, as Ollama takes them.
pub fn is_pattern(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_graphic() && c != '"' && c != ',';
    let named = text.split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty());
    let stars = text.matches('*').count();
    text == "null" || ((named || stars == 1) && stars <= 1 && text.chars().all(sound))
}

/// The origins an operator has allowed beside the usual ones.
pub(super) struct Origins {
    given: Vec<String>,
}

impl Origins {
    pub(super) fn new(given: &[String]) -> Self {
        Self { given: given.iter().map(|text| text.to_ascii_lowercase()).collect() }
    }

    /// The origin of a request, when it has one and it may ask.
    pub(super) fn check(
        &self,
        request: &Request,
        host: Option<&Authority>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            let site = request.headers().get(FETCH_SITE);
            let foreign = site.is_some_and(|site| site.as_bytes() == b"cross-site");
            let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
            return match foreign && !reads {
                true => {
                    Err(Failure::ForeignOrigin("requests from foreign pages are refused".into()))
                }
                false => Ok(None),
            };
        };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if origins.next().is_none() && self.allow(&text, host) {
            return Ok(Some(origin.clone()));
        }
        let text: String = text.chars().filter(char::is_ascii_graphic).take(200).collect();
        Err(Failure::ForeignOrigin(format!(
            "requests from pages of `{text}` are refused; `--allowed-origin` lets an origin ask"
        )))
    }

    fn allow(&self, origin: &str, host: Option<&Authority>) -> bool {
        let matches = |pattern: &String| match pattern.split_once('*') {
            None => origin == pattern,
            Some((before, after)) => {
                let middle = origin.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                // Where a port may be any, it must be a port.
                let port = before.ends_with(':') && after.is_empty();
                middle.is_some_and(|m| !port || m.bytes().all(|byte| byte.is_ascii_digit()))
            }
        };
        if self.given.iter().any(matches) || APPS.iter().any(|scheme| origin.starts_with(scheme)) {
            return true;
        }
        let (usual, rest) = match origin.split_once("://") {
            Some(("http", rest)) => (80_u16, rest),
            Some(("https", rest)) => (443, rest),
            _ => return false,
        };
        let Some(page) = Authority::parse(rest) else { return false };
        let port = |authority: &Authority| authority.port.unwrap_or(usual);
        let own = host.is_some_and(|host| host.name == page.name && port(host) == port(&page));
        own || MACHINE.contains(&page.name.as_str())
    }
}

/// Whether a browser asks what a page may send.
pub(super) fn is_preflight(request: &Request) -> bool {
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    request.method() == Method::OPTIONS && asks
}

/// What a page that may ask may send.
pub(super) fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    // A list of names, as it was asked; the origin may send them all.
    let sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte);
    let names = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let names = names.filter(|names| names.as_bytes().iter().all(sound) && !names.is_empty());
    let names = names.cloned().unwrap_or(HeaderValue::from_static(HEADERS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    let methods = HeaderValue::from_static(METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let age = HeaderValue::from(limits::PREFLIGHT_AGE_S);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, age);
    if asked.contains_key(ASKS_PRIVATE) {
        headers.insert(ALLOWS_PRIVATE, HeaderValue::from_static("true"));
    }
    response
}

/// Tells the browser that the page may read the answer.
pub(super) fn tell(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    let Some(origin) = origin else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static(VARIES));
    let readable = HeaderValue::from_static(READABLE);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_this_machine_and_those_allowed_may_ask() {
        let given = ["https://chat.example.com", "http://dev.lan:*", "https://*.team.example"];
        let origins = Origins::new(&given.map(str::to_owned));
        let host = Authority::parse("models.example.com:8443");
        let allow = |origin: &str| origins.allow(origin, host.as_ref());
        for origin in [
            "http://localhost",
            "https://localhost:3000",
            "http://127.0.0.1:1",
            "http://0.0.0.0:8080",
            "http://[::1]:80",
            "app://obsidian.md",
            "file://",
            "tauri://localhost",
            "vscode-webview://abc",
            "chrome-extension://abc",
            "https://chat.example.com",
            "http://dev.lan:8080",
            "https://a.team.example",
            "https://models.example.com:8443",
            "http://models.example.com:8443",
        ] {
            assert!(allow(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://localhost.evil.example",
            "http://127.0.0.2",
            "https://chat.example.com.evil",
            "http://chat.example.com",
            "http://dev.lan:80.evil",
            "https://team.example",
            "https://models.example.com",
            "http://user@localhost",
            "http://localhost:80:80",
            "ftp://localhost",
            "localhost",
            "http://localhost/x",
        ] {
            assert!(!allow(origin), "{origin}");
        }
        assert!(Origins::new(&["*".to_owned()]).allow("https://evil.example", None));
    }

    #[test]
    fn patterns_are_origins() {
        for text in ["*", "null", "https://a.b", "http://a:*", "app://*", "*.a.b"] {
            assert!(is_pattern(text), "{text}");
        }
        for text in ["", "a.b", "://a", "http://*.*", "http://a b", "https://a,https://b"] {
            assert!(!is_pattern(text), "{text}");
        }
    }
}
