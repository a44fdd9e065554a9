//! Everything that proves who somebody is, replaced while answers are generated: certificates of seconds, the authority that signs
//! them, and the key that signs access tokens.

use crate::binary;
use ollamamax_proto::{Digest, Millis};
use ollamamax_tests::{Api, Cluster, ClusterOptions, Member, model};
use ollamamax_tls::Identity;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(150);
const MODEL: &str = "smollm2:135m";
const PROMPT: &str = "Count from one to twenty in words.";
const TOKENS: u32 = 16;
const PASSWORD: &str = "a-long-password-1";

/// The certificate that a member has now, and whom it trusts.
fn identity(cluster: &Cluster, member: Member) -> Option<Identity> {
    // A file that is just being replaced is looked at again.
    Identity::load(&cluster.data_dir(member).join("identity")).ok().flatten()
}

fn trusted(identity: &Identity) -> BTreeSet<Digest> {
    identity.trusted().iter().map(|authority| authority.fingerprint()).collect()
}

/// Seeded streams one after another until they are stopped, by turns with each client. Whatever is not the expected answer ends it.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(gateways: Vec<[Api; 2]>, expected: &str) -> Self {
        let (is_over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = gateways.into_iter().map(|clients| {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            let expected = expected.to_owned();
            tokio::spawn(async move {
                for client in clients.iter().cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let text = client.chat(MODEL, PROMPT, TOKENS).await;
                    let text = text.map_err(|error| error.to_string())?;
                    if text != expected {
                        return Err(format!("another answer: {text:?}"));
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let tasks = tasks.collect();
        Self { is_over, answered, tasks }
    }

    fn check(&self) -> Result<(), String> {
        match self.tasks.iter().any(JoinHandle::is_finished) {
            true => Err("a stream has failed".to_owned()),
            false => Ok(()),
        }
    }

    /// How many were answered, all of them well.
    async fn stop(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no panic").expect("no valid request is refused, no stream breaks");
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_proves_who_somebody_is_is_replaced_and_no_stream_notices() {
    let mut options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    options.anonymous = String::new();
    options.node_args = ["--certificate-lifetime", "10s"].map(Into::into).to_vec();
    let cluster = Cluster::start(options.size(3, 2)).await.expect("a cluster");
    cluster.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
    let api = cluster.api(0);
    let alice = json!({"name": "alice", "password": PASSWORD, "roles": ["user"]});
    api.post("/admin/v1/users", &alice).await.expect("created");
    for node in 0..3 {
        cluster.wait_caught_up(node, 0, PATIENCE).await.expect("every node knows her");
    }
    let login = json!({"username": "alice", "password": PASSWORD});
    let login = api.post("/auth/token", &login).await.expect("she is let in");
    let token = login["access_token"].as_str().expect("a token").to_owned();
    for node in 0..3 {
        cluster.wait_caught_up(node, 0, PATIENCE).await.expect("every node knows the login");
    }
    let expected = api.chat(MODEL, PROMPT, TOKENS).await.expect("an answer");
    let gateways = (0..3).map(|node| {
        let by_key = cluster.api(node).clone();
        [by_key.clone(), by_key.with_key(&token)]
    });
    let load = Load::start(gateways.collect(), &expected);
    let members =
        [Member::Node(0), Member::Node(1), Member::Node(2), Member::Worker(0), Member::Worker(1)];
    let first = members.map(|member| identity(&cluster, member).expect("there is one"));
    let old = trusted(&first[0]);

    let made = cluster.api(1).post("/admin/v1/signing-keys/rotate", &json!({})).await;
    let signing = made.expect("another key")["id"].clone();
    let made = cluster.api(2).post("/admin/v1/authorities/rotate", &json!({})).await;
    let made = made.expect("another authority");
    let new: Digest = made["fingerprint"].as_str().expect("a digest").parse().expect("a digest");
    assert!(!old.contains(&new));

    let replaced = async || {
        load.check()?;
        for (member, first) in members.iter().zip(&first) {
            let now = identity(&cluster, *member).ok_or("a file is being replaced")?;
            if trusted(&now) != BTreeSet::from([new]) || !first.has_ended(Millis::now()) {
                return Err(format!("{member:?} trusts {:?}", trusted(&now)));
            }
            if now.has_ended(Millis::now()) {
                return Err(format!("the certificate of {member:?} has ended"));
            }
        }
        let keys = api.get("/admin/v1/signing-keys").await.map_err(|error| error.to_string())?;
        let signs = |key: &&Value| key["id"] == signing && key["state"] == "active";
        let keys = keys["signing_keys"].as_array().ok_or("no keys")?;
        keys.iter().find(signs).map(drop).ok_or_else(|| format!("{keys:?}"))
    };
    if let Err(error) = cluster.wait("everything is replaced", PATIENCE, replaced).await {
        // A stream that failed says more.
        load.stop().await;
        unreachable!("{error}");
    }
    let again = members.map(|member| identity(&cluster, member).expect("there is one"));
    let renewed = async || {
        load.check()?;
        let fingerprint = |identity: &Identity| identity.certificate().fingerprint();
        let still = members.iter().zip(&again).find(|(member, before)| {
            let now = identity(&cluster, **member);
            now.is_none_or(|now| fingerprint(&now) == fingerprint(before))
        });
        still.map_or(Ok(()), |(member, _)| Err(format!("{member:?} has the same certificate")))
    };
    cluster.wait("all are renewed again", PATIENCE, renewed).await.expect("renewed");
    let answered = load.stop().await;
    eprintln!("{answered} streams");
    assert!(answered >= 30, "{answered} streams are no load");
    // The token of before the rotation is as good as ever, and so is everything else.
    let answer = cluster.api(2).clone().with_key(&token).chat(MODEL, PROMPT, TOKENS).await;
    assert_eq!(answer.expect("an answer"), expected);
}

#[test]
fn a_lifetime_that_cannot_be_kept_is_refused_with_what_can() {
    let directory = tempfile::tempdir().expect("a directory");
    for lifetime in ["1s", "25h", "-1", "soon"] {
        let output = std::process::Command::new(binary())
            .args(["control-plane", "--bootstrap", "--data-dir"])
            .arg(directory.path().join("data"))
            .arg(format!("--certificate-lifetime={lifetime}"))
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--certificate-lifetime") && said.contains(lifetime), "{said}");
    }
    assert!(!directory.path().join("data").exists(), "nothing is made");
}
