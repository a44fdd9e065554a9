//! `GET /admin/v1/audit`: the trail, oldest first, from after a number on.

use crate::error::{Failure, Problem};
use crate::{Gateway, stream};
use axum::extract::{Query, State};
use axum::response::Response;
use ollamamax_proto::Digest;
use ollamamax_proto::audit::{Line, Record};
use ollamamax_proto::limits;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    /// Only records with a higher number.
    #[serde(default)]
    after: Option<u64>,
    /// At most so many.
    #[serde(default)]
    limit: Option<usize>,
    /// The newest ones instead of the oldest.
    #[serde(default)]
    last: Option<usize>,
}

fn line(record: &Record) -> Value {
    Line::Record(Box::new(record.clone())).value()
}

/// The handler. What was acknowledged before is in it.
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
    let records: Vec<Value> = match last {
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
    Ok(stream::plain_json(&json!({
        "records": records,
        "first": trail.keys().next(),
        "last": head.map(|record| record.number),
        "head": head.map(|record| Digest(record.hash).hex()),
    })))
}
