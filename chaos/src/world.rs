//! The system under test: a cluster of real processes, the network between them, and who has been hit by what.

use crate::load::MODEL;
use crate::net::Net;
use crate::observe::Observer;
use crate::recorder::Recorder;
use crate::scenario::Scenario;
use crate::schedule::Present;
use crate::watched::Watched;
use ollamamax_tests::{Api, Cluster, ClusterOptions, HarnessError, Member};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// What each worker may use: little, so that many fit.
const WORKER_BYTES: u64 = 512 << 20;
/// How old what a node says may be.
const FRESH_US: u64 = 1_500_000;

/// Everything that faults are made in.
pub struct World {
    /// The processes.
    pub cluster: Cluster,
    /// What is between them.
    pub net: Net,
    /// Who runs, for those who look.
    pub watched: Arc<Watched>,
    /// Where it is written down.
    pub recorder: Arc<Recorder>,
    /// Those who look.
    pub observer: Observer,
    /// Who has been hit and is not well yet.
    pub hit: BTreeSet<Member>,
    /// Nodes that were removed for good.
    pub gone: BTreeSet<usize>,
}

impl World {
    /// Starts nodes and workers with relays between them, and serves a model of random weights on all workers.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start(
        scenario: &Scenario,
        binary: &Path,
        recorder: Arc<Recorder>,
    ) -> Result<Self, HarnessError> {
        let mut net = Net::new();
        let mut options = ClusterOptions::new(binary).size(scenario.cluster.nodes, 0);
        options.anonymous = String::new();
        options.memory_bytes = WORKER_BYTES;
        options.disk_bytes = scenario.cluster.disk_bytes;
        for node in 0..scenario.cluster.nodes {
            options.node_ways.push(net.add(Member::Node(node)).await?);
        }
        options.node_args = ["--certificate-lifetime", "20s"].map(Into::into).to_vec();
        if let Some(planted) = std::env::var_os("OLLAMAMAX_MUTANT") {
            options.env.push(("OLLAMAMAX_MUTANT".into(), planted));
        }
        let mut cluster = Cluster::start(options).await?;
        let watched = Arc::new(Watched::default());
        let (to, of) = (Arc::clone(&recorder), Arc::clone(&watched));
        let observer = Observer::start(to, of, cluster.directory().to_owned());
        for worker in 0..scenario.cluster.workers {
            let way = net.add(Member::Worker(worker)).await?;
            cluster.add_worker_by(&way)?;
        }
        let (hit, gone) = (BTreeSet::new(), BTreeSet::new());
        let mut world = Self { cluster, net, watched, recorder, observer, hit, gone };
        for node in 0..scenario.cluster.nodes {
            world.note_start(Member::Node(node));
            world.observer.watch(node, world.cluster.api(node).clone());
        }
        for worker in 0..scenario.cluster.workers {
            world.note_start(Member::Worker(worker));
        }
        world.cluster.wait_for_workers(scenario.cluster.workers, PATIENCE).await?;
        if scenario.cluster.workers > 0 {
            let file = world.cluster.directory().join("chaos.gguf");
            synthesize(binary, &file)?;
            world.cluster.serve_file(MODEL, &file).await?;
        }
        Ok(world)
    }

    /// A member's process has been started.
    pub fn note_start(&self, member: Member) {
        self.watched.started(member, self.cluster.process(member).pid());
    }

    /// Kills a member's process, and whoever calls it hears that.
    pub fn kill(&mut self, member: Member) {
        self.cluster.kill9(member);
        self.net.up(member, false);
        self.watched.ended(member);
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When there is no process to be had.
    pub fn restart(&mut self, member: Member) -> Result<(), HarnessError> {
        self.cluster.restart(member)?;
        self.net.up(member, true);
        self.note_start(member);
        Ok(())
    }

    /// Nodes that belong to the cluster.
    pub fn nodes(&self) -> Vec<usize> {
        (0..self.cluster.nodes()).filter(|node| !self.gone.contains(node)).collect()
    }

    /// All members that belong to it.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.nodes().into_iter().map(Member::Node);
        nodes.chain((0..self.cluster.workers()).map(Member::Worker)).collect()
    }

    /// Who leads, by what was seen last in the highest term.
    pub fn leader(&self) -> Option<usize> {
        let now = self.recorder.now_us();
        let id = self.recorder.note(|history| {
            let recent = history.sightings.iter().rev();
            let recent = recent.take_while(|seen| now.saturating_sub(seen.at_us) < FRESH_US);
            let named = recent.filter_map(|seen| Some((seen.term, seen.leader?)));
            named.max_by_key(|(term, _)| *term).map(|(_, leader)| leader)
        });
        self.watched.node(id?)
    }

    /// Who may be hit.
    pub fn present(&self) -> Present {
        let is_well = |member: &Member| !self.hit.contains(member);
        let nodes: Vec<usize> = self.nodes();
        Present {
            voters: nodes.len(),
            nodes: nodes.into_iter().filter(|node| is_well(&Member::Node(*node))).collect(),
            workers: (0..self.cluster.workers())
                .filter(|worker| is_well(&Member::Worker(*worker)))
                .collect(),
            leader: self.leader(),
        }
    }

    /// A client of a node that is well, for orders of an operator.
    pub fn operator(&self) -> Option<&Api> {
        let present = self.present();
        let leader = present.leader.filter(|leader| present.nodes.contains(leader));
        leader.or(present.nodes.first().copied()).map(|node| self.cluster.api(node))
    }
}

/// A model file of random weights, which spells bytes.
fn synthesize(binary: &Path, file: &Path) -> Result<(), HarnessError> {
    let made = Command::new(binary).args(["synth", "--shape", "tiny", "-o"]).arg(file).output();
    let made = made.map_err(HarnessError::io(binary))?;
    match made.status.success() {
        true => Ok(()),
        false => Err(HarnessError::Other(String::from_utf8_lossy(&made.stderr).into_owned())),
    }
}
