//! What comes out of texts as models write them.

use super::*;
use ollamamax_template::Traits;
use proptest::prelude::*;
use serde_json::json;

fn tags() -> Tags {
    Tags { open: "<think>".to_owned(), close: "</think>".to_owned() }
}

fn syntax(thinks: bool, template: &str) -> Syntax {
    let names = ["weather", "add", "weather_at"].map(str::to_owned).to_vec();
    let calls = Syntax::new(&Traits::of(template), false, names).calls;
    let calls = calls.map(|calls| calls::Syntax { salt: 7, ..calls });
    Syntax { thinking: thinks.then(tags), hidden: false, calls }
}

const HERMES: &str = "{% if tools %}<tool_call>{% endif %}";
const LLAMA: &str = "{% if tools %}{% endif %}";
const MISTRAL: &str = "{% if tools %}[TOOL_CALLS]{% endif %}";

/// What comes out, with texts in one piece: `?` thinking, `=` text, `!` a call.
fn told(parts: &[Part]) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let mut add = |mark: char, text: &str, joins: bool| match told.last_mut() {
        Some(last) if joins && last.starts_with(mark) => last.push_str(text),
        _ => told.push(format!("{mark}{text}")),
    };
    for part in parts {
        match part {
            Part::Thinking(piece) => add('?', &piece.text, true),
            Part::Text(piece) => add('=', &piece.text, true),
            Part::Call(call) => {
                let arguments = Value::Object(call.arguments.clone());
                add('!', &format!("{} {arguments}", call.name), false);
            }
            Part::Done(_) => {}
        }
    }
    told
}

fn read(syntax: &Syntax, pieces: &[&str]) -> Vec<Part> {
    let (mut parser, mut parts) = (Parser::new(syntax), Vec::new());
    for piece in pieces {
        parser.push(Piece { text: (*piece).to_owned(), ..Piece::default() }, &mut parts);
    }
    parser.finish(&mut parts);
    parts
}

fn said(syntax: &Syntax, text: &str) -> Vec<String> {
    told(&read(syntax, &[text]))
}

#[test]
fn thinking_is_told_apart_at_the_beginning_only() {
    let thinks = syntax_without_tools();
    for (text, expected) in [
        ("<think>\nhm, 1 < 2\n</think>\n\nYes.", vec!["?hm, 1 < 2", "=Yes."]),
        ("  <think>a</think>b <think>c</think>", vec!["?a", "=b <think>c</think>"]),
        ("<think>\n\n</think>\n\nNo.", vec!["=No."]),
        ("<think>never ends", vec!["?never ends"]),
        ("<think>half </thi", vec!["?half </thi"]),
        ("No <think>", vec!["=No <think>"]),
        ("<thi", vec!["=<thi"]),
        ("<thing>", vec!["=<thing>"]),
        ("", vec![]),
    ] {
        assert_eq!(said(&thinks, text), expected, "{text:?}");
    }
}

fn syntax_without_tools() -> Syntax {
    Syntax { thinking: Some(tags()), ..Syntax::default() }
}

