//! Certificates of the gateway: read from files, checked before they are used, and read again when the files change.
//!
//! Whoever renews a certificate replaces two files, one after the other; a pair that does not belong together yet, or is broken,
//! is told in the log, and the old one stays.

use crate::error::StartError;
use arc_swap::ArcSwap;
use ollamamax_proto::limits;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the node's own certificate first, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM; nobody but its owner and group may read it.
    pub key: PathBuf,
}

/// What serves TLS now.
pub(crate) struct Certificates {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// What was last looked at, good or bad: it is told once.
    seen: Mutex<Pair>,
}

/// The bytes of both files.
#[derive(PartialEq, Eq)]
struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Certificates {
    /// Reads the files; what is wrong with them is told with their name.
    pub fn read(files: &TlsFiles) -> Result<Arc<Self>, StartError> {
        let wrong = |(path, reason): Wrong| {
            let field = if path == files.cert { "tls_cert" } else { "tls_key" };
            StartError::Config { field, reason: format!("`{}`: {reason}", path.display()) }
        };
        let seen = Pair::read(files).map_err(wrong)?;
        let current = ArcSwap::from(seen.config(files).map_err(wrong)?);
        Ok(Arc::new(Self { files: files.clone(), current, seen: Mutex::new(seen) }))
    }

    /// What a handshake that begins now uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Looks at the files again and again, at once when the process gets SIGHUP.
    pub async fn watch(self: Arc<Self>, period: Duration) {
        let mut hang_up = match signal(SignalKind::hangup()) {
            Ok(hang_up) => Some(hang_up),
            Err(error) => {
                tracing::warn!(%error, "cannot listen to SIGHUP");
                None
            }
        };
        loop {
            let asked = async {
                match &mut hang_up {
                    Some(hang_up) => drop(hang_up.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = asked => tracing::info!("reading the certificates again: SIGHUP"),
                () = tokio::time::sleep(period) => {}
            }
            let this = Arc::clone(&self);
            // Files may lie on a network; a panic there is none of ours.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    fn look(&self) {
        let read = Pair::read(&self.files).and_then(|pair| {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == pair {
                return Ok(());
            }
            let config = pair.config(&self.files);
            *seen = pair;
            self.current.store(config?);
            tracing::info!(cert = %self.files.cert.display(), "serving the new certificate");
            Ok(())
        });
        if let Err((path, reason)) = read {
            let path = path.display();
            tracing::warn!(%path, reason, "the new certificate cannot be used, the old one stays");
        }
    }
}

type Wrong = (PathBuf, String);

impl Pair {
    fn read(files: &TlsFiles) -> Result<Self, Wrong> {
        let cert = bytes(&files.cert, |_| Ok(()))?;
        let key = bytes(&files.key, |mode| match mode & 0o007 {
            0 => Ok(()),
            _ => Err(format!(
                "everybody may use this key (mode {:03o}); take that away with `chmod o= {}`",
                mode & 0o777,
                files.key.display()
            )),
        })?;
        Ok(Self { cert, key })
    }

    fn config(&self, files: &TlsFiles) -> Result<Arc<ServerConfig>, Wrong> {
        let of_cert = |reason: String| (files.cert.clone(), reason);
        let of_key = |reason: String| (files.key.clone(), reason);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|error| of_cert(format!("no certificates in PEM: {error}")))?;
        if chain.is_empty() {
            return Err(of_cert("no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| of_key(format!("no private key in PEM: {error}")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| of_cert(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| {
                let cert = files.cert.display();
                of_key(format!("not the key of the certificate in `{cert}`: {error}"))
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The bytes of a file that is one, and of a size that makes sense.
fn bytes(path: &Path, allowed: impl FnOnce(u32) -> Result<(), String>) -> Result<Vec<u8>, Wrong> {
    let wrong = |reason: String| (path.to_owned(), reason);
    let failed = |error: io::Error| wrong(format!("cannot be read: {error}"));
    // Before it is opened: a pipe would be waited for.
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(wrong("not a file".to_owned()));
    }
    allowed(about.permissions().mode()).map_err(wrong)?;
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limits::HTTPS_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::HTTPS_FILE_BYTES {
        return Err(wrong(format!("more than {} bytes", limits::HTTPS_FILE_BYTES)));
    }
    Ok(bytes)
}
