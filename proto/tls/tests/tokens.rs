//! A join token is read as it was written, and whatever happened to it on its way is named.

use ollamamax_proto::{Digest, limits};
use ollamamax_tls::{Credential, InvalidToken, JoinToken, Kind};
use proptest::prelude::*;

fn token(kind: Kind, addresses: Vec<String>) -> JoinToken {
    let credential = Credential::generate().expect("random");
    JoinToken { kind, credential, authority: Digest::of(b"an authority"), addresses }
}

fn example() -> JoinToken {
    token(Kind::Worker, vec!["10.0.0.1:11436".to_owned(), "[::1]:2".to_owned()])
}

#[test]
fn a_token_that_was_cut_off_says_so() {
    let text = example().reveal();
    for length in 4..text.len() {
        match JoinToken::parse(&text[..length]) {
            Err(InvalidToken::Truncated { got, expected }) => {
                assert_eq!(got, length);
                assert!(expected == text.len() || length < 8, "{expected} of {length}");
            }
            other => unreachable!("{length}: {other:?}"),
        }
    }
    for text in ["", "omj", "ollama", "OMJ_AAAA", &"x".repeat(4_000)] {
        assert_eq!(JoinToken::parse(text), Err(InvalidToken::NoToken), "{text}");
    }
    let max = limits::JOIN_TOKEN_CHARS;
    let long = format!("omj_{}", "A".repeat(1_000_000));
    assert_eq!(JoinToken::parse(&long), Err(InvalidToken::TooLong { got: long.len(), max }));
}

#[test]
fn white_space_around_a_token_does_not_matter() {
    let token = example();
    let text = format!("\n  {}\r\n", *token.reveal());
    assert_eq!(JoinToken::parse(&text), Ok(token));
}

#[test]
fn a_token_of_a_later_version_is_told_from_a_damaged_one() {
    let mut text = example().reveal().to_string();
    text.replace_range(4..6, "Ag");
    assert_eq!(JoinToken::parse(&text), Err(InvalidToken::Version { got: 2 }));
}

#[test]
fn the_longest_token_is_read() {
    let addresses = vec!["a".repeat(255); limits::NODES_COUNT];
    let token = token(Kind::Node, addresses);
    assert_eq!(JoinToken::parse(&token.reveal()), Ok(token));
}

#[test]
fn a_credential_is_known_by_its_hash_and_no_other_is() {
    let (one, two) = (Credential::generate().expect("one"), Credential::generate().expect("two"));
    assert!(one.matches(&one.hash()) && !one.matches(&two.hash()));
    assert_eq!((one.id().len(), one.reveal().len()), (16, 40));
    let sent = Credential::from_bytes(&one.reveal()).expect("a credential");
    assert!(sent.matches(&one.hash()));
    assert_eq!(sent.id(), one.id());
    for at in 0..40 {
        let mut other = one.reveal().to_vec();
        other[at] ^= 1;
        assert!(!Credential::from_bytes(&other).expect("a credential").matches(&one.hash()));
    }
    assert!(
        Credential::from_bytes(&[0; 39]).is_none() && Credential::from_bytes(&[0; 41]).is_none()
    );
}

proptest! {
    #[test]
    fn a_token_is_read_as_it_was_written(
        is_node: bool,
        addresses in prop::collection::vec("[a-z0-9.:\\[\\]äß-]{0,60}", 0..=9),
    ) {
        let token = token(if is_node { Kind::Node } else { Kind::Worker }, addresses);
        let text = token.reveal();
        prop_assert!(text.len() <= limits::JOIN_TOKEN_CHARS);
        prop_assert_eq!(JoinToken::parse(&text), Ok(token));
    }

    #[test]
    fn a_token_with_a_character_changed_is_refused(at: prop::sample::Index, to: char) {
        let mut text: Vec<char> = example().reveal().chars().collect();
        let at = at.index(text.len());
        prop_assume!(text[at] != to && !to.is_whitespace());
        text[at] = to;
        prop_assert!(JoinToken::parse(&text.into_iter().collect::<String>()).is_err());
    }

    #[test]
    fn any_text_is_refused_without_panic(text in "(omj_)?(AQB)?[A-Za-z0-9_-]{0,200}\\PC{0,5}") {
        prop_assert!(JoinToken::parse(&text).is_err());
    }
}
