//! Where a node keeps what proves who it is. Everything is written before it counts, so a crash at any moment leaves either
//! nothing or enough to go on with.
//!
//! ```text
//! sealing.key                      the cluster's sealing key, when it is kept here
//! admin.key                        the first API key, for whoever set the cluster up
//! joining/identity.pem             what was given, until there is a log for it
//! identity/identity.pem            key, certificate, trusted authorities
//! identity/authority.sealed        the first authority, until the cluster has it
//! identity/admin.pending           until the cluster has the first user and key
//! ```

use super::CredentialError;
use crate::config::SealingSource;
use ollamamax_gateway::secrets::SealingKey;
use ollamamax_proto::limits;
use ollamamax_tls::{Identity, private};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const SEALING: &str = "sealing.key";
const ADMIN: &str = "admin.key";
const JOINING: &str = "joining";
const IDENTITY: &str = "identity";
const AUTHORITY: &str = "authority.sealed";
const ADMIN_PENDING: &str = "admin.pending";
/// Longest file with a key as text.
const KEY_TEXT_BYTES: usize = 256;

/// The files of one node.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Those in the data directory `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// What this node is, once it has a log.
    pub fn identity(&self) -> Result<Option<Identity>, CredentialError> {
        Ok(Identity::load(&self.dir.join(IDENTITY))?)
    }

    /// What this node was made, before it had a log.
    pub fn joining(&self) -> Result<Option<Identity>, CredentialError> {
        Ok(Identity::load(&self.dir.join(JOINING))?)
    }

    /// Keeps what this node was made until [`Files::settle`]; of the first node together with the sealed authority.
    pub fn begin(
        &self,
        identity: &Identity,
        authority: Option<&[u8]>,
    ) -> Result<(), CredentialError> {
        let dir = self.dir.join(JOINING);
        if let Some(sealed) = authority {
            private::save(&dir, AUTHORITY, sealed).map_err(CredentialError::File)?;
        }
        Ok(identity.save(&dir)?)
    }

    /// There is a log: from now on the node is what it was made.
    pub fn settle(&self) -> Result<(), CredentialError> {
        let (from, to) = (self.dir.join(JOINING), self.dir.join(IDENTITY));
        let renamed = match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Only what an earlier life of this node left can be in the way.
            Err(_) if to.exists() => fs::remove_dir_all(&to).and_then(|()| fs::rename(&from, &to)),
            renamed => renamed,
        };
        let synced = renamed.and_then(|()| fs::File::open(&self.dir)?.sync_all());
        synced.map_err(|source| CredentialError::Io { path: from, source })
    }

    /// Keeps a renewed identity.
    pub fn save(&self, identity: &Identity) -> Result<(), CredentialError> {
        Ok(identity.save(&self.dir.join(IDENTITY))?)
    }

    /// The first authority, sealed, while the cluster does not have it.
    pub fn authority(&self) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialError> {
        let most = limits::SIGNING_KEY_BYTES;
        private::load(&self.dir.join(IDENTITY), AUTHORITY, most).map_err(CredentialError::File)
    }

    /// The cluster has the first authority.
    pub fn forget_authority(&self) {
        self.remove(&self.dir.join(IDENTITY).join(AUTHORITY));
    }

    /// Whether the first user and key are not known to be there yet.
    pub fn admin_is_pending(&self) -> bool {
        self.dir.join(IDENTITY).join(ADMIN_PENDING).exists()
    }

    /// The first API key: the one kept, or `fresh`, which is kept from now on.
    pub fn admin_key(&self, fresh: &str) -> Result<Zeroizing<String>, CredentialError> {
        let kept =
            private::load(&self.dir, ADMIN, KEY_TEXT_BYTES).map_err(CredentialError::File)?;
        let kept = kept.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        if let Some(kept) = kept.map(Zeroizing::new).filter(|_| self.admin_is_pending()) {
            return Ok(Zeroizing::new(kept.trim_end().to_owned()));
        }
        let line = Zeroizing::new(format!("{fresh}\n"));
        private::save(&self.dir, ADMIN, line.as_bytes()).map_err(CredentialError::File)?;
        private::save(&self.dir.join(IDENTITY), ADMIN_PENDING, b"")
            .map_err(CredentialError::File)?;
        Ok(Zeroizing::new(fresh.to_owned()))
    }

    /// The cluster has the first user and key.
    pub fn forget_admin(&self) {
        self.remove(&self.dir.join(IDENTITY).join(ADMIN_PENDING));
    }

    /// Where the first API key is.
    pub fn admin_path(&self) -> PathBuf {
        self.dir.join(ADMIN)
    }

    fn remove(&self, path: &Path) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "not removed; tried again at the next start");
            }
            _ => {}
        }
    }

    /// The sealing key from where `source` says; `None` when it is to be in the data directory and is not.
    pub fn sealing(&self, source: &SealingSource) -> Result<Option<SealingKey>, CredentialError> {
        match source {
            SealingSource::Given(key) => Ok(Some(key.clone())),
            SealingSource::File(path) => read_sealing(path).map(Some),
            SealingSource::DataDir => {
                let kept = private::load(&self.dir, SEALING, KEY_TEXT_BYTES);
                let Some(bytes) = kept.map_err(CredentialError::File)? else { return Ok(None) };
                parse(&self.dir.join(SEALING), &bytes).map(Some)
            }
        }
    }

    /// Keeps the sealing key in the data directory.
    pub fn keep_sealing(&self, key: &SealingKey) -> Result<(), CredentialError> {
        let line = Zeroizing::new(format!("{}\n", *key.reveal()));
        private::save(&self.dir, SEALING, line.as_bytes()).map_err(CredentialError::File)
    }
}

/// Reads a file that an operator or the system provides: a group may read it, everybody may not.
fn read_sealing(path: &Path) -> Result<SealingKey, CredentialError> {
    let failed = |source| CredentialError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        let mode = mode & 0o777;
        return Err(CredentialError::Exposed { path: path.to_owned(), mode });
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(failed)?);
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<SealingKey, CredentialError> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    SealingKey::parse(text).map_err(|error| CredentialError::SealingText {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
