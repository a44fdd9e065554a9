//! The versions of models: which there are, what each gets of the requests, and how that is changed.

use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::{Gateway, stream};
use axum::response::Response;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::rollout::VersionState;
use ollamamax_core::serving::serving;
use ollamamax_core::{Command, State as Snapshot};
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::{Digest, ModelName, Revision};
use serde::Serialize;
use utoipa::ToSchema;

/// Shortest beginning of a digest that names a version.
const DIGEST_CHARS: usize = 6;

/// A version of a model.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = ModelVersion)]
pub(crate) struct VersionShown {
    #[schema(value_type = String)]
    pub model: ModelName,
    /// In hex.
    digest: String,
    /// `current`, or while it takes over `new` and `old`; `former` or `failed`.
    state: &'static str,
    /// Percent of the requests.
    weight: u32,
    /// Replicas that serve.
    ready: usize,
    /// Bytes of its file.
    size: u64,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The versions of a model after a change.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelShifted)]
pub(crate) struct Shifted {
    #[schema(value_type = String)]
    model: ModelName,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
    /// The current one first.
    versions: Vec<VersionShown>,
}

/// What is asked about versions when a model is deployed.
#[derive(Debug, Default)]
pub(super) struct Shift {
    /// Digest of one of its versions, or the beginning of one; the current one when absent.
    pub version: Option<String>,
    /// Percent of the requests for it.
    pub weight: Option<u32>,
    /// Back to the version before.
    pub rollback: bool,
}

impl Shift {
    pub(super) fn asks(&self) -> bool {
        self.rollback || self.version.is_some() || self.weight.is_some()
    }

    /// Does what is asked, and tells what versions there are then.
    pub(super) async fn propose(
        &self,
        gateway: &Gateway,
        caller: &Caller,
        model: &ModelRecord,
    ) -> Result<Response, Problem> {
        let name = &model.name;
        let command = if self.rollback {
            if self.version.is_some() || self.weight.is_some() {
                let reason = "`rollback` goes to the version before, with all requests; leave \
                              `version` and `weight` out";
                return Err(Failure::invalid(reason).into());
            }
            gateway.way_back(name)?
        } else {
            let state = gateway.control.state();
            let version = self.version.as_deref().map(|text| find(&state, model, text));
            let weight = self.weight.unwrap_or(100);
            Command::ShiftTraffic { name: name.clone(), version: version.transpose()?, weight }
        };
        let proposed = caller.propose(gateway, "model.shift", name, command);
        let revision = proposed.await?.revision();
        let state = gateway.control.state();
        let versions = of(&state, name);
        Ok(stream::plain_json(&Shifted { model: name.clone(), revision, versions }))
    }
}

fn find(state: &Snapshot, model: &ModelRecord, text: &str) -> Result<Digest, Failure> {
    let asked = text.strip_prefix("sha256:").unwrap_or(text);
    let former = state.versions_of(&model.name).map(|kept| kept.version.digest);
    let all: Vec<Digest> = former.chain([model.version.digest]).collect();
    let found: Vec<&Digest> = all.iter().filter(|digest| digest.hex().starts_with(asked)).collect();
    match found.as_slice() {
        [one] if asked.len() >= DIGEST_CHARS => Ok(**one),
        _ => {
            let known: Vec<String> = all.iter().map(short).collect();
            let shown: String = asked.chars().take(64).collect();
            Err(Failure::NotFound(format!(
                "`{shown}` names no version of model '{}', or several; it has {}",
                model.name,
                known.join(", ")
            )))
        }
    }
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// The versions of a model, the current one first.
pub(crate) fn of(state: &Snapshot, name: &ModelName) -> Vec<VersionShown> {
    let Some(record) = state.models.get(name) else { return Vec::new() };
    let rollout = state.rollouts.get(name);
    let ready = |version: &ModelVersion| {
        serving(state, &ModelRecord { version: version.clone(), ..record.clone() }).len()
    };
    let mut former: Vec<_> = state.versions_of(name).collect();
    former.sort_by_key(|kept| std::cmp::Reverse((kept.since, kept.version.digest)));
    let current = VersionShown {
        model: name.clone(),
        digest: record.version.digest.hex(),
        state: if rollout.is_some() { "new" } else { "current" },
        weight: rollout.map_or(100, |rollout| rollout.weight),
        ready: ready(&record.version),
        size: record.version.blob_bytes,
        reason: None,
    };
    let former = former.into_iter().map(|kept| {
        let old = rollout.filter(|rollout| rollout.old == kept.version.digest);
        let (state, reason) = match (&kept.state, old) {
            (_, Some(_)) => ("old", None),
            (VersionState::Served, None) => ("former", None),
            (VersionState::Failed { reason }, None) => ("failed", Some(reason)),
        };
        VersionShown {
            model: name.clone(),
            digest: kept.version.digest.hex(),
            state,
            weight: old.map_or(0, |rollout| 100 - rollout.weight.min(100)),
            ready: old.map_or(0, |_| ready(&kept.version)),
            size: kept.version.blob_bytes,
            reason: reason.cloned(),
        }
    });
    std::iter::once(current).chain(former).collect()
}
