//! `GET /admin/v1/audit`: the trail, oldest first, from after a number on.

use crate::error::{Failure, Problem};
use crate::request::Query;
use crate::{Gateway, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_proto::audit::Record;
use ollamamax_proto::limits;
use ollamamax_proto::{Digest, Millis};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

/// Which part of the trail.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Only records with a higher number.
    #[serde(default)]
    after: Option<u64>,
    /// At most so many.
    #[serde(default)]
    #[param(schema_with = page)]
    limit: Option<usize>,
    /// The newest ones instead of the oldest.
    #[serde(default)]
    #[param(schema_with = page)]
    last: Option<usize>,
}

fn page() -> Object {
    let count = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    count.maximum(Some(limits::AUDIT_PAGE_COUNT)).build()
}

/// A record of the trail: one line of it when it is exported.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditRecord)]
pub(crate) struct Line {
    number: u64,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    at: Millis,
    /// Who did it.
    #[schema(examples("user:alice"))]
    actor: String,
    /// By what that was proven.
    via: String,
    /// The address it came from.
    from: String,
    /// The id of the request.
    request: String,
    #[schema(examples("user.create"))]
    action: String,
    object: String,
    outcome: String,
    /// Over the record and the hash before it, in hex.
    hash: String,
}

/// A part of the trail.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub(crate) struct Trail {
    /// The oldest first.
    records: Vec<Line>,
    /// The number of the oldest that there is.
    first: Option<u64>,
    /// That of the newest.
    last: Option<u64>,
    /// The hash of the newest.
    head: Option<String>,
}

fn line(record: &Record) -> Line {
    let note = record.note.clone();
    Line {
        number: record.number,
        at: record.at,
        actor: note.actor,
        via: note.via,
        from: note.from,
        request: note.request,
        action: note.action,
        object: note.object,
        outcome: note.outcome,
        hash: Digest(record.hash).hex(),
    }
}

/// Reads the trail of who did what, oldest first. What was acknowledged before is in it.
#[utoipa::path(get, path = "/admin/v1/audit", params(Page),
    responses((status = 200, description = "Records.", body = Trail), (status = 503)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    Query(Page { after, limit, last }): Query<Page>,
) -> Result<Response, Problem> {
    let most = limits::AUDIT_PAGE_COUNT;
    let asked = limit.or(last).unwrap_or(most);
    if asked == 0 || asked > most {
        return Err(Failure::invalid(format!("expected 1 to {most} records")).into());
    }
    let state = gateway.control.linearizable().await?;
    let trail = &state.access.trail;
    let records = match last {
        Some(count) => {
            let newest: Vec<&Record> = trail.values().rev().take(count).collect();
            newest.into_iter().rev().map(line).collect()
        }
        None => {
            let after = after.unwrap_or(0);
            trail.range(after.saturating_add(1)..).take(asked).map(|(_, r)| line(r)).collect()
        }
    };
    let head = state.access.last_record();
    Ok(stream::plain_json(&Trail {
        records,
        first: trail.keys().next().copied(),
        last: head.map(|record| record.number),
        head: head.map(|record| Digest(record.hash).hex()),
    }))
}
