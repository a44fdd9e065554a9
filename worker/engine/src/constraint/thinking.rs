//! What may come before a format holds: the thinking of a model that thinks first.
//!
//! ```text
//! the prompt has opened it -------------------v
//! output begins --(it begins with the tag)--> within --(closing tag)--> behind --(two line breaks at most)--> format
//!        '---------(anything else)---------------------------------------------------------------------------^
//! ```
//!
//! Within, everything may be said but the end, and the closing tag ends with a token: what follows it in the same token
//! would escape the format. All of it depends on the tokens taken alone, as the format does.

use crate::stop::Automaton;
use crate::tokenizer::Tokenizer;
use llguidance::Matcher;
use llguidance::toktrie::{SimpleVob, TokEnv};
use ollamamax_proto::inference::Tags;
use std::sync::Arc;

/// What models write between their thinking and the rest.
const GAP: &[u8] = b"\n\n";

/// Where an output stands before its format holds.
pub(super) struct Thinking {
    pub place: Place,
    words: Arc<Words>,
    /// The format at its beginning, while nobody knows whether the first tokens are its own.
    fresh: Option<Box<Matcher>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The output is so many bytes of the opening tag; the format may have begun with them, or cannot.
    Beginning(usize, bool),
    /// So many bytes of the closing tag are matched.
    Within(usize),
    /// So many bytes of the gap are there.
    Behind(usize),
}

/// What does not change.
struct Words {
    open: Vec<u8>,
    close: Automaton,
    /// The tags as tokens that are no text by themselves.
    open_token: Option<u32>,
    close_token: Option<u32>,
    /// Tokens that may complete the closing tag and go on.
    straddling: Vec<u32>,
    tokens: TokEnv,
}

impl Thinking {
    /// Nothing when a tag is empty, or the matcher has no vocabulary any more.
    pub fn new(
        tags: &Tags,
        opened: bool,
        tokenizer: &Tokenizer,
        matcher: &Matcher,
    ) -> Option<Self> {
        let tokens = matcher.tok_env().ok()?;
        let last = *tags.close.as_bytes().last().filter(|_| !tags.open.is_empty())?;
        let trie = tokens.tok_trie();
        let goes_on = |&token: &u32| {
            trie.token(token).split_last().is_some_and(|(_, before)| before.contains(&last))
        };
        let words = Words {
            open: tags.open.as_bytes().to_vec(),
            close: Automaton::new(&tags.close),
            open_token: tokenizer.control(&tags.open),
            close_token: tokenizer.control(&tags.close),
            straddling: (0..trie.vocab_size() as u32).filter(goes_on).collect(),
            tokens: Arc::clone(&tokens),
        };
        let fresh = (!opened).then(|| Box::new(matcher.deep_clone()));
        let place = if opened { Place::Within(0) } else { Place::Beginning(0, true) };
        Some(Self { place, words: Arc::new(words), fresh })
    }

    /// Whether the next token may be the format's own.
    pub fn format_may_hold(&self) -> bool {
        matches!(self.place, Place::Beginning(_, true) | Place::Behind(_))
    }

    /// No token at all.
    pub fn nothing(&self) -> SimpleVob {
        self.words.tokens.tok_trie().alloc_token_set()
    }

    /// Adds what may come here whatever the format says. `ends` may not.
    pub fn allow(&self, mask: &mut SimpleVob, ends: &[u32]) {
        let words = &self.words;
        let trie = words.tokens.tok_trie();
        match self.place {
            Place::Beginning(at, _) => {
                trie.all_prefixes(&words.open[at..]).into_iter().for_each(|t| mask.allow_token(t));
                if let Some(token) = words.open_token.filter(|_| at == 0) {
                    mask.allow_token(token);
                }
            }
            Place::Within(matched) => {
                *mask = SimpleVob::alloc_ones(trie.vocab_size());
                ends.iter().for_each(|&end| mask.disallow_token(end));
                let straddles = |&&token: &&u32| {
                    let (complete, length) = words.progress(matched, token);
                    complete.is_some_and(|end| end < length)
                };
                words.straddling.iter().filter(straddles).for_each(|&t| mask.disallow_token(t));
            }
            Place::Behind(at) => {
                trie.all_prefixes(&GAP[at..]).into_iter().for_each(|t| mask.allow_token(t));
            }
        }
    }

    /// How many bytes of the opening tag are there after a token, if it goes on like that.
    pub fn opens(&self, at: usize, token: u32) -> Option<usize> {
        let words = &self.words;
        if at == 0 && words.open_token == Some(token) {
            return Some(words.open.len());
        }
        let bytes = words.tokens.tok_trie().token(token);
        let goes_on = !bytes.is_empty() && words.open[at..].starts_with(bytes);
        goes_on.then_some(at + bytes.len())
    }

    /// Whether all of the opening tag is there.
    pub fn is_open(&self, at: usize) -> bool {
        at == self.words.open.len()
    }

    /// The format at its beginning.
    pub fn take_fresh(&mut self) -> Option<Box<Matcher>> {
        self.fresh.take()
    }

    /// Where a token within the thinking leads.
    pub fn within(&self, matched: usize, token: u32) -> Place {
        if self.words.close_token == Some(token) {
            return Place::Behind(0);
        }
        match self.words.progress(matched, token) {
            (Some(_), _) => Place::Behind(0),
            (None, matched) => Place::Within(matched),
        }
    }

    /// How many bytes of the gap are there after a token, if it is of the gap.
    pub fn gap(&self, at: usize, token: u32) -> Option<usize> {
        let bytes = self.words.tokens.tok_trie().token(token);
        let goes_on = !bytes.is_empty() && GAP[at..].starts_with(bytes);
        goes_on.then_some(at + bytes.len())
    }
}

impl Words {
    /// The length of a token up to the end of the closing tag and its whole length; or nothing, and how much of the tag is
    /// matched behind it.
    fn progress(&self, mut matched: usize, token: u32) -> (Option<usize>, usize) {
        let bytes = self.tokens.tok_trie().token(token);
        for (index, &byte) in bytes.iter().enumerate() {
            matched = self.close.next(matched, byte);
            if matched == self.close.len() {
                return (Some(index + 1), bytes.len());
            }
        }
        (None, matched)
    }
}

impl Clone for Thinking {
    fn clone(&self) -> Self {
        let fresh = self.fresh.as_ref().map(|matcher| Box::new(matcher.deep_clone()));
        Self { place: self.place, words: Arc::clone(&self.words), fresh }
    }
}
