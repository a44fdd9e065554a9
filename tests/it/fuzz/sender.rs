//! One mutant after another, from whoever may connect, at one of the two ports between machines.

use super::corpus::{Case, honest};
use super::mutants::{self, Chance};
use http_body_util::{BodyExt, Full};
use ollamamax_proto::{Digest, NodeId};
use ollamamax_tls::{Expect, Kind, Protocol, Role, Tls, dial_pinned};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::http::{Method, Request, Uri};
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

/// What any answer may take: a debug build on a busy machine, and waiting for a quorum.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a body that goes on is read.
const BODY: Duration = Duration::from_millis(100);

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Stranger,
    Worker,
    Node,
}

/// One port, who there is to send to it, and what is sent on a good day.
pub struct Target {
    pub address: String,
    /// Which node, or a worker.
    pub node: Option<NodeId>,
    pub cases: Vec<Case>,
    pub greeting: Vec<u8>,
}

/// What all senders share.
pub struct Sender {
    pub targets: Vec<Target>,
    pub worker: Tls,
    pub node: Tls,
    pub authority: Digest,
    pub http2: Vec<u8>,
    pub client_hello: Vec<u8>,
}

/// Connections of one task.
#[derive(Default)]
pub struct Kept(BTreeMap<(usize, Who), Channel>);

impl Sender {
    fn tls(&self, who: Who) -> &Tls {
        if who == Who::Worker { &self.worker } else { &self.node }
    }

    fn expect(&self, target: &Target) -> Expect {
        target.node.map_or(Expect::Any(Kind::Worker), Expect::Node)
    }

    async fn channel(&self, kept: &mut Kept, at: usize, who: Who) -> Option<Channel> {
        if let Some(channel) = kept.0.get(&(at, who)) {
            return Some(channel.clone());
        }
        let target = &self.targets[at];
        let channel = match who {
            // Nobody without a certificate gets to speak HTTP/2 to a worker: who joins pins a node.
            Who::Stranger if target.node.is_none() => return None,
            Who::Stranger => dial_pinned(&target.address, self.authority).await.ok()?,
            who => {
                let endpoint = Endpoint::from_shared(format!("http://{}", target.address)).ok()?;
                self.tls(who).channel(&endpoint, self.expect(target))
            }
        };
        kept.0.insert((at, who), channel.clone());
        Some(channel)
    }

    /// Sends the mutant of this chance; what came of it, in a word. Panics when nothing comes.
    pub async fn send(&self, chance: &mut Chance, kept: &mut Kept) -> String {
        let at = chance.below(self.targets.len());
        let target = &self.targets[at];
        let who = *chance.of(&[Who::Stranger, Who::Worker, Who::Worker, Who::Node, Who::Node]);
        let sending = async {
            match chance.below(20) {
                0 => self.garbage(chance, target).await,
                1 | 2 => self.http2(chance, target, who).await,
                3 if target.node.is_none() => self.stage(chance, target).await,
                _ => match self.channel(kept, at, who).await {
                    Some(channel) => self.call(chance, target, who, channel).await,
                    None => self.garbage(chance, target).await,
                },
            }
        };
        tokio::time::timeout(ANSWER, sending).await.expect("whatever comes is answered in time")
    }

    async fn call(
        &self,
        chance: &mut Chance,
        target: &Target,
        who: Who,
        channel: Channel,
    ) -> String {
        let case = chance.of(&target.cases);
        let message = match chance.once_in(8) {
            true => case.message.clone(),
            false => mutants::message(&case.message, chance),
        };
        let message = if who == Who::Node { honest(case, message) } else { message };
        let body = mutants::framed(&message, chance);
        let path = mutants::path(case.path, chance);
        let Ok(uri) = path.parse::<Uri>() else { return "no path".to_owned() };
        let mut request = Request::new(tonic::body::Body::new(Full::from(body)));
        *request.uri_mut() = uri;
        *request.headers_mut() = mutants::headers(chance);
        *request.method_mut() = if chance.once_in(40) { Method::GET } else { Method::POST };
        let answered = channel.oneshot(request).await;
        let Ok(response) = answered else { return format!("{who:?}: broken off") };
        let status = response.status().as_u16();
        let at_once = response.headers().get("grpc-status").cloned();
        let body = tokio::time::timeout(BODY, response.into_body().collect()).await;
        let trailers = body.ok().and_then(|read| read.ok()?.trailers().cloned());
        let later = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
        let code = at_once.or(later).map(|code| code.to_str().unwrap_or("?").to_owned());
        format!("{who:?}: {status} {}", code.as_deref().unwrap_or("-"))
    }

    /// Bytes before any handshake, or a handshake that goes wrong.
    async fn garbage(&self, chance: &mut Chance, target: &Target) -> String {
        let bytes = match chance.below(4) {
            0 => chance.bytes(2_000),
            1 => self.http2.clone(),
            2 => self.client_hello[..chance.below(self.client_hello.len())].to_vec(),
            _ => {
                let mut hello = self.client_hello.clone();
                mutants::splinter(&mut hello, chance);
                hello
            }
        };
        let Ok(socket) = TcpStream::connect(&target.address).await else {
            return "no connection".to_owned();
        };
        poke(socket, &bytes).await;
        "garbage".to_owned()
    }

    /// Bytes after a good handshake that are not quite HTTP/2.
    async fn http2(&self, chance: &mut Chance, target: &Target, who: Who) -> String {
        let tls = self.tls(who);
        let dialed = tls.dial(&target.address, self.expect(target), Protocol::Grpc).await;
        let Ok(stream) = dialed else { return "no handshake".to_owned() };
        let bytes = match chance.once_in(10) {
            true => chance.bytes(2_000),
            false => mutants::http2(&self.http2, chance),
        };
        poke(stream, &bytes).await;
        "http2".to_owned()
    }

    /// What greets a stage, and is none.
    async fn stage(&self, chance: &mut Chance, target: &Target) -> String {
        let who = if chance.once_in(6) { Who::Node } else { Who::Worker };
        let tls = self.tls(who);
        let dialed = tls.dial(&target.address, self.expect(target), Protocol::Stage).await;
        let Ok(stream) = dialed else { return "no handshake".to_owned() };
        let message = mutants::message(&target.greeting, chance);
        let length = match chance.once_in(6) {
            true => chance.below(1 << 31) as u32,
            false => message.len() as u32,
        };
        poke(stream, &[&length.to_le_bytes()[..], &message].concat()).await;
        "stage".to_owned()
    }
}

/// Writes and reads a little, then goes without goodbye.
async fn poke(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) {
    let talk = async {
        if stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
            let mut answer = [0; 512];
            while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {}
        }
    };
    let _ = tokio::time::timeout(BODY, talk).await;
}

/// The id in the certificate of a node.
pub fn node_id(tls: &Tls) -> NodeId {
    let Role::Node(id) = tls.identity().role() else { unreachable!("it is a node's") };
    id
}
