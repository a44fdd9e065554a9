//! What operators say: deployments, labels, draining, moves; and what they are told.

use super::rings::{settle, with_heads};
use crate::access::Hidden;
use crate::adopted::{AdoptedServer, ServerKind};
use crate::command::Command;
use crate::deployment::{Deployment, Strategy};
use crate::plan::{Observed, PlanLimits};
use crate::record::Demand;
use crate::rejection::Rejection;
use crate::testing::{World, demand, name, register};
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{Millis, WorkerId, limits};
use std::collections::BTreeMap;

#[test]
fn labels_choose_the_workers_and_one_that_nobody_has_is_named() {
    let mut world = World::with(&[900, 900, 900], &[400]);
    world.demand("m0", 1);
    let label = |id, value: &str| Command::LabelWorker {
        id: WorkerId(id),
        labels: BTreeMap::from([("zone".to_owned(), Some(value.to_owned()))]),
    };
    world.ok(label(2, "a"));
    world.ok(label(3, "a"));
    let in_zone = |zone: &'static str| {
        move |deployment: &mut Deployment| {
            deployment.strategy = Strategy::Pipeline;
            deployment.labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        }
    };
    world.deploy("m0", in_zone("a"));
    settle(&mut world);
    assert_eq!(world.map(), ["m0@2 ready", "m0@3 ready"]);
    world.deploy("m0", in_zone("b"));
    assert_eq!(
        settle(&mut world),
        ["m0:latest: 1 more wanted, no worker has the label `zone=b`; workers have `a`"]
    );
    assert_eq!(world.map().len(), 2, "what runs goes on until something better does");
    world.deploy("m0", |deployment| {
        in_zone("a")(deployment);
        deployment.strategy = Strategy::Data;
        deployment.labels.insert("rack".to_owned(), "1".to_owned());
    });
    world.ok(Command::LabelWorker {
        id: WorkerId(1),
        labels: BTreeMap::from([("rack".to_owned(), Some("1".to_owned()))]),
    });
    assert_eq!(
        settle(&mut world),
        ["m0:latest: 1 more wanted, no worker has the label `rack=1,zone=a`; workers have \
          `rack=1`, `zone=a`"]
    );
    assert!(matches!(world.err(label(1, "two words")), Rejection::Invalid { .. }));
}

#[test]
fn an_operators_drain_outlives_heartbeats_and_registrations() {
    let mut world = World::with(&[900], &[100]);
    world.ok(Command::DrainWorker { id: WorkerId(1), reason: "new fans".into() });
    let draining = |world: &World| {
        let worker = world.worker(1);
        (worker.status == WorkerStatus::Draining).then(|| worker.reason.clone())
    };
    assert_eq!(draining(&world).as_deref(), Some("new fans"));
    world.status(1, WorkerStatus::Ready);
    assert_eq!(draining(&world).as_deref(), Some("new fans"), "a heartbeat");
    world.ok(register(1, 1, 900));
    world.ok(register(1, 2, 900));
    assert_eq!(draining(&world).as_deref(), Some("new fans"), "another life");
    world.status(1, WorkerStatus::Down);
    world.status(1, WorkerStatus::Ready);
    assert_eq!(draining(&world).as_deref(), Some("new fans"), "back from the dead");
    world.ok(Command::ResumeWorker { id: WorkerId(1) });
    assert_eq!(world.worker(1).status, WorkerStatus::Ready);
    assert!(world.ok(Command::ResumeWorker { id: WorkerId(1) }).is_empty());
    world.status(1, WorkerStatus::Draining);
    world.ok(Command::ResumeWorker { id: WorkerId(1) });
    assert_eq!(world.worker(1).status, WorkerStatus::Draining, "it is shutting down by itself");
}

