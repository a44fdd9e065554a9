//! Who gets in, over a cluster of real processes where nobody does without a credential: by the command line, on every node, and
//! with nothing secret left lying about.

use crate::binary;
use crate::members::{contains, files};
use ollamamax_tests::{Cluster, ClusterOptions};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "canary-password-7f3a";

async fn start() -> Cluster {
    let options = ClusterOptions { anonymous: String::new(), ..ClusterOptions::new(binary()) };
    Cluster::start(options.size(3, 1)).await.expect("the cluster starts")
}

/// A person at a terminal, with a home of their own.
pub struct Person<'a> {
    cluster: &'a Cluster,
    home: tempfile::TempDir,
}

impl<'a> Person<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, home: tempfile::tempdir().expect("a directory") }
    }

    pub fn run(&self, args: &[&str], stdin: &str) -> Result<String, String> {
        let mut child = Command::new(binary())
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("OLLAMA_HOST", self.cluster.url(0))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // A command that does not read its stdin may be gone already.
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    pub fn ok(&self, args: &[&str], stdin: &str) -> String {
        self.run(args, stdin).unwrap_or_else(|error| format!("failed: {error}"))
    }
}

async fn status(cluster: &Cluster, node: usize, bearer: &str) -> u16 {
    let request = reqwest::Client::new().get(format!("{}/api/tags", cluster.url(node)));
    let sent = request.bearer_auth(bearer).send().await.expect("an answer");
    sent.status().as_u16()
}

async fn login(cluster: &Cluster, node: usize, user: &str) -> Value {
    let body = json!({"username": user, "password": PASSWORD});
    let request = reqwest::Client::new().post(format!("{}/auth/token", cluster.url(node)));
    let answer = request.json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().expect(field).to_owned()
}

pub async fn user(cluster: &Cluster, name: &str, role: &str) {
    let body = json!({"name": name, "password": PASSWORD, "roles": [role]});
    cluster.api(0).post("/admin/v1/users", &body).await.expect("created");
    for node in 0..cluster.nodes() {
        cluster.wait_caught_up(node, 0, DEADLINE).await.expect("every node knows");
    }
}

async fn until_refused(cluster: &Cluster, bearer: &str) {
    for node in 0..cluster.nodes() {
        let refused = async || match status(cluster, node, bearer).await {
            401 => Ok(()),
            other => Err(format!("node {node}: {other}")),
        };
        cluster.wait("it is refused everywhere", DEADLINE, refused).await.expect("refused");
    }
}

#[tokio::test]
async fn what_is_revoked_anywhere_is_refused_everywhere() {
    let cluster = start().await;
    assert_eq!(status(&cluster, 0, "nonsense").await, 401);
    user(&cluster, "alice", "user").await;
    // A login at one node is good at each, and so is what it was refreshed to.
    let granted = login(&cluster, 1, "alice").await;
    let token = text(&granted, "access_token");
    for node in 0..3 {
        let known = async || match status(&cluster, node, &token).await {
            200 => Ok(()),
            other => Err(other.to_string()),
        };
        cluster.wait("the login is known", DEADLINE, known).await.expect("known");
    }
    let revoke = |node: usize, token: String| {
        let url = format!("{}/auth/revoke", cluster.url(node));
        async move {
            let sent = reqwest::Client::new().post(url).json(&json!({"token": token})).send();
            assert_eq!(sent.await.expect("an answer").status(), 200);
        }
    };
    revoke(2, token.clone()).await;
    until_refused(&cluster, &token).await;
    let made = cluster.api(0).post("/admin/v1/keys", &json!({"owner": "alice"})).await;
    let key = text(&made.expect("a key"), "key");
    revoke(1, key.clone()).await;
    until_refused(&cluster, &key).await;
    let token = text(&login(&cluster, 0, "alice").await, "access_token");
    let path = "/admin/v1/users/alice/logout";
    cluster.api(2).post(path, &json!({})).await.expect("logged out");
    until_refused(&cluster, &token).await;
}

