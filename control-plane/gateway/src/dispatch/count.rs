//! How many tokens a prompt takes: asked of a worker that has the model, as only that can render and cut it.

use super::attempt::End;
use super::estimate::estimate;
use super::tries::{self, Tries};
use super::waiting::Patience;
use super::waiting::within;
use crate::Gateway;
use crate::demand::Want;
use crate::error::Failure;
use crate::request::Asker;
use crate::workers::route::Ask;
use crate::workers::seat::Seat;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::route::Policy;
use ollamamax_proto::inference::{Options, Prompt};
use ollamamax_proto::{Millis, limits, wire};
use prost::Message;
use std::sync::Arc;

impl Gateway {
    /// The tokens of a prompt, however many there are.
    pub(crate) async fn count_tokens(
        self: &Arc<Self>,
        asker: &Asker,
        model: &ModelRecord,
        prompt: &Prompt,
    ) -> Result<usize, Failure> {
        let _charge = self.let_in(asker, &model.name, 0)?;
        let _entry = self.enter(&model.name, asker, Want::default())?;
        self.ensure_loaded(asker, model, Want::default()).await?;
        let shape = estimate(prompt, &Options::default());
        let ask = Ask { policy: Policy::LeastTokens, shape, prefix: Arc::default() };
        let (mut tries, mut last) = (Tries::new(), None);
        loop {
            let Some((seat, _work)) = tries.next(self, model, &ask, false).await else {
                return Err(last.unwrap_or_else(tries::nobody));
            };
            tries.begin();
            match self.try_count(prompt, &seat).await {
                Ok(count) => {
                    seat.record(true, Millis::now());
                    return Ok(count);
                }
                Err(end) => last = Some(tries.failed(self, &seat, end)?),
            }
        }
    }

    async fn try_count(&self, prompt: &Prompt, seat: &Seat) -> Result<usize, End> {
        let worker = &seat.candidate.worker;
        let (client, address) = (self.workers.client(worker), &worker.address);
        let mut client = client.map_err(|error| End::Broken(format!("`{address}`: {error}")))?;
        let mut request = wire::TokenizeRequest {
            blob: seat.candidate.placement.assignment.blob.to_string(),
            ..Default::default()
        };
        match prompt {
            Prompt::Chat(chat) => request.chat = Some(chat.into()),
            Prompt::Text(text) => request.text.clone_from(text),
            Prompt::Tokens(tokens) => return Ok(tokens.len()),
            Prompt::Insert(insert) => request.text = format!("{}{}", insert.before, insert.after),
        }
        if request.encoded_len() > limits::RPC_MESSAGE_BYTES {
            let limit = limits::RPC_MESSAGE_BYTES as u64;
            return Err(End::Refused(Failure::TooLarge { limit }));
        }
        let patience = Patience::plain(self.config.load_timeout);
        let reply = within(self, seat, patience, client.tokenize(request)).await??;
        Ok(reply.into_inner().tokens.len())
    }
}