#[test]
fn a_model_moves_when_it_serves_where_it_shall_go() {
    let mut world = World::with(&[900, 900, 900], &[100]);
    world.demand("m0", 1);
    settle(&mut world);
    let migrate = |from, to| Command::MigrateModel {
        name: name("m0"),
        from: WorkerId(from),
        to: WorkerId(to),
    };
    assert!(matches!(world.err(migrate(2, 3)), Rejection::Invalid { .. }));
    world.ok(migrate(1, 3));
    world.plan();
    assert_eq!(world.map(), ["m0@1 ready", "m0@3 pending"]);
    settle(&mut world);
    assert_eq!(world.map(), ["m0@3 ready"]);
    assert!(world.state.migrations.is_empty());
    world.put("big", 700);
    world.demand("big", 3);
    settle(&mut world);
    world.ok(Command::ReleaseModel { name: name("big") });
}

#[test]
fn a_model_does_not_leave_when_there_is_no_room_where_it_shall_go() {
    let mut world = World::with(&[900, 250], &[100, 100]);
    world.demand("m0", 1);
    settle(&mut world);
    world.demand("m1", 1);
    settle(&mut world);
    assert_eq!(world.map(), ["m0@1 ready", "m1@2 ready"]);
    world.ok(Command::MigrateModel { name: name("m0"), from: WorkerId(1), to: WorkerId(2) });
    settle(&mut world);
    assert_eq!(world.map(), ["m0@1 ready", "m1@2 ready"]);
    world.status(2, WorkerStatus::Down);
    assert!(world.state.migrations.is_empty(), "it has nowhere to go");
}

#[test]
fn a_deployment_comes_with_its_demand_or_not_at_all() {
    let mut world = World::with(&[900], &[100]);
    let deploy = |change: &dyn Fn(&mut Deployment), wish: Demand| {
        let mut deployment = Deployment::of(name("m0"));
        change(&mut deployment);
        Command::Deploy { deployment: Box::new(deployment), demand: wish }
    };
    for (field, change) in [
        ("replicas", &(|d: &mut Deployment| d.replicas_min = 2) as &dyn Fn(&mut Deployment)),
        ("shards", &|d| (d.strategy, d.shards) = (Strategy::Layer, 2)),
        ("stages", &|d| (d.strategy, d.stages) = (Strategy::Data, 2)),
        ("stages", &|d| (d.strategy, d.stages) = (Strategy::Pipeline, 1)),
        ("stages", &|d| d.stages = 2),
        ("labels", &|d| d.labels = BTreeMap::from([("a b".to_owned(), "c".to_owned())])),
    ] {
        match world.err(deploy(change, demand("m0", 1))) {
            Rejection::Invalid { field: got, .. } => assert_eq!(got, field),
            other => assert_eq!(other.to_string(), field),
        }
    }
    world.err(deploy(&|_| (), demand("m0", 0)));
    assert!(world.state.deployments.is_empty() && world.state.demands.is_empty());
    world.ok(deploy(&|d| d.replicas_max = 3, demand("m0", 3)));
    world.ok(deploy(&|d| d.replicas_max = 3, demand("m0", 1)));
    assert_eq!(world.state.demands[&name("m0")].replicas, 1, "who deploys may want less");
    world.ok(Command::DeleteModel { name: name("m0") });
    assert!(world.state.deployments.is_empty());
}

#[test]
fn an_explanation_lists_what_else_there_would_be() {
    let mut world = with_heads(&[1_100, 1_100], 400);
    settle(&mut world);
    let (observed, limits) = (Observed::default(), PlanLimits::default());
    let of = |world: &World, model: &str| {
        crate::plan::explain(&world.state, &observed, &limits, world.now, &name(model))
    };
    let explained = of(&world, "m0").expect("it is known");
    let choice = explained.choice.expect("it fits");
    assert_eq!(choice.map.form.strategy, Strategy::Data, "the soonest token needs no hop");
    let others: Vec<String> = choice
        .others
        .iter()
        .filter_map(|other| Some(other.map.as_ref().ok()?.form.strategy.to_string()))
        .collect();
    assert!(others.contains(&"pipeline".to_owned()) && others.contains(&"tensor".to_owned()));
    assert_eq!(of(&world, "nobody"), None);
}

