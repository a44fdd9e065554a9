//! The tutorial, done as it is written: the marked blocks of `docs/tutorial.md` in order, and what each command prints.
//!
//! A block says which part it belongs to, at which machine, and whether it runs on (`runs`) or is looked at until it is so
//! (`waits`). The three machines are three directories and three loopback addresses, which stand in for those of the text.

use crate::binary;
use ollamamax_tests::{Process, ports, wait_until};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const TEXT: &str = include_str!("../../docs/tutorial.md");
const PATIENCE: Duration = Duration::from_secs(240);
/// What is copied to the other machines.
const COPIED: &str = "scp ca.pem gw.pem gw.key node.token worker.token ";

/// What commands print, by how they begin; of every other one, success alone counts.
const PRINTED: &[(&str, &str)] = &[
    ("ollamamax run", "."),
    ("curl", "\"content\":\""),
    ("ollamamax cluster status", "3 nodes up, leader"),
    ("ollamamax list", "smollm2:135m"),
    ("ollamamax ps", "smollm2:135m"),
    ("ollamamax login", "user:admin"),
    ("ollamamax deploy", "smollm2:135m serves"),
];
/// What a process that runs on says when the next step may be taken, by how its command begins.
const STARTED: &[(&str, &str)] = &[
    ("ollamamax up", "ready: 3 nodes, 1 worker"),
    ("ollamamax control-plane", "user `admin` has an API key"),
    ("ollamamax cluster join", "node started"),
    ("ollamamax worker", "registered"),
];

fn looked_up(table: &[(&'static str, &'static str)], command: &str) -> Option<&'static str> {
    table.iter().find(|(begins, _)| command.starts_with(begins)).map(|(_, says)| *says)
}

/// A marked block.
struct Block {
    marks: Vec<&'static str>,
    commands: Vec<&'static str>,
}

impl Block {
    fn has(&self, mark: &str) -> bool {
        self.marks.contains(&mark)
    }
}

/// The blocks of a part, in order.
fn blocks(part: &str) -> Vec<Block> {
    let fenced = TEXT.split("```").skip(1).step_by(2);
    let marked = fenced.filter_map(|block| block.strip_prefix("sh ")?.split_once('\n'));
    let blocks = marked.map(|(marks, commands)| Block {
        marks: marks.split_whitespace().collect(),
        commands: commands.lines().collect(),
    });
    blocks.filter(|block| block.marks.first() == Some(&part)).collect()
}

/// A `/24` of loopback that no other test that runs now has: the addresses of `10.0.0.` in the text.
pub fn network(test: u32) -> String {
    let own = std::process::id() * 4 + test;
    format!("127.{}.{}.", 1 + own / 250 % 250, 1 + own % 250)
}

/// A directory for each machine, and what stands in for the addresses of the text.
pub struct Walk {
    directory: tempfile::TempDir,
    stands_for: (String, String),
    said: Vec<String>,
}

impl Walk {
    pub fn new(address: &str, stand_in: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for machine in ["1", "2", "3"] {
            std::fs::create_dir(directory.path().join(machine)).expect("made");
        }
        let stands_for = (address.to_owned(), stand_in.to_owned());
        Self { directory, stands_for, said: Vec::new() }
    }

    pub fn machine(&self, machine: &str) -> PathBuf {
        self.directory.path().join(machine)
    }

