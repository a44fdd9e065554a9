//! How requests begin: a client sends one, its gateway lets it in, decides which version answers, and wants the model loaded.

use super::World;
use super::event::{Event, Then};
use super::model::{CONTEXT_TOKENS, Prefix};
use super::request::{End, Request};
use ollamamax_core::Command;
use ollamamax_core::record::{Demand, Lifetime};
use ollamamax_core::rollout::takes_new;
use ollamamax_proto::{Digest, Millis, limits};

impl World {
    /// A client sends a request to a node.
    pub(super) fn ask(&mut self, node: usize, model: usize, user: u64, after_us: u64) -> u64 {
        let key = self.coin.bits(&[12, self.now, after_us, model as u64]);
        self.requests.last += 1;
        let id = self.requests.last;
        let coin = |purpose: u64, bound: u64| self.coin.below(&[6, key, purpose], bound);
        let family = coin(0, 4);
        let own = coin(1, 16);
        let prompt = (0..8).map(|nth| family * 8 + nth).chain((0..own).map(|nth| key ^ nth));
        let prompt: Vec<u32> = prompt
            .enumerate()
            .map(|(at, what)| self.coin.below(&[7, what, at as u64], 14) as u32)
            .collect();
        let request = Request {
            key,
            node,
            model,
            blob: None,
            user,
            family,
            prompt,
            predict: 1 + coin(2, 38) as u32,
            got: Vec::new(),
            expects: Prefix::of(Digest([0; 32])),
            attempt: 0,
            tried: Vec::new(),
            active: None,
            only_busy: true,
            heard_us: self.now,
            deadline_us: self.now + after_us + limits::NO_WORKER_TIMEOUT_MS * 1_000,
            admitted: false,
            stays: false,
            ticket: None,
        };
        let leaves = (coin(3, 20) == 0).then(|| coin(4, 600_000));
        self.requests.live.insert(id, request);
        self.counts.requests += 1;
        self.later(after_us, Event::Asked { request: id });
        if let Some(us) = leaves {
            self.later(after_us + us, Event::Gone { request: id });
        }
        id
    }

    /// A client that stays until it has an answer, and that no quota holds.
    pub(super) fn ask_for_long(&mut self, node: usize, model: usize) -> u64 {
        let id = self.ask(node, model, u64::MAX, 0);
        if let Some(request) = self.requests.live.get_mut(&id) {
            (request.stays, request.deadline_us) = (true, self.now + 30_000_000);
        }
        id
    }

    /// A request comes to its gateway.
    pub(super) fn asked(&mut self, id: u64) {
        let Some(request) = self.requests.live.get(&id) else { return };
        let (key, node, user, model) = (request.key, request.node, request.user, request.model);
        if !self.log.nodes[node].up {
            return self.end(id, End::NoGateway);
        }
        if !self.admit(node, user) {
            return self.end(id, End::Refused);
        }
        if let Some(request) = self.requests.live.get_mut(&id) {
            request.admitted = true;
        }
        let (state, name) = (self.log.nodes[node].state.clone(), self.names[model].clone());
        let Some(record) = state.models.get(&name) else { return self.end(id, End::Refused) };
        self.renew(node, model);
        let mut blob = record.version.blob;
        if let (Some(rollout), Some(old)) = (state.rollouts.get(&name), state.old_version(&name)) {
            let ready = |blob| self.has_seats(&state, model, blob);
            let coin = self.coin.unit(&[8, key]);
            if !takes_new(rollout.weight, ready(blob), ready(old.blob), coin) {
                blob = old.blob;
            }
        }
        if let Some(request) = self.requests.live.get_mut(&id) {
            request.blob = Some(blob);
            request.expects =
                request.prompt.iter().fold(Prefix::of(blob), |prefix, &token| prefix.and(token));
        }
        self.deposit(node, model, blob);
        self.next_worker(id, false);
    }

    /// Wants a model, or renews that wish when less than half of its time is left.
    pub(super) fn renew(&mut self, node: usize, model: usize) {
        let now = self.clock(node);
        let (state, name) = (&self.log.nodes[node].state, &self.names[model]);
        let known = state.demands.get(name);
        let keep_alive_ms = known.map_or(20_000, |known| known.keep_alive_ms);
        let left_ms = match known.map(|known| known.lifetime) {
            None => 0,
            Some(Lifetime::Forever) => return,
            Some(Lifetime::Until(end)) => end.since(now),
        };
        if known.is_some() && left_ms > keep_alive_ms.unsigned_abs() / 2 {
            return;
        }
        let demand = Demand {
            model: name.clone(),
            replicas: known.map_or(1, |known| known.replicas),
            lifetime: Lifetime::Until(Millis(0)),
            context_length: CONTEXT_TOKENS,
            keep_alive_ms,
        };
        self.propose(node, Command::DemandModel { demand }, Then::Nobody);
    }
}
