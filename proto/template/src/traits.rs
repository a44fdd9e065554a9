//! What a template tells of how its model writes: whether it knows tools, thinking and texts with a gap, and by what marks.
//!
//! A template is not run for that. In a Go template the marks stand around the fields `.ToolCalls` and `.Thinking` of earlier
//! answers, where Ollama looks for them, too; in a Jinja template they are looked for by their spelling.

use crate::go::GoTemplate;
use ollamamax_proto::inference::Tags;
use ollamamax_proto::limits;

/// How the answers of a model look, and what it can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Whether the template shows the model its tools.
    pub tools: bool,
    /// What encloses thinking, where the model thinks.
    pub thinking: Option<Tags>,
    /// Whether the template has a place for what follows a gap.
    pub insert: bool,
    /// What stands before a call; empty where calls are bare JSON.
    pub calls: Vec<String>,
}

/// What opens and closes thinking in the families that do not say it in a Go template.
const THINKING: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
];
/// What stands before calls in the families that do not say it in a Go template.
const CALLS: [&str; 6] = [
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|tool_call|>",
    "<|tool_call_start|>",
    "<function_call>",
    "<|python_tag|>",
];

impl Traits {
    /// Of a template's source; a Go template that cannot be read tells nothing.
    pub fn of(source: &str) -> Self {
        if !GoTemplate::looks_like(source) {
            return Self::of_jinja(source);
        }
        GoTemplate::new(source).map(|template| template.traits()).unwrap_or_default()
    }

    fn of_jinja(source: &str) -> Self {
        let by_name = ["enable_thinking", "reasoning_content"].iter().any(|n| source.contains(n));
        let spelled =
            THINKING.iter().find(|(open, close)| source.contains(open) || source.contains(close));
        let thinking =
            spelled.or(by_name.then_some(&THINKING[0])).map(|(open, close)| tags(open, close));
        let calls = CALLS.into_iter().filter(|tag| source.contains(tag)).map(str::to_owned);
        Self { tools: reads_tools(source), thinking, insert: false, calls: calls.collect() }
    }
}

/// What encloses thinking where a Go template does not show it.
pub(crate) fn usual_thinking() -> Tags {
    let (open, close) = THINKING[0];
    tags(open, close)
}

/// The marks, unless they are too long for any.
pub(crate) fn marks(open: &str, close: &str) -> Option<Tags> {
    Some(tags(open, close)).filter(|_| is_mark(open) && is_mark(close))
}

/// Whether a text may be one.
pub(crate) fn is_mark(text: &str) -> bool {
    !text.is_empty() && text.len() <= limits::MARKER_BYTES
}

fn tags(open: &str, close: &str) -> Tags {
    Tags { open: open.to_owned(), close: close.to_owned() }
}

/// Whether a Jinja template reads the variable `tools`; a field of a message that is called so is not where tools are given.
fn reads_tools(source: &str) -> bool {
    source.match_indices("tools").any(|(at, _)| !source[..at].ends_with(['\'', '"']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_go(body: &str) -> Traits {
        Traits::of(&format!("{{{{ range .Messages }}}}{body}{{{{ end }}}}"))
    }

    #[test]
    fn a_go_template_shows_its_marks() {
        let hermes = "{{ if .Thinking }}<reason>\n{{ .Thinking }}\n</reason>{{ end }}\
            {{ if .ToolCalls }}<call>\n{{ range .ToolCalls }}{\"name\": \"{{ .Function.Name }}\"}{{ end }}{{ end }}{{ $.Tools }}";
        let traits = of_go(hermes);
        assert!(traits.tools && !traits.insert);
        assert_eq!(traits.thinking, marks("<reason>", "</reason>"));
        assert_eq!(traits.calls, ["<call>"]);
        let mistral = "{{ if .ToolCalls }}[TOOL_CALLS] [{{ range .ToolCalls }}{{ json . }}{{ end }}]{{ end }}";
        assert_eq!(of_go(mistral).calls, ["[TOOL_CALLS]"]);
        let bare = "{{ if .ToolCalls }}{{ range .ToolCalls }}{\"name\": \"{{ .Function.Name }}\"}{{ end }}{{ end }}";
        assert_eq!(of_go(bare).calls, [""; 0]);
        let outside = "<t>{{ if .Thinking }}{{ .Thinking }}{{ end }}</t>";
        assert_eq!(of_go(outside).thinking, marks("<t>", "</t>"));
        let hidden = "{{ if .Thinking }}{{ end }}{{ .Content }}";
        assert_eq!(of_go(hidden).thinking, Some(usual_thinking()));
        let spaced = "{{- if .Thinking -}} a <t> {{- .Thinking -}} </t> b {{- end -}}";
        assert_eq!(of_go(spaced).thinking, marks("<t>", "</t>"));
        assert!(Traits::of("{{ .Prompt }}{{ .Suffix }}").insert);
    }

    #[test]
    fn words_in_texts_and_comments_of_a_go_template_are_no_fields() {
        let said = "{{/* .Tools .Thinking */}}{{ .Content }} .Suffix {{ \".ToolCalls\" }}";
        assert_eq!(of_go(said), Traits::default());
        assert_eq!(Traits::of("{{ .System }}{{ .Prompt }}{{ .ToolsOfOthers }}"), Traits::default());
        let long = format!("{{{{ a{} }}}}", ".Systema".repeat(1 << 17));
        assert_eq!(Traits::of(&long), Traits::default());
    }

    #[test]
    fn a_mark_that_is_too_long_is_none() {
        let long = "x".repeat(limits::MARKER_BYTES + 1);
        let traits = of_go(&format!(
            "{long} {{{{ .Thinking }}}} {long} {{{{ range .ToolCalls }}}} {long} {{{{ end }}}}"
        ));
        assert_eq!((traits.thinking, traits.calls.len()), (Some(usual_thinking()), 0));
    }

    #[test]
    fn a_jinja_template_is_known_by_its_spelling() {
        let distilled =
            Traits::of("{% if '</think>' in content %}{% endif %}{{ message['tools'] }}");
        assert_eq!((distilled.thinking, distilled.tools), (Some(usual_thinking()), false));
        let qwen = Traits::of("{% if enable_thinking is false %}{% endif %}{{ tools }}<tool_call>");
        assert_eq!((qwen.tools, qwen.thinking), (true, Some(usual_thinking())));
        assert_eq!(qwen.calls, ["<tool_call>"]);
        let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
        assert_eq!(Traits::of(plain), Traits::default());
    }
}
