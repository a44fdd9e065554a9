//! The trail on its way out: to files of each node, and to a real receiver of OTLP logs that is not always there.

use crate::support::{Cluster, eventually, within};
use ollamamax_control_plane::Target;
use ollamamax_core::Command;
use ollamamax_core::access::AccessCommand;
use ollamamax_proto::audit::{Gap, Line, Note, Record, Verifier};
use ollamamax_proto::{Digest, Millis, limits};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Taken = Arc<Mutex<Vec<LogRecord>>>;

/// A receiver, as an OpenTelemetry collector is one; it keeps what it took when it goes away.
struct Receiver {
    address: SocketAddr,
    taken: Taken,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Service(Taken);

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let mut taken = self.0.lock().expect("whole");
        for logs in request.into_inner().resource_logs {
            let attributes = logs.resource.expect("a resource").attributes;
            assert!(attributes.iter().any(|attribute| attribute.key == "ollamamax.cluster.id"));
            let scopes = logs.scope_logs;
            taken.extend(scopes.into_iter().flat_map(|scope| scope.log_records));
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Receiver {
    /// An address that is its own, where nobody listens yet.
    fn absent() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = port.local_addr().expect("bound");
        Self { address, taken: Taken::default(), running: None }
    }

    fn target(&self) -> Target {
        format!("otlp:http://{}", self.address).parse().expect("a target")
    }

    async fn come(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match tokio::net::TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let service = LogsServiceServer::new(Service(Arc::clone(&self.taken)));
        let (stop, stopped) = oneshot::channel();
        let serve = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            });
        let task = tokio::spawn(async { serve.await.expect("served") });
        self.running = Some((stop, task));
    }

    /// Goes away, with the connections it has.
    async fn go(&mut self) {
        let (stop, task) = self.running.take().expect("it runs");
        stop.send(()).expect("it listens");
        task.await.expect("it ends");
    }

    /// What it has, in order of the numbers, each once; twice the same number must be twice the same record.
    fn lines(&self) -> Vec<Line> {
        let mut lines = BTreeMap::new();
        for log in self.taken.lock().expect("whole").iter() {
            let line = line(log);
            let first = match &line {
                Line::Record(record) => record.number,
                Line::Gap(gap) => gap.from,
            };
            let known = lines.insert(first, line.clone());
            assert!(known.is_none_or(|known| known == line), "{first} is two records");
        }
        lines.into_values().collect()
    }

    fn last(&self) -> u64 {
        self.lines().last().map_or(0, Line::number)
    }

    fn has_all(&self, last: u64) -> bool {
        self.last() == last
    }
}

/// The line that a log record was made of.
fn line(log: &LogRecord) -> Line {
    let find = |key: &str| {
        let attribute = log.attributes.iter().find(|attribute| attribute.key == key);
        attribute.and_then(|attribute| attribute.value.clone()?.value)
    };
    let number = |key: &str| match find(key) {
        Some(Value::IntValue(number)) => u64::try_from(number).expect("not negative"),
        other => unreachable!("{key}: {other:?}"),
    };
    let text = |key: &str| match find(key) {
        Some(Value::StringValue(text)) => text,
        other => unreachable!("{key}: {other:?}"),
    };
    if log.event_name == "ollamamax.audit.gap" {
        let noticed_at = Millis(log.time_unix_nano / 1_000_000);
        let (from, to) = (number("audit.missing_from"), number("audit.missing_to"));
        return Line::Gap(Gap { from, to, noticed_at });
    }
    assert_eq!(log.event_name, "ollamamax.audit.record");
    let note = Note {
        actor: text("audit.actor"),
        via: text("audit.via"),
        from: text("audit.from"),
        request: text("audit.request"),
        action: text("audit.action"),
        object: text("audit.object"),
        outcome: text("audit.outcome"),
    };
    let hash: Digest = format!("sha256:{}", text("audit.hash")).parse().expect("a hash");
    let (number, at) = (number("audit.number"), Millis(number("audit.at")));
    assert_eq!(log.time_unix_nano, at.0 * 1_000_000);
    Line::Record(Box::new(Record { number, at, note, hash: hash.0 }))
}

fn check(lines: &[Line]) -> Verifier {
    let mut verifier = Verifier::default();
    for line in lines {
        match line {
            Line::Record(record) => verifier.next(record).expect("it follows"),
            Line::Gap(gap) => verifier.gap(*gap).expect("it fits"),
        }
    }
    verifier
}

async fn note(cluster: &Cluster, id: u64, count: usize) {
    for _ in 0..count.div_ceil(limits::AUDIT_NOTES_COUNT) {
        let most = count.min(limits::AUDIT_NOTES_COUNT);
        let note = Note { actor: "test".into(), action: "x".into(), ..Note::default() };
        let notes = vec![note; most];
        let command = Command::Access(Box::new(AccessCommand::Record { notes }));
        cluster.control(id).propose(command).await.expect("accepted");
    }
}

