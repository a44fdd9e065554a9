//! Who gets in, as whom, and what they may do: over HTTP, against the real state machine.

use crate::control::FakeControl;
use crate::http::{Answer, Bench, quick, until};
use crate::worker::Script;
use axum::http::StatusCode;
use ollamamax_core::Command;
use ollamamax_core::access::{AccessCommand, Hidden, KeyId, KeyRecord, Object, UserRecord};
use ollamamax_gateway::{Config, Gateway, Policy, secrets};
use ollamamax_proto::Millis;
use ollamamax_proto::audit::Verifier;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A gateway that lets nobody in without a credential, an administrator's key, and what signs access tokens.
pub struct Secure {
    pub bench: Bench,
    pub admin: String,
}

impl Secure {
    pub async fn new() -> Self {
        Self::with(&[Script::Answer]).await
    }

    pub async fn with(scripts: &[Script]) -> Self {
        Self::over(scripts, quick()).await
    }

    pub async fn over(scripts: &[Script], config: Config) -> Self {
        let bench = Bench::with(scripts, Config { anonymous: None, ..config });
        let admin = add_user(&bench.control, "root", "admin", 1);
        let secure = Self { bench, admin };
        let rotated = secure.post(&secure.admin, "/admin/v1/signing-keys/rotate", json!({})).await;
        assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.text);
        secure
    }

    pub async fn ask(&self, who: &str, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {who}");
        let headers: &[(&str, &str)] =
            if who.is_empty() { &[] } else { &[("authorization", &bearer)] };
        self.bench.send_with(method, path, headers, body.to_owned()).await
    }

    pub async fn get(&self, who: &str, path: &str) -> Answer {
        self.ask(who, "GET", path, "").await
    }

    pub async fn post(&self, who: &str, path: &str, body: Value) -> Answer {
        self.ask(who, "POST", path, &body.to_string()).await
    }

    /// Creates a user with a password, through the API.
    pub async fn user(&self, name: &str, roles: &[&str]) {
        let body = json!({"name": name, "password": PASSWORD, "roles": roles});
        let made = self.post(&self.admin, "/admin/v1/users", body).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    }

    pub async fn login(&self, name: &str) -> Value {
        let body = json!({"username": name, "password": PASSWORD});
        let answer = self.post("", "/auth/token", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    pub fn trail(&self) -> Vec<ollamamax_proto::audit::Record> {
        use ollamamax_gateway::ports::ControlPlane;
        self.bench.control.state().access.trail.values().cloned().collect()
    }
}

pub const PASSWORD: &str = "correct horse battery";

/// A user with a key, put into the state directly.
pub fn add_user(control: &Arc<FakeControl>, name: &str, role: &str, id: u64) -> String {
    let user = UserRecord {
        name: name.to_owned(),
        service: false,
        password: None,
        roles: BTreeSet::from([role.to_owned()]),
        disabled: false,
        created_at: Millis(0),
        not_before: Millis(0),
    };
    control.apply(Command::Access(Box::new(AccessCommand::CreateUser { user })));
    let secret = "s".repeat(43);
    let key = KeyRecord {
        id: KeyId(id),
        hash: Hidden(secrets::hash(&secret)),
        owner: name.to_owned(),
        label: String::new(),
        scope: None,
        created_at: Millis(0),
        expires_at: None,
    };
    control.apply(Command::Access(Box::new(AccessCommand::CreateKey { key })));
    format!("omk_{id:016x}_{secret}")
}

pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}")).to_owned()
}

/// A path with something in each of its places.
fn filled(template: &str) -> String {
    let mut parts = template.split('{');
    let before = parts.next().unwrap_or_default().to_owned();
    let after =
        |part: &str| part.split_once('}').map_or(String::new(), |(_, after)| format!("x{after}"));
    before + &parts.map(after).collect::<String>()
}

