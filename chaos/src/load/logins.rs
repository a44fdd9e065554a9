//! Clients that log in, use what they got at every node, revoke it, and go on trying for longer than it may be good.

use super::{Clients, PASSWORD};
use crate::history::{Revocation, Use};
use ollamamax_tests::Api;
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(4);
/// How long a token is used before it is revoked, and for how long after it may be good no more.
const USED: Duration = Duration::from_millis(1_500);
const REST: Duration = Duration::from_millis(120);

/// Tokens are counted over all runs of this process.
static TOKENS: AtomicUsize = AtomicUsize::new(0);

/// Runs one.
pub async fn run(clients: Clients, number: usize) {
    let mut coin = clients.coin(3, number);
    while !clients.over.is_cancelled() {
        match log_in(&clients, number, &mut coin).await {
            Some(bearer) => {
                let token = TOKENS.fetch_add(1, Ordering::Relaxed);
                try_for(&clients, token, &bearer, USED).await;
                if revoke(&clients, token, &bearer, &mut coin).await {
                    try_for(&clients, token, &bearer, clients.revoked + USED).await;
                }
            }
            None => clients.rest(Duration::from_millis(500)).await,
        }
    }
}

async fn log_in(clients: &Clients, number: usize, coin: &mut StdRng) -> Option<String> {
    let body = json!({"username": format!("u{number}"), "password": PASSWORD});
    let api = &clients.apis[coin.random_range(0..clients.apis.len())];
    let request = api.request(Method::POST, "/auth/token").timeout(PATIENCE).json(&body);
    let answer = request.send().await.ok()?;
    let granted: Value = answer.json().await.ok()?;
    granted["access_token"].as_str().map(str::to_owned)
}

/// Uses a token at all nodes in turn.
async fn try_for(clients: &Clients, token: usize, bearer: &str, how_long: Duration) {
    let begun = Instant::now();
    let mut node = 0;
    while begun.elapsed() < how_long {
        let api = clients.apis[node].clone().with_key(bearer);
        let begun_us = clients.recorder.now_us();
        if let Some(accepted) = accepts(&api).await {
            let tried = Use { token, node, begun_us, accepted };
            clients.recorder.note(|history| history.uses.push(tried));
        }
        node = (node + 1) % clients.apis.len();
        tokio::time::sleep(REST).await;
    }
}

/// Whether a request is let in; `None` when nobody says.
async fn accepts(api: &Api) -> Option<bool> {
    let request = api.request(Method::GET, "/api/tags").timeout(PATIENCE);
    match request.send().await.ok()?.status().as_u16() {
        200 => Some(true),
        401 => Some(false),
        _ => None,
    }
}

/// Revokes a token at one node; whether that was acknowledged.
async fn revoke(clients: &Clients, token: usize, bearer: &str, coin: &mut StdRng) -> bool {
    let api = &clients.apis[coin.random_range(0..clients.apis.len())];
    let request = api.request(Method::POST, "/auth/revoke").timeout(PATIENCE);
    let begun_us = clients.recorder.now_us();
    let sent = request.json(&json!({"token": bearer})).send().await;
    let is_acknowledged = sent.is_ok_and(|answer| answer.status().is_success());
    let acknowledged_us = is_acknowledged.then(|| clients.recorder.now_us());
    let revocation = Revocation { token, begun_us, acknowledged_us };
    clients.recorder.note(|history| history.revocations.push(revocation));
    is_acknowledged
}
