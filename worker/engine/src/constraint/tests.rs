//! Which tokens a format lets through, and which formats are not let through at all.

use super::{Allowed, Constraint, ConstraintError, Grammars};
use crate::tokenizer::Tokenizer;
use crate::vocabulary::{TokenKind, Vocabulary};
use ollamamax_proto::inference::OutputFormat;
use ollamamax_proto::limits::OUTPUT_FORMAT_BYTES;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

const END: u32 = 3;
const CONTROL: u32 = 4;

/// SentencePiece: every byte has a token, and some texts have another one.
fn tokenizer() -> Tokenizer {
    let mut tokens = ["<unk>", "<pad>", "<s>", "</s>", "<|tool|>"].map(str::to_owned).to_vec();
    let mut kinds = vec![TokenKind::Control; tokens.len()];
    kinds[0] = TokenKind::Unknown;
    for byte in 0..=u8::MAX {
        tokens.push(format!("<0x{byte:02X}>"));
        kinds.push(TokenKind::Byte);
    }
    for piece in ["a", "\u{2581}a", "é", "{", "}", "{}", "\"", "<s>a"] {
        tokens.push(piece.to_owned());
        kinds.push(TokenKind::Normal);
    }
    let vocabulary = Vocabulary {
        model: "llama".into(),
        scores: vec![0.0; tokens.len()],
        tokens: tokens.into(),
        kinds,
        eos: Some(END),
        ..Vocabulary::default()
    };
    Tokenizer::new(vocabulary).expect("a sound vocabulary")
}

fn compile(format: &OutputFormat) -> Result<Constraint, ConstraintError> {
    Grammars::default().compile(&tokenizer(), format)
}

fn grammar(text: &str) -> Constraint {
    compile(&OutputFormat::Grammar(text.to_owned())).expect("a sound grammar")
}

/// The tokens as they are spelt.
fn spelt(allowed: &Allowed) -> Vec<String> {
    let tokenizer = tokenizer();
    let spelling = |token| tokenizer.vocabulary().spelling(token).map(str::to_owned);
    (0..)
        .map_while(|token| Some((token, spelling(token)?)))
        .filter(|(t, _)| allowed.contains(*t))
        .map(|(_, spelling)| spelling)
        .collect()
}

fn spelt_next(constraint: &mut Constraint) -> Vec<String> {
    spelt(&constraint.allowed().expect("something may follow"))
}

fn id(spelling: &str) -> u32 {
    let all = tokenizer();
    all.vocabulary().tokens.iter().position(|token| token == spelling).expect("a token") as u32
}