#[tokio::test]
async fn without_a_good_credential_every_guarded_route_answers_the_same() {
    let secure = Secure::new().await;
    let inventory =
        Gateway::new(secure.bench.control.clone(), secure.bench.blobs.clone(), Config::default())
            .inventory();
    assert!(inventory.len() > 60, "the inventory is whole");
    let wrong_secret = secure.admin.replace('s', "t");
    let unknown = secure.admin.replacen("0000000000000001", "00000000000000ff", 1);
    let mut words = BTreeSet::new();
    let mut guarded = 0;
    for (nth, route) in inventory.iter().enumerate() {
        if route.policy == Policy::Open {
            continue;
        }
        guarded += 1;
        let path = filled(route.path);
        let who = ["", "nonsense", &wrong_secret, &unknown, "a.b.c"][nth % 5];
        let answer = secure.ask(who, route.method.as_str(), &path, "{}").await;
        assert!(
            matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS),
            "{} {path}: {}",
            route.method,
            answer.status
        );
        if answer.status == StatusCode::UNAUTHORIZED && route.method != "HEAD" {
            assert!(answer.headers.contains_key("www-authenticate"));
            let body = answer.json();
            let said = body["error"]["message"].as_str().or(body["error"].as_str());
            words.insert(said.expect("an error").to_owned());
        }
    }
    assert!(guarded > 50);
    assert_eq!(words.len(), 1, "no oracle: {words:?}");
}

/// Each built-in role against each route: what the table in the documentation says, no more and no less.
#[tokio::test]
async fn every_role_gets_exactly_where_its_permissions_lead() {
    let secure = Secure::new().await;
    let access = ollamamax_core::access::Access::default();
    let inventory =
        Gateway::new(secure.bench.control.clone(), secure.bench.blobs.clone(), Config::default())
            .inventory();
    for (nth, (role, ..)) in ollamamax_core::access::BUILT_IN.iter().enumerate() {
        let key = add_user(&secure.bench.control, role, role, nth as u64 + 10);
        let subject = ollamamax_core::access::Subject {
            roles: BTreeSet::from([(*role).to_owned()]),
            scope: None,
        };
        for route in &inventory {
            let (action, object) = match route.policy {
                Policy::Needs(action) => (action, Object::Some),
                Policy::All(action) => (action, Object::All),
                Policy::Open | Policy::Known => continue,
            };
            // What would change the world is asked with a body that is refused.
            if route.path.ends_with("/rotate") || route.path.ends_with("/rebalance") {
                continue;
            }
            let path = filled(route.path);
            let answer = secure.ask(&key, route.method.as_str(), &path, "[]").await;
            let may = access.may(&subject, action, object);
            let refused = answer.status == StatusCode::FORBIDDEN;
            assert_eq!(may, !refused, "{role} {} {path}: {}", route.method, answer.status);
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{role} {path}");
        }
    }
}

#[tokio::test]
async fn clients_of_others_send_their_keys_as_they_do() {
    let secure = Secure::new().await;
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let openai = secure.post(&secure.admin, "/v1/chat/completions", ask.clone()).await;
    assert_eq!(openai.status, StatusCode::OK, "{}", openai.text);
    let key = [("x-api-key", secure.admin.as_str())];
    let anthropic = secure.bench.send_with("GET", "/v1/models", &key, "").await;
    assert_eq!(anthropic.status, StatusCode::OK);
    let bearer = format!("bEaReR {}", secure.admin);
    let scheme = [("authorization", bearer.as_str())];
    let any_case = secure.bench.send_with("GET", "/v1/models", &scheme, "").await;
    assert_eq!(any_case.status, StatusCode::OK);
    for wrong in [
        &[("authorization", bearer.as_str()), ("authorization", bearer.as_str())][..],
        &[("authorization", bearer.as_str()), ("x-api-key", secure.admin.as_str())][..],
        &[("authorization", "Basic cm9vdDpyb290")][..],
        &[("authorization", secure.admin.as_str())][..],
        &[("x-api-key", "sk-something")][..],
    ] {
        let answer = secure.bench.send_with("GET", "/v1/models", wrong, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong:?}");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
    }
}

