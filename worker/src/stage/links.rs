//! Connections between stages: how one is opened and greeted, and how one that comes in finds the assignment it is for.

use super::door::Door;
use ollamamax_proto::placement::{Assigned, Ring};
use ollamamax_proto::{AssignmentId, Generation, WorkerId, limits, wire};
use ollamamax_tls::{Blocking, Expect, OnStage, Protocol, Role, Stream, Tls, TlsError};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Why a connection between stages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network, or the peer, said no.
    #[error("`{address}`: {source}")]
    Io {
        /// The peer's.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No connection, or not with whom it should be.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer refused, in its own words.
    #[error("`{address}` refused: {words}")]
    Refused {
        /// The peer's.
        address: String,
        /// Its words.
        words: String,
    },
    /// It did not come in time.
    #[error("{what} did not come within {ms} ms")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        ms: u64,
    },
    /// What came made no sense.
    #[error("{0}")]
    Malformed(String),
}

/// A greeting that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// One try of a driver to close the ring; a newer one ends an older.
    pub session: u64,
    /// As the driver knows it.
    pub ring: Ring,
    /// Who greets: an index into the ring's peers.
    pub from: usize,
    /// Who is meant.
    pub to: usize,
    /// Whether products go over it, both ways; else activations come over it.
    pub sums: bool,
    /// KV blocks that every stage before has.
    pub blocks: u32,
    /// What keys and values are kept as.
    pub kv_type: String,
}

impl From<&Greeting> for wire::StageHello {
    fn from(greeting: &Greeting) -> Self {
        Self {
            session: greeting.session,
            ring: Some((&greeting.ring).into()),
            from: greeting.from as u32,
            to: greeting.to as u32,
            purpose: if greeting.sums { "sums" } else { "steps" }.to_owned(),
            blocks: greeting.blocks,
            kv_type: greeting.kv_type.clone(),
        }
    }
}

impl TryFrom<wire::StageHello> for Greeting {
    type Error = LinkError;

    fn try_from(hello: wire::StageHello) -> Result<Self, LinkError> {
        let malformed = |words: &str| LinkError::Malformed(format!("the greeting {words}"));
        let ring = hello.ring.clone().ok_or_else(|| malformed("has no ring"))?;
        let ring = Ring::try_from(ring).map_err(|error| LinkError::Malformed(error.to_string()))?;
        let (from, to) = (hello.from as usize, hello.to as usize);
        if from >= ring.peers.len() || to >= ring.peers.len() || from == to {
            return Err(malformed("names peers that are not there"));
        }
        let sums = match hello.purpose.as_str() {
            "sums" => true,
            "steps" => false,
            _ => return Err(malformed("is for nothing known")),
        };
        let wire::StageHello { session, blocks, kv_type, .. } = hello;
        Ok(Self { session, ring, from, to, sums, blocks, kv_type })
    }
}

/// A connection that came in.
#[derive(Debug)]
pub struct Incoming {
    pub greeting: Greeting,
    pub stream: Blocking,
}

/// Whom connections are for, who may make them, and how they are made.
#[derive(Debug)]
pub struct Links {
    tls: Tls,
    /// Where handshakes are waited for.
    runtime: Handle,
    doors: Mutex<BTreeMap<AssignmentId, (Generation, Arc<Door>)>>,
    /// Who holds the parts of the replicas that this worker's assignments are parts of.
    rings: Mutex<BTreeMap<AssignmentId, BTreeSet<WorkerId>>>,
}

impl Links {
    /// Connections as the worker of `tls`; threads that make some wait on `runtime`.
    pub fn new(tls: Tls, runtime: Handle) -> Self {
        let (doors, rings) = Default::default();
        Self { tls, runtime, doors, rings }
    }

