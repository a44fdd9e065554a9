//! What a node does by itself at its start and while it runs: give a new cluster its first member, say where it is, and
//! notice when it cannot go on.

use crate::credentials::{CredentialError, Credentials};
use crate::error::{NodeFailure, StartError};
use crate::open::{Addresses, FIRST_NODE};
use crate::raft::Raft;
use crate::status::NodeControl;
use ollamamax_core::access::{AccessCommand, Hidden, KeyRecord, ROLE_ADMIN, UserRecord};
use ollamamax_core::record::ClusterRecord;
use ollamamax_core::{Command, Rejection};
use ollamamax_gateway::credential::{self, PresentedKey};
use ollamamax_gateway::ports::ControlError;
use ollamamax_gateway::{seal_authority, unseal_authority};
use ollamamax_proto::audit::Note;
use ollamamax_proto::{Digest, Millis, NodeId, limits};
use ollamamax_storage::Identity;
use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Makes this node the only member of a new cluster. Doing it again after a crash is refused by Raft, which is fine.
pub(crate) async fn bootstrap(
    raft: &Raft,
    identity: &Identity,
    addresses: &Addresses,
) -> Result<(), StartError> {
    let failed = |error: String| StartError::Raft(error);
    if raft.is_initialized().await.map_err(|error| failed(error.to_string()))? {
        return Ok(());
    }
    let members = BTreeMap::from([(identity.node, addresses.node())]);
    raft.initialize(members).await.map_err(|error| failed(error.to_string()))
}

/// Tells the cluster where this node is now; the first node of a new cluster gives it its identity before, and afterwards its
/// authority and its first user.
pub(crate) async fn introduce(
    control: Arc<NodeControl>,
    credentials: Arc<Credentials>,
    cluster_name: Option<String>,
) {
    let (identity, addresses) = (&control.identity, &control.addresses);
    let mut commands = Vec::new();
    if let Some(name) = cluster_name {
        let cluster =
            ClusterRecord { id: identity.cluster.clone(), name, created_at: Millis::now() };
        let (http, raft) = (addresses.http.clone(), addresses.raft.clone());
        commands.push(Command::Bootstrap { cluster, http, raft });
    }
    commands.push(Command::AnnounceNode {
        node: NodeId(identity.node),
        http: addresses.http.clone(),
        raft: addresses.raft.clone(),
        pid: std::process::id(),
    });
    for command in commands {
        settled(&control, &command).await;
    }
    if identity.node == FIRST_NODE.0 {
        while let Err(error) = set_up(&control, &credentials).await {
            tracing::error!(%error, "the cluster is not set up yet");
            tokio::time::sleep(Duration::from_millis(limits::ACCESS_CHECK_MS)).await;
        }
    }
}

/// Proposes until it has been decided.
async fn settled(control: &NodeControl, command: &Command) {
    while !introduced(control, command).await {
        tokio::time::sleep(Duration::from_millis(limits::RAFT_ELECTION_MIN_MS)).await;
    }
}

/// Gives a new cluster its authority, its first user and a key for that user. Whatever was given before a crash is refused as
/// known, which is fine.
async fn set_up(control: &NodeControl, credentials: &Credentials) -> Result<(), CredentialError> {
    let files = &credentials.files;
    if let Some(sealed) = files.authority()? {
        let own = credentials.tls.identity();
        let authority = unseal_authority(&credentials.sealing, &sealed);
        let authority = authority.ok_or(CredentialError::OtherSealingKey)?;
        let record = seal_authority(&credentials.sealing, &authority, Millis::now());
        let (authority, lifetime_ms) = (record, limits::CERTIFICATE_MAX_MS);
        tracing::info!(cluster = %own.cluster(), "the cluster gets its certificate authority");
        let object = Digest(authority.fingerprint).hex();
        let put = AccessCommand::PutAuthority { authority, lifetime_ms };
        settled(control, &noted("authority.put", object, put)).await;
        files.forget_authority();
    }
    while control.client.linearizable().await.is_err() {
        tokio::time::sleep(Duration::from_millis(limits::RAFT_ELECTION_MIN_MS)).await;
    }
    if !files.admin_is_pending() && !control.published.state().access.users.is_empty() {
        return Ok(());
    }
    // On disk before anybody has heard of it: a key that was made and lost would lock everybody out.
    let (_, fresh, _) = credential::new_key();
    let text = files.admin_key(&fresh)?;
    let presented = PresentedKey::parse(&text);
    let presented = presented.ok_or_else(|| CredentialError::SealingText {
        path: files.admin_path(),
        reason: "it is no API key; remove the file and start again".to_owned(),
    })?;
    let key = KeyRecord {
        id: presented.id,
        hash: Hidden(presented.hash()),
        owner: ROLE_ADMIN.to_owned(),
        label: "of the first start".to_owned(),
        scope: None,
        created_at: Millis(0),
        expires_at: None,
    };
    let user = UserRecord {
        name: ROLE_ADMIN.to_owned(),
        service: false,
        password: None,
        roles: [ROLE_ADMIN.to_owned()].into(),
        disabled: false,
        created_at: Millis(0),
        not_before: Millis(0),
    };
    let (name, id) = (user.name.clone(), key.id.to_string());
    settled(control, &noted("user.create", name, AccessCommand::CreateUser { user })).await;
    settled(control, &noted("key.create", id, AccessCommand::CreateKey { key })).await;
    files.forget_admin();
    tracing::info!(key = %files.admin_path().display(), "user `admin` has an API key");
    Ok(())
}

