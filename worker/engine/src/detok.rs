//! From token bytes to text: a character may be spread over several tokens, so its first bytes wait
//! for the rest.
//!
//! Bytes that can never become a character turn into U+FFFD as soon as that is certain, and what is
//! left unfinished turns into one at the end, exactly as `String::from_utf8_lossy` would do over
//! all the bytes at once.

/// Turns a stream of bytes into a stream of whole characters.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// The first bytes of a character that is not complete: at most three.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Adds bytes and returns the characters they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked by `valid_up_to`"));
                    rest = after;
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the stream: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.pending.is_empty() {
            return String::new();
        }
        self.pending.clear();
        char::REPLACEMENT_CHARACTER.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> String {
        let mut detok = Detokenizer::default();
        let mut text: String = chunks.map(|chunk| detok.push(chunk)).collect();
        text.push_str(&detok.finish());
        text
    }

    #[test]
    fn a_split_character_waits_for_its_last_byte() {
        let mut detok = Detokenizer::default();
        let bytes = "é😀".as_bytes();
        assert_eq!(detok.push(&bytes[..1]), "");
        assert_eq!(detok.push(&bytes[1..4]), "é");
        assert_eq!(detok.push(&bytes[4..]), "😀");
        assert_eq!(detok.finish(), "");
    }

    #[test]
    fn an_invalid_byte_does_not_hold_back_what_follows() {
        let mut detok = Detokenizer::default();
        assert_eq!(detok.push(b"a\xFFb"), "a\u{FFFD}b");
        assert_eq!(detok.push(b"\xE2\x82"), "");
        assert_eq!(detok.finish(), "\u{FFFD}");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_text_of_the_whole(
            bytes in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..64),
                prop::collection::vec(
                    prop::sample::select(b"\xE2\x82\xAC\xF0\x9FA".to_vec()),
                    0..64,
                ),
            ],
            size in 1usize..7,
        ) {
            prop_assert_eq!(run(bytes.chunks(size)), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
