//! Go templates in the shapes of real models against what Go's own `text/template` made of them. How that was recorded
//! stands in `tests/data/record.go`.

use ollamamax_proto::inference::{Message, Think};
use ollamamax_template::{ChatTemplate, Conversation, TemplateError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read_to_string(&path).expect(name)
}

fn message(json: &Value) -> Message {
    let mut extra = json.as_object().expect("a message").clone();
    extra.retain(|key, _| key != "role" && key != "content");
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let extra_json =
        if extra.is_empty() { String::new() } else { Value::Object(extra).to_string() };
    Message { role: text("role"), content: text("content"), extra_json }
}

fn render(template: &ChatTemplate, case: &Value, tools: &Value) -> Result<String, TemplateError> {
    if let Some(insert) = case.get("insert") {
        let text = |name: &str| insert[name].as_str().expect("a text").to_owned();
        let rendered = template.insert(&text("before"), &text("after"))?;
        return Ok(rendered.expect("the template has a place for it"));
    }
    let messages: Vec<Message> =
        case["messages"].as_array().expect("messages").iter().map(message).collect();
    let think = case["think"].as_str();
    let think = think.and_then(|name| Think::ALL.into_iter().find(|t| t.as_str() == name));
    let tools_json = if case["with_tools"] == true { tools.to_string() } else { String::new() };
    template.render(&Conversation {
        messages: &messages,
        tools_json: &tools_json,
        think,
        ..Conversation::default()
    })
}

#[test]
fn go_templates_render_as_go_renders_them() {
    let input: Value = serde_json::from_str(&data("cases.json")).expect("JSON");
    let golden: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(&data("golden.json")).expect("JSON");
    let mut count = 0;
    for (name, cases) in &golden {
        let template = ChatTemplate::new(&data(&format!("{name}.gotmpl"))).expect(name);
        for (title, expected) in cases {
            let case = &input["cases"][title];
            let rendered = render(&template, case, &input["tools"]);
            match expected.strip_prefix("ERROR ") {
                None => assert_eq!(rendered.as_ref(), Ok(expected), "{name} over {title}"),
                Some(error) => {
                    let failed = matches!(rendered, Err(TemplateError::Render { .. }));
                    assert!(failed, "{name} over {title}: {rendered:?}, in Go {error}");
                }
            }
            count += 1;
        }
    }
    assert!(count > 100, "only {count} cases");
}
