//! What proves who this worker is: its certificate, got with a join token and renewed ever since.
//!
//! ```text
//! identity/identity.pem     key, certificate, trusted authorities
//! nodes.json                where the nodes were last: who comes back finds them without being told
//! ```

use arc_swap::ArcSwapOption;
use ollamamax_proto::wire::Membership;
use ollamamax_proto::{Digest, Millis, WorkerId, limits};
use ollamamax_tls::private::{self, PrivateError};
use ollamamax_tls::{
    Identity, IdentityError, JoinError, JoinToken, Joining, Role, Tls, TlsError, join,
};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::sleep;

const IDENTITY: &str = "identity";
const NODES: &str = "nodes.json";

/// Why a worker cannot prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It has never joined.
    #[error(
        "`{}` holds no certificate: create a join token with `ollamamax join-token create worker` and start this worker \
         with it (--join-token-file, or OLLAMAMAX_JOIN_TOKEN)", dir.display()
    )]
    NoIdentity {
        /// The data directory.
        dir: PathBuf,
    },
    /// It was off for too long.
    #[error(
        "the certificate in `{}` has ended: create a join token with `ollamamax join-token create worker` and start \
         this worker with it (--join-token-file, or OLLAMAMAX_JOIN_TOKEN)", dir.display()
    )]
    Ended {
        /// The data directory.
        dir: PathBuf,
    },
    /// The certificate there is no worker's.
    #[error("`{}` holds the certificate of {role}", dir.display())]
    NoWorker {
        /// The data directory.
        dir: PathBuf,
        /// Whose.
        role: Role,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] PrivateError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nobody let it in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The identity cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The nodes there are, as this worker last heard.
#[derive(Debug)]
struct Nodes {
    members: BTreeSet<u64>,
    last: u64,
}

/// What this worker proves who it is with, and whom it refuses.
#[derive(Debug)]
pub struct Credentials {
    /// All its connections.
    pub tls: Tls,
    dir: PathBuf,
    nodes: Arc<ArcSwapOption<Nodes>>,
    /// What the nodes' mark of trust is.
    trust: watch::Sender<Option<Digest>>,
    /// Addresses as they are on the disk.
    kept: Mutex<Vec<String>>,
}

/// Which worker the certificate in `dir` names.
pub fn certified(dir: &Path) -> Result<Option<WorkerId>, CredentialError> {
    let Some(own) = Identity::load(&dir.join(IDENTITY))? else { return Ok(None) };
    match own.role() {
        Role::Worker(id) => Ok(Some(id)),
        role => Err(CredentialError::NoWorker { dir: dir.to_owned(), role }),
    }
}

impl Credentials {
    /// Those kept in `dir`; without, or when they are of no more use, those that `token` brings. A token of an authority that
    /// is not trusted yet is tried, too: the authority may have been replaced while this worker was off. Any other is left.
    pub async fn open(
        dir: &Path,
        worker: WorkerId,
        token: Option<&JoinToken>,
    ) -> Result<Self, CredentialError> {
        let own = Identity::load(&dir.join(IDENTITY))?;
        let ended = own.as_ref().is_some_and(|own| own.has_ended(Millis::now()));
        let elsewhere = own.as_ref().zip(token).is_some_and(|(own, token)| {
            !own.trusted().iter().any(|authority| authority.fingerprint() == token.authority)
        });
        let identity = match (own, token) {
            (Some(own), _) if !ended && !elsewhere => own,
            (Some(own), Some(token)) if !ended => match enter(dir, worker, token).await {
                Ok(identity) => identity,
                Err(error) => {
                    tracing::warn!(%error, "the join token is of another authority and of no use");
                    own
                }
            },
            // It is known from before, and the cluster has to notice first that it does not run.
            (Some(_), Some(token)) => enter_again(dir, worker, token).await?,
            (None, Some(token)) => enter(dir, worker, token).await?,
            (Some(_), None) => return Err(CredentialError::Ended { dir: dir.to_owned() }),
            (None, None) => return Err(CredentialError::NoIdentity { dir: dir.to_owned() }),
        };
        let nodes: Arc<ArcSwapOption<Nodes>> = Arc::default();
        let tls = Tls::new(identity)?;
        let known = Arc::clone(&nodes);
        tls.refuse(move |peer| match (peer.role, &*known.load()) {
            // Ids count up: one beyond the last that was heard of is new.
            (Role::Node(id), Some(known)) => id.0 <= known.last && !known.members.contains(&id.0),
            _ => false,
        });
        let (dir, kept) = (dir.to_owned(), Mutex::new(read_nodes(dir)));
        Ok(Self { tls, dir, nodes, trust: watch::Sender::new(None), kept })
    }

