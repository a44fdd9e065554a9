//! Templates of Ollama's library, in both styles, and what is refused.

use super::*;
use ollamamax_proto::limits::TEMPLATE_FUEL;
use proptest::prelude::*;

/// ChatML in the older style, as in Ollama's library.
const TURNS: &str = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}\
    {{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n\
    {{ .Response }}<|im_end|>\n";

/// The style that ranges over messages.
const MESSAGES: &str = r#"{{- if .System }}<|system|>{{ .System }}{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|user|>{{ .Content }}
{{- else if eq .Role "assistant" }}<|assistant|>{{ .Content }}{{ if not $last }}<|end|>{{ end }}
{{- end }}
{{- if and $last (ne .Role "assistant") }}<|assistant|>{{ end }}
{{- end }}"#;

fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
    let message = |&(role, content): &(&str, &str)| Message {
        role: role.into(),
        content: content.into(),
        extra_json: String::new(),
    };
    turns.iter().map(message).collect()
}

fn render(source: &str, turns: &[(&str, &str)]) -> Result<String, TemplateError> {
    assert!(GoTemplate::looks_like(source), "{source}");
    GoTemplate::new(source)?.render(&messages(turns), "", None)
}

#[test]
fn an_older_template_runs_once_per_turn_and_stays_open_at_the_end() {
    let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")];
    assert_eq!(
        render(TURNS, &turns).as_deref(),
        Ok("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
            <|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n\
            <|im_start|>assistant\n")
    );
}

#[test]
fn a_final_assistant_message_is_continued() {
    let turns = [("user", "Hi"), ("assistant", "Hel")];
    let text = render(TURNS, &turns).expect("renders");
    assert!(text.ends_with("<|im_start|>assistant\nHel"), "{text}");
}

#[test]
fn a_template_without_response_gets_one_at_its_end() {
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c")];
    assert_eq!(render("[{{ .Prompt }}]", &turns).as_deref(), Ok("[a]b[c]"));
}

#[test]
fn a_newer_template_sees_all_messages() {
    let turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("user", "d")];
    assert_eq!(
        render(MESSAGES, &turns).as_deref(),
        Ok("<|system|>S<|user|>a<|assistant|>b<|end|><|user|>c\n\nd<|assistant|>")
    );
    assert_eq!(
        render(MESSAGES, &[("user", "a"), ("assistant", "b")]).as_deref(),
        Ok("<|user|>a<|assistant|>b")
    );
}

#[test]
fn jinja_is_not_mistaken_for_go() {
    for jinja in ["{% if a %}{{ .System }}{% endif %}", "{{ messages[0].content }}", "plain"] {
        assert!(!GoTemplate::looks_like(jinja), "{jinja}");
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let unsupported = |source: &str| match GoTemplate::new(source).expect_err(source) {
        TemplateError::Unsupported { construct } => construct,
        other => other.to_string(),
    };
    assert_eq!(unsupported("{{ .Prompt }}\n{{ .Sufix }}"), ".Sufix (line 2)");
    assert_eq!(unsupported("{{ range .Messages }}{{ $.Tool }}{{ end }}"), ".Tool (line 1)");
    assert_eq!(unsupported("\n\n{{ .Prompt | html }}"), "html (line 3)");
    assert_eq!(
        unsupported("{{ template \"a\" . }}"),
        "template \"a\" without its definition (line 1)"
    );
    let tool = render(TURNS, &[("tool", "x")]);
    assert!(matches!(tool, Err(TemplateError::Unsupported { .. })));
}

#[test]
fn broken_templates_are_told() {
    let sources = [
        "{{ .Prompt",
        "{{ if .Prompt }}",
        "{{ end }}",
        "{{ if }}x{{ end }}",
        "{{ (eq 1 1 }}",
        "{{ \"a }}",
        "{{ /* apart */ }}",
        "{{/* open",
        "{{ $x }}",
        "{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}",
        "{{ $x = 1 }}",
        "{{ break }}",
        "{{ range .Messages }}{{ end }}{{ continue }}",
        "{{ range .Messages }}{{ else if .Prompt }}{{ end }}",
        "{{ if .Prompt }}{{ else }}{{ else }}{{ end }}",
        "{{ define \"a\" }}",
        "{{ .Prompt .System }}",
        "{{ .Prompt | .System }}",
        "{{ .Prompt; }}",
        "{{ 'ab' }}",
        "{{ 1x }}",
        "{{ nil }}",
        "{{ if (nil) }}{{ end }}",
    ];
    for source in sources {
        let read = GoTemplate::new(source);
        assert!(matches!(read, Err(TemplateError::Syntax { .. })), "{source}: {read:?}");
    }
}

#[test]
fn what_newer_go_can_do_is_done_too() {
    let text = |source: &str| render(&format!("{source}{{{{ .Response }}}}"), &[("user", "a")]);
    assert_eq!(text("{{ range 3 }}{{ . }}{{ else }}none{{ end }}").as_deref(), Ok("012"));
    assert_eq!(text("{{ range $i, $n := 2 }}{{ $i }}{{ $n }}{{ end }}").as_deref(), Ok("0011"));
    let chosen = "{{ with .System }}s{{ else with .Prompt }}{{ . }}{{ else }}none{{ end }}";
    assert_eq!(text(chosen).as_deref(), Ok("a"));
    assert_eq!(
        text("{{ currentDate }} {{ yesterdayDate }}").as_deref(),
        Ok("2024-07-26 2024-07-25")
    );
    let last = "{{ $last := 0 }}{{ range $last = 3 }}{{ end }}{{ $last }}";
    assert_eq!(text(last).as_deref(), Ok("2"));
}

#[test]
fn whole_numbers_stay_whole_and_what_a_client_sent_beside_is_kept() {
    let tools = r#"[{"type":"function","function":{"name":"f","strict":true,"parameters":
        {"type":"object","properties":{"n":{"type":"integer","minimum":1000000}},"additionalProperties":false}}}, 7]"#;
    let template = GoTemplate::new("{{ .Messages | len }}{{ range .Tools }} {{ . }}{{ end }}");
    let rendered = template.expect("sound").render(&messages(&[("user", "a")]), tools, None);
    assert_eq!(
        rendered.as_deref(),
        Ok(
            r#"1 {"type":"function","function":{"name":"f","description":"","parameters":{"type":"object","properties":{"n":{"type":"integer","minimum":1000000}},"additionalProperties":false},"strict":true}} 7"#
        )
    );
}

