//! A gRPC server on one port: who joins, who calls and who is kept out, while others dawdle.

mod support;

use ollamamax_proto::wire::blobs_client::BlobsClient;
use ollamamax_proto::wire::blobs_server::{Blobs, BlobsServer};
use ollamamax_proto::wire::{BlobChunk, BlobFetchRequest, BlobStatReply, BlobStatRequest};
use ollamamax_proto::{Digest, Millis};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{
    Allow, Authority, ConnectInfo, Expect, Kind, OnStage, Peer, PinError, Protocol, Tls, TlsError,
    Who, dial_pinned, says_removed,
};
use std::sync::Arc;
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

/// Answers 1 when the caller is a node, 2 for a worker, 0 for nobody.
struct WhoAreYou;

#[tonic::async_trait]
impl Blobs for WhoAreYou {
    type FetchStream = tokio_stream::Empty<Result<BlobChunk, Status>>;

    async fn stat(
        &self,
        request: Request<BlobStatRequest>,
    ) -> Result<Response<BlobStatReply>, Status> {
        let peer = request.extensions().get::<Peer>();
        let info = request.extensions().get::<ConnectInfo>().expect("every request has it");
        assert_eq!(info.peer.as_ref(), peer);
        let bytes = match peer.map(|peer| peer.role.kind()) {
            None => 0,
            Some(Kind::Node) => 1,
            Some(Kind::Worker) => 2,
        };
        Ok(Response::new(BlobStatReply { present: true, bytes }))
    }

