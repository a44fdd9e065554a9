//! How a request begins, as a chain of hashes over all that is rendered: the model, the template, tools and system prompt,
//! then message after message.

use ollamamax_core::record::ModelRecord;
use ollamamax_core::route::chain::{Chain, Prefix};
use ollamamax_proto::inference::{Prompt, Salt};

/// The chain of a prompt, among those that share what is cached.
pub(super) fn of(model: &ModelRecord, salt: Salt, prompt: &Prompt) -> Prefix {
    let [a, b, c, d, e, f, g, h, ..] = model.version.blob.0;
    let salt = salt.0 as u64 ^ (salt.0 >> 64) as u64;
    let mut chain = Chain::new(u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ salt);
    match prompt {
        Prompt::Chat(chat) => {
            chain.part(chat.template.as_deref().unwrap_or_default().as_bytes());
            chain.part(chat.tools_json.as_bytes());
            tokens(&mut chain, &chat.context);
            for message in &chat.messages {
                chain.part(message.role.as_bytes());
                chain.part(message.content.as_bytes());
                chain.part(message.extra_json.as_bytes());
            }
        }
        Prompt::Text(text) => chain.part(text.as_bytes()),
        Prompt::Tokens(ids) => tokens(&mut chain, ids),
        Prompt::Insert(insert) => {
            chain.part(insert.template.as_deref().unwrap_or_default().as_bytes());
            chain.part(insert.before.as_bytes());
            chain.part(insert.after.as_bytes());
        }
    }
    chain.finish()
}

fn tokens(chain: &mut Chain, ids: &[u32]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    chain.part(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_core::record::ModelRecord;
    use ollamamax_proto::inference::{Chat, Message};
    use ollamamax_proto::model::ModelVersion;
    use ollamamax_proto::{Digest, Millis, Revision, limits};

    fn model(blob: &[u8]) -> ModelRecord {
        let version = ModelVersion {
            digest: Digest::of(b""),
            blob: Digest::of(blob),
            blob_bytes: 1,
            facts: Default::default(),
            template: None,
            system: None,
            parameters: Default::default(),
            messages: Vec::new(),
            licenses: Vec::new(),
            parent: None,
        };
        let name = "m".parse().expect("a name");
        ModelRecord { name, version, modified_at: Millis(0), revision: Revision(1) }
    }

    fn chat(messages: &[(&str, String)], tools_json: &str) -> Prompt {
        let message = |(role, content): &(&str, String)| Message {
            role: (*role).to_owned(),
            content: content.clone(),
            extra_json: String::new(),
        };
        Prompt::Chat(Chat {
            messages: messages.iter().map(message).collect(),
            tools_json: tools_json.to_owned(),
            ..Chat::default()
        })
    }

    #[test]
    fn a_conversation_that_goes_on_begins_as_before_and_another_does_not() {
        let text = |letter: &str, blocks: usize| letter.repeat(blocks * limits::PREFIX_BLOCK_BYTES);
        let first = [("system", text("s", 2)), ("user", text("u", 2))];
        let more = [first.as_slice(), &[("assistant", text("a", 1))]].concat();
        let hashes = |blob: &[u8], prompt: &Prompt| of(&model(blob), Salt::SHARED, prompt).hashes;
        let begun = hashes(b"x", &chat(&first, ""));
        assert_eq!(begun.len(), 4);
        let gone_on = hashes(b"x", &chat(&more, ""));
        assert_eq!((gone_on.len(), &gone_on[..4]), (5, &begun[..]));
        let other_user = hashes(b"x", &chat(&[first[0].clone(), ("user", text("v", 2))], ""));
        assert_eq!(other_user[..2], begun[..2]);
        assert_ne!(other_user[2], begun[2]);
        assert_ne!(hashes(b"y", &chat(&first, ""))[0], begun[0], "another model");
        assert_ne!(hashes(b"x", &chat(&first, "[{}]"))[0], begun[0], "other tools");
        let spoken = hashes(b"x", &Prompt::Text(text("s", 3)));
        let longer = hashes(b"x", &Prompt::Text(text("s", 3) + "more"));
        assert_eq!(spoken, longer);
        assert!(hashes(b"x", &Prompt::Tokens(vec![7; 10])).is_empty());
        let other = of(&model(b"x"), Salt::of("user:alice"), &chat(&first, "")).hashes;
        assert!(other.iter().zip(&begun).all(|(other, begun)| other != begun), "another's");
    }
}