#[test]
fn failures_name_their_line() {
    let reason = |source: &str| match render(source, &[("user", "a")]).expect_err(source) {
        TemplateError::Render { reason } => reason,
        other => other.to_string(),
    };
    assert_eq!(
        reason("{{ .Prompt }}\n{{ range .Prompt }}{{ end }}"),
        "in line 2: `range` over a text"
    );
    assert_eq!(
        reason("{{ range .Messages }}\n\n{{ .Contents }}{{ end }}"),
        "in line 3: `.Contents` of an object that has no such field"
    );
    assert_eq!(reason("{{ eq .Prompt 1 }}"), "in line 1: a text cannot be compared with a number");
}

#[test]
fn calls_of_neighbouring_messages_are_all_kept() {
    let call = |name: &str| Message {
        role: "assistant".into(),
        content: String::new(),
        extra_json: format!(
            r#"{{"tool_calls":[{{"function":{{"name":"{name}","arguments":"{{\"a\": 1}}"}}}}]}}"#
        ),
    };
    let source = "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Name }}{{ .Function.Arguments }}{{ end }}{{ end }}";
    let rendered =
        GoTemplate::new(source).expect("sound").render(&[call("f"), call("g")], "", None);
    assert_eq!(rendered.as_deref(), Ok(r#"f{"a":1}g{"a":1}"#));
}

#[test]
fn a_hostile_template_is_stopped() {
    for endless in [
        "{{ range 9000000000 }}{{ end }}",
        "{{ range 9000000000 }}{{ range 9000000000 }}x{{ end }}{{ end }}",
        "{{ $s := \"xxxxxxxx\" }}{{ range 60 }}{{ $s = print $s $s }}{{ end }}",
    ] {
        let source = format!("{{{{ .Prompt }}}}{endless}");
        let fuel = TemplateError::Budget { fuel: TEMPLATE_FUEL };
        assert_eq!(render(&source, &[("user", "a")]), Err(fuel), "{endless}");
    }
    let tools = format!("[{{\"a\":\"{}\"}}]", "x".repeat(1_000_000));
    let source = format!("{{{{ .Prompt }}}}{{{{ println{} }}}}", " .Tools".repeat(5_000));
    let template = GoTemplate::new(&source).expect("sound");
    let rendered = template.render(&messages(&[("user", "a")]), &tools, None);
    assert_eq!(rendered, Err(TemplateError::Budget { fuel: TEMPLATE_FUEL }), "5 GB at once");
    let recursive = "{{ define \"a\" }}{{ template \"a\" . }}{{ end }}{{ template \"a\" .Prompt }}";
    assert!(render(recursive, &[("user", "a")]).is_err());
    let deep = "{{ if .Prompt }}".repeat(100_000);
    assert!(GoTemplate::new(&deep).is_err());
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(GoTemplate::new(&parens).is_err());
    let nested = format!("{}x{}", "{{ range $.Messages }}".repeat(6), "{{ end }}".repeat(6));
    let turns: Vec<(&str, &str)> = (0..60).map(|n| (["user", "assistant"][n % 2], "x")).collect();
    let fuel = TemplateError::Budget { fuel: TEMPLATE_FUEL };
    assert_eq!(render(&nested, &turns), Err(fuel));
}

/// Parts that make whole templates, more often than not.
const PARTS: [&str; 44] = [
    "{{ if .Prompt }}",
    "{{ end }}",
    "{{ end }}",
    "{{ end }}",
    "{{ else }}",
    "{{ else if .System }}",
    "{{ range .Messages }}",
    "{{ range $i, $m := .Messages }}",
    "{{ range 3 }}",
    "{{ range .Tools }}",
    "{{ range $k, $v := .Function.Arguments }}",
    "{{ range .ToolCalls }}",
    "{{ with $x := .System }}",
    "{{ define \"a\" }}",
    "{{ template \"a\" . }}",
    "{{ block \"b\" $ }}",
    "{{ break }}",
    "{{ continue }}",
    "{{ $x := 1 }}",
    "{{ $x = print $x $x }}",
    "{{ $x }}",
    "{{ $i }}",
    "{{ $m.Content }}",
    "{{ .Content }}",
    "{{ .Role | printf \"%5.2s\" }}",
    "{{ . }}",
    "{{ json $ }}",
    "{{ json . }}",
    "{{ .Tools }}",
    "{{ .Function.Parameters.Properties }}",
    "{{ slice .Messages 1 }}",
    "{{ index . 0 }}",
    "{{ (index $.Messages 0).ToolCalls }}",
    "{{ eq .Role \"user\" }}",
    "{{ len . }}",
    "{{ .Response }}",
    "{{- toTypeScriptType . -}}",
    "{{/* c */}}",
    "{{ and . (or .X nil) }}",
    "{{ printf \"%v %d %q\" . 1 \"x\" }}",
    " x ",
    "\n",
    "{{ lt 1 2.5 }}",
    "{{ .Suffix }}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_template_makes_it_panic_or_run_on(
        parts in prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..24),
    ) {
        if let Ok(template) = GoTemplate::new(&parts.concat()) {
            let extra_json = r#"{"tool_calls":[{"id":"1","function":{"name":"f","arguments":{"a":[1.5,null]}}}]}"#;
            let mut all = messages(&[("system", "s"), ("user", "é"), ("assistant", "b")]);
            all[2].extra_json = extra_json.to_owned();
            let tools = r#"[{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{"type":"string"}}}}}]"#;
            let rendered = template.render(&all, tools, Some(Think::Low));
            prop_assert!(rendered.is_err() || rendered.is_ok_and(|text| text.len() as u64 <= 64 * TEMPLATE_FUEL));
            let _ = template.insert("a", "b");
        }
    }

    #[test]
    fn no_source_makes_it_panic(
        parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                "{{", "}}", "{{-", "-}}", " ", "if", "else", "end", "range", ".Messages", "$i", ",",
                ":=", "$", ".", "\"", "`", "(", ")", "eq", "and", "len", "slice", ".Role", "1",
                "é",
                "{{ if .Prompt }}", "{{ end }}", "{{ range .Messages }}", "{{ .Content }}", "\\",
                "/*",
            ]).prop_map(str::to_owned),
            "[a-z{}. ]{0,3}",
        ], 0..24),
    ) {
        if let Ok(template) = GoTemplate::new(&parts.concat()) {
            let _ = template.render(&messages(&[("user", "a"), ("assistant", "b")]), "[]", None);
        }
    }
}
