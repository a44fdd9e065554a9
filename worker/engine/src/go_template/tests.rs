//! Templates of Ollama's library, in both styles, and what is refused.

use super::*;
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
    GoTemplate::new(source)?.render(&messages(turns), "")
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
    assert_eq!(unsupported("{{ .Prompt }}{{ .Suffix }}"), ".Suffix");
    assert_eq!(unsupported("{{ range .Messages }}{{ .ToolCalls }}{{ end }}"), ".ToolCalls");
    assert_eq!(unsupported("{{ with .System }}x{{ end }}"), "with");
    assert_eq!(unsupported("{{ .Tools | json }}"), "|");
    assert_eq!(unsupported("{{ json .Tools }}"), "json");
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
    ];
    for source in sources {
        let read = GoTemplate::new(source);
        assert!(matches!(read, Err(TemplateError::Syntax { .. })), "{source}: {read:?}");
    }
}

#[test]
fn a_hostile_template_is_stopped() {
    let deep = "{{ if .Prompt }}".repeat(100_000);
    assert!(GoTemplate::new(&deep).is_err());
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(GoTemplate::new(&parens).is_err());
    let nested = format!("{}x{}", "{{ range $.Messages }}".repeat(6), "{{ end }}".repeat(6));
    let turns: Vec<(&str, &str)> = (0..60).map(|n| (["user", "assistant"][n % 2], "x")).collect();
    let fuel = TemplateError::Budget { fuel: ollamamax_proto::limits::TEMPLATE_FUEL };
    assert_eq!(render(&nested, &turns), Err(fuel));
}

proptest! {
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
            let _ = template.render(&messages(&[("user", "a"), ("assistant", "b")]), "[]");
        }
    }
}
