//! Modelfiles, well formed and not.

use super::*;
use proptest::prelude::*;

#[test]
fn every_instruction_is_read() {
    let file = parse(
        "# made by hand\nfrom ./model.gguf\n\nPARAMETER temperature 0.5\nparameter stop \"<|im_end|>\"\n\
         PARAMETER stop \"User: \"\nPARAMETER num_ctx 2048\nTEMPLATE \"\"\"{{ .System }}\n# not a comment\n\
         {{ .Prompt }}\"\"\"\nSYSTEM You are \"Ada\".\nMESSAGE user Hi there\nMESSAGE Assistant \"\"\"Hello\n\
         you\"\"\"\nLICENSE \"Apache-2.0\"\nLICENSE MIT\nPARSER qwen3\r\n",
    )
    .expect("valid");
    assert_eq!(file.from, "./model.gguf");
    assert_eq!(file.template.as_deref(), Some("{{ .System }}\n# not a comment\n{{ .Prompt }}"));
    assert_eq!(file.system.as_deref(), Some("You are \"Ada\"."));
    assert_eq!(file.licenses, ["Apache-2.0", "MIT"]);
    assert_eq!(
        Value::Object(file.to_request("m").expect("valid parameters")),
        json!({
            "model": "m",
            "template": "{{ .System }}\n# not a comment\n{{ .Prompt }}",
            "system": "You are \"Ada\".",
            "license": ["Apache-2.0", "MIT"],
            "messages": [
                {"role": "user", "content": "Hi there"},
                {"role": "assistant", "content": "Hello\nyou"},
            ],
            "parser": "qwen3",
            "parameters": {"temperature": 0.5, "stop": ["<|im_end|>", "User: "], "num_ctx": 2048},
        })
    );
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, error) in [
        ("", "no FROM line"),
        ("# FROM x", "no FROM line"),
        (
            "FROM x\n\nFORM y",
            "line 3: unknown instruction `FORM`; expected one of FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, \
             LICENSE, MESSAGE, RENDERER, PARSER, REQUIRES",
        ),
        ("FROM x\nSYSTEM \"\"\"a\nb", "line 2: the quoted text never ends; close it with \"\"\""),
        ("FROM", "line 1: `FROM` needs a model name or a path"),
        ("FROM x\nPARAMETER top_k", "line 2: `PARAMETER` needs a name and a value"),
        (
            "FROM x\nSYSTEM \"\"\"a\n\n\"\"\"\nMESSAGE robot hi",
            "line 5: unknown role `robot`; expected `system`, `user` or `assistant`",
        ),
        ("FROM x\nDRAFT y", "line 2: `DRAFT` is not supported; leave it out"),
        ("FROM x\nADAPTER", "line 2: `ADAPTER` needs a path"),
        (
            "FROM x\nADAPTER ./a\nADAPTER ./b",
            "line 3: a second ADAPTER; create from this one's result with another Modelfile",
        ),
    ] {
        assert_eq!(parse(text).expect_err(text).to_string(), error);
    }
}

#[test]
fn options_have_types() {
    for (line, error) in [
        ("top_k many", "parameter `top_k` has the value `many`; expected a whole number"),
        ("temperature hot", "parameter `temperature` has the value `hot`; expected a number"),
        (
            "temperature nan",
            "parameter `temperature` has the value `nan`; expected a finite number",
        ),
        ("use_mmap 7", "parameter `use_mmap` has the value `7`; expected `true` or `false`"),
        ("warmth 7", "parameter `warmth` has the value `7`; expected the name of a known option"),
    ] {
        let file = parse(&format!("FROM x\nPARAMETER {line}")).expect("the grammar is right");
        assert_eq!(file.to_request("m").expect_err(line).to_string(), error);
    }
}

fn quoted(text: &str) -> String {
    format!("\"\"\"{text}\"\"\"")
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_without_a_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn words_in_any_order_never_panic(
        words in proptest::collection::vec(
            prop_oneof![
                Just("FROM"), Just("system"), Just("\"\"\""), Just("\""), Just("\n"), Just("PARAMETER"),
                Just("MESSAGE"), Just("user"), Just("x"), Just("#"), Just(" "), Just("\r\n"), Just("é"),
            ],
            0..60,
        )
    ) {
        let _ = parse(&words.join(" "));
        let _ = parse(&words.concat());
    }

    #[test]
    fn what_is_written_is_read_back(
        from in "[a-z0-9:./]{1,20}",
        system in proptest::option::of("[a-zA-Z #\n'\\\\]{0,40}"),
        template in proptest::option::of("[a-z{}. \n#]{0,40}"),
        messages in proptest::collection::vec(("user|assistant|system", "[a-z][a-z #\n]{0,20}"), 0..4),
        stops in proptest::collection::vec("[<|>a-z \n]{1,8}", 0..4),
    ) {
        let mut text = format!("FROM {from}\n");
        let mut want = Modelfile { from, ..Modelfile::default() };
        for stop in stops {
            text += &format!("PARAMETER stop {}\n", quoted(&stop));
            want.parameters.push(("stop".to_owned(), stop));
        }
        if let Some(system) = system {
            text += &format!("SYSTEM {}\n", quoted(&system));
            want.system = Some(system);
        }
        if let Some(template) = template {
            text += &format!("TEMPLATE {}\n", quoted(&template));
            want.template = Some(template);
        }
        for (role, content) in messages {
            text += &format!("MESSAGE {role} {}\n", quoted(&content));
            want.messages.push((role, content));
        }
        prop_assert_eq!(parse(&text), Ok(want));
    }
}
