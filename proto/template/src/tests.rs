//! Templates as models bring them, and as nobody should.

use super::*;
use ollamamax_proto::limits::TEMPLATE_FUEL;

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), extra_json: String::new() }
}

fn render(source: &str, messages: &[Message], tools: &str) -> Result<String, TemplateError> {
    ChatTemplate::new(source)?.render(&Conversation {
        messages,
        tools_json: tools,
        bos: "<s>",
        eos: "</s>",
        ..Conversation::default()
    })
}

#[test]
fn a_model_without_a_template_gets_chatml() {
    let text = ChatTemplate::chatml()
        .render(&Conversation {
            messages: &[message("system", "Be brief."), message("user", "Hi")],
            ..Conversation::default()
        })
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

#[test]
fn thinking_is_told_in_the_words_of_each_family_and_only_when_it_was_asked_for() {
    let source = "{{ enable_thinking is defined }} {{ thinking is defined }} {{ reasoning_effort is defined }}\
                  {% if enable_thinking is defined %} {{ enable_thinking }} {{ thinking }}{% endif %}\
                  {% if reasoning_effort is defined %} {{ reasoning_effort }}{% endif %}";
    let template = ChatTemplate::new(source).expect("sound");
    let rendered = |think| {
        let messages = [message("user", "Hi")];
        let conversation = Conversation { messages: &messages, think, ..Conversation::default() };
        template.render(&conversation).expect("renders")
    };
    assert_eq!(rendered(None), "False False False");
    assert_eq!(rendered(Some(Think::Off)), "True True False False False");
    assert_eq!(rendered(Some(Think::On)), "True True False True True");
    assert_eq!(rendered(Some(Think::High)), "True True True True True high");
}

#[test]
fn what_clients_spell_in_several_ways_is_found_under_each() {
    let mut thought = message("assistant", "4");
    let mut answer = message("tool", "42");
    for (thinking, name) in
        [("thinking", "tool_name"), ("reasoning_content", "name"), ("reasoning", "name")]
    {
        thought.extra_json = format!(
            r#"{{"{thinking}":"sum","tool_calls":[{{"function":{{"name":"f","arguments":"{{\"b\":1,\"a\":2}}"}}}}]}}"#
        );
        answer.extra_json = format!(r#"{{"{name}":"f"}}"#);
        let source = "{{ messages[0].reasoning_content }} {{ messages[0].thinking }} \
                      {{ messages[0].tool_calls[0].function.arguments | tojson }} {{ messages[1].name }} {{ messages[1].tool_name }}";
        let rendered = render(source, &[thought.clone(), answer.clone()], "");
        assert_eq!(rendered.as_deref(), Ok(r#"sum sum {"b": 1, "a": 2} f f"#), "{thinking}");
    }
}

#[test]
fn a_template_that_joins_arguments_to_a_text_gets_them_as_json() {
    let mut called = message("assistant", "");
    called.extra_json =
        r#"{"tool_calls":[{"function":{"name":"f","arguments":{"b":1,"a":"x"}}}]}"#.into();
    let source = "{{ 'call ' + messages[0].tool_calls[0].function.arguments }}";
    assert_eq!(render(source, &[called.clone()], "").as_deref(), Ok(r#"call {"b":1,"a":"x"}"#));
    // What fails either way is told as it failed first.
    assert!(matches!(render("{{ 1 + none }}", &[called], ""), Err(TemplateError::Render { .. })));
}