    /// The environment of a terminal: the binary is on the path, and nothing of the user's is read or changed.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = binary().parent().expect("a directory").to_owned();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
        let below = |name: &str| self.directory.path().join(name).into_os_string();
        let mut env = vec![("PATH".into(), path.expect("a path"))];
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"] {
            env.push((name.into(), below(name)));
        }
        env.push(("OLLAMAMAX_CONFIG".into(), below("ollamamax.toml")));
        env
    }

    fn command(&self, text: &str) -> String {
        text.replace(&self.stands_for.0, &self.stands_for.1)
    }

    /// One command in a terminal where `before` was said; everything that it printed, or what went wrong.
    pub fn run(&self, machine: &str, before: &[String], command: &str) -> Result<String, String> {
        let lines = [before, &[self.command(command)]].concat().join("\n");
        let output = Command::new("sh")
            .args(["-euc", &lines])
            .current_dir(self.machine(machine))
            .envs(self.env())
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        let said = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        let said = said.concat();
        eprintln!("machine {machine}$ {command}\n{said}");
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Starts a command that runs on, and waits until it says that it has started.
    async fn start(&self, machine: &str, command: &str) -> Process {
        let says = looked_up(STARTED, command).expect("what runs on says when it has started");
        let at = self.machine(machine);
        let line = format!("cd '{}' && exec {}", at.display(), self.command(command));
        let words: Vec<&str> = command.split_whitespace().take(2).collect();
        let log = at.join(format!("{}.log", words.concat()));
        let args = vec!["-euc".into(), line.into()];
        let started = Process::start(command, Path::new("sh"), args, self.env(), &log);
        let mut process = started.expect("started");
        wait_until(PATIENCE, says, async || {
            process.check().map_err(|error| error.to_string())?;
            let log = std::fs::read_to_string(process.log_path()).unwrap_or_default();
            log.contains(says).then_some(()).ok_or_else(|| process.tail())
        })
        .await
        .expect("it starts");
        process
    }

    /// Takes a step, at most until it prints what it should.
    async fn step(&mut self, block: &Block, before: &mut Vec<String>) -> Vec<Process> {
        let mut running = Vec::new();
        let machine = block.marks.get(1).filter(|mark| mark.len() == 1).copied().unwrap_or("1");
        for &command in &block.commands {
            if block.has("runs") {
                running.push(self.start(machine, command).await);
                continue;
            }
            if command.starts_with("export ") {
                before.push(self.command(command));
                continue;
            }
            let says = looked_up(PRINTED, command).unwrap_or_default();
            // A busy machine may take longer to be as the text has it than somebody to read on.
            let whole: &[&str] = match block.has("waits") {
                true => &["machine-1 ", "machine-2 ", "machine-3 ", "3 of 3"],
                false => &[],
            };
            let patient = block.has("waits") || block.has("without-1");
            let patience = if patient { PATIENCE } else { Duration::ZERO };
            let said = wait_until(patience, command, async || {
                let said = self.run(machine, before, command)?;
                let all = whole.iter().chain([&says]).all(|part| said.contains(part));
                if all { Ok(said) } else { Err(format!("`{says}` is not in\n{said}")) }
            });
            let said = said.await.expect("the command does what the text says");
            self.said.push(said);
        }
        running
    }
}

/// Makes what clients see, as the first step of the second part does.
pub fn make_certificate(walk: &Walk) {
    let parts = blocks("three-machines");
    for command in &parts.first().expect("a first step").commands {
        walk.run("1", &[], command).expect("openssl 3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_comes_as_the_tutorial_says() {
    let port = ports::run_of(3).expect("three ports");
    let mut walk = Walk::new("127.0.0.1:11434", &format!("127.0.0.1:{port}"));
    // Where `up` listens, where commands go, and where things are kept; all else is as it comes.
    let data = walk.machine("1").join("data");
    let file = format!(
        "[client]\nhost = \"127.0.0.1:{port}\"\n[up]\nlisten = \"127.0.0.1:{port}\"\ndata-dir = \"{}\"\n",
        data.display()
    );
    std::fs::write(walk.directory.path().join("ollamamax.toml"), file).expect("written");
    let (mut running, mut before) = (Vec::new(), Vec::new());
    let steps = blocks("five-minutes");
    assert_eq!(steps.len(), 4, "the steps of the text");
    for block in &steps {
        running.extend(walk.step(block, &mut before).await);
    }
    assert_eq!(walk.said.len(), 5, "{:?}", walk.said);
    let code = running[0].stop(PATIENCE).await.expect("it stops");
    assert_eq!(code, Some(0), "{}", running[0].tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_become_a_cluster_as_the_tutorial_says() {
    let mut walk = Walk::new("10.0.0.", &network(0));
    std::fs::write(walk.directory.path().join("ollamamax.toml"), "").expect("written");
    let (mut running, mut before) = (Vec::new(), Vec::new());
    let copied = TEXT.lines().filter(|line| line.starts_with(COPIED));
    assert_eq!(copied.count(), 2, "the files that the test copies are those of the text");
    for block in &blocks("three-machines") {
        if block.has("2") && !walk.machine("2").join("ca.pem").exists() {
            for file in COPIED.split_whitespace().skip(1) {
                for other in ["2", "3"] {
                    let to = walk.machine(other).join(file);
                    std::fs::copy(walk.machine("1").join(file), to).expect("copied");
                }
            }
        }
        if block.has("without-1") {
            // Its node is the first that was started, its worker the first of the workers.
            for nth in [0, 3] {
                let process: &mut Process = &mut running[nth];
                assert!(process.name.contains("10.0.0.1:"), "{}", process.name);
                process.kill9();
            }
        }
        running.extend(walk.step(block, &mut before).await);
    }
    assert_eq!(running.len(), 6);
    assert!(walk.said.len() >= 10, "{:?}", walk.said);
}
