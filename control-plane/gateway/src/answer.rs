//! What of a model's text is thinking, what calls a tool, and what is for the reader.
//!
//! ```text
//! text -> thinking (between its tags, at the very beginning) -> calls (a tag, then JSON) -> Part, Part, ...
//!              ^                                                  ^
//!              +------------- Syntax: from what a template tells of how its model writes
//! ```
//!
//! What has come out is a function of the text so far, however that was cut. So the place of a client in an answer is a number
//! ([`Part::size`]), and a gateway that reads the same text anew gets to the same place. Nothing of a text is lost: what looked
//! like a call and is none comes out as text.

mod calls;
mod reading;
mod syntax;
#[cfg(test)]
mod tests;
mod thinking;

pub(crate) use reading::{Answer, Read, Whole};

use crate::dispatch::{Piece, Summary};
use ollamamax_proto::inference::{Tags, TokenLogprob};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A part of an answer as a client gets to see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// What the model thinks before it answers.
    Thinking(Piece),
    /// What it answers.
    Text(Piece),
    /// A tool it wants called, whole.
    Call(Call),
    /// The end.
    Done(Box<Summary>),
}

impl Part {
    /// What it adds to the place of a client in the answer: a byte of text one, a call one.
    pub fn size(&self) -> usize {
        match self {
            Self::Thinking(piece) | Self::Text(piece) => piece.text.len(),
            Self::Call(_) => 1,
            Self::Done(_) => 0,
        }
    }
}

/// A tool that the model wants called.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// `call_` and eight hex digits.
    pub id: String,
    /// Its place among the calls of the answer.
    pub index: usize,
    /// Of the function.
    pub name: String,
    /// What it is called with.
    pub arguments: Map<String, Value>,
}

/// How the text of one answer is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Syntax {
    /// What encloses the model's thinking; `None`: there is none, or it is part of the text.
    pub thinking: Option<Tags>,
    /// Thinking is left out: nobody wants it, but the model may do it all the same.
    #[serde(default)]
    pub hidden: bool,
    /// How calls look; `None`: there are none.
    pub calls: Option<calls::Syntax>,
}

/// Reads the text of one answer.
#[derive(Debug)]
pub(crate) struct Parser {
    thinking: Option<thinking::Splitter>,
    hidden: bool,
    calls: Option<calls::Finder>,
    /// Of tokens whose text is held back.
    untold: Vec<TokenLogprob>,
    /// How many these are.
    silent: usize,
}

/// What a part of the parser says.
#[derive(Debug, PartialEq)]
enum Said {
    Thinking(String),
    Text(String),
    Call(Call),
}

impl Parser {
    pub(crate) fn new(syntax: &Syntax) -> Self {
        Self {
            thinking: syntax.thinking.clone().map(thinking::Splitter::new),
            hidden: syntax.hidden,
            calls: syntax.calls.clone().map(calls::Finder::new),
            untold: Vec::new(),
            silent: 0,
        }
    }

    /// Takes more text, and gives all that is certain by now.
    pub(crate) fn push(&mut self, mut piece: Piece, out: &mut Vec<Part>) {
        if self.thinking.is_none() && self.calls.is_none() {
            out.push(Part::Text(piece));
            return;
        }
        self.untold.append(&mut piece.logprobs);
        self.silent += piece.tokens;
        let mut said = Vec::new();
        match &mut self.thinking {
            None => said.push(Said::Text(piece.text)),
            Some(splitter) => splitter.push(&piece.text, &mut said),
        }
        self.tell(said, false, out);
    }

    /// The text is complete: gives what was held back.
    pub(crate) fn finish(&mut self, out: &mut Vec<Part>) {
        let mut said = Vec::new();
        if let Some(splitter) = &mut self.thinking {
            splitter.finish(&mut said);
        }
        self.tell(said, true, out);
    }

    fn tell(&mut self, said: Vec<Said>, is_last: bool, out: &mut Vec<Part>) {
        let mut all = Vec::new();
        match &mut self.calls {
            None => all = said,
            Some(finder) => {
                for said in said {
                    match said {
                        Said::Text(text) => finder.push(&text, &mut all),
                        other => all.push(other),
                    }
                }
                if is_last {
                    finder.finish(&mut all);
                }
            }
        }
        for said in all {
            let mut piece = |text| Piece {
                text,
                logprobs: std::mem::take(&mut self.untold),
                tokens: std::mem::take(&mut self.silent),
            };
            match said {
                Said::Thinking(text) | Said::Text(text) if text.is_empty() => {}
                Said::Thinking(_) if self.hidden => drop(piece(String::new())),
                Said::Thinking(text) => out.push(Part::Thinking(piece(text))),
                Said::Text(text) => out.push(Part::Text(piece(text))),
                Said::Call(call) => out.push(Part::Call(call)),
            }
        }
        if is_last && !self.untold.is_empty() {
            let logprobs = std::mem::take(&mut self.untold);
            out.push(Part::Text(Piece { text: String::new(), logprobs, tokens: self.silent }));
        }
    }
}

/// Bytes at the end of a text that may yet turn out to begin a tag, with the white space before them.
fn open_end(text: &str, tag: &str) -> usize {
    let begun = (1..tag.len())
        .rev()
        .filter(|&bytes| tag.is_char_boundary(bytes))
        .find(|&bytes| text.ends_with(&tag[..bytes]))
        .unwrap_or(0);
    let before = &text[..text.len() - begun];
    begun + before.len() - before.trim_end().len()
}
