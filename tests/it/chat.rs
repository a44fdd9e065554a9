//! `run` as people use it: on a terminal, with a real model.

use crate::binary;
use crate::embed::tiny_encoder;
use crate::terminal::Terminal;
use ollamamax_tests::{Api, Cluster, ClusterOptions, Member, model, wait_until};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MODEL: &str = "smollm2:135m";
/// High enough that nothing scrolls away.
const TALL: (u16, u16) = (400, 80);

async fn cluster() -> Cluster {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(1, 1)).await.expect("a cluster");
    cluster.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
    cluster
}

fn talk(cluster: &Cluster, home: &Path, more: &[(&str, &str)]) -> Terminal {
    let url = cluster.url(0);
    let env = [&[("OLLAMA_HOST", url.as_str())], more].concat();
    Terminal::start(&["run", MODEL], TALL, home, &env)
}

/// The screen, once it shows a prompt at its end and `count` times `text`.
async fn prompt_after(terminal: &Terminal, text: &str, count: usize) -> String {
    let back = |screen: &str| {
        let last = screen.trim_end().lines().last().unwrap_or_default();
        screen.matches(text).count() >= count && last.starts_with(">>> Send a message")
    };
    terminal.wait(&format!("{count} times {text}, and a prompt"), back).await
}

async fn streams(api: &Api) -> u64 {
    let answer = api.request(reqwest::Method::GET, "/metrics").send().await.expect("an answer");
    let text = answer.text().await.expect("metrics");
    let lines = text.lines().filter(|line| line.starts_with("ollamamax_generations_in_flight"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_held_stopped_saved_and_taken_up_again() {
    let cluster = cluster().await;
    let home = tempfile::tempdir().expect("a directory");
    let mut terminal = talk(&cluster, home.path(), &[]);
    prompt_after(&terminal, "", 0).await;

    // Ctrl-C stops the answer, at the server, too; the talk goes on with what was heard.
    for line in ["/set parameter temperature 0", "/set verbose"] {
        terminal.line(line);
    }
    terminal.shows("Set 'verbose' mode.").await;
    let api = cluster.api(0).clone();
    let running = async |wanted: u64| {
        let look = async || match streams(&api).await {
            count if count == wanted => Ok(()),
            count => Err(format!("{count} run")),
        };
        wait_until(Duration::from_secs(60), "so many streams", look).await.expect("so many");
    };
    terminal.line("Tell me a story.");
    running(1).await;
    let begun = terminal.text().len();
    terminal.wait("some of the answer", |screen| screen.len() > begun + 20).await;
    terminal.keys("\x03");
    let screen = prompt_after(&terminal, "Tell me a story.", 1).await;
    assert!(!screen.contains("eval rate:"), "it was over before it was stopped: {screen}");
    running(0).await;
    terminal.keys("\x03");
    terminal.shows("Use Ctrl + d or /bye to exit.").await;
    terminal.line("/clear");
    terminal.shows("Cleared session context").await;

    for (line, said) in [
        ("/set parameter num_predict 8", "Set parameter 'num_predict' to '8'"),
        ("/set system \"\"\"Be kind.", "..."),
        ("Be brief.\"\"\"", "Set system message."),
        ("/nonsense", "Unknown command '/nonsense'. Type /? for help"),
        ("/?", "Use \"\"\" to begin a multi-line message."),
        ("/? shortcuts", "Ctrl + g"),
        ("/show info", "context length"),
        ("/show system", "Be kind.\nBe brief."),
    ] {
        terminal.line(line);
        terminal.shows(said).await;
    }
    prompt_after(&terminal, "", 0).await;
    terminal.line("Name a colour.");
    prompt_after(&terminal, "\neval rate:", 1).await;
    terminal.line("\"\"\"Name");
    terminal.shows("... Press Enter to send").await;
    terminal.line("another.\"\"\"");
    prompt_after(&terminal, "\neval rate:", 2).await;
    // What is pasted in one piece is one message.
    terminal.keys("\x1b[200~Name a\nthird.\x1b[201~\r");
    let screen = prompt_after(&terminal, "\neval rate:", 3).await;
    assert!(screen.contains("eval count:           8 token(s)"), "{screen}");
    terminal.line("/show parameters");
    terminal.shows("User defined parameters:").await;

    terminal.line("/save mine");
    terminal.shows("Created new model 'mine'").await;
    let saved = cluster.api(0).post("/api/show", &json!({"model": "mine"})).await.expect("shown");
    assert_eq!(saved["system"], "Be kind.\nBe brief.");
    let roles = |saved: &Value| -> Vec<String> {
        let messages = saved["messages"].as_array().expect("messages").iter();
        messages.map(|message| message["role"].as_str().expect("a role").to_owned()).collect()
    };
    assert_eq!(roles(&saved), ["user", "assistant", "user", "assistant", "user", "assistant"]);
    assert_eq!(saved["messages"][2]["content"], "Name\nanother.");
    assert_eq!(saved["messages"][4]["content"], "Name a\nthird.");
    assert!(saved["parameters"].as_str().expect("text").contains("temperature"), "{saved}");
    terminal.line("/list mi");
    terminal.shows("mine:latest").await;
    terminal.line("/load mine");
    terminal
        .wait("the messages of the model", |screen| {
            screen
                .rsplit("Loading model 'mine'")
                .next()
                .is_some_and(|rest| rest.contains(">>> Name a colour."))
        })
        .await;
    // In a window that has become narrow, words are still whole.
    terminal.line("/load smollm2:135m");
    terminal.shows("Loading model 'smollm2:135m'").await;
    terminal.line("/set parameter num_predict 30");
    terminal.shows("'num_predict' to '30'").await;
    terminal.resize(TALL.0, 40);
    terminal.line("Tell me a story.");
    let screen = prompt_after(&terminal, "Tell me a story.", 2).await;
    terminal.line("/save wide");
    terminal.shows("Created new model 'wide'").await;
    let saved = cluster.api(0).post("/api/show", &json!({"model": "wide"})).await.expect("shown");
    let said = saved["messages"].as_array().expect("messages").last().expect("a message").clone();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = words(said["content"].as_str().expect("a text"));
    assert!(said.len() > 30 && words(&screen).contains(&said), "{said}\n{screen}");
    terminal.line("/load nobody");
    terminal.shows("Couldn't find model 'nobody'").await;
    terminal.keys("\x04");
    assert_eq!(terminal.end().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_talk_goes_on_when_its_node_is_killed_in_the_middle_of_an_answer() {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let mut cluster = Cluster::start(options.size(3, 1)).await.expect("a cluster");
    cluster.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
    let message = json!([{"role": "user", "content": "Tell me a story."}]);
    let ask = json!({"model": MODEL, "messages": message, "stream": false,
                     "options": {"temperature": 0.8, "seed": 3, "num_predict": 600}});
    let whole = cluster.api(0).post("/api/chat", &ask).await.expect("an answer");
    let whole = whole["message"]["content"].as_str().expect("a text").to_owned();

    let home = tempfile::tempdir().expect("a directory");
    let mut terminal = talk(&cluster, home.path(), &[]);
    prompt_after(&terminal, "", 0).await;
    for line in ["temperature 0.8", "seed 3", "num_predict 600"] {
        terminal.line(&format!("/set parameter {line}"));
    }
    terminal.shows("Set parameter 'num_predict' to '600'").await;
    terminal.line("Tell me a story.");
    // Streams are kept from their first second on.
    let beginning: String = whole.chars().take(20).collect();
    terminal.shows(&beginning).await;
    let begun = Instant::now();
    terminal
        .wait("nearly two seconds of it", |_| begun.elapsed() > Duration::from_millis(1_800))
        .await;
    cluster.kill9(Member::Node(0));
    let screen = prompt_after(&terminal, "Tell me a story.", 1).await;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&screen).contains(&words(&whole)), "{screen}\nis not\n{whole}");
    // And so does the next question.
    terminal.line("/set parameter num_predict 4");
    terminal.line("/set verbose");
    terminal.line("Another one.");
    prompt_after(&terminal, "\neval rate:", 1).await;
    terminal.line("/bye");
    assert_eq!(terminal.end().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_typed_is_there_the_next_time_unless_nobody_wants_it() {
    let cluster = cluster().await;
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".config/ollamamax/history");
    let mut first = talk(&cluster, home.path(), &[]);
    prompt_after(&first, "", 0).await;
    first.line("/set quiet");
    first.shows("Set 'quiet' mode.").await;
    first.line("/bye");
    assert_eq!(first.end().await, 0);
    let kept = std::fs::read_to_string(&file).expect("a history");
    assert!(kept.contains("/set quiet\n/bye\n"), "{kept}");
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else reads what one asked");

    let editor = home.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nprintf ', edited' >> \"$1\"\n").expect("written");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("allowed");
    let editor = ("OLLAMA_EDITOR", editor.to_str().expect("utf-8"));
    let mut second = talk(&cluster, home.path(), &[("OLLAMA_NOHISTORY", "1"), editor]);
    prompt_after(&second, "", 0).await;
    second.line("/set think");
    second.shows("Set 'think' mode.").await;
    second.line("/set history");
    prompt_after(&second, "/set history", 1).await;
    // Ctrl-G: what the editor leaves is on the line, and may still be changed.
    second.keys("a question");
    second.shows("a question").await;
    second.keys("\x07");
    second.shows("a question, edited").await;
    second.keys("\x15/bye\r");
    assert_eq!(second.end().await, 0);
    let kept = std::fs::read_to_string(&file).expect("a history");
    assert!(!kept.contains("/set think"), "{kept}");

    let mut third = talk(&cluster, home.path(), &[]);
    prompt_after(&third, "", 0).await;
    third.keys("\x1b[A\x1b[A");
    third.shows(">>> /set quiet").await;
    third.keys("\x03");
    prompt_after(&third, "Use Ctrl + d or /bye to exit.", 1).await;
    third.keys("\x04");
    assert_eq!(third.end().await, 0);

    // A terminal that edits lines itself is left to do so.
    let mut plain = talk(&cluster, home.path(), &[("TERM", "dumb")]);
    plain.shows(">>> ").await;
    plain.line("/set quiet");
    plain.shows(">>> /set quiet\nSet 'quiet' mode.").await;
    plain.line("/bye");
    assert_eq!(plain.end().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_is_wrapped_on_a_terminal_and_as_it_is_in_a_pipe() {
    let cluster = cluster().await;
    let home = tempfile::tempdir().expect("a directory");
    let url = cluster.url(0);
    let made = json!({"model": "calm", "from": MODEL, "stream": false,
                      "parameters": {"temperature": 0, "num_predict": 40}});
    cluster.api(0).post("/api/create", &made).await.expect("created");
    let question = "Why is the sky blue?";
    let piped = |args: &[&str], stdin: &str| {
        let input = home.path().join("input");
        std::fs::write(&input, stdin).expect("written");
        let output = Command::new(binary())
            .args(args)
            .env("OLLAMA_HOST", &url)
            .env("HOME", home.path())
            .stdin(std::fs::File::open(&input).expect("there"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (plain, said) = piped(&["run", "calm", question], "");
    assert!(
        plain.ends_with('\n') && !plain.contains('\x1b') && said.is_empty(),
        "{plain:?}{said:?}"
    );
    let words: Vec<&str> = plain.split_whitespace().collect();
    assert!(words.len() > 15, "{plain}");
    // Stdin comes before the prompt.
    assert_eq!(piped(&["run", "calm", "sky blue?"], "Why is the").0, plain);

    let env = [("OLLAMA_HOST", url.as_str())];
    let terminal = Terminal::start(&["run", "calm", question], (100, 30), home.path(), &env);
    let whole = |screen: &str| screen.split_whitespace().eq(words.iter().copied());
    let shown = terminal.wait(&format!("all of {plain}"), whole).await;
    assert!(shown.lines().filter(|line| !line.is_empty()).count() >= 4, "{shown}");
    assert_eq!(terminal.end().await, 0);

    // Markdown is styled where there are colours, and its marks stay.
    let said = json!([{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "It is **so**."}]);
    let made = json!({"model": "marked", "from": MODEL, "stream": false, "messages": said});
    cluster.api(0).post("/api/create", &made).await.expect("created");
    for (variable, bold) in [("ANYTHING", true), ("NO_COLOR", false)] {
        let env = [("OLLAMA_HOST", url.as_str()), (variable, "1")];
        let mut terminal = Terminal::start(&["run", "marked"], TALL, home.path(), &env);
        terminal.shows(">>> Well?\nIt is **so**.").await;
        assert_eq!(terminal.is_bold("so**"), Some(bold), "{variable}");
        assert_eq!(terminal.is_bold("It is"), Some(false));
        terminal
            .wait("a prompt", |screen| {
                screen.trim_end().lines().last().is_some_and(|line| line.starts_with(">>>"))
            })
            .await;
        terminal.line("/bye");
        assert_eq!(terminal.end().await, 0);
    }

    let encoder = tiny_encoder(&cluster, "bert");
    cluster.serve_file("encoder:tiny", &encoder).await.expect("the encoder is served");
    let (vector, _) = piped(&["run", "encoder:tiny", "--dimensions", "8", "the cat"], "");
    let vector: Vec<f64> = serde_json::from_str(&vector).expect("a JSON array");
    assert_eq!(vector.len(), 8);
}
