//! Everything that happened in a run as one hash: two runs with the same hash did the same, byte for byte.

use crate::coin::mix;

/// The hash so far, and how much went into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The hash.
    pub hash: u64,
    /// Numbers and bytes noted, in words of eight bytes.
    pub words: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0x5eed, words: 0 }
    }
}

impl Trace {
    /// Notes a number.
    pub fn note(&mut self, number: u64) {
        self.hash = mix(self.hash.rotate_left(7) ^ number);
        self.words += 1;
    }

    /// Notes bytes, their number included.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.note(u64::from_le_bytes(*word)));
        let rest = rest.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        self.note(rest);
        self.note(bytes.len() as u64);
    }
}
