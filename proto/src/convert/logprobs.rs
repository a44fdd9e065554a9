//! Log-probabilities on the wire.

use super::{InvalidMessage, out_of_range};
use crate::inference::{Logprob, TokenLogprob};
use crate::{limits, wire};

impl From<Logprob> for wire::Logprob {
    fn from(logprob: Logprob) -> Self {
        Self { token: logprob.token, logprob: logprob.logprob, spelling: logprob.bytes.into() }
    }
}

impl TryFrom<wire::Logprob> for Logprob {
    type Error = InvalidMessage;

    fn try_from(wire: wire::Logprob) -> Result<Self, InvalidMessage> {
        if !(Self::LEAST..=0.0).contains(&wire.logprob) {
            return Err(out_of_range("logprob", wire.logprob, format!("{} to 0", Self::LEAST)));
        }
        if wire.spelling.len() > limits::TOKEN_BYTES {
            let expected = format!("at most {} bytes", limits::TOKEN_BYTES);
            return Err(out_of_range("spelling", wire.spelling.len(), expected));
        }
        Ok(Self { token: wire.token, logprob: wire.logprob, bytes: wire.spelling.into() })
    }
}

impl From<TokenLogprob> for wire::TokenLogprob {
    fn from(token: TokenLogprob) -> Self {
        Self {
            chosen: Some(token.chosen.into()),
            top: token.top.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::TokenLogprob> for TokenLogprob {
    type Error = InvalidMessage;

    fn try_from(wire: wire::TokenLogprob) -> Result<Self, InvalidMessage> {
        if wire.top.len() > limits::TOP_LOGPROBS_COUNT as usize {
            let expected = format!("at most {}", limits::TOP_LOGPROBS_COUNT);
            return Err(out_of_range("top_logprobs", wire.top.len(), expected));
        }
        let chosen = wire
            .chosen
            .ok_or(InvalidMessage::Missing { message: "TokenLogprob", field: "chosen" })?;
        let top = wire.top.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { chosen: chosen.try_into()?, top })
    }
}
