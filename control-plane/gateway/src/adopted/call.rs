//! What a server is sent: the request as it came where the server speaks that API, else the same in OpenAI's words.

use super::ask::{Said, Wish, cannot};
use super::door::{Way, changed};
use super::server::Server;
use super::tries::Errand;
use crate::anthropic;
use crate::error::Failure;
use crate::ollama::embed::EmbedWish;
use crate::ollama::{chat, generate};
use bytes::Bytes;
use ollamamax_core::adopted::ServerKind;

/// A request in words that servers do not speak, read.
#[allow(clippy::large_enum_variant, reason = "there is one for each request, and not for long")]
pub(super) enum Other {
    Wish(Wish),
    Embed(EmbedWish),
}

/// What a server is sent.
pub(super) struct Call {
    pub path: &'static str,
    pub body: Bytes,
}

/// What a server that has the model is sent; nothing where there is nothing to ask.
pub(super) fn call(
    errand: &Errand,
    server: &Server,
    id: &str,
    other: &mut Option<Other>,
) -> Result<Option<Call>, Failure> {
    let kind = server.record.kind;
    if errand.way.is_spoken_by(kind) {
        *other = None;
        return Ok(Some(Call { path: errand.way.path(), body: body(errand, kind, id) }));
    }
    let read = match errand.way {
        Way::Chat => Other::Wish(chat::elsewhere(&errand.bytes)?),
        Way::Generate => Other::Wish(generate::elsewhere(&errand.bytes)?),
        Way::Messages => Other::Wish(anthropic::elsewhere(&errand.bytes)?),
        Way::Embed => Other::Embed(EmbedWish::read(&errand.bytes)?),
        Way::OldEmbed => Other::Embed(EmbedWish::read_old(&errand.bytes)?),
        _ => return Err(cannot("a wish to count tokens")),
    };
    let is_empty = match &read {
        Other::Wish(Wish { said: Said::Chat { messages, .. }, .. }) => messages.is_empty(),
        Other::Wish(Wish { said: Said::Text { prompt, .. }, .. }) => prompt.is_empty(),
        Other::Embed(wish) => wish.is_empty(),
    };
    let call = match &read {
        Other::Wish(wish) => {
            let (path, body) = wish.put(id)?;
            Call { path, body }
        }
        Other::Embed(wish) => Call { path: "/v1/embeddings", body: wish.put(id) },
    };
    *other = Some(read);
    Ok((!is_empty).then_some(call))
}

/// The body as it came, with the server's own name of the model where that is another.
fn body(errand: &Errand, kind: ServerKind, id: &str) -> Bytes {
    // Ollama reads names as generously as this gateway does, but not our own suffix.
    let same = match kind {
        ServerKind::Ollama => !errand.asked.ends_with(":local"),
        ServerKind::OpenAi => errand.asked == id,
    };
    let bytes = match same {
        true => errand.bytes.clone(),
        false => changed(&errand.bytes, |body| {
            body.insert("model".to_owned(), id.into());
        }),
    };
    let begin = bytes.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    if !errand.hides_usage || begin == 0 {
        return bytes;
    }
    let asks = b"\"stream_options\":{\"include_usage\":true},";
    [&bytes[..begin], asks, &bytes[begin..]].concat().into()
}
