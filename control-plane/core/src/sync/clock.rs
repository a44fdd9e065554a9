//! Which edits a site has heard of: a vector clock, one count for each site.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// A cluster among those that keep models alike: the 128 bits of its cluster id, so that no two are the same by chance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SiteId(pub u128);

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteId({self})")
    }
}

/// One edit of one name, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dot {
    /// Where it was made.
    pub site: SiteId,
    /// Which of that site's edits of the name, from 1.
    pub count: u64,
}

/// All edits of each site up to a count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock(BTreeMap<SiteId, u64>);

impl Clock {
    /// How many edits of a site are known.
    pub fn count(&self, site: SiteId) -> u64 {
        self.0.get(&site).copied().unwrap_or(0)
    }

    /// Whether an edit has been heard of.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.count <= self.count(dot.site)
    }

    /// The dot of the next edit of a site, which is known from now on.
    pub fn advance(&mut self, site: SiteId) -> Dot {
        let count = self.0.entry(site).or_default();
        *count += 1;
        Dot { site, count: *count }
    }

    /// Knows all that `other` knows, too.
    pub fn join(&mut self, other: &Self) {
        for (site, count) in &other.0 {
            let known = self.0.entry(*site).or_default();
            *known = (*known).max(*count);
        }
    }

    /// Whether all that `other` knows is known.
    pub fn knows(&self, other: &Self) -> bool {
        other.iter().all(|(site, count)| count <= self.count(site))
    }

    /// Sites of which anything is known, each with how many edits.
    pub fn iter(&self) -> impl Iterator<Item = (SiteId, u64)> + '_ {
        self.0.iter().map(|(site, count)| (*site, *count))
    }

    /// How many sites that are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Less is known by the one than by the other; `None` when each knows what the other does not.
impl PartialOrd for Clock {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (other.knows(self), self.knows(other)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Less),
            (false, true) => Some(Ordering::Greater),
            (false, false) => None,
        }
    }
}