fn last(cluster: &Cluster, id: u64) -> u64 {
    cluster.control(id).state().access.last_record().map_or(0, |record| record.number)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_misses_nothing_and_holds_nobody_up() {
    let mut receiver = Receiver::absent();
    let target = receiver.target();
    let tune = move |config: &mut ollamamax_control_plane::NodeConfig| {
        config.audit_export = vec![target.clone()];
    };
    let mut cluster = Cluster::start_with(3, tune).await;
    // Not there from the start, and more than goes at once.
    note(&cluster, 1, 3 * limits::AUDIT_EXPORT_COUNT).await;
    cluster.put(2, "served", "meanwhile").await.expect("a write is accepted");
    receiver.come().await;
    let patience = Duration::from_secs(30);
    within("it has all", patience, || receiver.has_all(last(&cluster, 1))).await;
    // Gone in the middle, and back.
    receiver.go().await;
    note(&cluster, 2, 300).await;
    cluster.put(3, "served", "again").await.expect("a write is accepted");
    receiver.come().await;
    within("it has the rest", patience, || receiver.has_all(last(&cluster, 1))).await;
    // Another leader goes on where that one was.
    let remembered = || cluster.control(1).state().access.exported.values().next().copied();
    within("the cluster knows", patience, || remembered() == Some(last(&cluster, 1))).await;
    let before = remembered().expect("just known");
    let taken = receiver.taken.lock().expect("whole").len();
    let leader = cluster.leader().await;
    cluster.nodes.remove(&leader).expect("it runs").stop().await;
    let other = cluster.leader().await;
    note(&cluster, other, 50).await;
    within("the next leader sends", patience, || receiver.has_all(last(&cluster, other))).await;
    for log in &receiver.taken.lock().expect("whole")[taken..] {
        assert!(line(log).number() > before, "sent again: {}", line(log));
    }
    let lines = receiver.lines();
    let verifier = check(&lines);
    assert_eq!((verifier.checked(), verifier.gaps().len()), (lines.len() as u64, 0));
    assert_eq!(lines.first().map(Line::number), Some(1), "from the first start on");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_for_too_long_is_told_what_it_misses() {
    let mut receiver = Receiver::absent();
    let target = receiver.target();
    let tune = move |config: &mut ollamamax_control_plane::NodeConfig| {
        config.audit_export = vec![target.clone()];
    };
    let cluster = Cluster::start_with(1, tune).await;
    receiver.come().await;
    note(&cluster, 1, 5).await;
    eventually("it has all", || receiver.has_all(last(&cluster, 1))).await;
    receiver.go().await;
    let before = receiver.last();
    note(&cluster, 1, limits::AUDIT_RECORDS_COUNT + 500).await;
    receiver.come().await;
    let patience = Duration::from_secs(60);
    within("it has what there is", patience, || receiver.has_all(last(&cluster, 1))).await;
    let lines = receiver.lines();
    let verifier = check(&lines);
    assert_eq!(verifier.gaps().len(), 1, "{:?}", verifier.gaps());
    let gap = verifier.gaps()[0];
    let first = *cluster.control(1).state().access.trail.keys().next().expect("some");
    assert!(gap.from == before + 1 && gap.to < first + 10 && gap.to > before + 400, "{gap:?}");
    assert_eq!(verifier.checked() + (gap.to - gap.from + 1), lines.last().map_or(0, Line::number));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_writes_the_whole_trail_into_its_own_file_and_goes_on_there() {
    let mut cluster = Cluster::start_with(3, |config| {
        let path = config.data_dir.with_extension("audit.jsonl");
        config.audit_export = vec![Target::File(path)];
    })
    .await;
    let read = |cluster: &Cluster, id: u64| {
        let path = cluster.data_dir(id).with_extension("audit.jsonl");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    note(&cluster, 1, 20).await;
    let follower = cluster.follower().await;
    cluster.nodes.remove(&follower).expect("it runs").stop().await;
    let leader = cluster.leader().await;
    note(&cluster, leader, 400).await;
    cluster.restart(follower).await;
    note(&cluster, follower, 10).await;
    let all = || {
        let texts: Vec<String> = (1..=3).map(|id| read(&cluster, id)).collect();
        let lines = texts[0].lines().count() as u64;
        texts.windows(2).all(|pair| pair[0] == pair[1]) && lines == last(&cluster, leader)
    };
    within("all three files are the trail", Duration::from_secs(30), all).await;
    let lines: Vec<Line> =
        read(&cluster, 1).lines().map(|line| Line::parse(line).expect("a line")).collect();
    // The cluster may have noted something since.
    assert_eq!(check(&lines).checked(), lines.len() as u64);
    assert!(lines.len() > 430 && check(&lines).gaps().is_empty());
    cluster.stop().await;
}
