//! The command line without a server: help, usage, exit codes, and what is said when nobody answers.

use crate::binary;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs the binary with no configuration of the user's and a server that is not there.
fn run(args: &[&str], stdin: &str) -> Output {
    let home = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(binary())
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // A path in the address keeps the client from looking at the ports beside it.
        .env("OLLAMA_HOST", "http://127.0.0.1:1/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut input = child.stdin.take().expect("piped");
    // A command that does not read its stdin may be gone already.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    child.wait_with_output().expect("it ends")
}

fn code(args: &[&str]) -> Option<i32> {
    run(args, "").status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let output = run(&["--help"], "");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for word in [
        "up",
        "control-plane",
        "worker",
        "cluster",
        "workers",
        "join-token",
        "deploy",
        "placement",
        "rebalance",
        "migrate",
        "run",
        "create",
        "list",
        "ps",
        "show",
        "rm",
        "cp",
        "pull",
        "stop",
        "push",
        "serve",
        "top",
        "doctor",
        "config",
        "completions",
        "man",
        "version",
        "OLLAMA_HOST",
        "Exit codes: 0 done",
    ] {
        assert!(text.contains(word), "`{word}` is missing in\n{text}");
    }
    for command in ["up", "control-plane", "worker", "cluster", "run", "create", "show", "pull"] {
        assert_eq!(code(&[command, "--help"]), Some(0), "{command}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["run"],
        &["rm"],
        &["show", "m", "--license", "--system"],
        &["cluster", "remove", "x"],
        &["list", "--host", "ftp://x"],
        &["control-plane", "--data-dir", "/nowhere", "--bootstrap", "--join-token-file", "x"],
        &["worker", "--data-dir", "/nowhere", "--control-plane"],
        &["up", "--nodes", "0", "--data-dir", "/tmp/ollamamax-never-made/x/../y"],
        &["run", "m", "--format", "{"],
        &["run", "m", "--think=much"],
        &["run", "m", "--keepalive", "soon"],
        &["list", "-o", "xml"],
        &["list", "-o", "name", "--json"],
    ] {
        let output = run(args, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?} talked on stdout");
        assert!(!output.stderr.is_empty(), "{args:?} said nothing");
    }
}

#[test]
fn slips_are_answered_with_what_was_meant() {
    for (args, said) in [
        (&["lst"][..], "'list'"),
        (&["list", "--jsn"], "'--json'"),
        (&["signin"], "ollamamax login"),
        (&["signout"], "ollamamax logout"),
        (&["launch", "claude", "--now"], "OPENAI_BASE_URL=http://127.0.0.1:1/nowhere/v1"),
        (&["config", "show", "wroker"], "expected one of client, up"),
        (&["serve", "--host", "gpu.example.com"], "needs a number"),
    ] {
        let output = run(args, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn shells_and_man_know_every_command() {
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef ollamamax"), ("fish", "complete -c ollamamax")]
    {
        let output = run(&["completions", shell], "");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(sign), "{shell}: {text}");
        assert!(
            text.contains("join-token") && text.contains("--keepalive") || shell == "fish",
            "{shell}"
        );
    }
    let pages = tempfile::tempdir().expect("a directory");
    let directory = pages.path().to_str().expect("utf-8");
    assert_eq!(code(&["man", directory]), Some(0));
    for page in ["ollamamax.1", "ollamamax-run.1", "ollamamax-cluster-status.1"] {
        let text = std::fs::read_to_string(pages.path().join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}: {text}");
    }
    assert!(String::from_utf8_lossy(&run(&["man"], "").stdout).contains(".TH ollamamax 1"));
}

#[test]
fn the_configuration_file_is_read_checked_and_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("c.toml");
    let path = file.to_str().expect("utf-8");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("[client]\nhost = \"127.0.0.1:2\"\n\n[worker]\nthreads = 3\n");
    let output = run(&["config", "check", path], "");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("is fine: 2 settings"), "{said}");
    let output = run(&["--config", path, "config", "show", "worker", "-o", "jsonl"], "");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("\"key\":\"threads\",\"value\":\"3\""), "{shown}");
    assert!(shown.contains("c.toml:5"), "{shown}");
    // OLLAMA_HOST, which these tests set, wins over the file; `config show` says so.
    let output = run(&["--config", path, "config", "show", "client"], "");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("variable OLLAMA_HOST"), "{shown}");

    write("[client]\n\n[worker]\nthread = 3\n");
    for args in [&["config", "check", path][..], &["--config", path, "list"]] {
        let output = run(args, "");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(
            said.contains("line 4: unknown key `thread` in `[worker]`; did you mean `threads`?"),
            "{said}"
        );
    }
    assert_eq!(code(&["--config", "/nowhere.toml", "list"]), Some(2));
    // What a daemon must be told may be in the file, and a flag wins over it.
    let data = directory.path().join("data").display().to_string();
    write(&format!(
        "[control-plane]\ndata-dir = \"{data}\"\nlisten = \"127.0.0.1:0\"\nraft-listen = \"0.0.0.0:0\"\n"
    ));
    let output = run(&["--config", path, "control-plane"], "");
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    assert!(stderr(&output).contains("raft_advertise"), "{}", stderr(&output));
    let output = run(&["--config", path, "control-plane", "--raft-listen", "127.0.0.1:0"], "");
    assert!(stderr(&output).contains("--bootstrap"), "{}", stderr(&output));
}

