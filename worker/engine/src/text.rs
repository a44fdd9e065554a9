//! Everything about a model that is text: its tokenizer and its chat template. Shared between
//! threads, so that rendering and tokenising a request need not wait for the engine's step.

mod insert;

use self::insert::GapTokens;
use crate::constraint::{Constraint, ConstraintError, Grammars};
use crate::marks::Marks;
use crate::output::Output;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::vocabulary::Vocabulary;
use ollamamax_gguf::Gguf;
use ollamamax_proto::inference::{Chat, EmbedInput, Message, Options, Predict, Prompt};
use ollamamax_proto::prefix::Salt;
use ollamamax_template::{ChatTemplate, Conversation, TemplateError};

/// A model that cannot be used for its texts.
#[derive(Debug, thiserror::Error)]
pub enum TextModelError {
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template.
    #[error("the model's own chat template: {0}")]
    Template(#[from] TemplateError),
    /// The file's metadata.
    #[error(transparent)]
    Metadata(#[from] ollamamax_gguf::GgufError),
}

/// A request that cannot be turned into tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The prompt does not fit and may not be cut.
    #[error(
        "the prompt has {tokens} tokens, the context holds {context_tokens} and the first output \
         token needs one; shorten it, raise `num_ctx`, or allow `truncate`"
    )]
    TooLong {
        /// Of the prompt.
        tokens: u32,
        /// Tokens the context holds.
        context_tokens: u32,
    },
    /// A text to embed does not fit and may not be cut. In Ollama's words, which clients look for.
    #[error("the input length exceeds the context length")]
    InputTooLong,
    /// Nothing to embed.
    #[error("the input is empty: there is nothing to embed")]
    InputEmpty,
    /// Nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    Empty,
    /// A token that does not exist.
    #[error("token `{token}` is outside the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// The vocabulary's size.
        vocabulary: u32,
    },
    /// A bias on a token that does not exist.
    #[error(
        "`logit_bias` names token `{token}`, expected 0 to {last}: the vocabulary has no other"
    )]
    Bias {
        /// The id.
        token: u32,
        /// The largest id there is.
        last: u32,
    },
    /// The messages cannot be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model has no way to write what is missing in a text.
    #[error("the model has neither a template nor tokens for a text with a gap (`suffix`)")]
    Insert,
    /// The text cannot be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The output cannot have the format asked for.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// A request in tokens, ready for [`crate::engine::Engine::submit`].
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The prompt; not empty, and shorter than `context_tokens`.
    pub tokens: Vec<u32>,
    /// How to continue it.
    pub options: Options,
    /// Tokens the sequence may hold.
    pub context_tokens: u32,
    /// Who asks: places are shared out among callers, not among requests. All who are not named are one.
    pub caller: String,
    /// The format of the output at its beginning, where the options name one.
    pub constraint: Option<Constraint>,
    /// What the blocks of the prompt stand for, where the sender says so.
    pub marks: Marks,
    /// What of the output's tokens is text.
    pub output: Output,
    /// With whom it shares what is cached.
    pub salt: Salt,
}

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Tokens for a text with a gap, where the model has them.
    gap: Option<GapTokens>,
    grammars: Grammars,
}

impl TextModel {
    /// From a vocabulary and the source of the chat template; without one, ChatML.
    pub fn new(vocabulary: Vocabulary, template: Option<&str>) -> Result<Self, TextModelError> {
        let tokenizer = Tokenizer::new(vocabulary)?;
        let template = match template {
            Some(source) => ChatTemplate::new(source)?,
            None => ChatTemplate::chatml(),
        };
        let gap = GapTokens::of(tokenizer.vocabulary());
        Ok(Self { tokenizer, template, gap, grammars: Grammars::default() })
    }

    /// From a file's metadata. A file whose own template cannot be read is refused, not given
    /// another one.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextModelError> {
        let template = gguf.optional("tokenizer.chat_template", Gguf::get_str)?;
        Self::new(Vocabulary::from_gguf(gguf)?, template)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Renders and tokenises a prompt for a context of at most `context_tokens`.
    pub fn prepare(
        &self,
        prompt: &Prompt,
        options: &Options,
        context_tokens: u32,
    ) -> Result<Prepared, PrepareError> {
        let context_tokens =
            options.context_tokens.map_or(context_tokens, |asked| asked.min(context_tokens));
        let room = Room::new(options, context_tokens);
        let mut tokens = match prompt {
            Prompt::Text(text) => self.with_bos(self.tokenizer.encode(text, true)?),
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Chat(chat) => {
                let own = chat.template.as_deref().map(ChatTemplate::new).transpose()?;
                let template = own.as_ref().unwrap_or(&self.template);
                self.chat(template, chat, room)?
            }
            Prompt::Insert(insert) => self.insert(insert, room)?,
        };
        if tokens.is_empty() {
            tokens.extend(self.tokenizer.vocabulary().bos);
        }
        if tokens.is_empty() {
            return Err(PrepareError::Empty);
        }
        let vocabulary = self.tokenizer.vocabulary().tokens.len() as u32;
        if let Some(&token) = tokens.iter().find(|&&token| token >= vocabulary) {
            return Err(PrepareError::Token { token, vocabulary });
        }
        if let Some(&token) = options.sampling.logit_bias.keys().find(|&&t| t >= vocabulary) {
            return Err(PrepareError::Bias { token, last: vocabulary.saturating_sub(1) });
        }
        if !room.fits(tokens.len()) {
            if !room.truncate {
                let tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
                return Err(PrepareError::TooLong { tokens, context_tokens });
            }
            tokens = cut(&tokens, room.target, options.keep_tokens as usize);
        }
        let output = Output::of(&self.tokenizer, &tokens, options);
        let opened = !output.opening.is_empty();
        let compile = |format| {
            let constraint = self.grammars.compile(&self.tokenizer, format)?;
            Ok::<_, ConstraintError>(match &options.thinking {
                Some(tags) => constraint.behind(tags, opened, &self.tokenizer),
                None => constraint,
            })
        };
        let constraint = options.format.as_ref().map(compile).transpose()?;
        let (options, caller) = (options.clone(), String::new());
        let (marks, salt) = (Marks::default(), Salt::SHARED);
        Ok(Prepared { tokens, options, context_tokens, caller, constraint, marks, salt, output })
    }

