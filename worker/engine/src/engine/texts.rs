//! The engine's other service: texts to vectors, in the steps of the sequences (see [`crate::embed`]).

use super::{Embedded, Engine, Refusal, SequenceId};

impl Engine {
    /// Takes texts to embed, each not empty and not longer than the context.
    pub fn embed(&mut self, texts: Vec<Vec<u32>>) -> Result<SequenceId, Refusal> {
        self.refuse_when_full()?;
        let (context_tokens, vocabulary) = (self.limits.context_tokens, self.backend.vocabulary());
        for text in &texts {
            if text.is_empty() {
                return Err(Refusal::Empty);
            }
            if text.len() > context_tokens as usize {
                return Err(Refusal::TooLong { tokens: text.len(), context_tokens });
            }
            if let Some(&token) = text.iter().find(|&&token| token >= vocabulary) {
                return Err(Refusal::Token { token, vocabulary });
            }
        }
        let id = self.next_id();
        self.embedder.push(id, texts);
        Ok(id)
    }

    /// What [`Engine::step`] has finished of [`Engine::embed`].
    pub fn embedded(&mut self) -> Vec<Embedded> {
        self.embedder.take_finished()
    }

    /// Requests whose texts are being embedded.
    pub fn embedding(&self) -> usize {
        self.embedder.len()
    }
}
