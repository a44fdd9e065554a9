//! Clients that read and write registers: checkpoints of the API, through any node.
//!
//! Every request says at which node, for how long, and what came. Only an answer that proves that nothing happened counts as a
//! refusal; whatever else is no success may have happened, or may happen yet. New registers are taken every few seconds, so that
//! no register gets a history that is too long to judge.

use super::Clients;
use crate::history::{Asked, Found, Operation, Outcome};
use crate::recorder::Recorder;
use ollamamax_tests::Api;
use rand::RngExt;
use reqwest::Method;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one set of registers is used.
const EPOCH_US: u64 = 8_000_000;
/// How long a client rests after it heard neither yes nor no: what may have happened is expensive to judge.
const AFTER_UNKNOWN: Duration = Duration::from_millis(250);

/// Runs one.
pub async fn run(clients: Clients, number: usize) {
    let mut coin = clients.coin(1, number);
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut written = 0;
    while !clients.over.is_cancelled() {
        let epoch = clients.recorder.now_us() / EPOCH_US;
        let key = format!("r{}-{epoch}", coin.random_range(0..clients.load.registers.max(1)));
        let node = coin.random_range(0..clients.apis.len());
        let asked = match coin.random_range(0..10) {
            0..=4 => Asked::Read,
            draw => {
                written += 1;
                let known = seen.get(&key).copied().unwrap_or(0);
                Asked::Write {
                    value: format!("c{number}-{written}"),
                    expected: (draw >= 8).then_some(known),
                }
            }
        };
        let operation = perform(&clients.recorder, &clients.apis[node], node, number, key, asked);
        let operation = operation.await;
        let revision = match &operation.outcome {
            Outcome::Read { found, .. } => Some(found.as_ref().map_or(0, |found| found.revision)),
            Outcome::Written(revision) => Some(*revision),
            _ => None,
        };
        if let Some(revision) = revision {
            seen.insert(operation.key.clone(), revision);
        }
        let is_unknown = operation.outcome == Outcome::Unknown;
        clients.recorder.note(|history| history.operations.push(operation));
        let rest = Duration::from_millis(clients.load.rest_ms);
        clients.rest(if is_unknown { rest.max(AFTER_UNKNOWN) } else { rest }).await;
    }
}

/// Reads every register that was ever written, once at each node.
pub async fn read_all(recorder: &Recorder, apis: &[(usize, Api)]) {
    let keys: BTreeSet<String> = recorder
        .note(|history| history.operations.iter().map(|operation| operation.key.clone()).collect());
    for key in keys {
        for (node, api) in apis {
            // A client for itself.
            let reader = 1_000 + node;
            let read = perform(recorder, api, *node, reader, key.clone(), Asked::Read).await;
            recorder.note(|history| history.finals.push(read));
        }
    }
}

async fn perform(
    recorder: &Recorder,
    api: &Api,
    node: usize,
    client: usize,
    key: String,
    asked: Asked,
) -> Operation {
    let path = format!("/admin/v1/checkpoints/chaos/{key}");
    let request = match &asked {
        Asked::Read => api.request(Method::GET, &path),
        Asked::Write { value, expected } => {
            let put = api.request(Method::PUT, &path).body(value.clone());
            match expected {
                None => put,
                Some(0) => put.header("if-none-match", "*"),
                Some(revision) => put.header("if-match", format!("\"{revision}\"")),
            }
        }
    };
    let begun_us = recorder.now_us();
    let answered = answer(request, &asked).await;
    let outcome = answered.unwrap_or_else(|error| match asked {
        // Nobody was asked.
        _ if error.is_connect() => Outcome::Refused,
        _ => Outcome::Unknown,
    });
    Operation { client, node, key, asked, begun_us, ended_us: recorder.now_us(), outcome }
}

async fn answer(
    request: reqwest::RequestBuilder,
    asked: &Asked,
) -> Result<Outcome, reqwest::Error> {
    let response = request.timeout(PATIENCE).send().await?;
    let status = response.status().as_u16();
    let number = |name: &str| -> Option<u64> {
        response.headers().get(name)?.to_str().ok()?.trim_matches('"').parse().ok()
    };
    let (revision, state) = (number("etag"), number("x-revision"));
    Ok(match (status, asked, revision) {
        (200, Asked::Read, Some(revision)) => {
            let value = response.text().await?;
            Outcome::Read { found: Some(Found { value, revision }), state }
        }
        (404, Asked::Read, _) => Outcome::Read { found: None, state },
        (200, Asked::Write { .. }, Some(revision)) => Outcome::Written(revision),
        (412, Asked::Write { .. }, _) => Outcome::Conflict,
        (400 | 401 | 403 | 413 | 429, ..) => Outcome::Refused,
        _ => Outcome::Unknown,
    })
}
