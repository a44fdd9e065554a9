//! `POST /admin/v1/workers`: a server of others becomes a worker for whole requests.

use super::cluster::{Worker, adopted};
use crate::adopted::place::{self, Place};
use crate::adopted::server::Look;
use crate::adopted::{KEY_PURPOSE, probe};
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Hidden;
use ollamamax_core::adopted::{AdoptedServer, ServerKind};
use ollamamax_core::{Command, State as Snapshot};
use ollamamax_proto::{Millis, WorkerId, limits};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// A server to adopt.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdoptRequest, examples(json!({"url": "http://10.0.0.5:11434", "name": "old-gpu"})))]
pub(crate) struct Adopt {
    /// Where it is, for all nodes alike: `http` or `https`, without credentials.
    url: String,
    /// For people; its host and port where there is none.
    #[serde(default)]
    name: Option<String>,
    /// The key it wants to see, as `Authorization: Bearer`; kept sealed, and never shown.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    api_key: Option<Zeroizing<String>>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Requests that each node may have in flight there.
    #[serde(default)]
    max_concurrent: Option<u32>,
}

impl fmt::Debug for Adopt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopt").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Adopts a server: it is asked what it is, and answers whole requests from then on.
#[utoipa::path(post, path = "/admin/v1/workers", request_body = Adopt,
    responses((status = 200, description = "It is adopted.", body = Worker), (status = 409), (status = 503)))]
pub(crate) async fn adopt(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let request: Adopt = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    let url = place::typed(&request.url)?;
    if place::is_everybodys_own(&url) && !all_on_one_machine(&gateway.control.state()) {
        let text = format!(
            "`url` is `{}`, which on each node means that node itself; give the address by which all nodes reach the server",
            place::kept(&url)
        );
        return Err(Failure::InvalidField { field: "url", text }.into());
    }
    let key = request.api_key.as_ref().map(|key| key.trim()).filter(|key| !key.is_empty());
    if let Some(key) = key
        && (key.len() > limits::ADOPTED_KEY_BYTES / 2 || !key.bytes().all(|b| b.is_ascii_graphic()))
    {
        let text = "`api_key` is too long or has characters that no header may have".to_owned();
        return Err(Failure::InvalidField { field: "api_key", text }.into());
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let name = request.name.unwrap_or_else(|| format!("{host}:{port}"));
    let url = place::kept(&url);
    let (kind, look) = find_out(&gateway, &url, key).await?;
    let id = WorkerId(rand::random());
    let sealed = key.map(|key| Hidden(gateway.config.sealing.seal(KEY_PURPOSE, key.as_bytes())));
    let server = AdoptedServer {
        id,
        name: name.clone(),
        url,
        kind,
        key: sealed,
        places: request.max_concurrent.unwrap_or(limits::ADOPTED_PLACES_DEFAULT_COUNT),
        adopted_at: Millis::now(),
    };
    let command = Command::AdoptServer { server: Box::new(server) };
    caller.propose(&gateway, "worker.adopt", &name, command).await?;
    if !request.labels.is_empty() {
        let labels = request.labels.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let labelled =
            caller.propose(&gateway, "worker.label", id, Command::LabelWorker { id, labels }).await;
        if let Err(error) = labelled {
            // All of it, or nothing.
            let undo = Command::ReleaseServer { id };
            caller.propose(&gateway, "worker.release", &name, undo).await?;
            return Err(error.into());
        }
    }
    let servers = gateway.adopted_servers();
    let own = servers.iter().find(|server| server.record.id == id);
    let own = own.ok_or_else(|| Failure::NotFound(format!("worker `{name}` was let go again")))?;
    own.saw(Ok(look), Millis::now());
    Ok(stream::plain_json(&adopted(&caller, &gateway.control.state(), own)))
}

async fn find_out(
    gateway: &Gateway,
    url: &str,
    key: Option<&str>,
) -> Result<(ServerKind, Look), Failure> {
    let place = Place::new(url, key.map(str::as_bytes));
    let found = probe::detect(&gateway.adopted.http, &place, gateway.adopted.pace.look).await;
    found.map_err(|why| Failure::invalid(format!("`{url}`: {why}")))
}

/// Whether every node is on the machine that answers: then its own addresses mean the same to all.
fn all_on_one_machine(state: &Snapshot) -> bool {
    let is_local = |address: &String| {
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    state.nodes.len() <= 1 || state.nodes.values().all(|node| is_local(&node.http))
}
