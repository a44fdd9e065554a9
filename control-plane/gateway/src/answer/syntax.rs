//! How the answers to one request are read, from what the model's template tells of how it writes.

use super::{Syntax, calls};
use ollamamax_proto::limits;
use ollamamax_template::Traits;

impl Syntax {
    /// With thinking told apart where `think`, and calls of the tools named.
    pub(crate) fn new(traits: &Traits, think: bool, names: Vec<String>) -> Self {
        let calls = (!names.is_empty()).then(|| calls::Syntax {
            tags: traits.calls.clone(),
            bare: traits.calls.is_empty() || traits.calls.iter().any(|tag| tag == "<|python_tag|>"),
            names,
            salt: rand::random(),
        });
        Self { thinking: traits.thinking.clone(), hidden: !think, calls }
    }

    /// For an answer that is a call, or a list of them, and nothing else.
    pub(crate) fn of_only_calls(self, names: Vec<String>) -> Self {
        let (tags, salt) = (Vec::new(), rand::random());
        Self { calls: Some(calls::Syntax { tags, bare: true, names, salt }), ..self }
    }

    /// The same for another answer to the same request: its calls have other ids.
    pub(crate) fn for_choice(&self, place: usize) -> Self {
        let mut syntax = self.clone();
        if let Some(calls) = &mut syntax.calls {
            calls.salt = calls.salt.wrapping_add(0x0100_0193_u32.wrapping_mul(place as u32));
        }
        syntax
    }

    /// Control tokens that a worker has to show for this.
    pub(crate) fn shown(&self) -> Vec<String> {
        let tags = self.thinking.iter().flat_map(|tags| [tags.open.clone(), tags.close.clone()]);
        let calls = self.calls.iter().flat_map(|calls| {
            calls.tags.iter().cloned().chain(calls::closing().map(str::to_owned))
        });
        tags.chain(calls).take(limits::MARKERS_COUNT).collect()
    }
}