#[test]
fn a_text_may_be_spelt_in_pieces_and_in_bytes() {
    let mut constraint = grammar(r#"start: "é a""#);
    assert_eq!(spelt_next(&mut constraint), ["<0xC3>", "é"]);
    assert!(!constraint.take(id("<0xC3>")));
    assert_eq!(spelt_next(&mut constraint), ["<0xA9>"]);
    assert!(!constraint.take(id("<0xA9>")));
    assert_eq!(spelt_next(&mut constraint), ["<0x20>", "\u{2581}a"]);
    assert!(constraint.take(id("\u{2581}a")), "nothing may follow");
}

#[test]
fn the_end_is_allowed_where_the_text_may_end() {
    let mut constraint = grammar(r#"start: "a" "aa"? "#);
    assert_eq!(spelt_next(&mut constraint), ["<0x61>", "a"]);
    assert!(!constraint.take(id("a")));
    assert_eq!(spelt_next(&mut constraint), ["</s>", "<0x61>", "a"]);
    assert!(!constraint.take(id("a")));
    assert_eq!(spelt_next(&mut constraint), ["<0x61>", "a"]);
    assert!(constraint.take(id("a")));
    // A grammar that wants it in its midst would get an end without its rest.
    let stuck = compile(&OutputFormat::Grammar(format!(r#"start: <[{END}]> "a""#)));
    assert!(stuck.expect_err("no token is left").to_string().contains("no token may follow"));
}

#[test]
fn tokens_that_are_no_text_are_never_taken_for_text() {
    let texts =
        [r"start: /(?s:.)*/", "%llguidance {\"allow_invalid_utf8\": true}\nstart: /(?s-u:.)*/"];
    for text in texts {
        let allowed = grammar(text).allowed().expect("anything");
        for no_text in ["<unk>", "<pad>", "<s>", "<|tool|>", "<0xFF>"] {
            assert!(!allowed.contains(id(no_text)), "{no_text} with {text}");
        }
        assert!(allowed.contains(END) && allowed.contains(id("<s>a")) && allowed.contains(id("é")));
    }
    // Who asks for one by its number gets it.
    let mut tool = grammar(&format!(r#"start: <[{CONTROL}]> "a""#));
    assert_eq!(spelt_next(&mut tool), ["<|tool|>"]);
    assert!(!tool.take(CONTROL));
    assert_eq!(spelt_next(&mut tool), ["<0x61>", "a"]);
}

#[test]
fn what_is_not_allowed_is_impossible_and_what_is_stays_possible() {
    let allowed = grammar(r#"start: "a""#).allowed().expect("a");
    let count = tokenizer().vocabulary().tokens.len();
    // More logits than tokens: some models fill up their last matrix.
    let mut logits = vec![f32::NAN; count + 70];
    allowed.restrict(&mut logits);
    for (token, logit) in (0u32..).zip(&logits) {
        let expected = if allowed.contains(token) { f32::MIN } else { f32::NEG_INFINITY };
        assert_eq!(*logit, expected, "token {token}");
    }
    assert!(allowed.contains(id("a")) && !allowed.contains(u32::MAX));
}

#[test]
fn a_token_that_may_not_follow_is_told_with_the_next() {
    let mut constraint = grammar(r#"start: "a" "a""#);
    assert!(!constraint.take(id("}")));
    let stuck = constraint.allowed().expect_err("not a text of the grammar");
    assert_eq!(stuck.tokens, 1);
    assert_eq!(constraint.allowed(), Err(stuck), "and again");
    // A copy from before stands where it stood.
    let before = grammar(r#"start: "a" "a""#);
    let mut copy = before.clone();
    assert_eq!(copy, before);
    copy.take(id("a"));
    assert_ne!(copy, before);
    assert_eq!(spelt_next(&mut before.clone()), ["<0x61>", "a"]);
}

#[test]
fn whitespace_between_the_parts_of_a_value_is_bounded() {
    let mut constraint = compile(&OutputFormat::Json).expect("an object");
    assert_eq!(spelt_next(&mut constraint), ["<0x7B>", "{", "{}"], "none before the object");
    constraint.take(id("{"));
    let mut taken = 0;
    for byte in ["<0x0A>", "<0x0A>"].into_iter().chain(std::iter::repeat("<0x20>")) {
        if !spelt_next(&mut constraint).contains(&byte.to_owned()) {
            break;
        }
        constraint.take(id(byte));
        taken += 1;
    }
    assert_eq!(taken, 22);
    assert!(constraint.take(id("}")), "none after the object");
}

fn reason(format: &OutputFormat) -> String {
    let began = Instant::now();
    let error = compile(format).map(|_| ()).expect_err("refused").to_string();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}: {error}", began.elapsed());
    assert!(error.len() < 600 && !error.contains('\n'), "{error}");
    error
}

#[test]
fn schemas_that_cannot_be_followed_are_refused_with_the_reason() {
    let deep = format!("{}true{}", r#"{"items":"#.repeat(200), "}".repeat(200));
    let table = [
        ("{".to_owned(), "it is no JSON object"),
        ("[]".to_owned(), "it is no JSON object"),
        (deep, "recursion limit"),
        (json!({"type": "thing"}).to_string(), "Invalid type: thing"),
        (json!({"type": "array", "uniqueItems": true}).to_string(), "uniqueItems"),
        (json!({"type": "string", "format": "password"}).to_string(), "Unknown format: password"),
        (json!({"$ref": "http://example.com/schema.json"}).to_string(), "http://example.com"),
        (json!({"$ref": "#/$defs/none"}).to_string(), "'$defs' not found"),
        (json!({"$ref": "#"}).to_string(), "no token may follow"),
        (json!({"type": "string", "pattern": "("}).to_string(), "regex"),
        (json!({"type": "string", "pattern": "(?=a)b"}).to_string(), "look-around"),
        (json!({"enum": []}).to_string(), "Unsatisfiable"),
        (json!({"type": "array", "minItems": 2, "maxItems": 1}).to_string(), "minItems"),
        (
            json!({"type": "object", "properties": {"a": false}, "required": ["a"]}).to_string(),
            "required property 'a' is unsatisfiable",
        ),
        (json!({"type": "integer", "minimum": -1e300}).to_string(), "`minimum` is -1e+300"),
        (json!({"const": 12345678901234567890u64}).to_string(), "`const` is 1234"),
        // The compiler itself panics on this one.
        (json!({"$ref": [format!("a{}", "é".repeat(90))]}).to_string(), "not a char boundary"),
    ];
    for (schema, words) in table {
        let reason = reason(&OutputFormat::Schema(schema.clone()));
        assert!(reason.starts_with("the output `schema` cannot be used: "), "{reason}");
        assert!(reason.contains(words), "{schema:.200}: {reason}, expected {words}");
    }
}

#[test]
fn schemas_that_are_too_much_work_are_refused() {
    let multiples: Vec<Value> = [97, 89, 83].map(|n| json!({"multipleOf": n})).to_vec();
    let multiples = json!({"type": "integer", "allOf": multiples});
    let patterns = (0..60).map(|n| (format!("^a{n}"), json!({}))).collect::<Map<_, _>>();
    let choice = |i| -> Vec<Value> {
        (0..8).map(|j| json!({"properties": {format!("k{i}{j}"): {}}})).collect()
    };
    let choices: Vec<Value> = (0..30).map(|i| json!({"anyOf": choice(i)})).collect();
    let many: Map<_, _> = (0..2_400).map(|n| (n.to_string(), json!(true))).collect();
    let table = [
        (json!({"type": "integer", "multipleOf": 99_999_999}), "`multipleOf` is 99999999"),
        (json!({"type": "number", "multipleOf": 1e-9}), "`multipleOf` is 1e-9"),
        (json!({"type": "number", "multipleOf": 0}), "`multipleOf` is 0"),
        (multiples, "`multipleOf` is 83"),
        (json!({"patternProperties": patterns}), "`patternProperties` has 60 entries"),
        (json!({"allOf": choices}), "schema too large"),
        (json!({"properties": many}), "symbols"),
        (json!({"type": "string", "pattern": "((a{1,999}){1,999}b?){1,999}.*x.{999}y"}), ""),
    ];
    for (schema, words) in table {
        let schema = schema.to_string();
        assert!(schema.len() <= OUTPUT_FORMAT_BYTES, "{} bytes", schema.len());
        if words.is_empty() {
            // Fine as long as it takes no time.
            let began = Instant::now();
            let _either = compile(&OutputFormat::Schema(schema));
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
            continue;
        }
        let reason = reason(&OutputFormat::Schema(schema));
        assert!(reason.contains(words), "{reason}, expected {words}");
    }
    let decimal = json!({"type": "number", "multipleOf": 0.25}).to_string();
    assert!(compile(&OutputFormat::Schema(decimal)).is_ok());
}

/// A chain of definitions, as long as fits: `$` is the number of each, `%` that of the next.
fn chain(link: &str, first: &str, last: &str) -> String {
    let mut text = first.to_owned();
    for n in 0.. {
        if text.len() + link.len() + last.len() + 16 > OUTPUT_FORMAT_BYTES {
            return text + &last.replace('$', &n.to_string());
        }
        text += &link.replace('$', &n.to_string()).replace('%', &(n + 1).to_string());
    }
    text
}

#[test]
fn definitions_that_refer_to_each_other_without_end_overflow_no_stack() {
    // `REF` and `DEFS` stand for what has a `$` of its own.
    let refs = chain(
        r##""$":{"REF":"#/DEFS/%"},"##,
        r##"{"REF":"#/DEFS/0","DEFS":{"##,
        r##""$":{"type":"null"}}}"##,
    );
    let refs = refs.replace("REF", "$ref").replace("DEFS", "$defs");
    let compiled = compile(&OutputFormat::Schema(refs)).expect("null, in the end");
    assert_eq!(spelt_next(&mut compiled.clone()), ["<0x6E>"]);
    for [link, last] in [
        ["r$:r%\n", "r$: \"a\"\n"],
        ["r$:r%?\n", "r$: \"a\"\n"],
        ["r$:r%|r% \"x\"\n", "r$: \"a\"?\n"],
        ["r$:r%~0..9\n", "r$: \"a\"\n"],
        ["r$:r%~0..99\n", "r$: \"a\"\n"],
        ["r$:\"x\"? r%\n", "r$: \"a\"?\n"],
        ["R$:R%\n", "R$: \"a\"\n"],
        ["R$:\"x\" R%\n", "R$: \"a\"\n"],
        ["R$:R% R%\n", "R$: /a?/\n"],
        ["R$:R% & /x*/\n", "R$: \"a\"\n"],
    ] {
        let rule = &link[..1];
        let text = chain(link, &format!("start: {rule}0\n"), last);
        let began = Instant::now();
        let _either = compile(&OutputFormat::Grammar(text));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?} {link}", began.elapsed());
    }
}

#[test]
fn grammars_that_cannot_be_followed_are_refused_with_the_reason() {
    let table = [
        (String::new(), "no start"),
        (")(*&^%$#@!\0".to_owned(), "lexer error"),
        ("start: x".to_owned(), "unknown name"),
        ("start: start \"a\"".to_owned(), "no token may follow"),
        ("start: /(/".to_owned(), "invalid regex"),
        (format!("start: {}\"a\"{}", "(".repeat(9_000), ")".repeat(9_000)), "too deeply nested"),
        (format!("start: /{}a{}/", "(".repeat(9_000), ")".repeat(9_000)), "invalid regex"),
        (r#"start: %json {"multipleOf": 99999999}"#.to_owned(), "`%json` is not supported"),
    ];
    for (text, words) in table {
        let reason = reason(&OutputFormat::Grammar(text));
        assert!(reason.starts_with("the output `grammar` cannot be used: "), "{reason}");
        assert!(reason.contains(words), "{reason}, expected {words}");
    }
}

#[test]
fn a_vocabulary_is_read_when_the_first_format_comes_and_only_once() {
    let (grammars, tokenizer) = (Grammars::default(), tokenizer());
    assert_eq!(format!("{grammars:?}"), "Grammars { built: false }");
    for _ in 0..2 {
        grammars.compile(&tokenizer, &OutputFormat::Json).expect("compiles");
        assert_eq!(format!("{grammars:?}"), "Grammars { built: true }");
    }
}
