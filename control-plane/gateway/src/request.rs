//! What every request and answer carries: an id.

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::convert::Infallible;
use tokio::time::Instant;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the client's own when it is short and printable, else drawn.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::draw))
    }
}

impl RequestId {
    fn draw() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    fn of(request: &Request) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        match given {
            Some(id) if !id.is_empty() && id.len() <= 128 => Self(id.to_owned()),
            _ => Self::draw(),
        }
    }
}

/// Gives each request its id, each answer the same, and counts both.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(&request);
    // Methods are the client's to invent, label values are not.
    let method = match request.method() {
        m @ (&Method::GET | &Method::HEAD | &Method::POST | &Method::PUT | &Method::DELETE) => {
            m.to_string()
        }
        _ => "other".to_owned(),
    };
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unmatched", MatchedPath::as_str).to_owned();
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(HEADER, value);
    }
    let status = response.status().as_u16();
    tracing::debug!(request = %id.0, %method, route, status, "answered");
    crate::telemetry::request(&route, &method, status, started.elapsed());
    response
}
