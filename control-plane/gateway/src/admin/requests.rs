//! `/admin/v1/requests`: what runs at this node, what ran lately, and an end to what shall not go on.

use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::history::{Outcome, Record};
use crate::request::{Path, Query};
use crate::{Gateway, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_proto::NodeId;
use ollamamax_proto::audit::Note;
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which ones.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    caller: Option<String>,
    /// `running`, `done`, `failed` or `cancelled`.
    #[serde(default)]
    outcome: Option<String>,
    /// At most so many; 100 when absent.
    #[serde(default)]
    limit: Option<usize>,
}

impl Filter {
    fn takes(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, got: &str| wanted.as_deref().is_none_or(|w| w == got);
        let outcome = json!(record.outcome);
        let model = self.model.as_deref();
        model.is_none_or(|model| record.model == model || record.model == format!("{model}:latest"))
            && is(&self.caller, &record.caller)
            && is(&self.outcome, outcome.as_str().unwrap_or_default())
    }
}

/// Requests of a node.
#[derive(Serialize, ToSchema)]
pub(crate) struct Requests {
    /// The id of the node that answers: each remembers its own.
    #[schema(value_type = u64)]
    node: NodeId,
    requests: Vec<Record>,
}

/// A request that goes on no more.
#[derive(Serialize, ToSchema)]
#[schema(as = RequestEnded)]
pub(crate) struct Ended {
    ended: String,
}

/// Who asked is for those who may see who has access, and for whom it was.
fn shown(gateway: &Gateway, caller: &Caller, records: impl Iterator<Item = Record>) -> Requests {
    let sees_all = caller.may(Action::ReadAccess, Object::All);
    let records = records.map(|mut record| {
        if !sees_all && record.caller != caller.share() {
            record.caller.clear();
        }
        record
    });
    Requests { node: gateway.control.quorum().node, requests: records.collect() }
}

/// Lists what runs at this node and what ran lately, the newest first, those that run before the others.
#[utoipa::path(get, path = "/admin/v1/requests", params(Filter),
    responses((status = 200, description = "The requests.", body = Requests)))]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    let most = limits::REQUESTS_LISTED_COUNT;
    let limit = filter.limit.unwrap_or(100);
    if limit == 0 || limit > most {
        let text = format!("`limit` is {limit}, expected a number from 1 to {most}");
        return Err(Failure::InvalidField { field: "limit", text }.into());
    }
    let known = ["running", "done", "failed", "cancelled"];
    if let Some(outcome) = filter.outcome.as_ref().filter(|o| !known.contains(&o.as_str())) {
        let outcome: String = outcome.chars().take(50).collect();
        let text = format!("`outcome` is {outcome:?}, expected one of {}", known.join(", "));
        return Err(Failure::InvalidField { field: "outcome", text }.into());
    }
    let sees = |record: &Record| record.model.parse().is_ok_and(|model| caller.sees(&model));
    let all = gateway.history.all();
    let records = all.iter().map(|entry| entry.record());
    let records = records.filter(|record| sees(record) && filter.takes(record)).take(limit);
    Ok(stream::plain_json(&shown(&gateway, &caller, records)))
}

/// Shows all that is remembered under the id of a request.
#[utoipa::path(get, path = "/admin/v1/requests/{id}", params(("id" = String, Path, description = "As `X-Request-Id` has it.")),
    responses((status = 200, description = "The requests.", body = Requests)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let sees = |record: &Record| record.model.parse().is_ok_and(|model| caller.sees(&model));
    let all = gateway.history.all();
    let mut own =
        all.iter().map(|entry| entry.record()).filter(|r| r.request == id && sees(r)).peekable();
    if own.peek().is_none() {
        return Err(unknown(&id).into());
    }
    Ok(stream::plain_json(&shown(&gateway, &caller, own)))
}

/// Ends a request where it is.
#[utoipa::path(delete, path = "/admin/v1/requests/{id}", params(("id" = String, Path, description = "As `X-Request-Id` has it.")),
    responses((status = 200, description = "It goes on no more.", body = Ended)))]
pub(crate) async fn end(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let all = gateway.history.all();
    let runs = |record: &Record| record.request == id && record.outcome == Outcome::Running;
    let model = all.iter().map(|entry| entry.record()).find(runs).map(|record| record.model);
    let model = model.ok_or_else(|| unknown(&id))?;
    gateway.history.end(&id);
    // It changes nothing that is replicated: its note goes its own way into the trail.
    let note = caller.note("request.end", format!("{model} {id}"));
    gateway.note_refusal(Note { outcome: "done".to_owned(), ..note });
    Ok(stream::plain_json(&Ended { ended: id }))
}

fn unknown(id: &str) -> Failure {
    let id: String = id.chars().take(100).collect();
    Failure::NotFound(format!(
        "request `{id}` not found at this node: each node remembers its own, the last {} of them",
        limits::REQUESTS_REMEMBERED_COUNT
    ))
}
