//! What proves who this node is, and keeps proving it: its certificate, the authorities it trusts, the sealing key.
//!
//! ```text
//! first node:  makes the authority, signs itself -> (a quorum) -> the authority, sealed, is in the state
//! other nodes: join token -> certificate, authorities, sealing key
//! from then on every node has the authority in its state and the key that unseals it: it signs for itself
//!
//! state: authorities --follow()--> trusted ones, a fresh certificate when it is time or when another authority signs
//! ```
//!
//! A node that was off for longer than its certificate lasts signs itself a new one before it talks to anybody, so a cluster
//! that lost its power comes back from its files alone.

mod files;
mod keep;

use crate::config::{NodeConfig, SealingSource};
use crate::open::Addresses;
pub use files::Files;
pub(crate) use keep::keep;
use ollamamax_core::State;
use ollamamax_core::access::AuthorityRecord;
use ollamamax_gateway::secrets::SealingKey;
use ollamamax_gateway::unseal_authority;
use ollamamax_proto::{Digest, Millis, NodeId, limits};
use ollamamax_tls::private::PrivateError;
use ollamamax_tls::{
    Authority, AuthorityError, Certificate, CertificateError, Identity, IdentityError, JoinError,
    Joining, Request, Role, SignError, Tls, TlsError, join, trust_mark,
};
use std::io;
use std::path::PathBuf;

