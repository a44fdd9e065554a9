//! The trail on its way out of real processes: into a file, onto stdout, and to a receiver over TLS.

use crate::access::{Person, user};
use crate::binary;
use ollamamax_proto::Millis;
use ollamamax_tests::{Cluster, ClusterOptions, Member};
use ollamamax_tls::LocalServer;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

const DEADLINE: Duration = Duration::from_secs(60);

async fn start(env: &[(&str, String)]) -> Cluster {
    let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let options = ClusterOptions { anonymous: String::new(), env, ..ClusterOptions::new(binary()) };
    Cluster::start(options.size(1, 0)).await.expect("the cluster starts")
}

/// A node exports by itself, through its death and return, what `audit verify` then accepts.
#[tokio::test]
async fn a_node_exports_its_trail_by_itself_and_each_record_once() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("audit.jsonl");
    let targets = format!("file:{},stdout", file.display());
    let mut cluster = start(&[("OLLAMAMAX_AUDIT_EXPORT", targets)]).await;
    user(&cluster, "alice", "developer").await;
    for round in 0..3 {
        for nth in 0..5 {
            user(&cluster, &format!("u{round}{nth}"), "user").await;
        }
        cluster.kill9(Member::Node(0));
        cluster.restart(Member::Node(0)).expect("back");
        cluster.wait_for_quorum(1, DEADLINE).await.expect("it serves again");
    }
    let admin = Person::new(&cluster);
    admin.ok(&["login", "--key"], cluster.key());
    let file = file.to_str().expect("a plain path");
    let whole = async || admin.run(&["audit", "verify", file], "").map(drop);
    cluster.wait("the file has the whole trail, unbroken", DEADLINE, whole).await.expect("whole");
    let text = std::fs::read_to_string(file).expect("there");
    for (action, object) in [
        ("key.create", ""),
        ("user.create", "admin"),
        ("user.create", "u00"),
        ("user.create", "u24"),
    ] {
        let count = text.lines().filter(|line| {
            let record: Value = serde_json::from_str(line).expect("JSON");
            let same = |field: &str, text: &str| text.is_empty() || record[field] == text;
            same("action", action) && same("object", object)
        });
        assert_eq!(count.count(), 1, "{action} {object}");
    }
    let first: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["number"], 1, "it begins with the first start of the cluster");
    // What collects stdout has it all, too, and perhaps some of it twice.
    let printed = cluster.process(Member::Node(0)).log_path().to_owned();
    let all = async || {
        let printed = std::fs::read_to_string(&printed).map_err(|error| error.to_string())?;
        let known: BTreeSet<&str> = printed.lines().filter(|l| l.starts_with('{')).collect();
        match text.lines().find(|line| !known.contains(line)) {
            None => Ok(()),
            Some(line) => Err(format!("not printed: {line}")),
        }
    };
    cluster.wait("each record is printed", DEADLINE, all).await.expect("printed");
}

/// A file that another cluster wrote is neither gone on with nor changed, and that is told.
#[tokio::test]
async fn the_file_of_another_cluster_is_left_alone_and_told_of() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("audit.jsonl");
    let env = [("OLLAMAMAX_AUDIT_EXPORT", format!("file:{}", file.display()))];
    let first = start(&env).await;
    for nth in 0..40 {
        user(&first, &format!("u{nth}"), "user").await;
    }
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    let all = async || {
        let last = read().lines().last().map(str::to_owned).unwrap_or_default();
        if last.contains("\"u39\"") { Ok(()) } else { Err(last) }
    };
    first.wait("the file has all", DEADLINE, all).await.expect("exported");
    drop(first);
    let before = read();
    let second = start(&env).await;
    let told = async || {
        let log = second.logs();
        let line = log.lines().find(|line| line.contains("move it away"));
        line.map(drop).ok_or("not told".to_owned())
    };
    second.wait("it is told", DEADLINE, told).await.expect("told");
    user(&second, "alice", "developer").await;
    assert_eq!(read(), before);
}

/// What the receiver wants to see.
const SHOWN: &str = "Bearer canary-8c41";

/// Counts what it takes.
struct Counting(Arc<AtomicUsize>);

#[tonic::async_trait]
impl LogsService for Counting {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        if request.metadata().get("authorization").is_none_or(|shown| shown != SHOWN) {
            return Err(Status::unauthenticated("who are you"));
        }
        let logs = request.into_inner().resource_logs;
        let scopes = logs.iter().flat_map(|logs| &logs.scope_logs);
        let count = scopes.map(|scope| scope.log_records.len()).sum();
        self.0.fetch_add(count, Ordering::SeqCst);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// A receiver over TLS; its address, what vouches for it, and how many records it has taken.
async fn receiver() -> (String, String, Arc<AtomicUsize>) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = LocalServer::create(&names, Millis::now()).expect("a certificate");
    let tls =
        ServerTlsConfig::new().identity(Identity::from_pem(&made.certificate, made.key.as_bytes()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://{}", listener.local_addr().expect("bound"));
    let taken = Arc::new(AtomicUsize::new(0));
    let service = LogsServiceServer::new(Counting(Arc::clone(&taken)));
    let mut server = Server::builder().tls_config(tls).expect("a certificate that can be used");
    let serve = server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serve);
    (address, made.authority, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_over_tls_gets_the_trail_only_when_it_is_believed() {
    let home = tempfile::tempdir().expect("a directory");
    let authorities = home.path().join("ca.pem");
    let (good, authority, taken) = receiver().await;
    let (stranger, _, never) = receiver().await;
    std::fs::write(&authorities, authority).expect("written");
    let cluster = start(&[
        ("OLLAMAMAX_AUDIT_EXPORT", format!("otlp:{good},otlp:{stranger}")),
        ("SSL_CERT_FILE", authorities.display().to_string()),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("Authorization={}", SHOWN.replace(' ', "%20"))),
    ])
    .await;
    user(&cluster, "alice", "developer").await;
    let all = async || {
        let page = cluster.api(0).get("/admin/v1/audit?last=1").await;
        let page = page.map_err(|error| error.to_string())?;
        let (last, has) = (page["last"].as_u64(), taken.load(Ordering::SeqCst));
        if last == Some(has as u64) { Ok(()) } else { Err(format!("{has} of {last:?}")) }
    };
    cluster.wait("it has the whole trail", DEADLINE, all).await.expect("sent");
    let told = async || {
        let log = cluster.logs();
        let line = log.lines().find(|line| line.contains("the trail is not exported"));
        line.filter(|line| line.contains(&stranger)).map(drop).ok_or("not told".to_owned())
    };
    cluster.wait("the other one is not believed", DEADLINE, told).await.expect("told");
    assert_eq!(never.load(Ordering::SeqCst), 0);
    assert!(!cluster.logs().contains("canary"), "what is shown to it is in no log");
}
