//! What users may ask for, counted by each gateway and told to the others.

use super::World;
use super::event::Event;
use super::gateway::Gateway;
use super::request::{End, Request};
use ollamamax_core::access::QuotaOf;
use ollamamax_core::quota::{Bounds, News, Usage};
use ollamamax_proto::NodeId;

/// How often gateways tell each other what was used, in microseconds.
const GOSSIP_US: u64 = 1_000_000;

fn account(user: u64) -> QuotaOf {
    QuotaOf::User(format!("u{user}"))
}

impl World {
    /// Lets a request of a user in, if there is something left.
    pub(super) fn admit(&mut self, node: usize, user: u64) -> bool {
        let of = account(user);
        let now = self.clock(node);
        let quota = self.log.nodes[node].state.access.quotas.get(&of).copied();
        let bounds = Bounds::from(quota.unwrap_or_default());
        let gateway = &mut self.gateways[node];
        let admitted = gateway.ledger.admit(&[(of, bounds)], now).is_ok();
        let streams = gateway.streams.entry(user).or_default();
        *streams += u32::from(admitted);
        let (streams, most) = (*streams, bounds.quota.streams);
        let within = !admitted || most.is_none_or(|most| streams <= most.max(1));
        self.demand(within, "one_gateway_keeps_a_quota", || format!("{streams} of {most:?}"));
        admitted
    }

    /// A request of a user ended: what it used is counted.
    pub(super) fn settle(&mut self, node: usize, request: &Request, prompt: i64, output: i64) {
        if !request.admitted {
            return;
        }
        let now = self.clock(node);
        let of = account(request.user);
        let gateway = &mut self.gateways[node];
        let usage = Usage { prompt_tokens: prompt, output_tokens: output, ..Usage::default() };
        gateway.ledger.charge([&of], &usage, now);
        gateway.ledger.release([&of]);
        let streams = gateway.streams.entry(request.user).or_default();
        *streams = streams.saturating_sub(1);
    }

    pub(super) fn gossip_later(&mut self, node: usize) {
        let life = self.log.nodes[node].life;
        self.later(GOSSIP_US, Event::Gossip { node, life });
    }

    /// A gateway tells the others what was used.
    pub(super) fn gossip(&mut self, node: usize, life: u64) {
        if self.log.nodes[node].life != life || !self.log.nodes[node].up {
            return;
        }
        let news = self.gateways[node].ledger.news();
        for other in (0..self.gateways.len()).filter(|&other| other != node) {
            if !news.is_empty() && self.log.reach(node, other) {
                let delay = self.delay(300..3_000, 40 + other as u64 * 64);
                let news = news.clone();
                self.later(delay, Event::Absorb { node: other, from: node, news });
            }
        }
        self.gossip_later(node);
    }

    pub(super) fn absorb(&mut self, node: usize, from: usize, news: &[News]) {
        if self.log.nodes[node].up {
            let now = self.clock(node);
            self.gateways[node].ledger.absorb(NodeId(from as u64 + 1), news, now);
        }
    }

    /// A gateway is gone, and with it what it served and knew.
    pub(super) fn forget_gateway(&mut self, node: usize) {
        let live = self.requests.live.iter();
        let lost: Vec<u64> =
            live.filter(|(_, request)| request.node == node).map(|(id, _)| *id).collect();
        for id in lost {
            self.end(id, End::NoGateway);
        }
        self.gateways[node] = Gateway::new();
    }
}