#[test]
fn calls_are_found_in_the_way_of_each_family() {
    let paris = r#"!weather {"city":"Paris"}"#;
    let json = r#"{"name": "weather", "arguments": {"city": "Paris"}}"#;
    for (template, text, expected) in [
        (HERMES, format!("<tool_call>\n{json}\n</tool_call>"), vec![paris]),
        (HERMES, format!("I look.\n<tool_call>{json}</tool_call>"), vec!["=I look.", paris]),
        (HERMES, format!("<tool_call>{json}</tool_call>\n<tool_call>{json}</tool_call> Done"), vec![paris, paris, "=Done"]),
        (HERMES, format!("<tool_call>{json}"), vec![paris]),
        (HERMES, json.to_owned(), vec![concat!("=", r#"{"name": "weather", "arguments": {"city": "Paris"}}"#)]),
        (LLAMA, r#"{"name": "weather", "parameters": {"city": "Paris"}}"#.to_owned(), vec![paris]),
        (LLAMA, format!("{json}; {json}"), vec![paris, paris]),
        (LLAMA, format!("Well: {json}"), vec![concat!("=Well: ", r#"{"name": "weather", "arguments": {"city": "Paris"}}"#)]),
        (LLAMA, r#"{"weather": {"city": "Paris"}}"#.to_owned(), vec![paris]),
        (LLAMA, r#"{"type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Paris\"}"}}"#.to_owned(), vec![paris]),
        (MISTRAL, format!("[TOOL_CALLS] [{json}]"), vec![paris]),
        (MISTRAL, format!("[TOOL_CALLS][{json}, {{\"name\": \"add\", \"arguments\": {{}}}}]"), vec![paris, "!add {}"]),
        (MISTRAL, r#"[TOOL_CALLS]weather[ARGS]{"city": "Paris"}"#.to_owned(), vec![paris]),
        (
            MISTRAL,
            r#"[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Paris"}"#.to_owned(),
            vec![paris],
        ),
        (HERMES, format!("<tool_call>{json} {{\"note\": 1}}"), vec![paris, "={\"note\": 1}"]),
        (MISTRAL, r#"[TOOL_CALLS]weather_at{"x": "}"}[TOOL_CALLS]add[ARGS]{}"#.to_owned(), vec![r#"!weather_at {"x":"}"}"#, "!add {}"]),
    ] {
        assert_eq!(said(&syntax(false, template), &text), expected, "{text:?}");
    }
}

#[test]
fn what_only_looks_like_a_call_is_text() {
    for (template, text) in [
        (HERMES, r#"<tool_call>{"name": "nobody", "arguments": {}}</tool_call>"#),
        (HERMES, r#"<tool_call>{"name": "weather", "arguments": 5}</tool_call>"#),
        (HERMES, r#"<tool_call>{"name": "weather", "argu"#),
        (HERMES, "<tool_call>I do not know.</tool_call>"),
        (HERMES, "<tool_ca"),
        (LLAMA, r#"{"answer": 42}"#),
        (LLAMA, "[1, 2]"),
        (LLAMA, "[]"),
        (MISTRAL, "[TOOL"),
        (MISTRAL, "[TOOL_CALLS]unknown[ARGS]{}"),
    ] {
        assert_eq!(said(&syntax(false, template), text), [format!("={text}")], "{text:?}");
    }
    let long =
        format!("<tool_call>{{\"a\": \"{}", "x".repeat(ollamamax_proto::limits::TOOL_CALL_BYTES));
    let mut parser = Parser::new(&syntax(false, HERMES));
    let mut parts = Vec::new();
    parser.push(Piece { text: long.clone(), ..Piece::default() }, &mut parts);
    assert_eq!(told(&parts), [format!("={long}")], "it is not held for ever");
}

#[test]
fn calls_behind_thinking_have_ids_that_stay() {
    let text = "<think>I need {\"a\": 1}</think>\n<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    let parts = read(&syntax(true, HERMES), &[text]);
    assert_eq!(told(&parts), ["?I need {\"a\": 1}", "!add {\"a\":1}"]);
    assert_eq!(parts, read(&syntax(true, HERMES), &[text]));
    assert!(
        matches!(parts.last(), Some(Part::Call(call)) if call.id == "call_00000007" && call.index == 0)
    );
}

#[test]
fn log_probabilities_come_with_the_text_they_belong_to_or_the_next() {
    let (mut parser, mut parts) = (Parser::new(&syntax(true, HERMES)), Vec::new());
    for text in ["<thi", "nk>", "so", "</think>", "yes"] {
        parser.push(
            Piece { text: text.to_owned(), logprobs: vec![TokenLogprob::default()], tokens: 1 },
            &mut parts,
        );
    }
    parser.finish(&mut parts);
    let counts = parts.iter().map(|part| match part {
        Part::Thinking(piece) | Part::Text(piece) => (piece.logprobs.len(), piece.tokens),
        _ => (0, 0),
    });
    let counts: Vec<_> = counts.collect();
    assert_eq!(counts, [(3, 3), (2, 2)]);
}

#[test]
fn calls_are_found_by_what_a_template_puts_before_them() {
    let syntax = |body: &str| {
        let template = format!("{{{{ range .Messages }}}}{body}{{{{ end }}}}");
        Syntax::new(&Traits::of(&template), false, vec!["add".to_owned()])
    };
    let go = syntax("{{ range .ToolCalls }}<call>\n{\"name\": \"{{ .Function.Name }}\"}{{ end }}");
    let call = "<call>{\"name\": \"add\", \"arguments\": {}}";
    assert_eq!(said(&go, call), ["!add {}"]);
    assert_eq!(said(&go, &format!("{call}</call> Done")), ["!add {}", "=Done"]);
    let listed = syntax(
        "{{ if .ToolCalls }}[TOOL_CALLS] [{{ range .ToolCalls }}{{ json . }}{{ end }}]{{ end }}",
    );
    let call = "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {}}]";
    assert_eq!(said(&listed, call), ["!add {}"]);
}

/// Pieces of what models write, in any order.
fn scraps() -> impl Strategy<Value = String> {
    let scraps = [
        "<think>",
        "</think>",
        "\n",
        " ",
        "é",
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"add\", \"arguments\": {}}",
        "[TOOL_CALLS]",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "\\",
        "weather",
        "[ARGS]",
        "text",
        "<",
        ";",
        "{\"a\":[1]}",
    ];
    proptest::collection::vec(proptest::sample::select(scraps.to_vec()), 0..16)
        .prop_map(|s| s.concat())
}

proptest! {
    /// A gateway that goes on with a stream reads it in other pieces than the one that began it.
    #[test]
    fn what_has_come_out_depends_on_the_text_alone(
        text in scraps(),
        cuts in proptest::collection::vec(0usize..100, 0..6),
        thinks: bool,
        template in proptest::sample::select(vec![HERMES, LLAMA, MISTRAL]),
    ) {
        let syntax = syntax(thinks, template);
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&at| text.is_char_boundary(at)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let (mut parser, mut parts, mut from) = (Parser::new(&syntax), Vec::new(), 0);
        for at in cuts {
            parser.push(Piece { text: text[from..at].to_owned(), ..Piece::default() }, &mut parts);
            from = at;
            let (mut anew, mut all) = (Parser::new(&syntax), Vec::new());
            anew.push(Piece { text: text[..at].to_owned(), ..Piece::default() }, &mut all);
            prop_assert_eq!(told(&parts), told(&all), "after {:?}", &text[..at]);
        }
        parser.finish(&mut parts);
        prop_assert_eq!(told(&parts), said(&syntax, &text));
    }
}

#[test]
fn a_call_counts_as_one_and_text_by_its_bytes() {
    let piece = |text: &str| Piece { text: text.to_owned(), ..Piece::default() };
    let call = read(&syntax(false, HERMES), &["<tool_call>{\"name\": \"add\", \"arguments\": {}}"]);
    assert_eq!(call[0].size(), 1);
    assert_eq!(Part::Text(piece("é")).size(), 2);
    assert_eq!(json!(said(&syntax(false, LLAMA), "é")), json!(["=é"]));
}

#[test]
fn thinking_that_nobody_asked_for_is_left_out() {
    let hidden = Syntax { hidden: true, ..syntax(true, LLAMA) };
    let text = "<think>hm</think>{\"name\": \"add\", \"arguments\": {}}";
    assert_eq!(said(&hidden, text), ["!add {}"]);
    assert_eq!(said(&hidden, "<think>hm</think>Yes"), ["=Yes"]);
}
