//! Connections between stages: how one is opened and greeted, and how one that comes in finds the assignment it is for.

use super::door::Door;
use ollamamax_proto::placement::Ring;
use ollamamax_proto::{AssignmentId, Generation, limits, wire};
use prost::Message;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first bytes of a connection between stages. An HTTP/2 connection begins with other ones.
pub const PREFACE: &[u8; 8] = b"OLMXSTG1";

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
    pub stream: TcpStream,
}

/// Whom connections are for.
#[derive(Debug, Default)]
pub struct Links {
    doors: Mutex<BTreeMap<AssignmentId, (Generation, Arc<Door>)>>,
}

impl Links {
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

    /// Reads the greeting of a connection whose preface was seen, and hands it to whom it is for.
    pub fn greet(&self, mut stream: TcpStream) -> Result<(), LinkError> {
        let from = stream.peer_addr().map(|at| at.to_string()).unwrap_or_default();
        let failed = |source| LinkError::Io { address: from.clone(), source };
        prepare(&stream).map_err(failed)?;
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).map_err(failed)?;
        let greeting: Greeting =
            receive::<wire::StageHello>(&mut stream).map_err(failed)?.try_into()?;
        let peer = &greeting.ring.peers[greeting.to];
        let door = match self.doors().get(&peer.assignment) {
            Some((generation, door)) if *generation == peer.generation => Ok(Arc::clone(door)),
            Some((generation, _)) => Err(format!(
                "assignment `{}` is held in generation `{generation}`, the ring names `{}`",
                peer.assignment, peer.generation
            )),
            None => Err(format!("assignment `{}` is not loaded here", peer.assignment)),
        };
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
}

/// Connects to a peer and greets it.
pub fn greet(greeting: &Greeting, deadline: Instant) -> Result<TcpStream, LinkError> {
    let address = greeting.ring.peers[greeting.to].address.clone();
    let failed = |source| LinkError::Io { address: address.clone(), source };
    let mut stream = connect(&address, deadline).map_err(failed)?;
    prepare(&stream).map_err(failed)?;
    stream.write_all(PREFACE).map_err(failed)?;
    send(&mut stream, &wire::StageHello::from(greeting)).map_err(failed)?;
    Ok(stream)
}

/// Waits for the answer to a greeting: the blocks that the peer and all behind it have.
pub fn welcomed(
    stream: &mut TcpStream,
    address: &str,
    deadline: Instant,
) -> Result<u32, LinkError> {
    let failed = |source| LinkError::Io { address: address.to_owned(), source };
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).map_err(failed)?;
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
pub fn patiently(stream: &TcpStream) -> io::Result<()> {
    let wait = Duration::from_millis(limits::STAGE_PATIENCE_FIRST_MS);
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))
}

/// Answers a greeting.
pub fn welcome(stream: &mut TcpStream, answer: Result<u32, String>) -> io::Result<()> {
    let (error, blocks) = match answer {
        Ok(blocks) => (String::new(), blocks),
        Err(words) => (words, 0),
    };
    send(stream, &wire::StageWelcome { error, blocks })
}

fn connect(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Without TCP_NODELAY a step can wait 40 ms for an acknowledgement.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    let wait = Duration::from_millis(limits::STAGE_JOIN_MS);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))
}

fn send(stream: &mut TcpStream, message: &impl Message) -> io::Result<()> {
    let body = message.encode_to_vec();
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    stream.write_all(&bytes)
}

fn receive<M: Message + Default>(stream: &mut TcpStream) -> io::Result<M> {
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
