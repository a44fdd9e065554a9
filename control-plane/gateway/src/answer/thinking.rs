//! Splits off what a model thinks before it answers.

use super::{Said, open_end};
use ollamamax_proto::inference::Tags;

/// Where the text is. White space around the tags belongs to neither part.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Nothing but white space, or the beginning of a tag, has come.
    Before,
    /// Right behind the opening tag.
    Entering,
    Inside,
    /// Right behind the closing tag.
    Leaving,
    Outside,
}

/// Splits one text. Thinking stands at its very beginning, or nowhere.
#[derive(Debug)]
pub(super) struct Splitter {
    tags: Tags,
    place: Place,
    held: String,
}

impl Splitter {
    pub(super) fn new(tags: Tags) -> Self {
        Self { tags, place: Place::Before, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Said>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// True when there is more to do.
    fn step(&mut self, out: &mut Vec<Said>) -> bool {
        let begun = self.held.trim_start();
        match self.place {
            Place::Before => {
                if let Some(rest) = begun.strip_prefix(self.tags.open.as_str()) {
                    (self.place, self.held) = (Place::Entering, rest.to_owned());
                    return true;
                }
                if self.tags.open.starts_with(begun) {
                    return false;
                }
                self.place = Place::Outside;
                true
            }
            Place::Entering | Place::Leaving => {
                if begun.is_empty() {
                    return false;
                }
                self.held = begun.to_owned();
                let entering = self.place == Place::Entering;
                self.place = if entering { Place::Inside } else { Place::Outside };
                true
            }
            Place::Inside => {
                if let Some((thought, rest)) = self.held.split_once(self.tags.close.as_str()) {
                    out.push(Said::Thinking(thought.trim_end().to_owned()));
                    (self.place, self.held) = (Place::Leaving, rest.to_owned());
                    return true;
                }
                let certain = self.held.len() - open_end(&self.held, &self.tags.close);
                let rest = self.held.split_off(certain);
                out.push(Said::Thinking(std::mem::replace(&mut self.held, rest)));
                false
            }
            Place::Outside => {
                out.push(Said::Text(std::mem::take(&mut self.held)));
                false
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Said>) {
        let held = std::mem::take(&mut self.held);
        out.push(match self.place {
            Place::Inside | Place::Entering => Said::Thinking(held.trim_end().to_owned()),
            Place::Leaving => return,
            Place::Before | Place::Outside => Said::Text(held),
        });
    }
}
