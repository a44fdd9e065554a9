//! Each thing that can be wrong is found, with what to do; a sound cluster has nothing to complain of.

use super::*;
use crate::doctor::observe::{Disk, Node};

fn now() -> Timestamp {
    "2026-01-10T12:00:00Z".parse().expect("a time")
}

fn ms(from_now: i64) -> i64 {
    now().as_millisecond() + from_now
}

fn sound() -> Observed {
    let node = |id: u64, role: &str| json!({"id": id, "role": role, "http": format!("h:{id}"), "applied": 10, "voter": true});
    let told = |id: u64| Node {
        http: format!("h:{id}"),
        version: Ok(json!({"version": "0.33.0", "ollamamax": OURS})),
        clock_s: Some(0.0),
    };
    Observed {
        cluster: json!({
            "leader": 1, "term": 2,
            "nodes": [node(1, "leader"), node(2, "follower"), node(3, "follower")],
            "workers": [{"id": "ab", "name": "w1", "status": "ready"}],
            "placements": [{"model": "m", "worker": "ab", "phase": "ready", "reason": null}],
        }),
        authorities: json!({"authorities": [{"fingerprint": "aa:bb:cc:dd:ee", "state": "signs", "expires_at": ms(90 * 24 * 3_600_000)}]}),
        plan: json!({"steps": [], "report": []}),
        nodes: vec![told(1), told(2), told(3)],
        disks: vec![Disk {
            what: "x",
            path: "/x".into(),
            remedy: "delete it",
            free_bytes: 50,
            total_bytes: 100,
        }],
        ..Observed::default()
    }
}

/// What is found that is not well.
fn found(change: impl FnOnce(&mut Observed)) -> Vec<Finding> {
    let mut observed = sound();
    change(&mut observed);
    let mut findings = judge(&observed, now());
    findings.retain(|finding| finding.level != Level::Well);
    findings
}

#[test]
fn a_sound_cluster_is_well_and_says_so() {
    assert_eq!(found(|_| {}), []);
    let all = judge(&sound(), now());
    assert!(all.len() >= 6 && all.iter().all(|finding| finding.level == Level::Well), "{all:?}");
}

#[test]
fn each_trouble_is_found_with_its_next_step() {
    type Change = fn(&mut Observed);
    let cases: &[(Change, Level, &str, &str, &str)] = &[
        (
            |o| o.unreachable = Some("no node answered".into()),
            Level::Problem,
            "cluster",
            "no node answered",
            "ollamamax up",
        ),
        (
            |o| o.refused = Some("forbidden".into()),
            Level::Problem,
            "cluster",
            "forbidden",
            "ollamamax login",
        ),
        (|o| o.cluster["leader"] = Value::Null, Level::Problem, "quorum", "no leader", "logs"),
        (
            |o| o.nodes[1].version = Err("refused".into()),
            Level::Problem,
            "node 2",
            "refused",
            "firewall",
        ),
        (
            |o| o.nodes[2].version = Ok(json!({"ollamamax": "9.9.9"})),
            Level::Warning,
            "node 3",
            "9.9.9",
            "one version",
        ),
        (|o| o.nodes[0].clock_s = Some(-30.0), Level::Warning, "node 1", "30 s behind", "NTP"),
        (
            |o| o.cluster["nodes"][0]["applied"] = json!(20_000),
            Level::Warning,
            "node 2",
            "19990 entries behind",
            "disk",
        ),
        (
            |o| o.cluster["workers"] = json!([]),
            Level::Problem,
            "workers",
            "none",
            "join-token create worker",
        ),
        (
            |o| o.cluster["workers"][0]["status"] = json!("down"),
            Level::Problem,
            "worker w1",
            "down",
            "workers rm w1",
        ),
        (
            |o| o.cluster["workers"][0]["status"] = json!("draining"),
            Level::Warning,
            "worker w1",
            "draining",
            "resume w1",
        ),
        (
            |o| o.cluster["workers"][0]["slow"] = json!(true),
            Level::Warning,
            "worker w1",
            "slower",
            "workers show",
        ),
        (
            |o| o.cluster["workers"][0]["health"] = json!({"xid": 79}),
            Level::Problem,
            "worker w1",
            "Xid 79",
            "reset",
        ),
        (
            |o| o.cluster["workers"][0]["health"] = json!({"memory_errors": 2}),
            Level::Problem,
            "worker w1",
            "2 uncorrected",
            "drain w1",
        ),
        (
            |o| o.plan["report"] = json!(["big:1: needs 9 GB more"]),
            Level::Warning,
            "model big:1",
            "needs 9 GB more",
            "placement explain big:1",
        ),
        (
            |o| o.cluster["placements"][0]["reason"] = json!("bad file"),
            Level::Problem,
            "model m",
            "bad file",
            "placement explain m",
        ),
        (
            |o| o.authorities["authorities"][0]["expires_at"] = json!(ms(-1)),
            Level::Problem,
            "authority aa:bb:cc:dd",
            "expired",
            "rotate-authority",
        ),
        (
            |o| o.authorities["authorities"][0]["expires_at"] = json!(ms(3_600_000)),
            Level::Warning,
            "authority aa:bb:cc:dd",
            "About an hour",
            "rotate-authority",
        ),
        (|o| o.disks[0].free_bytes = 4, Level::Warning, "disk of `/x` (x)", "4 %", "delete it"),
    ];
    for (change, level, about, what, next) in cases {
        let findings = found(*change);
        let here = findings.iter().find(|f| f.about == *about && f.what.contains(what));
        assert!(here.is_some(), "`{what}` is not among {findings:?}");
        let here = here.expect("it is there");
        assert_eq!(here.level, *level, "{here:?}");
        assert!(here.next.contains(next), "{here:?}");
    }
}

#[test]
fn a_node_that_is_down_is_one_problem_and_a_smaller_margin() {
    let findings = found(|o| {
        o.cluster["nodes"][2]["role"] = json!("unreachable");
        o.nodes[2].version = Err("refused".into());
    });
    let shown: Vec<(Level, &str)> = findings.iter().map(|f| (f.level, f.about.as_str())).collect();
    assert_eq!(shown, [(Level::Problem, "node 3"), (Level::Warning, "quorum")]);
    let lost = found(|o| {
        o.cluster["leader"] = Value::Null;
        o.cluster["nodes"][1]["role"] = json!("unreachable");
        o.cluster["nodes"][2]["role"] = json!("unreachable");
    });
    let what = &lost.iter().find(|f| f.about == "quorum").expect("found").what;
    assert_eq!(what, "lost: 1 of 3 voting nodes answer, 2 are needed");
    let alone = found(|o| {
        o.cluster["nodes"] = json!([o.cluster["nodes"][0].clone()]);
    });
    assert!(alone[0].what.contains("none may fail"), "{alone:?}");
}
