//! The words of one action, taken one after another.

use super::lex::{Lexeme, Word};
use super::syntax;
use crate::TemplateError;
use std::collections::VecDeque;

/// What is left of an action.
pub(super) struct Words {
    words: VecDeque<Word>,
    line: usize,
}

impl Words {
    pub fn new(words: Vec<Word>, line: usize) -> Self {
        Self { words: words.into(), line }
    }

    /// The line the action begins in.
    pub fn line(&self) -> usize {
        self.line
    }

    pub fn next(&mut self) -> Option<Word> {
        self.words.pop_front()
    }

    pub fn peek(&self) -> Option<&Lexeme> {
        self.words.front().map(|word| &word.kind)
    }

    /// The name it begins with, or nothing.
    pub fn keyword(&self) -> String {
        match self.peek() {
            Some(Lexeme::Name(name)) => name.clone(),
            _ => String::new(),
        }
    }

    pub fn end(&mut self) -> Result<(), TemplateError> {
        match self.next() {
            None => Ok(()),
            Some(word) => syntax(self.line, format!("{:?} where `}}}}` should be", word.kind)),
        }
    }

    pub fn text(&mut self) -> Result<String, TemplateError> {
        match self.next().map(|word| word.kind) {
            Some(Lexeme::Text(text)) => Ok(text),
            _ => syntax(self.line, "a template's name is missing"),
        }
    }

    pub fn glued_field(&mut self) -> Option<String> {
        match self.words.front()? {
            Word { kind: Lexeme::Field(name), glued: true } => {
                let name = name.clone();
                self.next();
                Some(name)
            }
            _ => None,
        }
    }

    /// The variables before a `:=` or `=`, and whether it is `=`.
    pub fn variables(&mut self, most: usize) -> (Vec<String>, bool) {
        let sign = self
            .words
            .iter()
            .take(2 * most)
            .position(|word| matches!(word.kind, Lexeme::Declare | Lexeme::Assign));
        let Some(sign) = sign else { return (Vec::new(), false) };
        let name = |word: &Word| match &word.kind {
            Lexeme::Variable(name) => Some(name.clone()),
            _ => None,
        };
        let commas = self.words.iter().take(sign).skip(1).step_by(2);
        let names: Option<Vec<String>> =
            self.words.iter().take(sign).step_by(2).map(name).collect();
        match names {
            Some(names) if sign % 2 == 1 && commas.clone().all(|w| w.kind == Lexeme::Comma) => {
                let assigns = self.words[sign].kind == Lexeme::Assign;
                self.words.drain(..=sign);
                (names, assigns)
            }
            _ => (Vec::new(), false),
        }
    }
}
