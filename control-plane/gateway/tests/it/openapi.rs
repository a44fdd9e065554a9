//! The description is whole and true of what is served.

use crate::described::{DESCRIPTION, fits, gateway};
use crate::http::Bench;
use crate::worker::Script;
use ollamamax_gateway::Policy;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Every operation: method, path, and what is said of it.
fn operations() -> Vec<(String, &'static str, &'static Value)> {
    let paths = DESCRIPTION["paths"].as_object().expect("paths");
    let of = |(path, item): (&'static String, &'static Value)| {
        let item = item.as_object().expect("an item");
        item.iter()
            .map(move |(method, operation)| (method.to_uppercase(), path.as_str(), operation))
    };
    paths.iter().flat_map(of).collect()
}

/// Whether an operation is what a route serves. What a route takes whole may stand for several.
fn serves(route: &ollamamax_gateway::Route, method: &str, path: &str) -> bool {
    let same = route.path.replace("{*", "{");
    let below =
        route.path.split_once("{*rest}").is_some_and(|(before, _)| path.starts_with(before));
    route.method == method && (same == path || below)
}

#[tokio::test]
async fn what_is_served_is_described_and_nothing_else_with_who_may_ask() {
    let inventory = gateway().inventory();
    let operations = operations();
    for route in &inventory {
        let described = operations.iter().any(|(method, path, _)| serves(route, method, path));
        assert!(described, "{} {} is not described", route.method, route.path);
    }
    assert!(operations.len() > inventory.len());
    for (method, path, operation) in &operations {
        let route = inventory.iter().find(|route| serves(route, method, path));
        let route = route.unwrap_or_else(|| panic!("{method} {path} is not served"));
        let security = &operation["security"];
        let needs = |what: &[&str]| json!([{"bearer": what}, {"key": what}]);
        let (expected, refusals) = match route.policy {
            Policy::Open => (json!([]), false),
            Policy::Known => (needs(&[]), true),
            Policy::Needs(action) | Policy::All(action) => (needs(&[action.name()]), true),
        };
        assert_eq!(*security, expected, "{method} {path}");
        for status in ["401", "403", "429"] {
            let has = operation["responses"].get(status).is_some();
            assert!(has || !refusals, "{method} {path} has no {status}");
        }
    }
}

#[tokio::test]
async fn each_operation_says_what_it_does_and_gives_in_words() {
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations() {
        let told = format!("{method} {path}: {operation}");
        let said = |field: &str| operation[field].as_str().is_some_and(|text| text.len() > 5);
        assert!(said("summary"), "no summary: {told}");
        assert!(
            ids.insert(operation["operationId"].as_str().expect("an id")),
            "the id is taken: {told}"
        );
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{told}");
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.keys().any(|status| status.starts_with('2')), "no good answer: {told}");
        for response in responses.values() {
            let words = response["$ref"].as_str().or(response["description"].as_str());
            assert!(
                words.is_some_and(|words| !words.is_empty()),
                "an answer without words: {told}"
            );
        }
        let named: BTreeSet<&str> =
            path.split('{').skip(1).filter_map(|p| p.split('}').next()).collect();
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters =
            parameters.filter(|p| p["in"] == "path").filter_map(|p| p["name"].as_str());
        assert_eq!(parameters.collect::<BTreeSet<_>>(), named, "{told}");
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let mut references = BTreeSet::new();
    fn collect(part: &Value, references: &mut BTreeSet<String>) {
        match part {
            Value::Object(fields) => {
                references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| collect(value, references));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
    collect(&DESCRIPTION, &mut references);
    for reference in &references {
        let pointer = reference.strip_prefix('#').expect("a reference into the description");
        assert!(DESCRIPTION.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for name in DESCRIPTION["components"]["schemas"].as_object().expect("schemas").keys() {
        let used = references.contains(&format!("#/components/schemas/{name}"));
        assert!(used, "schema {name} is not used");
    }
}

#[tokio::test]
async fn the_description_is_served_to_anybody() {
    let bench = Bench::new(&[]);
    let answer = bench.get("/openapi.json").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.json(), *DESCRIPTION);
    assert_eq!(answer.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn answers_that_no_other_test_looks_at_are_as_described() {
    let bench = Bench::new(&[Script::Answer]);
    let user = json!({"name": "alice", "roles": ["user"]});
    let role = json!({"description": "d", "grants": ["model:read@a*"]});
    let steps = [
        ("POST", "/admin/v1/users", user),
        ("GET", "/admin/v1/users/alice", Value::Null),
        ("POST", "/admin/v1/users/alice/logout", json!({})),
        ("DELETE", "/admin/v1/users/alice", Value::Null),
        ("PUT", "/admin/v1/roles/small", role),
        ("GET", "/admin/v1/roles", Value::Null),
        ("DELETE", "/admin/v1/roles/small", Value::Null),
        ("GET", "/admin/v1/workers/w1", Value::Null),
        ("DELETE", "/admin/v1/workers/w1", Value::Null),
        ("GET", "/.well-known/jwks.json", Value::Null),
    ];
    for (method, path, body) in steps {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = bench.send(method, path, body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_page_asks_nobody_but_its_node() {
    let bench = Bench::new(&[]);
    let page = bench.get("/docs").await;
    assert_eq!(page.status, 200);
    let policy = page.headers["content-security-policy"].to_str().expect("text");
    for part in
        ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(
        !policy.contains("http") && !policy.contains('*') && !policy.contains("unsafe-eval"),
        "{policy}"
    );
    assert!(!page.text.contains("://"), "the page names another host: {}", page.text);
    let files = page.text.split('"').filter(|part| part.starts_with("/docs/"));
    let files: Vec<&str> = files.collect();
    assert_eq!(files.len(), 3);
    for file in files {
        let answer = bench.get(file).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.text.len() > 50, "{file}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    let script = bench.get("/docs/page.js").await.text;
    assert!(!script.contains("://") && script.contains("validatorUrl: null"), "{script}");
    assert_eq!(bench.get("/docs/../config").await.status, 404);
    assert_eq!(bench.get("/docs/nonesuch").await.status, 404);
}

#[test]
fn templates_fit_their_paths() {
    assert!(fits("/v1/models/{id}", "/v1/models/a/b"));
    assert!(fits("/admin/v1/models/{name}/deploy", "/admin/v1/models/a/b/deploy"));
    assert!(!fits("/admin/v1/models/{name}/deploy", "/admin/v1/models/deploy"));
    assert!(!fits("/v1/models/{id}", "/v1/models/"));
    assert!(fits("/", "/") && !fits("/", "/x"));
}

#[tokio::test]
async fn the_description_can_be_written_to_a_file() {
    if let Some(path) = std::env::var_os("OLLAMAMAX_OPENAPI") {
        std::fs::write(path, serde_json::to_string_pretty(&*DESCRIPTION).unwrap()).unwrap();
    }
}
