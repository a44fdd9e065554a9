//! What sites did to one name, as far as nobody has replaced it.

use super::{Clock, Dot, Policy, SiteId};
use ollamamax_proto::{Digest, Millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What somebody made of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Digest of the version that the name stands for since; `None`: it was deleted.
    pub content: Option<Digest>,
    /// When, by the clock of the site, but later than every edit it replaces: a clock that is slow makes nothing older than
    /// what it was made from.
    pub at: Millis,
    /// One more than the highest of those it replaces; the first is 1.
    pub version: u64,
    /// The site's name at that time.
    pub site: String,
    /// How conflicts with it are settled.
    pub policy: Policy,
}

/// The edits of a name that nobody has replaced, and all that were ever heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Every edit heard of, replaced ones included.
    pub seen: Clock,
    /// Those that stand; more than one is a conflict, unless they say the same.
    pub edits: BTreeMap<Dot, Edit>,
}

impl History {
    /// Replaces the edits that `replaces` picks by a new one. `at` and `version` of `edit` are what they come to, whatever they
    /// said.
    pub fn edit(&mut self, site: SiteId, edit: Edit, replaces: impl Fn(Dot) -> bool) -> Dot {
        let mut edit = Edit { version: 1, ..edit };
        self.edits.retain(|dot, old| {
            let stays = !replaces(*dot);
            if !stays {
                edit.at = edit.at.max(old.at.plus(1));
                edit.version = edit.version.max(old.version + 1);
            }
            stays
        });
        let dot = self.seen.advance(site);
        self.edits.insert(dot, edit);
        dot
    }

    /// Hears of all that `other` has heard of; tells whether that changed anything.
    pub fn join(&mut self, other: &Self) -> bool {
        let before = self.edits.len();
        let seen = &self.seen;
        let fresh: Vec<(Dot, Edit)> = other
            .edits
            .iter()
            .filter(|(dot, _)| !seen.covers(**dot))
            .map(|(dot, edit)| (*dot, edit.clone()))
            .collect();
        // What the other has heard of and does not hold any more was replaced.
        self.edits.retain(|dot, _| other.edits.contains_key(dot) || !other.seen.covers(*dot));
        let changed = !fresh.is_empty() || self.edits.len() != before || self.is_behind(other);
        self.edits.extend(fresh);
        self.seen.join(&other.seen);
        changed
    }

    /// Whether `other` knows of anything that this does not.
    pub fn is_behind(&self, other: &Self) -> bool {
        !self.seen.knows(&other.seen)
    }

    /// The contents that stand, each once, in order.
    pub fn contents(&self) -> impl Iterator<Item = Digest> + '_ {
        let mut all: Vec<Digest> = self.edits.values().filter_map(|edit| edit.content).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }
}