    async fn fetch(
        &self,
        _: Request<BlobFetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

const SERVICE: &str = "ollamamax.v1.Blobs";

async fn server(tls: &Tls, who: Who, on_stage: Option<OnStage>) -> String {
    let (listener, address) = listen().await;
    let allow = Allow::new(tls.clone()).service(SERVICE, who).method(SERVICE, "Fetch", Who::Node);
    let incoming = tls.incoming(listener, on_stage);
    let router = Server::builder().layer(allow).add_service(BlobsServer::new(WhoAreYou));
    tokio::spawn(router.serve_with_incoming(incoming));
    address
}

fn channel(tls: &Tls, address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    tls.channel(&endpoint, ANY_NODE)
}

async fn stat(channel: &Channel) -> Result<u64, Status> {
    let call = BlobsClient::new(channel.clone());
    let reply = soon(async move { { call }.stat(BlobStatRequest::default()).await }).await;
    reply.map(|reply| reply.into_inner().bytes)
}

async fn fetch(channel: &Channel) -> Result<(), Status> {
    let call = BlobsClient::new(channel.clone());
    soon(async move { { call }.fetch(BlobFetchRequest::default()).await }).await.map(|_| ())
}

#[tokio::test]
async fn each_role_may_call_what_the_table_says() {
    let cluster = TestCluster::new(CLUSTER);
    let one = cluster.node(1);
    let address = server(&one, Who::NodeOrWorker, None).await;
    let (two, seven) = (channel(&cluster.node(2), &address), channel(&cluster.worker(7), &address));
    assert_eq!(stat(&two).await.expect("a node may"), 1);
    assert_eq!(stat(&seven).await.expect("a worker may"), 2);
    fetch(&two).await.expect("a node may");
    let error = fetch(&seven).await.expect_err("a worker may not");
    assert_eq!(error.code(), Code::PermissionDenied);
    let words = format!("{} may not call `{SERVICE}`: it is for nodes", worker(7));
    assert_eq!(error.message(), words);
    assert!(!says_removed(&error));
    let nobody = dial_pinned(&address, cluster.0.fingerprint()).await.expect("pinned");
    let error = stat(&nobody).await.expect_err("nobody may not");
    assert_eq!(error.code(), Code::Unauthenticated);
    assert!(error.message().contains(SERVICE), "{error}");
    let open = server(&one, Who::Anyone, None).await;
    let nobody = dial_pinned(&open, cluster.0.fingerprint()).await.expect("pinned");
    assert_eq!(stat(&nobody).await.expect("anyone may"), 0);
    assert_eq!(stat(&channel(&cluster.worker(7), &open)).await.expect("anyone may"), 2);
}

#[tokio::test]
async fn what_is_not_in_the_table_nobody_may_call() {
    let cluster = TestCluster::new(CLUSTER);
    let allow = Allow::new(cluster.node(1))
        .service("a.Nodes", Who::Node)
        .method("a.Nodes", "Join", Who::Anyone)
        .service("a.Workers", Who::Worker);
    let peer = |role| Peer { role, fingerprint: Digest::of(b""), not_after: Millis(0) };
    let (node, worker) = (peer(node(1)), peer(worker(2)));
    let code = |path: &str, peer: Option<&Peer>| {
        allow.check(path, peer).map_or_else(|status| status.code(), |()| Code::Ok)
    };
    for (path, by_nobody, by_node, by_worker) in [
        ("/a.Nodes/Append", Code::Unauthenticated, Code::Ok, Code::PermissionDenied),
        ("/a.Nodes/Join", Code::Ok, Code::Ok, Code::Ok),
        ("/a.Workers/Any", Code::Unauthenticated, Code::PermissionDenied, Code::Ok),
        ("/a.Other/Any", Code::Unauthenticated, Code::Unimplemented, Code::Unimplemented),
        ("/a.Nodes/Join/", Code::Unauthenticated, Code::Ok, Code::PermissionDenied),
        ("a.Nodes/Join", Code::Unauthenticated, Code::Unimplemented, Code::Unimplemented),
        ("//a.Nodes/Join", Code::Unauthenticated, Code::Unimplemented, Code::Unimplemented),
        ("", Code::Unauthenticated, Code::Unimplemented, Code::Unimplemented),
    ] {
        assert_eq!(code(path, None), by_nobody, "nobody: {path}");
        assert_eq!(code(path, Some(&node)), by_node, "a node: {path}");
        assert_eq!(code(path, Some(&worker)), by_worker, "a worker: {path}");
    }
}

#[tokio::test]
async fn who_was_removed_hears_it_on_a_connection_that_stands_and_on_a_new_one() {
    let cluster = TestCluster::new(CLUSTER);
    let one = cluster.node(1);
    let address = server(&one, Who::Node, None).await;
    let (two, three) = (cluster.node(2), cluster.node(3));
    let (standing, other) = (channel(&two, &address), channel(&three, &address));
    assert_eq!(stat(&standing).await.expect("a node may"), 1);
    one.refuse(|peer| peer.role == node(2));
    for channel in [standing, channel(&two, &address)] {
        let error = stat(&channel).await.expect_err("removed");
        assert_eq!(error.code(), Code::PermissionDenied);
        assert!(says_removed(&error), "{error}");
    }
    assert_eq!(stat(&other).await.expect("others may"), 1);
}

#[tokio::test]
async fn a_channel_connects_again_with_the_identity_of_that_moment() {
    let cluster = TestCluster::new(CLUSTER);
    let two = cluster.node(2);
    let endpoint = |address: &str| Endpoint::from_shared(format!("http://{address}")).expect("one");
    let address = server(&cluster.node(1), Who::Node, None).await;
    let wrong = two.channel(&endpoint(&address), Expect::Node(ollamamax_proto::NodeId(9)));
    let error = stat(&wrong).await.expect_err("node 9 is not there");
    assert_eq!(error.code(), Code::Unavailable);
    // The first try is made as one that has ended.
    let cluster = old_cluster();
    let ended = cluster.identity_at(node(2), Millis(Millis::now().0 - 5 * DAY_MS));
    let two = Tls::new(ended).expect("usable");
    let address = server(&cluster.node(1), Who::Node, None).await;
    let channel = two.channel(&endpoint(&address), ANY_NODE);
    assert!(stat(&channel).await.is_err());
    two.replace(cluster.identity(node(2))).expect("replaced");
    assert_eq!(stat(&channel).await.expect("it is itself again"), 1);
}

#[tokio::test]
async fn who_joins_believes_only_a_node_of_the_cluster_of_its_token() {
    let cluster = TestCluster::new(CLUSTER);
    let pin = cluster.0.fingerprint();
    let refused = async |address: &str| match dial_pinned(address, pin).await {
        Err(TlsError::Pin { source, .. }) => source,
        other => unreachable!("{other:?}"),
    };
    let good = server(&cluster.node(1), Who::Anyone, None).await;
    let channel = dial_pinned(&good, pin).await.expect("the cluster");
    assert_eq!(stat(&channel).await.expect("anyone may"), 0);

    let other = server(&TestCluster::new("other").node(1), Who::Anyone, None).await;
    assert_eq!(refused(&other).await, PinError::OtherAuthority { expected: pin });
    // The same name, another key.
    let again = server(&TestCluster::new(CLUSTER).node(1), Who::Anyone, None).await;
    assert_eq!(refused(&again).await, PinError::OtherAuthority { expected: pin });
    let a_worker = server(&cluster.worker(7), Who::Anyone, None).await;
    assert_eq!(refused(&a_worker).await, PinError::Worker);
    let old = old_cluster();
    let past = Millis(Millis::now().0 - 5 * DAY_MS);
    let ended = Tls::new(old.identity_at(node(1), past)).expect("usable");
    let ended = server(&ended, Who::Anyone, None).await;
    let error = dial_pinned(&ended, old.0.fingerprint()).await.expect_err("it has ended");
    assert!(matches!(error, TlsError::Pin { source: PinError::NoNode(_), .. }), "{error}");
}

/// The right authority is shown beside a certificate that it did not sign: the chain is public, the key is not.
#[tokio::test]
async fn who_shows_the_authority_of_a_token_without_its_key_is_not_believed() {
    let cluster = TestCluster::new(CLUSTER);
    let rogue = Authority::create(cluster.0.cluster(), Millis::now()).expect("made");
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = [format!("n1.{CLUSTER}.ollamamax"), format!("node.{CLUSTER}.ollamamax")];
    let own = rcgen::CertificateParams::new(names.to_vec()).expect("names");
    let own = own.self_signed(&key).expect("signed");
    let shown = |leaf: Vec<u8>| {
        [leaf, cluster.0.certificate().der().to_vec(), rogue.certificate().der().to_vec()]
            .map(rustls::pki_types::CertificateDer::from)
            .to_vec()
    };
    let stolen = cluster.identity(node(1)).certificate().der().to_vec();
    for (what, leaf) in [("signed by itself", own.der().to_vec()), ("another's", stolen)] {
        let der = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).expect("a key");
        let shown = rustls::sign::CertifiedKey::new(shown(leaf), signer);
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("accepted");
            let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
        });
        let error = dial_pinned(&address, cluster.0.fingerprint()).await.expect_err(what);
        let known = matches!(error, TlsError::Pin { source: PinError::NoNode(_), .. })
            || matches!(error, TlsError::Handshake { .. });
        assert!(known, "{what}: {error}");
    }
}

