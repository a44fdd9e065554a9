//! Many strings in one piece of memory: a vocabulary has a hundred thousand of them, and as `String`s each would cost more
//! in allocations than in letters.

use std::fmt;
use std::ops::Index;

/// A list of strings, end to end.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a string.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&str> {
        (index < self.len()).then(|| &self[index])
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| &self[index])
    }
}

impl Index<usize> for Strings {
    type Output = str;

    fn index(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[index]]
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::new();
        strings.into_iter().for_each(|string| all.push(string.as_ref()));
        all
    }
}

impl<S: AsRef<str>> From<Vec<S>> for Strings {
    fn from(strings: Vec<S>) -> Self {
        strings.into_iter().collect()
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_out_as_they_went_in() {
        let strings = Strings::from(vec!["", "a", "\u{2581}bc", ""]);
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "a", "\u{2581}bc", ""]);
        assert_eq!((strings.len(), &strings[2], strings.get(4)), (4, "\u{2581}bc", None));
        assert_eq!(format!("{strings:?}"), r#"["", "a", "▁bc", ""]"#);
        assert!(Strings::new().is_empty());
    }
}