    /// The tokens of an input to embed: a text with what the model wants around it, tokens as they are.
    pub fn prepare_input(
        &self,
        input: &EmbedInput,
        truncate: bool,
        context_tokens: u32,
    ) -> Result<Vec<u32>, PrepareError> {
        let closing = match input {
            EmbedInput::Tokens(_) => None,
            EmbedInput::Text(_) => self.tokenizer.closing(),
        };
        let room = (context_tokens as usize).saturating_sub(usize::from(closing.is_some()));
        let mut tokens = match input {
            EmbedInput::Tokens(tokens) => tokens.clone(),
            EmbedInput::Text(text) => {
                let mut tokens: Vec<u32> = self.tokenizer.prompt_bos().into_iter().collect();
                tokens.extend(self.tokenizer.encode_beginning(text, room)?);
                tokens
            }
        };
        if tokens.len() > room && !truncate {
            return Err(PrepareError::InputTooLong);
        }
        tokens.truncate(room);
        tokens.extend(closing);
        let vocabulary = self.tokenizer.vocabulary().tokens.len() as u32;
        if let Some(&token) = tokens.iter().find(|&&token| token >= vocabulary) {
            return Err(PrepareError::Token { token, vocabulary });
        }
        if tokens.is_empty() { Err(PrepareError::InputEmpty) } else { Ok(tokens) }
    }

    /// Renders and tokenises messages; when they do not fit, without the oldest ones that are not
    /// `system`, and never without the last one.
    fn chat(
        &self,
        template: &ChatTemplate,
        chat: &Chat,
        room: Room,
    ) -> Result<Vec<u32>, PrepareError> {
        let Chat { messages, context, .. } = chat;
        let render = |dropped: usize| -> Result<Vec<u32>, PrepareError> {
            let kept = without_oldest(messages, dropped);
            let special =
                |id: Option<u32>| id.and_then(|id| self.tokenizer.vocabulary().spelling(id));
            let vocabulary = self.tokenizer.vocabulary();
            let text = template.render(&Conversation {
                messages: &kept,
                tools_json: &chat.tools_json,
                think: chat.think,
                bos: special(vocabulary.bos).unwrap_or(""),
                eos: special(vocabulary.eos).unwrap_or(""),
            })?;
            let rendered = self.tokenizer.encode(&text, true)?;
            Ok(if context.is_empty() {
                self.with_bos(rendered)
            } else {
                [context.as_slice(), &rendered].concat()
            })
        };
        let whole = render(0)?;
        if room.fits(whole.len()) || !room.truncate {
            return Ok(whole);
        }
        let droppable = messages.iter().rev().skip(1).filter(|m| m.role != "system").count();
        if droppable == 0 {
            return Ok(whole);
        }
        // Fewer messages give fewer tokens, so the fewest to drop can be found by halving.
        let (mut low, mut high) = (1, droppable);
        while low < high {
            let middle = low + (high - low) / 2;
            if render(middle)?.len() <= room.target {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        render(low)
    }

    /// Begins with `bos` when the model wants that; a template may have written it already.
    fn with_bos(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.tokenizer.prompt_bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        tokens
    }
}

/// How long a prompt may be.
#[derive(Clone, Copy, Debug)]
struct Room {
    context: usize,
    /// What a prompt that is too long is cut to: room for the answer remains.
    target: usize,
    truncate: bool,
}

impl Room {
    fn new(options: &Options, context_tokens: u32) -> Self {
        let context = context_tokens as usize;
        let answer = match options.predict {
            Predict::AtMost(count) => (count as usize).min(context / 2),
            Predict::UntilDone | Predict::FillContext => context / 4,
        };
        let target = context.saturating_sub(answer.max(1)).max(1);
        Self { context, target, truncate: options.truncate }
    }

    fn fits(self, tokens: usize) -> bool {
        tokens < self.context
    }
}

/// The messages without the `dropped` oldest ones that are neither `system` nor the last. What is
/// left begins with a `user`, as templates that insist on turns want it.
fn without_oldest(messages: &[Message], dropped: usize) -> Vec<Message> {
    let last = messages.len().saturating_sub(1);
    let (mut left, mut begun) = (dropped, dropped == 0);
    let keep = |(index, message): &(usize, &Message)| {
        if message.role == "system" || *index == last {
            return true;
        }
        if left > 0 {
            left -= 1;
            return false;
        }
        begun |= message.role == "user";
        begun
    };
    messages.iter().enumerate().filter(keep).map(|(_, message)| message.clone()).collect()
}

/// The first `keep` tokens and the newest others, `target` in all.
fn cut(tokens: &[u32], target: usize, keep: usize) -> Vec<u32> {
    let keep = keep.min(target.saturating_sub(1));
    let newest = tokens.len() - (target - keep);
    [&tokens[..keep], &tokens[newest..]].concat()
}