#[tokio::test]
async fn fields_that_nobody_asked_for_are_refused() {
    let secure = Secure::new().await;
    let sneaky = json!({"name": "eve", "role": "admin", "roles": ["user"]});
    let answer = secure.post(&secure.admin, "/admin/v1/users", sneaky).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    let answer = secure
        .post("", "/auth/token", json!({"username": "a", "password": "b", "roles": ["admin"]}))
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    for body in ["username=a&username=b&password=c", "%ff=1", "username=%zz"] {
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let answer = secure.bench.send_with("POST", "/auth/token", &kind, body).await;
        assert!(answer.status.is_client_error(), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn what_is_done_and_what_is_refused_is_in_the_trail_and_no_secret_is() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let login = secure.login("alice").await;
    let access = text(&login, "access_token");
    secure.ask(&access, "DELETE", "/api/delete", r#"{"model":"m"}"#).await;
    secure.get("omk_wrong", "/api/tags?x=1").await;
    until("both refusals are in the trail", || {
        let trail = secure.trail();
        let refused = trail.iter().filter(|record| record.note.action == "access.refused");
        refused.count() >= 2
    })
    .await;
    let page = secure.get(&secure.admin, "/admin/v1/audit?after=0").await.json();
    let records = page["records"].as_array().expect("records").clone();
    let find = |action: &str| {
        let found = records.iter().find(|record| record["action"] == action);
        found.unwrap_or_else(|| panic!("no {action} in {records:?}")).clone()
    };
    let created = find("user.create");
    assert_eq!((&created["actor"], &created["via"]), (&json!("user:root"), &json!("key")));
    assert_eq!((&created["object"], &created["outcome"]), (&json!("alice"), &json!("done")));
    assert_eq!(find("login")["actor"], "user:alice");
    let refused: Vec<&Value> =
        records.iter().filter(|record| record["action"] == "access.refused").collect();
    assert!(
        refused.iter().any(|r| r["actor"] == "user:alice" && r["object"] == "DELETE /api/delete")
    );
    assert!(refused.iter().any(|r| r["actor"] == "unknown" && r["from"] == "127.0.0.1"));
    let mut verifier = Verifier::default();
    secure.trail().iter().for_each(|record| verifier.next(record).expect("unbroken"));
    let whole = page.to_string() + &format!("{:?}", secure.trail());
    let secrets = [PASSWORD, &secure.admin[21..], &access, &text(&login, "refresh_token")];
    assert!(secrets.iter().all(|secret| !whole.contains(*secret)));
    let auditor = add_user(&secure.bench.control, "ann", "auditor", 50);
    assert_eq!(secure.get(&auditor, "/admin/v1/audit?last=1").await.status, StatusCode::OK);
    assert_eq!(secure.get(&access, "/admin/v1/audit").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn nobody_in_particular_gets_in_from_this_machine_alone_and_only_where_that_is_wanted() {
    let roles = Some(BTreeSet::from(["developer".to_owned()]));
    let bench = Bench::with(&[], Config { anonymous: roles, ..quick() });
    assert_eq!(bench.get("/api/tags").await.status, StatusCode::OK);
    assert_eq!(bench.get("/admin/v1/users").await.status, StatusCode::FORBIDDEN);
    let me = bench.get("/auth/whoami").await.json();
    assert_eq!((&me["user"], &me["actor"]), (&Value::Null, &json!("anonymous")));
    let proxied = bench.send_with("GET", "/api/tags", &[("x-forwarded-for", "6.6.6.6")], "").await;
    assert_eq!(proxied.status, StatusCode::UNAUTHORIZED, "a proxy here makes nobody local");
    // A credential that is not good is not the same as none; what some clients must be given is none.
    for (given, status) in [
        ("Bearer ollama", StatusCode::OK),
        ("Bearer sk-anything", StatusCode::OK),
        ("Bearer omk_0000000000000001_x", StatusCode::UNAUTHORIZED),
        ("Bearer a.b.c", StatusCode::UNAUTHORIZED),
    ] {
        let answer = bench.send_with("GET", "/api/tags", &[("authorization", given)], "").await;
        assert_eq!(answer.status, status, "{given}");
    }
}

#[tokio::test]
async fn a_model_answers_under_no_other_name_whom_it_must_not_answer() {
    let secure = Secure::new().await;
    let control = &secure.bench.control;
    control.put_model("secret");
    secure.user("alice", &["user"]).await;
    let role = json!({
        "inherits": ["user"],
        "grants": ["model:manage@team-a/*", "!inference:run@Secret*"],
    });
    let put = secure.ask(&secure.admin, "PUT", "/admin/v1/roles/team-a", &role.to_string()).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    let patch = json!({"roles": ["team-a"]}).to_string();
    secure.ask(&secure.admin, "PATCH", "/admin/v1/users/alice", &patch).await;
    let made = secure.post(&secure.admin, "/admin/v1/keys", json!({"owner": "alice"})).await.json();
    let alice = text(&made, "key");
    let ask = async |path: &str, body: Value| secure.post(&alice, path, body).await.status;
    let mine = json!({"source": "m", "destination": "team-a/mine"});
    assert_eq!(ask("/api/copy", mine).await, StatusCode::OK);
    let theirs = json!({"source": "m", "destination": "other/mine"});
    assert_eq!(ask("/api/copy", theirs).await, StatusCode::FORBIDDEN);
    let copy = json!({"source": "secret", "destination": "team-a/x"});
    assert_eq!(ask("/api/copy", copy).await, StatusCode::FORBIDDEN);
    let from = json!({"model": "team-a/x", "from": "SECRET", "stream": false});
    assert_eq!(ask("/api/create", from).await, StatusCode::FORBIDDEN);
    let chat = json!({"model": "Secret", "prompt": "x"});
    assert_eq!(ask("/api/generate", chat).await, StatusCode::FORBIDDEN, "names have no case");
}

#[tokio::test]
async fn a_permission_on_something_is_none_on_everything() {
    let secure = Secure::new().await;
    let key = async |grants: &[&str]| {
        let body = json!({"scope": grants});
        let made = secure.post(&secure.admin, "/admin/v1/keys", body).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text);
        text(&made.json(), "key")
    };
    let node = key(&["cluster:manage@node-3", "cluster:read@node-3"]).await;
    let join = json!({"role": "node"});
    let refused = secure.post(&node, "/admin/v1/join-tokens", join).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "a join token lets in anything");
    assert_eq!(secure.get(&node, "/admin/v1/cluster").await.status, StatusCode::FORBIDDEN);
    let team = key(&["access:manage@team-*", "access:read@team-*"]).await;
    let rotate = json!({"emergency": true});
    let refused = secure.post(&team, "/admin/v1/signing-keys/rotate", rotate).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(secure.get(&team, "/admin/v1/users").await.status, StatusCode::FORBIDDEN);
    assert_eq!(
        secure.get(&team, "/admin/v1/keys").await.json()["keys"].as_array().map(Vec::len),
        Some(1)
    );
    let denied = key(&["*", "!audit:read"]).await;
    assert_eq!(secure.get(&denied, "/admin/v1/audit").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn who_may_not_see_a_model_sees_it_nowhere() {
    let secure = Secure::new().await;
    secure.bench.control.put_model("secret");
    secure.bench.control.place("secret", 1, ollamamax_proto::placement::Phase::Ready);
    let scope = json!({"scope": ["*", "!model:read@secret", "!inference:run@secret"]});
    let made = secure.post(&secure.admin, "/admin/v1/keys", scope).await.json();
    let key = text(&made, "key");
    for path in [
        "/api/tags",
        "/api/ps",
        "/v1/models",
        "/admin/v1/cluster",
        "/admin/v1/workers",
        &format!("/admin/v1/workers/{:032x}", 1),
        "/admin/v1/placement",
        "/admin/v1/placement/plan",
    ] {
        let answer = secure.get(&key, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        assert!(!answer.text.contains("secret"), "{path}: {}", answer.text);
        let all = secure.get(&secure.admin, path).await;
        let is_there = all.text.contains("secret") || path.ends_with("plan");
        assert!(is_there, "{path} shows it to who may see it: {}", all.text);
    }
    for path in ["/v1/models/secret", "/admin/v1/placement/explain/secret"] {
        assert_eq!(secure.get(&key, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

/// It shows people nothing of a 401, and what a 403 says.
#[tokio::test]
async fn the_command_line_of_ollama_is_told_why_in_a_way_that_it_shows() {
    let secure = Secure::new().await;
    let headers = [("user-agent", "ollama/0.33.0 (amd64 linux) Go/go1.25")];
    let answer = secure.bench.send_with("POST", "/api/show", &headers, "{}").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.error().contains("`ollamamax login`"), "{}", answer.text);
    let key = format!("Bearer {}", secure.admin);
    let headers = [headers[0], ("authorization", key.as_str())];
    let answer = secure.bench.send_with("GET", "/api/tags", &headers, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let status = secure.bench.send_with("GET", "/api/status", &[], "").await;
    assert_eq!(status.json(), json!({"cloud": {"disabled": true, "source": "config"}}));
}
