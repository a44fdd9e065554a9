//! Children that end, and how they are started again.

use super::*;
use crate::up::log;

const DEADLINE: Duration = Duration::from_secs(20);

fn shell(script: &str, directory: &std::path::Path) -> Spec {
    Spec {
        name: "child".to_owned(),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        join_token: None,
        log: directory.join("child.log"),
    }
}

async fn next(deaths: &mut mpsc::UnboundedReceiver<Death>) -> Death {
    tokio::time::timeout(DEADLINE, deaths.recv()).await.expect("in time").expect("a death")
}

#[tokio::test]
async fn a_child_that_dies_is_started_again_and_its_words_are_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sender, mut deaths) = mpsc::unbounded_channel();
    let spec = shell("echo hello; echo trouble >&2; exit 3", directory.path());
    let child = Supervised::start(spec, Restart::Always, sender).expect("started");
    for quick in 1..=3 {
        let death = next(&mut deaths).await;
        assert_eq!((death.how.as_str(), death.quick), ("exited with code 3", quick));
        assert!(death.again_in.is_some());
    }
    child.stop(DEADLINE).await;
    let tail = log::tail(&directory.path().join("child.log"), 2);
    assert!(tail.contains(&"trouble".to_owned()), "{tail:?}");
}

#[tokio::test]
async fn a_stopped_child_gets_its_grace_and_is_not_started_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sender, mut deaths) = mpsc::unbounded_channel();
    let spec = shell(
        "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done",
        directory.path(),
    );
    let log = spec.log.clone();
    let child = Supervised::start(spec, Restart::Always, sender).expect("started");
    let up = async {
        while log::tail(&log, 1) != ["up"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, up).await.expect("the child starts");
    child.stop(DEADLINE).await;
    assert_eq!(log::tail(&log, 1), ["bye"]);
    assert_eq!(deaths.recv().await, None);
}

#[tokio::test]
async fn a_child_that_will_not_stop_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sender, _deaths) = mpsc::unbounded_channel();
    let spec = shell("trap '' TERM; while :; do sleep 0.05; done", directory.path());
    let child = Supervised::start(spec, Restart::Always, sender).expect("started");
    let stopped = tokio::time::timeout(DEADLINE, child.stop(Duration::from_millis(100))).await;
    assert!(stopped.is_ok(), "SIGKILL must end it");
}

#[tokio::test]
async fn a_child_killed_by_somebody_did_not_fail() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sender, mut deaths) = mpsc::unbounded_channel();
    let spec = shell("cat; exit 0", directory.path());
    let child = Supervised::start(spec, Restart::Always, sender).expect("started");
    child.handle().kill();
    let death = next(&mut deaths).await;
    assert_eq!((death.how.as_str(), death.quick), ("was ended by signal 9", 0));
    child.stop(DEADLINE).await;
}

#[test]
fn some_deaths_are_final() {
    let ended = |raw| Ok(ExitStatus::from_raw(raw));
    let code = |code: i32| ended(code << 8);
    let quick = Duration::from_secs(1);
    for (restart, status, again) in [
        (Restart::Always, code(1), true),
        (Restart::Always, code(74), true),
        (Restart::Always, ended(9), true),
        (Restart::Always, ended(6), true),
        (Restart::Always, code(0), false),
        (Restart::Always, code(70), false),
        (Restart::Always, code(78), false),
        (Restart::Never, ended(9), false),
    ] {
        let verdict = Record::default().judge(restart, quick, &status, 0.5);
        assert_eq!(verdict.is_some(), again, "{restart:?} {status:?}");
    }
}

#[test]
fn waits_grow_with_deaths_and_a_good_life_forgives_them() {
    let mut record = Record::default();
    let crash = || Ok(ExitStatus::from_raw(6));
    let quick = Duration::from_secs(1);
    let mut wait = |lived| record.judge(Restart::Always, lived, &crash(), 1.0).expect("again");
    let waits: Vec<u128> = (0..8).map(|_| wait(quick).as_millis()).collect();
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 15000]);
    assert_eq!(wait(Duration::from_secs(60)).as_millis(), 200);
    assert_eq!(record.quick, 0);
}
