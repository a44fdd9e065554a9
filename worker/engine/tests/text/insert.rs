//! Texts with a gap: in the order of each family, by templates, and cut where they are too long.

use ollamamax_engine::engine::{PrepareError, TextModel};
use ollamamax_engine::vocabulary::{TokenKind, Vocabulary};
use ollamamax_proto::inference::{Insert, Options, Predict, Prompt};
use proptest::prelude::*;

/// Letters, then the tokens for a gap.
fn vocabulary(gap: &[&str]) -> Vocabulary {
    let letters = ["a", "b", "c", "d", "e", "f", "<", ">", "|"];
    let mut kinds = vec![TokenKind::Normal; letters.len()];
    kinds.resize(letters.len() + gap.len(), TokenKind::Control);
    Vocabulary {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: letters.iter().chain(gap).collect(),
        kinds,
        ..Vocabulary::default()
    }
}

fn insert(before: &str, after: &str) -> Insert {
    Insert { before: before.to_owned(), after: after.to_owned(), template: None }
}

/// The prompt by the spellings of its tokens.
fn prompt(model: &TextModel, insert: Insert, context: u32) -> Result<String, PrepareError> {
    let options = Options { predict: Predict::AtMost(2), ..Options::default() };
    let prepared = model.prepare(&Prompt::Insert(insert), &options, context)?;
    assert!(prepared.tokens.len() < context as usize);
    let vocabulary = model.tokenizer().vocabulary();
    Ok(prepared.tokens.iter().map(|&token| vocabulary.spelling(token).expect("known")).collect())
}

#[test]
fn each_family_has_its_tokens_in_its_order() {
    let table: [(&[&str], &str); 7] = [
        (
            &["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
            "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
        ),
        (
            &["<fim_prefix>", "<fim_middle>", "<fim_suffix>"],
            "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
        ),
        (&["▁<PRE>", "▁<MID>", "▁<SUF>"], "▁<PRE>ab▁<SUF>cd▁<MID>"),
        (
            &["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"],
            "<｜fim▁begin｜>ab<｜fim▁hole｜>cd<｜fim▁end｜>",
        ),
        (&["[SUFFIX]", "[PREFIX]"], "[SUFFIX]cd[PREFIX]ab"),
        (
            &["<|code_suffix|>", "<|code_prefix|>", "<|code_middle|>"],
            "<|code_prefix|>ab<|code_suffix|>cd<|code_middle|>",
        ),
        (
            &["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
            "<fim-prefix>ab<fim-suffix>cd<fim-middle>",
        ),
    ];
    for (gap, expected) in table {
        let model = TextModel::new(vocabulary(gap), None).expect("sound");
        assert_eq!(prompt(&model, insert("ab", "cd"), 60).as_deref(), Ok(expected));
    }
    for missing in [&["<fim_prefix>", "<fim_suffix>"][..], &["<PRE>", "<MID>"], &[]] {
        let model = TextModel::new(vocabulary(missing), None).expect("sound");
        assert_eq!(prompt(&model, insert("ab", "cd"), 60), Err(PrepareError::Insert));
    }
}

#[test]
fn tokens_that_the_file_names_go_before_those_of_a_family() {
    let mut named =
        vocabulary(&["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<p>", "<s>", "<m>"]);
    (named.fim_prefix, named.fim_suffix, named.fim_middle) = (Some(12), Some(13), Some(14));
    named.bos = Some(0);
    named.add_bos = Some(true);
    let model = TextModel::new(named, None).expect("sound");
    assert_eq!(prompt(&model, insert("b", "c"), 60).as_deref(), Ok("a<p>b<s>c<m>"));
}

#[test]
fn what_is_written_in_the_texts_is_no_token() {
    let gap = ["<|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
    let model = TextModel::new(vocabulary(&gap), None).expect("sound");
    let tokens = model.prepare(&Prompt::Insert(insert("<|>", "<|>")), &Options::default(), 60);
    assert!(!tokens.expect("sound").tokens.contains(&9));
}

#[test]
fn a_template_with_a_place_for_what_follows_is_used_first() {
    let gap = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "[", "]", "-"];
    let template = "{{ if .Suffix }}[{{ .Prompt }}-{{ .Suffix }}]{{ else }}{{ .Prompt }}{{ end }}";
    let model = TextModel::new(vocabulary(&gap), Some(template)).expect("sound");
    assert_eq!(prompt(&model, insert("ab", "cd"), 60).as_deref(), Ok("[ab-cd]"));
    let own = |template: &str| Insert { template: Some(template.to_owned()), ..insert("ab", "cd") };
    assert_eq!(prompt(&model, own("{{ .Suffix }}-{{ .Prompt }}"), 60).as_deref(), Ok("cd-ab"));
    let none = "{{ .Prompt }}";
    assert_eq!(
        prompt(&model, own(none), 60).as_deref(),
        Ok("<fim_prefix>ab<fim_suffix>cd<fim_middle>")
    );
    assert!(matches!(prompt(&model, own("{{ if }}"), 60), Err(PrepareError::Template(_))));
}

#[test]
fn what_is_farthest_from_the_gap_goes_first() {
    let model = TextModel::new(vocabulary(&["[PREFIX]", "[SUFFIX]"]), None).expect("sound");
    let long = insert("abcdef", "fedcba");
    assert_eq!(prompt(&model, long.clone(), 16).as_deref(), Ok("[SUFFIX]fedcba[PREFIX]abcdef"));
    assert_eq!(prompt(&model, long.clone(), 14).as_deref(), Ok("[SUFFIX]fedc[PREFIX]abcdef"));
    assert_eq!(prompt(&model, long.clone(), 8).as_deref(), Ok("[SUFFIX]f[PREFIX]def"));
    assert_eq!(prompt(&model, insert("a", "fedcba"), 8).as_deref(), Ok("[SUFFIX]fed[PREFIX]a"));
    let options = Options { truncate: false, ..Options::default() };
    let refused = model.prepare(&Prompt::Insert(long), &options, 8);
    assert_eq!(refused, Err(PrepareError::TooLong { tokens: 14, context_tokens: 8 }));
}

proptest! {
    #[test]
    fn a_text_with_a_gap_always_fits_and_keeps_its_gap(
        before in "[abc<é]{0,40}",
        after in "[def>é]{1,40}",
        context in 8u32..60,
        templated in any::<bool>(),
    ) {
        let template = templated.then_some("{{ if .Suffix }}<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>{{ end }}");
        let gap = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "Ã", "©"];
        let model = TextModel::new(vocabulary(&gap), template).expect("sound");
        let text = prompt(&model, insert(&before, &after), context).expect("fits");
        let inner = text.strip_prefix("<fim_prefix>").and_then(|t| t.strip_suffix("<fim_middle>"));
        let (kept, following) = inner.and_then(|t| t.split_once("<fim_suffix>")).expect(&text);
        prop_assert!(before.replace('é', "Ã©").ends_with(kept), "{text}");
        prop_assert!(after.replace('é', "Ã©").starts_with(following) && !following.is_empty(), "{text}");
    }
}