/// A command of the first node, with what the trail says of it.
fn noted(action: &str, object: String, command: AccessCommand) -> Command {
    let note = Note {
        actor: format!("node:{FIRST_NODE}"),
        via: "first start".to_owned(),
        action: action.to_owned(),
        object,
        ..Note::default()
    };
    let command = Box::new(Command::Access(Box::new(command)));
    Command::Noted { note: Box::new(note), command }
}

/// Whether `command` has been decided: here, or through the others when nobody is known to lead.
async fn introduced(control: &NodeControl, command: &Command) -> bool {
    let rejection = match control.client.propose(command.clone()).await {
        Ok(_) => return true,
        Err(ControlError::Rejected(rejection)) => rejection,
        Err(error) => {
            tracing::debug!(%error, "not introduced yet");
            let state = control.published.state();
            let others = state.nodes.values().filter(|node| node.id.0 != control.identity.node);
            let others: Vec<_> = others.map(|node| (node.id, node.raft.clone())).collect();
            match control.client.propose_through_others(command, &others).await {
                Some(Ok(_)) => return true,
                Some(Err(rejection)) => rejection,
                None => return false,
            }
        }
    };
    // A node that did not vote asks nobody for a vote either: this is how it learns that it was removed.
    if rejection == Rejection::UnknownNode(NodeId(control.identity.node)) {
        control.peers.cast_out();
    }
    // Else the bootstrap was already accepted before a crash.
    tracing::debug!(%rejection, "introduction refused");
    true
}

/// Reports the failures that leave the process running but useless.
pub(crate) async fn watch_core(
    raft: Raft,
    control: Arc<NodeControl>,
    failed: watch::Sender<Option<NodeFailure>>,
    mut log: watch::Receiver<Option<String>>,
) {
    let mut metrics = raft.metrics();
    let me = NodeId(control.identity.node);
    loop {
        let core = metrics.borrow_watched().running_state.clone();
        if let Err(error) = core {
            failed.send_if_modified(|failure| {
                set_once(failure, NodeFailure::Raft(error.to_string()))
            });
            return;
        }
        let log_failure = log.borrow().clone();
        if let Some(reason) = log_failure {
            failed.send_if_modified(|failure| set_once(failure, NodeFailure::Raft(reason)));
            return;
        }
        control.note_leader();
        let told = control.peers.is_cast_out();
        if told || (is_out(&control, me) && control.leadership.current().is_none()) {
            failed.send_if_modified(|failure| set_once(failure, NodeFailure::Removed(me.0)));
            return;
        }
        let look_again = Duration::from_millis(limits::RAFT_ELECTION_MAX_MS);
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                let gone = NodeFailure::Raft("the core has ended".to_owned());
                failed.send_if_modified(|failure| set_once(failure, gone));
                return;
            },
            _ = log.changed() => {}
            () = tokio::time::sleep(look_again) => {}
        }
    }
}

/// Whether this node was told to leave and votes no longer, as far as its own log says: it has seen the joint membership
/// that ends in one without it. When it was cut off before that, the others tell it (`Peers::is_cast_out`).
fn is_out(control: &NodeControl, me: NodeId) -> bool {
    let leaving = control.published.state().nodes.get(&me).is_some_and(|node| node.leaving);
    let metrics = control.leadership.metrics();
    let last = metrics.membership_config.get_joint_config().last();
    leaving && !last.is_some_and(|voters| voters.contains(&me.0))
}

/// The first failure counts.
pub(crate) fn set_once(failure: &mut Option<NodeFailure>, new: NodeFailure) -> bool {
    let first = failure.is_none();
    failure.get_or_insert(new);
    first
}