#[tokio::test]
async fn stages_come_in_at_the_same_port_from_workers_only() {
    let cluster = TestCluster::new(CLUSTER);
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let on_stage: OnStage = Arc::new(move |stream, peer: Peer| {
        let _ = sender.send((stream, peer.role));
    });
    let seven = cluster.worker(7);
    let address = server(&seven, Who::Node, Some(on_stage)).await;
    let stage = async |tls: &Tls| {
        let stream = tls.dial(&address, ANY_WORKER, Protocol::Stage).await.expect("connected");
        told(stream).await
    };
    assert!(stage(&cluster.node(1)).await.is_err(), "a node is no stage");
    let eight = cluster.worker(8);
    let _stream = eight.dial(&address, ANY_WORKER, Protocol::Stage).await.expect("connected");
    let (_arrived, role) = soon(arrived.recv()).await.expect("a stage");
    assert_eq!(role, worker(8));
    seven.refuse(|peer| peer.role == worker(8));
    assert!(stage(&eight).await.is_err(), "it was removed");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = cluster.node(1).channel(&endpoint, ANY_WORKER);
    assert_eq!(stat(&channel).await.expect("gRPC goes on"), 1);
}

#[tokio::test]
async fn a_hundred_who_dawdle_keep_nobody_waiting() {
    let cluster = TestCluster::new(CLUSTER);
    let address = server(&cluster.node(1), Who::Node, None).await;
    let mut dawdling = Vec::new();
    for silent in 0..100 {
        let mut tcp = TcpStream::connect(&address).await.expect("connected");
        if silent % 2 == 0 {
            // The beginning of a greeting, and no more of it.
            tcp.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("written");
        }
        dawdling.push(tcp);
    }
    let within = std::time::Duration::from_millis(ollamamax_proto::limits::TLS_HANDSHAKE_MS / 2);
    let channel = channel(&cluster.node(2), &address);
    let answered = tokio::time::timeout(within, stat(&channel)).await.expect("it did not wait");
    assert_eq!(answered.expect("a node may"), 1);
    drop(dawdling);
}