#[tokio::test]
async fn people_and_programs_get_in_by_the_command_line_and_the_trail_tells() {
    let cluster = start().await;
    let (admin, alice) = (Person::new(&cluster), Person::new(&cluster));
    let refused = alice.run(&["list"], "").expect_err("nobody yet");
    assert!(refused.contains("ollamamax login"), "{refused}");
    let shown = admin.ok(&["login", "--key"], cluster.key());
    assert!(shown.contains("logged in") && shown.contains("user:admin"), "{shown}");
    let made = admin.ok(&["users", "create", "alice", "--role", "developer"], PASSWORD);
    assert_eq!(made.trim(), "alice: developer");
    let wrong = alice.run(&["login", "alice"], "wrong-password").expect_err("refused");
    assert!(wrong.contains("wrong name or password"), "{wrong}");
    assert!(alice.ok(&["login", "alice"], PASSWORD).contains("user:alice"));
    assert!(alice.ok(&["whoami"], "").contains("inference:run"));
    assert!(alice.run(&["list"], "").is_ok());
    let refused = alice.run(&["users", "ls"], "").expect_err("not hers");
    assert!(refused.contains("`access:read`"), "{refused}");
    let key = alice.ok(&["keys", "create", "--label", "ci", "--scope", "model:read"], "");
    assert!(key.trim().starts_with("omk_") && key.trim().len() == 64, "{key}");
    assert_eq!(status(&cluster, 0, key.trim()).await, 200);
    assert!(alice.ok(&["keys", "revoke", &key.trim()[..20]], "").contains("revoked"));
    assert!(alice.ok(&["logout"], "").contains("logged out"));
    assert!(alice.run(&["list"], "").is_err());
    // Refusals come a moment later, the last of them after the end of the login; what the cluster does by itself may follow.
    let told = async || {
        let page = cluster.api(0).get("/admin/v1/audit?last=20").await;
        let page = page.map_err(|error| error.to_string())?;
        let records = page["records"].as_array().cloned().unwrap_or_default();
        let out = records.iter().position(|record| record["action"] == "token.revoke");
        let after = out.map(|out| &records[out..]).unwrap_or_default();
        let is_there = after.iter().any(|record| record["action"] == "access.refused");
        if is_there { Ok(()) } else { Err(page.to_string()) }
    };
    cluster.wait("the last refusal is in the trail", DEADLINE, told).await.expect("told");
    let file = admin.home.path().join("audit.jsonl");
    let file = file.to_str().expect("a plain path");
    let verified = async || {
        admin.ok(&["audit", "export", "-o", file], "");
        let verified = admin.ok(&["audit", "verify", file], "");
        if verified.contains("unbroken") { Ok(()) } else { Err(verified) }
    };
    cluster.wait("the whole trail is exported", DEADLINE, verified).await.expect("unbroken");
    let trail = std::fs::read_to_string(file).expect("exported");
    for (action, actor) in [
        ("user.create", "user:admin"),
        ("login", "user:alice"),
        ("key.create", "user:alice"),
        ("key.revoke", "user:alice"),
        ("access.refused", "user:alice"),
    ] {
        let told = trail.lines().any(|line| {
            let record: Value = serde_json::from_str(line).expect("JSON");
            record["action"] == action && record["actor"] == actor
        });
        assert!(told, "no {action} of {actor} in\n{trail}");
    }
    let shorter: Vec<&str> = trail.lines().collect();
    std::fs::write(file, shorter[..shorter.len() - 1].join("\n") + "\n").expect("written");
    let cut = admin.run(&["audit", "verify", file], "").expect_err("its end is missing");
    assert!(cut.contains("the end is missing"), "{cut}");
}

#[tokio::test]
async fn what_people_get_in_with_is_left_nowhere() {
    let cluster = start().await;
    user(&cluster, "alice", "user").await;
    let granted = login(&cluster, 0, "alice").await;
    let body = json!({"refresh_token": granted["refresh_token"]});
    let refreshed = cluster.api(1).post("/auth/refresh", &body).await.expect("refreshed");
    let made = cluster.api(0).post("/admin/v1/keys", &json!({"owner": "alice"})).await;
    let secrets = [
        ("the password", PASSWORD.to_owned()),
        ("an API key", text(&made.expect("a key"), "key")[21..].to_owned()),
        ("an access token", text(&granted, "access_token")),
        ("a refresh token", text(&granted, "refresh_token")[40..].to_owned()),
        ("its successor", text(&refreshed, "refresh_token")[40..].to_owned()),
    ];
    for node in 0..3 {
        cluster.wait_caught_up(node, 0, DEADLINE).await.expect("caught up");
    }
    let mut all = Vec::new();
    files(cluster.directory(), &mut all);
    let mut is_seen = false;
    for path in &all {
        let bytes = std::fs::read(path).expect("readable");
        is_seen |= contains(&bytes, b"alice");
        for (what, secret) in &secrets {
            assert!(!contains(&bytes, secret.as_bytes()), "{what} is in {}", path.display());
        }
    }
    assert!(is_seen, "what is no secret is found, so a secret would be");
}