#[test]
fn replicas_follow_the_load_only_within_the_deployment_and_from_what_was_seen() {
    let mut world = World::with(&[9_000, 9_000], &[100]);
    world.demand("m0", 1);
    let scale = |from, to| Command::ScaleModel { name: name("m0"), from, to };
    let refused = world.err(scale(1, 2)).to_string();
    assert!(refused.contains("not deployed"), "{refused}");
    world.deploy("m0", |deployment| deployment.replicas_max = 3);
    let refused = world.err(scale(1, 4)).to_string();
    assert!(refused.contains("4, expected 1 to 3"), "{refused}");
    assert!(world.ok(scale(2, 3)).is_empty(), "somebody has said another number meanwhile");
    world.ok(scale(1, 2));
    assert_eq!(world.state.demands[&name("m0")].replicas, 2);
    world.plan();
    assert_eq!(world.state.placements.len(), 2);
}

fn server(id: u128, name: &str, url: &str) -> AdoptedServer {
    AdoptedServer {
        id: WorkerId(id),
        name: name.to_owned(),
        url: url.to_owned(),
        kind: ServerKind::Ollama,
        key: None,
        places: 4,
        adopted_at: Millis(0),
    }
}

fn adopt(server: AdoptedServer) -> Command {
    Command::AdoptServer { server: Box::new(server) }
}

#[test]
fn a_server_is_adopted_once_takes_orders_and_is_let_go_with_them() {
    let mut world = World::with(&[900], &[]);
    world.ok(adopt(server(7, "old", "http://h:1")));
    assert_eq!(world.state.adopted[&WorkerId(7)].adopted_at, world.now);
    for (again, which) in [
        (server(7, "x", "http://h:2"), "the id"),
        (server(1, "x", "http://h:2"), "the id of a worker"),
        (server(8, "x", "http://h:1"), "the place"),
        (server(8, "old", "http://h:2"), "the name"),
        (server(8, "worker-1", "http://h:2"), "the name of a worker"),
    ] {
        assert!(matches!(world.err(adopt(again)), Rejection::Exists { .. }), "{which}");
    }
    let labels = BTreeMap::from([("zone".to_owned(), Some("a".to_owned()))]);
    world.ok(Command::LabelWorker { id: WorkerId(7), labels });
    world.ok(Command::DrainWorker { id: WorkerId(7), reason: "dust".into() });
    assert_eq!(world.state.orders[&WorkerId(7)].drained.as_deref(), Some("dust"));
    world.ok(Command::ResumeWorker { id: WorkerId(7) });
    world.ok(Command::ReleaseServer { id: WorkerId(7) });
    assert!(world.state.adopted.is_empty() && world.state.orders.is_empty());
    let gone = world.err(Command::ReleaseServer { id: WorkerId(7) });
    assert_eq!(gone, Rejection::UnknownWorker(WorkerId(7)));
}

#[test]
fn a_url_that_could_hold_a_secret_or_break_a_line_is_no_place_of_a_server() {
    let mut world = World::new();
    for url in [
        "",
        "http://",
        "ftp://h",
        "h:1",
        "http://u:p@h",
        "http://h/",
        "http://h?a",
        "http://h#a",
        "http://h\n",
        "http://h b",
    ] {
        assert!(
            matches!(world.err(adopt(server(7, "x", url))), Rejection::Invalid { .. }),
            "{url}"
        );
    }
    for places in [0, limits::ADOPTED_PLACES_COUNT + 1] {
        let wrong = AdoptedServer { places, ..server(7, "x", "http://h") };
        assert!(matches!(world.err(adopt(wrong)), Rejection::Invalid { .. }), "{places}");
    }
    let long = AdoptedServer {
        key: Some(Hidden(vec![0; limits::ADOPTED_KEY_BYTES + 1])),
        ..server(7, "x", "http://h")
    };
    assert!(matches!(world.err(adopt(long)), Rejection::OverLimit { .. }));
}
