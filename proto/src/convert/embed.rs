//! Texts and their vectors on the wire.

use super::{InvalidMessage, finite, from_ms, out_of_range, to_ms};
use crate::ids::{AssignmentId, Generation};
use crate::inference::{EmbedInput, EmbedRequest, Embedding};
use crate::wire::embed_input::Input;
use crate::{limits, wire};

impl From<&EmbedRequest> for wire::EmbedRequest {
    fn from(request: &EmbedRequest) -> Self {
        let input = |input: &EmbedInput| match input {
            EmbedInput::Text(text) => Input::Text(text.clone()),
            EmbedInput::Tokens(ids) => Input::Tokens(wire::TokenList { ids: ids.clone() }),
        };
        let wrap = |input| wire::EmbedInput { input: Some(input) };
        Self {
            request_id: request.request_id.clone(),
            attempt: request.attempt,
            blob: request.blob.to_string(),
            assignment: request.assignment.0,
            generation: request.generation.0,
            inputs: request.inputs.iter().map(input).map(wrap).collect(),
            truncate: request.truncate,
            caller: request.caller.clone(),
            time_left_ms: to_ms(request.time_left),
        }
    }
}

impl TryFrom<wire::EmbedRequest> for EmbedRequest {
    type Error = InvalidMessage;

    fn try_from(wire: wire::EmbedRequest) -> Result<Self, InvalidMessage> {
        if wire.inputs.len() > limits::EMBED_PART_COUNT {
            let expected = format!("at most {}", limits::EMBED_PART_COUNT);
            return Err(out_of_range("inputs", wire.inputs.len(), expected));
        }
        let input = |wire: wire::EmbedInput| match wire.input {
            Some(Input::Text(text)) => Ok(EmbedInput::Text(text)),
            Some(Input::Tokens(list)) => Ok(EmbedInput::Tokens(list.ids)),
            None => Err(InvalidMessage::Missing { message: "EmbedInput", field: "input" }),
        };
        Ok(Self {
            request_id: wire.request_id.chars().take(128).collect(),
            attempt: wire.attempt,
            blob: wire.blob.parse()?,
            assignment: AssignmentId(wire.assignment),
            generation: Generation(wire.generation),
            inputs: wire.inputs.into_iter().map(input).collect::<Result<_, _>>()?,
            truncate: wire.truncate,
            caller: wire.caller.chars().take(128).collect(),
            time_left: from_ms(wire.time_left_ms),
        })
    }
}

impl From<Embedding> for wire::Embedding {
    fn from(embedding: Embedding) -> Self {
        Self { values: embedding.values, tokens: embedding.tokens }
    }
}

impl TryFrom<wire::Embedding> for Embedding {
    type Error = InvalidMessage;

    fn try_from(wire: wire::Embedding) -> Result<Self, InvalidMessage> {
        if !(1..=limits::EMBEDDING_VALUES_COUNT).contains(&wire.values.len()) {
            let expected = format!("1 to {}", limits::EMBEDDING_VALUES_COUNT);
            return Err(out_of_range("values", wire.values.len(), expected));
        }
        // JSON has no other numbers.
        wire.values.iter().try_for_each(|&value| finite("values", value.into()).map(drop))?;
        Ok(Self { values: wire.values, tokens: wire.tokens })
    }
}
