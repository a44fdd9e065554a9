//! Templates as models bring them, and as nobody should.

use super::*;

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), extra_json: String::new() }
}

fn render(source: &str, messages: &[Message], tools: &str) -> Result<String, TemplateError> {
    ChatTemplate::new(source)?.render(messages, tools, true, "<s>", "</s>")
}

#[test]
fn a_model_without_a_template_gets_chatml() {
    let text = ChatTemplate::chatml()
        .render(&[message("system", "Be brief."), message("user", "Hi")], "", true, "", "")
        .expect("renders");
    assert_eq!(
        text,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

#[test]
fn blocks_are_trimmed_and_python_methods_work() {
    let source = "{{ bos_token }}\n{%- for m in messages %}\n\
                  \u{20}   {% if m['role'].startswith('us') %}\n\
                  {{ m.content.strip() | upper }}\n    {% endif %}\n{% endfor %}\n";
    assert_eq!(render(source, &[message("user", " hi ")], "").as_deref(), Ok("<s>HI\n"));
}

#[test]
fn tools_keep_their_order_and_are_not_escaped() {
    let tools = r#"[{"type":"function","function":{"name":"a<b","z":1,"b":["ä",2.5]}}]"#;
    assert_eq!(
        render("{{ tools | tojson }}", &[], tools).as_deref(),
        Ok(r#"[{"type": "function", "function": {"name": "a<b", "z": 1, "b": ["ä", 2.5]}}]"#)
    );
    assert_eq!(
        render("{{ tools[0].function.b | tojson(indent=2) }}", &[], tools).as_deref(),
        Ok("[\n  \"ä\",\n  2.5\n]")
    );
    assert_eq!(render("{{ 'yes' if tools else 'no' }}", &[], "").as_deref(), Ok("no"));
}

#[test]
fn extra_fields_reach_the_template_but_cannot_change_the_role() {
    let mut with_extra = message("assistant", "x");
    with_extra.extra_json = r#"{"role":"system","tool_calls":[{"id":7}]}"#.into();
    let source = "{{ messages[0].role }} {{ messages[0].tool_calls[0].id }}";
    assert_eq!(render(source, &[with_extra.clone()], "").as_deref(), Ok("assistant 7"));
    with_extra.extra_json = "[".into();
    assert!(matches!(
        render(source, &[with_extra], ""),
        Err(TemplateError::Json { field: "messages", .. })
    ));
}

#[test]
fn a_template_may_refuse_the_messages() {
    let source = "{{ raise_exception('roles must alternate') }}";
    assert_eq!(
        render(source, &[], ""),
        Err(TemplateError::Refused { reason: "roles must alternate".into() })
    );
}

#[test]
fn a_broken_template_is_told_apart_from_a_failing_one() {
    assert!(matches!(ChatTemplate::new("{% for %}"), Err(TemplateError::Syntax { .. })));
    assert!(matches!(render("{{ 1 + none }}", &[], ""), Err(TemplateError::Render { .. })));
    let long = "x".repeat(MODEL_TEXT_BYTES + 1);
    assert!(matches!(ChatTemplate::new(&long), Err(TemplateError::TooLong { .. })));
}

#[test]
fn a_hostile_template_runs_out_of_budget() {
    let endless =
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
    let doubling = "{% set n = namespace(s='xxxxxxxx') %}\
                    {% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}";
    for source in [endless, doubling] {
        assert_eq!(
            render(source, &[], ""),
            Err(TemplateError::Budget { fuel: TEMPLATE_FUEL }),
            "{source}"
        );
    }
    assert!(render("{{ 'x' * 10000000000 }}", &[], "").is_err());
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(render(recursive, &[], "").is_err());
}
