//! Stop texts over a growing text: releases everything that can no longer become part of a stop,
//! and nothing more.
//!
//! The generation ends at the first place where *some* stop is complete; of several that end there
//! the longest counts. That makes the result a function of the text alone, however it was cut into
//! pieces: "whichever stop begins first" would depend on the pieces. Each stop is followed by a
//! Knuth-Morris-Pratt automaton, so the work per byte does not grow with the length of the stops.

/// What a piece of text led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Text that is now certain to belong to the output.
    pub text: String,
    /// The stop that was completed; the output ends with `text`.
    pub stop: Option<String>,
}

/// Watches a text for its stops.
#[derive(Clone, Debug)]
pub struct StopFilter {
    automata: Vec<Automaton>,
    held: String,
    /// Nothing more is released.
    ended: bool,
}

impl StopFilter {
    /// A filter for these stops; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let automata =
            stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Automaton::new(stop));
        Self { automata: automata.collect(), held: String::new(), ended: false }
    }

    /// Adds text; after the end nothing more is released.
    pub fn push(&mut self, text: &str) -> Released {
        if self.ended {
            return Released::default();
        }
        for (offset, byte) in text.bytes().enumerate() {
            let ended = self.automata.iter_mut().filter_map(|stop| stop.push(byte)).max();
            if let Some(length) = ended {
                self.held.push_str(&text[..=offset]);
                // The stop is a suffix of what is held: text before it that could still have begun
                // it was held back.
                let stop = self.held.split_off(self.held.len() - length);
                self.ended = true;
                return Released { text: std::mem::take(&mut self.held), stop: Some(stop) };
            }
        }
        self.held.push_str(text);
        let keep = self.automata.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - keep);
        Released { text: std::mem::replace(&mut self.held, kept), stop: None }
    }

    /// Ends the text: what was held back did not become a stop.
    pub fn finish(&mut self) -> String {
        self.ended = true;
        std::mem::take(&mut self.held)
    }
}

/// One stop, and how much of it the text's end matches.
#[derive(Clone, Debug)]
pub(crate) struct Automaton {
    stop: Vec<u8>,
    /// For each length of a match, the longest shorter one that is a suffix of it.
    fallback: Vec<usize>,
    matched: usize,
}

impl Automaton {
    /// For a stop that is not empty.
    pub(crate) fn new(stop: &str) -> Self {
        let stop = stop.as_bytes().to_vec();
        let mut fallback = vec![0; stop.len()];
        let mut length = 0;
        for index in 1..stop.len() {
            while length > 0 && stop[index] != stop[length] {
                length = fallback[length - 1];
            }
            length += usize::from(stop[index] == stop[length]);
            fallback[index] = length;
        }
        Self { stop, fallback, matched: 0 }
    }

    /// Takes a byte; the stop's length when it completes it.
    fn push(&mut self, byte: u8) -> Option<usize> {
        self.matched = self.next(self.matched, byte);
        (self.matched == self.stop.len()).then_some(self.stop.len())
    }

    /// How much is matched after a byte, where less than all was before it.
    pub(crate) fn next(&self, mut matched: usize, byte: u8) -> usize {
        while matched > 0 && self.stop[matched] != byte {
            matched = self.fallback[matched - 1];
        }
        matched + usize::from(self.stop[matched] == byte)
    }

    /// How much of it there is to match.
    pub(crate) fn len(&self) -> usize {
        self.stop.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The output and the stop that ended it, by trying every end.
    fn naive(text: &str, stops: &[String]) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending =
                stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(*stop));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut filter = StopFilter::new(&strings(&["###", "STOP"]));
        assert_eq!(filter.push("one #").text, "one ");
        assert_eq!(filter.push("# two S").text, "## two ");
        assert_eq!(filter.push("TO").text, "");
        let stop = Some("STOP".to_owned());
        assert_eq!(filter.push("P more"), Released { text: String::new(), stop });
        assert_eq!(filter.push("again"), Released::default());
    }

    #[test]
    fn what_is_held_at_the_end_comes_out() {
        let mut filter = StopFilter::new(&strings(&["abc"]));
        assert_eq!(filter.push("xab").text, "x");
        assert_eq!(filter.finish(), "ab");
    }

    #[test]
    fn without_stops_everything_passes() {
        let mut filter = StopFilter::new(&strings(&["", ""]));
        assert_eq!(filter.push("ä").text, "ä");
    }

    proptest! {
        #[test]
        fn any_chunking_agrees_with_a_search_over_the_whole(
            pieces in prop::collection::vec("[abä]{0,4}", 0..12),
            stops in prop::collection::vec("[abä]{0,4}", 0..4),
        ) {
            let mut filter = StopFilter::new(&stops);
            let (mut output, mut stop) = (String::new(), None);
            for piece in &pieces {
                let released = filter.push(piece);
                output.push_str(&released.text);
                stop = stop.or(released.stop);
                if stop.is_none() {
                    let longest = stops.iter().map(String::len).max().unwrap_or(0);
                    prop_assert!(filter.held.len() < longest.max(1));
                }
            }
            if stop.is_none() {
                output.push_str(&filter.finish());
            }
            prop_assert_eq!((output, stop), naive(&pieces.concat(), &stops));
        }
    }
}