    /// Where the nodes were last.
    pub fn addresses(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node told where all nodes are.
    pub fn learn(&self, addresses: &[String]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !addresses.is_empty() && *kept != addresses {
            addresses.clone_into(&mut kept);
            keep_nodes(&self.dir, addresses);
        }
    }

    /// A node told who belongs to the cluster. What is older than what was heard before is left.
    pub fn hear(&self, membership: Option<Membership>) {
        let Some(Membership { nodes, last_node, trust }) = membership else { return };
        if self.nodes.load().as_ref().is_none_or(|known| known.last <= last_node) {
            let members = nodes.into_iter().take(limits::WORKER_CONTROL_PLANES_COUNT).collect();
            self.nodes.store(Some(Arc::new(Nodes { members, last: last_node })));
        }
        if let Ok(trust) = <[u8; 32]>::try_from(&trust[..]) {
            self.trust
                .send_if_modified(|known| known.replace(Digest(trust)) != Some(Digest(trust)));
        }
    }

    /// What the nodes' mark of trust is.
    pub fn trust(&self) -> watch::Receiver<Option<Digest>> {
        self.trust.subscribe()
    }

    /// From now on this is what it shows and whom it trusts.
    pub fn renew(&self, identity: Identity) -> Result<(), CredentialError> {
        identity.save(&self.dir.join(IDENTITY))?;
        Ok(self.tls.replace(identity)?)
    }

    /// The worker was removed: what it has is of no more use, and the next start needs a join token.
    pub fn forget(&self) {
        match fs::remove_dir_all(self.dir.join(IDENTITY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the certificate could not be removed");
            }
            _ => {}
        }
    }
}

async fn enter(
    dir: &Path,
    worker: WorkerId,
    token: &JoinToken,
) -> Result<Identity, CredentialError> {
    let joined = join(token, &Joining::Worker(worker), rand::random::<f64>).await?;
    joined.identity.save(&dir.join(IDENTITY))?;
    keep_nodes(dir, &joined.addresses);
    tracing::info!(cluster = %joined.identity.cluster(), "joined");
    Ok(joined.identity)
}

async fn enter_again(
    dir: &Path,
    worker: WorkerId,
    token: &JoinToken,
) -> Result<Identity, CredentialError> {
    let begun = Instant::now();
    loop {
        match enter(dir, worker, token).await {
            Err(CredentialError::Join(error @ JoinError::Refused { .. }))
                if begun.elapsed() < Duration::from_millis(limits::JOIN_TIMEOUT_MS) =>
            {
                tracing::info!(%error, "asking again: this worker may still be taken for running");
                sleep(Duration::from_millis(limits::WORKER_RETRY_MAX_MS)).await;
            }
            entered => return entered,
        }
    }
}

fn keep_nodes(dir: &Path, addresses: &[String]) {
    let text = serde_json::to_vec(addresses).unwrap_or_default();
    if let Err(error) = private::save(dir, NODES, &text) {
        tracing::warn!(%error, "where the nodes are is not kept");
    }
}

fn read_nodes(dir: &Path) -> Vec<String> {
    let most = limits::WORKER_CONTROL_PLANES_COUNT * limits::ADDRESS_CHARS;
    match private::load(dir, NODES, most) {
        Ok(bytes) => {
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
        }
        Err(error) => {
            tracing::warn!(%error, "where the nodes were is not known");
            Vec::new()
        }
    }
}
