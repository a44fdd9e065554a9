//! A generation, read: parts for whoever answers the client, from the place on where the client is.

use super::{Call, Parser, Part, Syntax};
use crate::dispatch::{Event, Generation, Summary};
use crate::error::Failure;
use ollamamax_proto::inference::TokenLogprob;
use std::collections::VecDeque;

/// A running generation and what was read of it. Dropping it cancels the generation.
pub(crate) struct Answer {
    generation: Generation,
    parser: Parser,
    ready: VecDeque<Read>,
    /// What is still to come that the client has already, in [`Part::size`]s.
    skip: usize,
}

/// A part that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Read {
    /// The client has it already.
    Had(Part),
    /// It is new to the client.
    New(Part),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub thinking: String,
    /// Tokens of that.
    pub thinking_tokens: usize,
    pub text: String,
    pub calls: Vec<Call>,
    /// Of all tokens whose text is here.
    pub logprobs: Vec<TokenLogprob>,
    pub summary: Summary,
}

impl Answer {
    /// Reads a generation whose client has the first `from` of it already; fails when that is no place in it.
    pub(crate) fn begin(
        mut generation: Generation,
        syntax: &Syntax,
        from: usize,
    ) -> Result<Self, Failure> {
        let first = generation.try_next();
        let (parser, ready) = (Parser::new(syntax), VecDeque::new());
        let mut answer = Self { generation, parser, ready, skip: from };
        if let Some(first) = first {
            answer.read(first?)?;
        }
        Ok(answer)
    }

    /// The next part; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Result<Read, Failure>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some(Ok(part));
            }
            let read = self.generation.next().await?.and_then(|event| self.read(event));
            if let Err(failure) = read {
                return Some(Err(failure));
            }
        }
    }

    /// The next part, if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<Result<Read, Failure>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some(Ok(part));
            }
            let read = self.generation.try_next()?.and_then(|event| self.read(event));
            if let Err(failure) = read {
                return Some(Err(failure));
            }
        }
    }

    /// Everything at once.
    pub(crate) async fn whole(mut self) -> Result<Whole, Failure> {
        let (mut thinking, mut text) = (String::new(), String::new());
        let (mut calls, mut logprobs, mut thinking_tokens) = (Vec::new(), Vec::new(), 0);
        while let Some(part) = self.next().await {
            let (Read::Had(part) | Read::New(part)) = part?;
            match part {
                Part::Thinking(piece) => {
                    thinking.push_str(&piece.text);
                    thinking_tokens += piece.tokens;
                    logprobs.extend(piece.logprobs);
                }
                Part::Text(piece) => {
                    text.push_str(&piece.text);
                    logprobs.extend(piece.logprobs);
                }
                Part::Call(call) => calls.push(call),
                Part::Done(summary) => {
                    let summary = *summary;
                    return Ok(Whole { thinking, thinking_tokens, text, calls, logprobs, summary });
                }
            }
        }
        Err(Failure::Internal("the generation ended without a result".to_owned()))
    }

    fn read(&mut self, event: Event) -> Result<(), Failure> {
        let mut parts = Vec::new();
        match event {
            Event::Text(piece) => self.parser.push(piece, &mut parts),
            Event::Part(part) => parts.push(part),
            Event::Done(summary) => {
                self.parser.finish(&mut parts);
                parts.push(Part::Done(summary));
            }
        }
        for part in parts {
            self.tell(part)?;
        }
        Ok(())
    }

    /// Tells what the client has of a part, and what it has not.
    fn tell(&mut self, mut part: Part) -> Result<(), Failure> {
        if matches!(part, Part::Done(_)) && self.skip > 0 {
            let text = format!("`from` is {} past the end of the stream", self.skip);
            return Err(Failure::InvalidField { field: "from", text });
        }
        let had = self.skip.min(part.size());
        if had == 0 {
            self.ready.push_back(Read::New(part));
            return Ok(());
        }
        self.skip -= had;
        if had < part.size()
            && let Part::Thinking(piece) | Part::Text(piece) = &mut part
        {
            if !piece.text.is_char_boundary(had) {
                return Err(Failure::invalid(
                    "`from` is inside of a character of the text; expected the number of bytes received",
                ));
            }
            let mut rest = part.clone();
            if let (
                Part::Thinking(piece) | Part::Text(piece),
                Part::Thinking(new) | Part::Text(new),
            ) = (&mut part, &mut rest)
            {
                piece.text.truncate(had);
                new.text.drain(..had);
            }
            self.ready.extend([Read::Had(part), Read::New(rest)]);
            return Ok(());
        }
        self.ready.push_back(Read::Had(part));
        Ok(())
    }
}