    /// From now on these are this worker's assignments, and only workers of their replicas are let in.
    pub fn expect(&self, assigned: &[Assigned]) {
        let workers = |ring: &Ring| ring.peers.iter().map(|peer| peer.worker).collect();
        let rings = assigned.iter().filter_map(|assigned| {
            Some((assigned.assignment.id, workers(assigned.ring.as_ref()?)))
        });
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) = rings.collect();
    }

    /// Takes the connections between stages that come in at the worker's port.
    pub fn door(self: &Arc<Self>) -> OnStage {
        let links = Arc::clone(self);
        Arc::new(move |stream: Stream, _| {
            let links = Arc::clone(&links);
            tokio::task::spawn_blocking(move || {
                let from = stream.remote().to_string();
                let failed = |source| LinkError::Io { address: from.clone(), source };
                let admitted = stream.into_blocking().map_err(failed);
                if let Err(error) = admitted.and_then(|stream| links.admit(stream)) {
                    tracing::warn!(%error, "a stage was not let in");
                }
            });
        })
    }

    /// Refuses a greeting that is not from who it says it is, or from a worker without a part of the replica.
    fn check(&self, stream: &Blocking, greeting: &Greeting) -> Result<(), String> {
        let Some(Role::Worker(worker)) = stream.peer().map(|peer| peer.role) else {
            return Err("only workers hold stages".to_owned());
        };
        let (from, to) = (&greeting.ring.peers[greeting.from], &greeting.ring.peers[greeting.to]);
        if from.worker != worker {
            return Err(format!("worker {worker} greets in the name of worker {}", from.worker));
        }
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        match rings.get(&to.assignment) {
            Some(workers) if workers.contains(&worker) => Ok(()),
            _ => Err(format!(
                "worker {worker} holds no part of a replica with assignment `{}`",
                to.assignment
            )),
        }
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<AssignmentId, (Generation, Arc<Door>)>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on connections for this assignment go there.
    pub fn open(&self, id: AssignmentId, generation: Generation, door: Arc<Door>) {
        self.doors().insert(id, (generation, door));
    }

    /// No longer, unless a newer generation has taken its place.
    pub fn close(&self, id: AssignmentId, generation: Generation) {
        let mut doors = self.doors();
        if doors.get(&id).is_some_and(|(held, _)| *held == generation) {
            doors.remove(&id);
        }
    }

    /// Reads the greeting of a connection, and hands it to whom it is for.
    fn admit(&self, mut stream: Blocking) -> Result<(), LinkError> {
        let from = stream.remote().to_string();
        let failed = |source| LinkError::Io { address: from.clone(), source };
        prepare(stream.tcp()).map_err(failed)?;
        let greeting: Greeting =
            receive::<wire::StageHello>(&mut stream).map_err(failed)?.try_into()?;
        let peer = &greeting.ring.peers[greeting.to];
        let checked = self.check(&stream, &greeting);
        let door = checked.and_then(|()| match self.doors().get(&peer.assignment) {
            Some((generation, door)) if *generation == peer.generation => Ok(Arc::clone(door)),
            Some((generation, _)) => Err(format!(
                "assignment `{}` is held in generation `{generation}`, the ring names `{}`",
                peer.assignment, peer.generation
            )),
            None => Err(format!("assignment `{}` is not loaded here", peer.assignment)),
        });
        match door {
            Ok(door) => {
                door.take(Incoming { greeting, stream });
                Ok(())
            }
            Err(words) => {
                let welcome = wire::StageWelcome { error: words.clone(), blocks: 0 };
                // Whoever greeted is told; whether it still listens does not matter.
                let _ = send(&mut stream, &welcome);
                Err(LinkError::Malformed(words))
            }
        }
    }

    /// Connects to a peer, which must be the worker that the ring names, and greets it. For threads that wait.
    pub fn greet(&self, greeting: &Greeting, deadline: Instant) -> Result<Blocking, LinkError> {
        let peer = &greeting.ring.peers[greeting.to];
        let address = peer.address.clone();
        let failed = |source| LinkError::Io { address: address.clone(), source };
        let dialed = self.runtime.block_on(async {
            let dial = self.tls.dial(&address, Expect::Worker(peer.worker), Protocol::Stage);
            tokio::time::timeout_at(deadline.into(), dial).await
        });
        let late = || LinkError::Late { what: "a stage", ms: limits::STAGE_JOIN_MS };
        let stream = dialed.map_err(|_| late())??;
        // The socket leaves the runtime where it lives.
        let _on_runtime = self.runtime.enter();
        let mut stream = stream.into_blocking().map_err(failed)?;
        prepare(stream.tcp()).map_err(failed)?;
        send(&mut stream, &wire::StageHello::from(greeting)).map_err(failed)?;
        Ok(stream)
    }
}

/// Waits for the answer to a greeting: the blocks that the peer and all behind it have.
pub fn welcomed(stream: &mut Blocking, address: &str, deadline: Instant) -> Result<u32, LinkError> {
    let failed = |source| LinkError::Io { address: address.to_owned(), source };
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.tcp().set_read_timeout(Some(left)).map_err(failed)?;
    let welcome: wire::StageWelcome = receive(stream).map_err(failed)?;
    match welcome.error.as_str() {
        "" => Ok(welcome.blocks),
        words => Err(LinkError::Refused {
            address: address.to_owned(),
            words: words.chars().take(500).collect(),
        }),
    }
}

/// From now on a peer may take its time: it computes.
pub fn patiently(stream: &Blocking) -> io::Result<()> {
    let stream = stream.tcp();
    let wait = Duration::from_millis(limits::STAGE_PATIENCE_FIRST_MS);
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))
}

/// Answers a greeting.
pub fn welcome(stream: &mut Blocking, answer: Result<u32, String>) -> io::Result<()> {
    let (error, blocks) = match answer {
        Ok(blocks) => (String::new(), blocks),
        Err(words) => (words, 0),
    };
    send(stream, &wire::StageWelcome { error, blocks })
}

/// Without TCP_NODELAY a step can wait 40 ms for an acknowledgement.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    let wait = Duration::from_millis(limits::STAGE_JOIN_MS);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))
}

fn send(stream: &mut Blocking, message: &impl Message) -> io::Result<()> {
    let body = message.encode_to_vec();
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    stream.write_all(&bytes)?;
    stream.flush()
}

fn receive<M: Message + Default>(stream: &mut Blocking) -> io::Result<M> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    let invalid = |words: String| io::Error::new(io::ErrorKind::InvalidData, words);
    if len > limits::STAGE_HELLO_BYTES {
        let most = limits::STAGE_HELLO_BYTES;
        return Err(invalid(format!("a greeting of {len} bytes, at most {most} are accepted")));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    M::decode(&body[..]).map_err(|error| invalid(error.to_string()))
}
