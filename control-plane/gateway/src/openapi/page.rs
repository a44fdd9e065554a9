//! `/docs`: the description as a page, by Swagger UI, which is part of the program. The page asks nobody but its node.

use crate::error::{Failure, OllamaError};
use crate::request::Path;
use crate::stream::typed;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::OnceLock;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;

/// The page itself.
const PAGE: &str = include_str!("page.html");
/// What starts it.
const SCRIPT: &str = include_str!("page.js");
/// What the page may do: run what this node serves, and ask this node.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Files of Swagger UI that the page uses, with their types.
const FILES: [(&str, &str); 2] = [
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("swagger-ui.css", "text/css; charset=utf-8"),
];
/// How long a browser keeps them.
const KEPT: &str = "public, max-age=3600";

/// The description as a page.
#[utoipa::path(get, path = "/docs",
    responses((status = 200, description = "A page.", body = String, content_type = "text/html")))]
pub(crate) async fn page() -> Response {
    let mut response = typed("text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// What the page consists of.
#[utoipa::path(get, path = "/docs/{file}",
    params(("file" = String, Path, description = "`page.js`, `swagger-ui-bundle.js` or `swagger-ui.css`.", example = "page.js")),
    responses((status = 200, description = "A script or a style sheet.", content(
        (String = "text/javascript"), (String = "text/css")))))]
pub(crate) async fn file(Path(name): Path<String>) -> Result<Response, OllamaError> {
    let (kind, bytes) = match name.as_str() {
        "page.js" => ("text/javascript; charset=utf-8", Bytes::from_static(SCRIPT.as_bytes())),
        other => files().get(other).cloned().ok_or(Failure::NoPath)?,
    };
    let mut response = typed(kind, bytes);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(KEPT));
    Ok(response)
}

/// Files by name, unpacked with the first look.
fn files() -> &'static BTreeMap<&'static str, (&'static str, Bytes)> {
    static UNPACKED: OnceLock<BTreeMap<&str, (&str, Bytes)>> = OnceLock::new();
    UNPACKED.get_or_init(|| {
        let unpacked =
            FILES.iter().filter_map(|(name, kind)| Some((*name, (*kind, unpack(name)?))));
        unpacked.collect()
    })
}

fn unpack(wanted: &str) -> Option<Bytes> {
    let mut archive = zip::ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).ok()?;
    let end = format!("/dist/{wanted}");
    let name = archive.file_names().flatten().find(|name| name.ends_with(&end))?.into_owned();
    let mut bytes = Vec::new();
    archive.by_name(&name).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes.into())
}