#[test]
fn nobody_there_exits_with_3_and_says_where_it_looked() {
    for args in [
        &["list"][..],
        &["ps"],
        &["show", "m"],
        &["run", "m", "hello"],
        &["stop", "m"],
        &["rm", "m"],
        &["cp", "a", "b"],
        &["pull", "m"],
        &["cluster", "status", "--json"],
        &["cluster", "remove", "1"],
    ] {
        let output = run(args, "");
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", stderr(&output));
        let said = stderr(&output);
        assert!(
            said.starts_with("Error: no node answered at http://127.0.0.1:1/nowhere"),
            "{said}"
        );
    }
}

#[test]
fn the_version_needs_no_server() {
    let output = run(&["--version"], "");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("ollamamax version is "), "{text}");
}

#[test]
fn a_modelfile_is_checked_before_anybody_is_asked() {
    for (text, said) in [
        ("", "no FROM line"),
        ("FROM x\nFORM y\n", "line 2: unknown instruction `FORM`"),
        ("FROM x\nPARAMETER top_k many\n", "expected a whole number"),
    ] {
        let output = run(&["create", "m", "-f", "-"], text);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{text:?}: {}", stderr(&output));
    }
    let output = run(&["create", "m", "-f", "-"], "FROM ./not-there.gguf\n");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("not-there.gguf"), "{}", stderr(&output));
    // A good one comes as far as the server.
    assert_eq!(run(&["create", "m", "-f", "-"], "FROM x\n").status.code(), Some(3));
}

#[test]
fn daemons_say_plainly_why_they_do_not_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data").display().to_string();
    let free = ["--listen", "127.0.0.1:0", "--raft-listen", "127.0.0.1:0", "--data-dir", &data];
    let nothing = run(&[&["control-plane"], &free[..]].concat(), "");
    assert_eq!(nothing.status.code(), Some(78), "{}", stderr(&nothing));
    assert!(stderr(&nothing).contains("--bootstrap"), "{}", stderr(&nothing));
    let start = ["control-plane", "--bootstrap", "--data-dir", &data];
    let outside = ["--listen", "0.0.0.0:0", "--advertise-http", "x:1"];
    let tls = ["--tls-cert", "not-there.pem", "--tls-key", "not-there.key"];
    let origin = ["--allowed-origin", "chat.example.com"];
    for (flags, names) in
        [(&outside[..], "--insecure-http"), (&tls, "not-there.pem"), (&origin, "allowed_origin")]
    {
        let refused = run(&[&start[..], flags].concat(), "");
        assert_eq!(refused.status.code(), Some(78), "{}", stderr(&refused));
        assert_eq!(stderr(&refused).lines().count(), 1, "{}", stderr(&refused));
        assert!(stderr(&refused).contains(names), "{}", stderr(&refused));
        assert!(!directory.path().join("data").exists(), "nothing is made");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let args = ["control-plane", "--bootstrap", "--data-dir", &data, "--listen", &address];
    let in_use = run(&[&args[..], &["--raft-listen", "127.0.0.1:0"]].concat(), "");
    assert_eq!(in_use.status.code(), Some(1), "{}", stderr(&in_use));
    assert!(stderr(&in_use).contains("in use"), "{}", stderr(&in_use));
    let in_use = run(&["worker", "--data-dir", &data, "--listen", &address], "");
    assert_eq!(in_use.status.code(), Some(1), "{}", stderr(&in_use));
    assert!(stderr(&in_use).contains(&address), "{}", stderr(&in_use));
    let unknown = run(&["worker", "--data-dir", &data, "--listen", "127.0.0.1:0"], "");
    assert_eq!(unknown.status.code(), Some(78), "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("join-token create"), "{}", stderr(&unknown));
    let everywhere = ["control-plane", "--bootstrap", "--anonymous", "user", "--data-dir", &data];
    let more = ["--listen", "0.0.0.0:0", "--advertise-http", "h:1", "--insecure-http"];
    let open = run(&[&everywhere[..], &more[..]].concat(), "");
    assert_eq!(open.status.code(), Some(78), "{}", stderr(&open));
    assert!(stderr(&open).contains("anonymous"), "{}", stderr(&open));
}
