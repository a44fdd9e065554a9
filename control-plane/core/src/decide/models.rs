//! The catalogue and what of it shall be loaded.

use super::check;
use super::draft::Draft;
use super::rollouts;
use crate::change::Change;
use crate::record::{Demand, Lifetime, ModelRecord};
use crate::rejection::Rejection;
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::{ModelName, limits};

/// Placements of other bytes go at once, since they would answer for the wrong version; those of
/// other facts go because they were sized by them.
pub(super) fn put(
    draft: &mut Draft,
    name: &ModelName,
    version: &ModelVersion,
) -> Result<(), Rejection> {
    check_version(version)?;
    rollouts::end(draft, name);
    let known = draft.state().models.get(name);
    if known.is_some_and(|record| record.version == *version) {
        return Ok(());
    }
    if known.is_none() && draft.state().models.len() >= limits::MODELS_COUNT {
        return Err(check::over("models", limits::MODELS_COUNT));
    }
    let resized = known.is_some_and(|record| {
        record.version.facts != version.facts || record.version.blob_bytes != version.blob_bytes
    });
    draft.drop_placements(|placement| {
        placement.assignment.model == *name
            && (resized || placement.assignment.blob != version.blob)
    });
    draft.push(Change::ModelPut(Box::new(ModelRecord {
        name: name.clone(),
        version: version.clone(),
        modified_at: draft.now(),
        revision: draft.next_revision(),
    })));
    Ok(())
}

pub(super) fn copy(
    draft: &mut Draft,
    source: &ModelName,
    destination: &ModelName,
) -> Result<(), Rejection> {
    let version = find(draft, source)?.version.clone();
    put(draft, destination, &version)
}

pub(super) fn delete(draft: &mut Draft, name: &ModelName) -> Result<(), Rejection> {
    find(draft, name)?;
    draft.drop_placements(|placement| placement.assignment.model == *name);
    draft.push(Change::DemandRemoved(name.clone()));
    draft.push(Change::DeploymentRemoved(name.clone()));
    rollouts::forget(draft, name);
    draft.push(Change::ModelRemoved(name.clone()));
    Ok(())
}

/// The last wish decides how long; replicas and context only grow until the model is released,
/// because shrinking them would unload what other clients use.
pub(super) fn demand(draft: &mut Draft, wish: &Demand) -> Result<(), Rejection> {
    let known = draft.state().demands.get(&wish.model);
    let wish = Demand {
        replicas: known.map_or(0, |demand| demand.replicas).max(wish.replicas),
        context_length: known.map_or(0, |demand| demand.context_length).max(wish.context_length),
        ..wish.clone()
    };
    demand_exactly(draft, &wish)
}

/// Wants it so, whatever was wanted before.
pub(super) fn demand_exactly(draft: &mut Draft, wish: &Demand) -> Result<(), Rejection> {
    find(draft, &wish.model)?;
    if wish.replicas == 0 {
        return Err(check::invalid("replicas", "expected at least 1"));
    }
    if wish.replicas > limits::REPLICAS_COUNT {
        return Err(check::over("replicas", limits::REPLICAS_COUNT as usize));
    }
    let forever = wish.keep_alive_ms < 0 || wish.lifetime == Lifetime::Forever;
    let keep_alive_ms = if forever { -1 } else { wish.keep_alive_ms };
    let lifetime = match u64::try_from(keep_alive_ms) {
        Ok(ms) => Lifetime::Until(draft.now().plus(ms)),
        Err(_) => Lifetime::Forever,
    };
    draft.push(Change::DemandPut(Demand {
        model: wish.model.clone(),
        replicas: wish.replicas,
        lifetime,
        context_length: wish.context_length,
        keep_alive_ms,
    }));
    Ok(())
}

pub(super) fn release(draft: &mut Draft, name: &ModelName) -> Result<(), Rejection> {
    find(draft, name)?;
    draft.push(Change::DemandRemoved(name.clone()));
    Ok(())
}

pub(super) fn expire(draft: &mut Draft) {
    let now = draft.now();
    let expired: Vec<ModelName> = draft
        .state()
        .demands
        .values()
        .filter(|demand| !demand.is_live(now))
        .map(|demand| demand.model.clone())
        .collect();
    for name in expired {
        draft.push(Change::DemandRemoved(name));
    }
}

pub(super) fn find<'a>(draft: &'a Draft, name: &ModelName) -> Result<&'a ModelRecord, Rejection> {
    draft.state().models.get(name).ok_or_else(|| Rejection::UnknownModel(name.clone()))
}

pub(super) fn check_version(version: &ModelVersion) -> Result<(), Rejection> {
    check_facts(&version.facts)?;
    if version.blob_bytes > limits::BLOB_BYTES {
        return Err(Rejection::OverLimit {
            what: "bytes of a blob".into(),
            limit: limits::BLOB_BYTES,
        });
    }
    let template = version.template.iter().map(|text| ("template", text));
    let system = version.system.iter().map(|text| ("system", text));
    let parent = version.parent.iter().map(|text| ("parent", text));
    let licenses = version.licenses.iter().map(|text| ("license", text));
    let messages = version.messages.iter().flat_map(|message| {
        [("messages.role", &message.role), ("messages.content", &message.content)]
    });
    let parameters = version.parameters.iter().flat_map(|(name, values)| {
        std::iter::once(name).chain(values).map(|text| ("parameters", text))
    });
    let mut total = version.facts.metadata_json.len();
    for (field, text) in
        template.chain(system).chain(parent).chain(licenses).chain(messages).chain(parameters)
    {
        check::bytes(field, text, limits::MODEL_TEXT_BYTES)?;
        total = total.saturating_add(text.len());
    }
    if total > limits::COMMAND_BYTES {
        return Err(check::over("bytes of all texts of the model", limits::COMMAND_BYTES));
    }
    Ok(())
}

fn check_facts(facts: &ModelFacts) -> Result<(), Rejection> {
    check::bytes("metadata_json", &facts.metadata_json, limits::MODEL_METADATA_BYTES)?;
    check::bytes("architecture", &facts.architecture, limits::DISPLAY_NAME_CHARS)?;
    check::bytes("quantization", &facts.quantization, limits::DISPLAY_NAME_CHARS)?;
    if facts.layer_bytes.len() != facts.layers as usize {
        let reason = format!("has {} entries for {} layers", facts.layer_bytes.len(), facts.layers);
        return Err(check::invalid("layer_bytes", reason));
    }
    let sizes = facts.layer_bytes.iter().chain([&facts.embedding_bytes, &facts.head_bytes]);
    let sum = sizes.copied().try_fold(0u64, u64::checked_add);
    match sum {
        Some(bytes) if bytes <= limits::BLOB_BYTES => Ok(()),
        _ => {
            Err(Rejection::OverLimit { what: "bytes of weights".into(), limit: limits::BLOB_BYTES })
        }
    }
}
