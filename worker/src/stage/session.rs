//! A stage's place in a closed ring: its connections, and how they come about.

use super::door::Door;
use super::links::{self, Greeting, Incoming, LinkError, Links};
use super::mesh::Mesh;
use ollamamax_proto::limits;
use ollamamax_proto::placement::{Activations, Ring};
use ollamamax_tls::Blocking;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// The connections of a stage that does not drive.
#[derive(Debug)]
pub struct Session {
    /// Where steps come from.
    pub input: Blocking,
    /// The shards of the next stage; none of the last stage, nor of other shards than the first.
    pub outputs: Vec<Blocking>,
    /// The other shards of this stage, where there are any.
    pub mesh: Option<Mesh>,
    /// What goes to the next stage.
    pub activations: Activations,
}

/// What a stage brings into a ring.
#[derive(Clone, Debug)]
pub struct Own {
    /// KV blocks it has.
    pub blocks: u32,
    /// What keys and values are kept as.
    pub kv_type: String,
}

/// Peers of the stage that `me` is a shard of, by shard.
pub fn shards(ring: &Ring, me: usize) -> Vec<usize> {
    let first = ring.peers[me].stage.first_layer;
    let mut all: Vec<usize> =
        (0..ring.peers.len()).filter(|&at| ring.peers[at].stage.first_layer == first).collect();
    all.sort_by_key(|&at| ring.peers[at].stage.shard);
    all
}

/// Peers of the stage after that of `me`; after the last comes none.
pub fn next(ring: &Ring, me: usize) -> Vec<usize> {
    let end = ring.peers[me].stage.end_layer;
    (0..ring.peers.len()).filter(|&at| ring.peers[at].stage.first_layer == end).collect()
}

/// Takes the place that a greeting offers: connects the shards, greets the next stage, and answers when all of them have.
pub fn join(
    incoming: Incoming,
    own: &Own,
    (links, door): (&Links, &Door),
    queue: &Receiver<Incoming>,
    kept: &mut Vec<Incoming>,
) -> Result<Session, LinkError> {
    let Incoming { greeting, stream: mut input } = incoming;
    let deadline = Instant::now() + Duration::from_millis(limits::STAGE_JOIN_MS);
    door.using(greeting.session, std::iter::once(input.tcp()));
    let joined = connect(&greeting, own, (links, door), queue, kept, deadline);
    let address = || greeting.ring.peers[greeting.from].address.clone();
    let answer = joined.as_ref().map(|(_, blocks)| *blocks).map_err(ToString::to_string);
    links::welcome(&mut input, answer)
        .and_then(|()| input.tcp().set_read_timeout(None))
        .map_err(|source| LinkError::Io { address: address(), source })?;
    let ((outputs, mesh), _) = joined?;
    Ok(Session { input, outputs, mesh, activations: greeting.ring.activations })
}

type Connected = ((Vec<Blocking>, Option<Mesh>), u32);

fn connect(
    greeting: &Greeting,
    own: &Own,
    (links, door): (&Links, &Door),
    queue: &Receiver<Incoming>,
    kept: &mut Vec<Incoming>,
    deadline: Instant,
) -> Result<Connected, LinkError> {
    let (me, ring) = (greeting.to, &greeting.ring);
    if greeting.kv_type != own.kv_type {
        return Err(LinkError::Malformed(format!(
            "this worker keeps keys and values as `{}`, the driver as `{}`; start all workers of a replica with the same --kv-type",
            own.kv_type, greeting.kv_type
        )));
    }
    let mut blocks = greeting.blocks.min(own.blocks);
    let greet = |to, sums| {
        let greeting = Greeting { from: me, to, sums, blocks, ..greeting.clone() };
        links.greet(&greeting, deadline)
    };
    let mut outputs = Vec::new();
    if ring.peers[me].stage.shard == 0 {
        for to in next(ring, me) {
            outputs.push((to, greet(to, false)?));
        }
    }
    let mesh = sums(links, greeting, me, queue, kept, deadline)?;
    let used = mesh.iter().flatten().chain(outputs.iter().map(|(_, output)| output));
    door.using(greeting.session, used.map(Blocking::tcp));
    for (to, output) in &mut outputs {
        let address = &ring.peers[*to].address;
        blocks = blocks.min(links::welcomed(output, address, deadline)?);
        let failed = |source| LinkError::Io { address: address.clone(), source };
        links::patiently(output).map_err(failed)?;
    }
    let patience = Arc::new(AtomicU64::new(limits::STAGE_PATIENCE_FIRST_MS));
    let rank = ring.peers[me].stage.shard as usize;
    let mesh = (mesh.len() > 1).then(|| Mesh::new(rank, mesh, patience));
    Ok(((outputs.into_iter().map(|(_, output)| output).collect(), mesh), blocks))
}

/// Connects `me` with the other shards of its stage: it greets those after it, those before it greet.
pub fn sums(
    links: &Links,
    greeting: &Greeting,
    me: usize,
    queue: &Receiver<Incoming>,
    kept: &mut Vec<Incoming>,
    deadline: Instant,
) -> Result<Vec<Option<Blocking>>, LinkError> {
    let mut mesh = Vec::new();
    for peer in shards(&greeting.ring, me) {
        mesh.push(if peer == me {
            None
        } else if peer > me {
            let greeting = Greeting { from: me, to: peer, sums: true, ..greeting.clone() };
            Some(links.greet(&greeting, deadline)?)
        } else {
            let fits = |incoming: &Incoming| {
                let Greeting { session, from, sums, .. } = incoming.greeting;
                session == greeting.session && from == peer && sums
            };
            Some(wait_for("another shard", fits, queue, kept, deadline)?.stream)
        });
    }
    Ok(mesh)
}

/// Waits for a connection; others that come meanwhile are kept.
pub fn wait_for(
    what: &'static str,
    fits: impl Fn(&Incoming) -> bool,
    queue: &Receiver<Incoming>,
    kept: &mut Vec<Incoming>,
    deadline: Instant,
) -> Result<Incoming, LinkError> {
    loop {
        if let Some(at) = kept.iter().position(&fits) {
            return Ok(kept.swap_remove(at));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match queue.recv_timeout(left) {
            Ok(incoming) => kept.push(incoming),
            Err(_) => return Err(LinkError::Late { what, ms: limits::STAGE_JOIN_MS }),
        }
    }
}