/// Why a node cannot prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The directory has a log and no certificate.
    #[error(
        "`{}` holds node {node} and no certificate for it; take node {node} out of the cluster (`ollamamax cluster remove {node}`), \
         remove the directory and join with a join token", dir.display()
    )]
    NoIdentity {
        /// The data directory.
        dir: PathBuf,
        /// Whose log it holds.
        node: u64,
    },
    /// The directory has a certificate and no log.
    #[error(
        "`{}` holds the certificate of {role} and not its log: what it has promised is lost; remove the directory and join \
         again with a new join token", dir.display()
    )]
    NoLog {
        /// The data directory.
        dir: PathBuf,
        /// Who it was.
        role: Role,
    },
    /// Certificate and log are those of different members.
    #[error("`{}` holds the log of node {node} and the certificate of {role}", dir.display())]
    OtherMember {
        /// The data directory.
        dir: PathBuf,
        /// Of the log.
        node: u64,
        /// Of the certificate.
        role: Role,
    },
    /// No sealing key.
    #[error(
        "there is no sealing key in `{}`; if the cluster's is kept elsewhere, name it with --sealing-key-file", dir.display()
    )]
    NoSealingKey {
        /// The data directory.
        dir: PathBuf,
    },
    /// The sealing key is that of another cluster.
    #[error(
        "the sealing key does not open the certificate authority of this cluster: it is another cluster's, or was changed; \
         give this node the key that the other nodes have"
    )]
    OtherSealingKey,
    /// A file with the sealing key holds something else.
    #[error("`{}`: {reason}", path.display())]
    SealingText {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Everybody may read a secret.
    #[error("everybody may read `{}` (mode {mode:03o}); run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A private file.
    #[error(transparent)]
    File(PrivateError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate in the state.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Nothing was signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Nobody let this node in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The identity cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a node proves who it is with.
pub struct Credentials {
    /// All its connections.
    pub tls: Tls,
    /// Its files.
    pub files: Files,
    /// Opens what is sealed in the state.
    pub sealing: SealingKey,
    /// Whether nodes that join are given the sealing key.
    pub hands_out_sealing: bool,
    lifetime_ms: u64,
}

impl Credentials {
    /// With an identity that is kept in `files` or will be.
    pub fn new(
        identity: Identity,
        files: Files,
        sealing: SealingKey,
        config: &NodeConfig,
    ) -> Result<Self, CredentialError> {
        let hands_out_sealing = matches!(config.sealing, SealingSource::DataDir);
        let lifetime_ms = config.timings.certificate_ms;
        Ok(Self { tls: Tls::new(identity)?, files, sealing, hands_out_sealing, lifetime_ms })
    }

    /// Brings trust and certificate in line with what the state says of authorities. Refuses a sealing key that does not open
    /// the one in force.
    pub fn follow(&self, state: &State, now: Millis) -> Result<(), CredentialError> {
        let Some(active) = state.access.certifies(now) else { return Ok(()) };
        // Found out now, and not when this node has to sign.
        self.open(active)?;
        let own = self.tls.identity();
        let known = certificates(state)?;
        let trusted = trusted(&own, known);
        let signer = Certificate::from_pem(active.certificate.as_bytes())?;
        let next = if self.is_due(&own, &signer, state, now) {
            let request = Request::new()?;
            let certificate = self.sign_with(active, request.der(), own.role(), now)?;
            tracing::info!(until = %certificate.not_after().0, "a new certificate");
            request.identity(certificate, trusted)?
        } else if trusted != own.trusted() {
            tracing::info!(authorities = trusted.len(), "other authorities are trusted");
            own.with_trusted(trusted)?
        } else {
            return Ok(());
        };
        self.files.save(&next)?;
        Ok(self.tls.replace(next)?)
    }

    fn is_due(&self, own: &Identity, signer: &Certificate, state: &State, now: Millis) -> bool {
        let by = |authority: &Certificate| {
            own.certificate().issued_by(authority, own.certificate().not_before()).is_ok()
        };
        let issuer = own.trusted().iter().find(|authority| by(authority));
        let known =
            |issuer: &&Certificate| state.access.authorities.contains_key(&issuer.fingerprint().0);
        // Signed by one that this state does not know: the state is the older of both.
        let is_ahead = issuer
            .filter(|issuer| !known(issuer))
            .is_some_and(|issuer| issuer.not_before() > signer.not_before() && !own.has_ended(now));
        !is_ahead && (now >= own.renew_at() || !by(signer))
    }

    /// Signs a request with the authority that is in force at `now`.
    pub fn sign(
        &self,
        state: &State,
        request: &[u8],
        role: Role,
        now: Millis,
    ) -> Result<Certificate, CredentialError> {
        let active = state.access.certifies(now).ok_or(SignError::Ended)?;
        self.sign_with(active, request, role, now)
    }

    fn sign_with(
        &self,
        active: &AuthorityRecord,
        request: &[u8],
        role: Role,
        now: Millis,
    ) -> Result<Certificate, CredentialError> {
        let authority = self.open(active)?;
        Ok(authority.sign(request, role, self.lifetime_ms, now)?)
    }

    fn open(&self, record: &AuthorityRecord) -> Result<Authority, CredentialError> {
        unseal_authority(&self.sealing, &record.sealed.0).ok_or(CredentialError::OtherSealingKey)
    }

    /// Refuses a sealing key that does not open the authority in force.
    pub fn check_sealing(&self, state: &State, now: Millis) -> Result<(), CredentialError> {
        state.access.certifies(now).map_or(Ok(()), |active| self.open(active).map(drop))
    }

    /// When it should be looked again, whatever happens: in milliseconds from `now`.
    pub fn next_look_ms(&self, state: &State, now: Millis) -> u64 {
        let due = self.tls.identity().renew_at();
        let turns = state.access.authorities.values().map(|record| record.signs_from);
        let next = turns.filter(|turn| *turn > now).chain([due]).min().unwrap_or(due);
        next.since(now).clamp(limits::RENEW_RETRY_MS, limits::RENEW_CHECK_MS)
    }
}

/// The certificates of all authorities in the state.
pub fn certificates(state: &State) -> Result<Vec<Certificate>, CertificateError> {
    let records = state.access.authorities.values();
    records.map(|record| Certificate::from_pem(record.certificate.as_bytes())).collect()
}

/// What workers compare with their own to see whether they have to renew.
pub fn mark(state: &State, now: Millis) -> Digest {
    let active = state.access.certifies(now).map(|record| Digest(record.fingerprint));
    trust_mark(state.access.authorities.keys().copied().map(Digest).collect(), active)
}

/// All that are `known`, and of those trusted so far the ones that are younger: a state that is behind does not know them.
fn trusted(own: &Identity, known: Vec<Certificate>) -> Vec<Certificate> {
    let newest = known.iter().map(Certificate::not_before).max().unwrap_or(Millis(0));
    let ahead = own
        .trusted()
        .iter()
        .filter(|authority| authority.not_before() > newest && !known.contains(authority));
    let ahead: Vec<Certificate> = ahead.cloned().collect();
    let mut trusted: Vec<Certificate> = ahead.into_iter().chain(known).collect();
    trusted.truncate(limits::TLS_AUTHORITIES_COUNT);
    trusted.sort_by_key(Certificate::fingerprint);
    trusted
}

/// A new cluster's authority, and its first node.
pub(crate) fn found(
    config: &NodeConfig,
    files: Files,
    node: NodeId,
) -> Result<Credentials, CredentialError> {
    let now = Millis::now();
    let sealing = match files.sealing(&config.sealing)? {
        Some(key) => key,
        None => {
            let key = SealingKey::random();
            files.keep_sealing(&key)?;
            key
        }
    };
    // 128 random bits in hex are a label.
    let cluster = format!("{:032x}", rand::random::<u128>()).parse();
    let cluster = cluster.map_err(|_| CertificateError::Malformed)?;
    let authority = Authority::create(&cluster, now)?;
    let record = ollamamax_gateway::seal_authority(&sealing, &authority, now);
    let request = Request::new()?;
    let lifetime_ms = config.timings.certificate_ms;
    let certificate = authority.sign(request.der(), Role::Node(node), lifetime_ms, now)?;
    let identity = request.identity(certificate, vec![authority.certificate().clone()])?;
    files.begin(&identity, Some(&record.sealed.0))?;
    Credentials::new(identity, files, sealing, config)
}

/// Becomes a node of the cluster of the join token.
pub(crate) async fn enter(
    config: &NodeConfig,
    files: Files,
    token: &ollamamax_tls::JoinToken,
    addresses: &Addresses,
) -> Result<Credentials, CredentialError> {
    let (http, raft) = (addresses.http.clone(), addresses.raft.clone());
    let joined = join(token, &Joining::Node { http, raft }, rand::random::<f64>).await?;
    let given = joined.sealing_key.as_deref().map(|text| SealingKey::parse(text));
    let sealing = match (files.sealing(&config.sealing), given) {
        // What an earlier cluster left here opens nothing in this one.
        (Ok(_), Some(Ok(key))) if matches!(config.sealing, SealingSource::DataDir) => {
            files.keep_sealing(&key)?;
            key
        }
        (found, _) => {
            let dir = config.data_dir.clone();
            found?.ok_or(CredentialError::NoSealingKey { dir })?
        }
    };
    files.begin(&joined.identity, None)?;
    Credentials::new(joined.identity, files, sealing, config)
}
