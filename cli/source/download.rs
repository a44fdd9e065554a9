//! A model from a URL, resumed where an earlier try broke off when the server still has the same bytes.
//!
//! A partial file is kept under a name made from the URL, with the server's validator beside it: the next try asks for the rest
//! with `Range` and `If-Range`, and starts over when the server answers with the whole. `#sha256=<hex>` at the end of
//! the URL names the digest the file must have.

use super::{Fetched, name_of_file, verify};
use crate::exit::Failure;
use crate::progress::Progress;
use futures_util::StreamExt;
use ollamamax_proto::{Digest, limits};
use reqwest::header::{ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ATTEMPTS_COUNT: u32 = 5;
const SILENCE: Duration = Duration::from_secs(30);

/// Downloads what a URL names.
pub async fn fetch(url: &str, cache_dir: &Path, progress: &Progress) -> Result<Fetched, Failure> {
    let (url, wanted) = match url.split_once("#sha256=") {
        Some((url, hex)) => {
            let digest = format!("sha256:{hex}").parse::<Digest>();
            (url, Some(digest.map_err(|error| Failure::Usage(error.to_string()))?))
        }
        None => (url, None),
    };
    fs::create_dir_all(cache_dir).map_err(Failure::file("create", cache_dir))?;
    let file_name = url.split(['?', '#']).next().unwrap_or(url).rsplit('/').next();
    let name = name_of_file(Path::new(file_name.unwrap_or("model")));
    let download = Download::new(url, cache_dir)?;
    let mut attempt = 0;
    let error = loop {
        match download.attempt(progress).await {
            Ok(()) => break None,
            Err(Broken::For(error)) => break Some(error),
            Err(Broken::Maybe(error)) if attempt + 1 == ATTEMPTS_COUNT => break Some(error),
            Err(Broken::Maybe(_)) => attempt += 1,
        }
        let wait = ollamamax_proto::backoff::delay_ms(attempt, 200, 5_000, rand::random());
        tokio::time::sleep(Duration::from_millis(wait)).await;
    };
    if let Some(error) = error {
        return Err(Failure::Other(format!(
            "`{url}` could not be downloaded: {error}; what came is kept, the next try goes on \
             from there"
        )));
    }
    let digest = verify::digest_of(&download.partial, progress).await?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
        download.forget();
        return Err(Failure::Other(format!(
            "`{url}` has the digest {digest}, expected {wanted}; nothing was kept"
        )));
    }
    let path = cache_dir.join(format!("sha256-{}.gguf", digest.hex()));
    fs::rename(&download.partial, &path).map_err(Failure::file("write", &path))?;
    download.forget();
    Ok(Fetched { path, digest, name, licenses: Vec::new() })
}

/// Why an attempt ended early.
enum Broken {
    /// Trying again cannot help.
    For(String),
    /// It may.
    Maybe(String),
}

struct Download {
    url: String,
    partial: PathBuf,
    validator: PathBuf,
    /// Held as long as this process downloads: two processes would mix their bytes.
    _lock: File,
}

impl Download {
    fn new(url: &str, cache_dir: &Path) -> Result<Self, Failure> {
        let stem = Digest::of(url.as_bytes()).hex();
        let lock_path = cache_dir.join(format!("{stem}.lock"));
        let lock = File::create(&lock_path).map_err(Failure::file("create", &lock_path))?;
        lock.lock().map_err(Failure::file("lock", &lock_path))?;
        Ok(Self {
            url: url.to_owned(),
            partial: cache_dir.join(format!("{stem}.partial")),
            validator: cache_dir.join(format!("{stem}.validator")),
            _lock: lock,
        })
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.partial);
        let _ = fs::remove_file(&self.validator);
    }

    async fn attempt(&self, progress: &Progress) -> Result<(), Broken> {
        let maybe = |error: reqwest::Error| Broken::Maybe(error.without_url().to_string());
        let io = |error: std::io::Error| Broken::For(error.to_string());
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE)
            .build()
            .map_err(maybe)?;
        let have = fs::metadata(&self.partial).map_or(0, |meta| meta.len());
        let validator = fs::read_to_string(&self.validator).ok().filter(|_| have > 0);
        let mut request = client.get(&self.url);
        if let Some(validator) = &validator {
            request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, validator);
        }
        let response = request.send().await.map_err(maybe)?;
        let status = response.status().as_u16();
        let resumed = status == 206;
        match status {
            200 | 206 => {}
            // Nothing is left to fetch, or the file changed its length: only a fresh start tells.
            416 => {
                self.forget();
                return Err(Broken::Maybe("the server's file has changed".to_owned()));
            }
            408 | 429 | 500.. => {
                return Err(Broken::Maybe(format!("the server answered {status}")));
            }
            _ => return Err(Broken::For(format!("the server answered {status}"))),
        }
        let start = if resumed { have } else { 0 };
        let total = response.content_length().map(|rest| start + rest);
        if total.is_some_and(|total| total > limits::BLOB_BYTES) {
            return Err(Broken::For(format!("it has more than {} bytes", limits::BLOB_BYTES)));
        }
        if !resumed {
            let headers = response.headers();
            let strong = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
            let validator = strong.or_else(|| headers.get(LAST_MODIFIED));
            let validator = validator.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let _ = fs::remove_file(&self.validator);
            if !validator.is_empty() {
                fs::write(&self.validator, validator).map_err(io)?;
            }
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(resumed)
            .write(true)
            .truncate(!resumed)
            .open(&self.partial)
            .map_err(io)?;
        let mut done = start;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(maybe)?;
            done += chunk.len() as u64;
            if done > total.unwrap_or(limits::BLOB_BYTES) {
                return Err(Broken::For("the server sends more than it announced".to_owned()));
            }
            file.write_all(&chunk).map_err(io)?;
            progress.bytes("downloading the model", done, total.unwrap_or(0));
        }
        file.sync_all().map_err(io)?;
        match total {
            Some(total) if done < total => {
                Err(Broken::Maybe(format!("it broke off after {done} of {total} bytes")))
            }
            _ => Ok(()),
        }
    }
}
