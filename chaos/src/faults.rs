//! Making faults, and undoing them: each has a begin and an end, and both are written down.

use crate::damage;
use crate::history::Span;
use crate::net::{Link, Weather};
use crate::scenario::{Fault, Kind};
use crate::schedule::{Planned, choose};
use crate::watched::name;
use crate::world::World;
use ollamamax_tests::{Api, HarnessError, Member};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long an order of an operator may take.
const ORDER: Duration = Duration::from_secs(8);
/// How long a node whose disk failed may take to end.
const ENDING: Duration = Duration::from_secs(15);

/// A fault that is under way.
pub struct Active {
    kind: Kind,
    members: Vec<Member>,
    begun_us: u64,
    /// What has to be undone, beside what the kind says.
    node: Option<usize>,
    file: Option<PathBuf>,
    _turns: Option<DropGuard>,
}

/// What makes a fault of this kind.
pub fn means(kind: Kind) -> &'static str {
    match kind {
        Kind::Kill | Kind::Stop | Kind::Restart | Kind::Slow => "signal",
        Kind::Isolate | Kind::Mute | Kind::Deaf | Kind::Bridge | Kind::Flap => "relay",
        Kind::Delay | Kind::Loss | Kind::Narrow => "relay",
        Kind::FullDisk => "small file system",
        Kind::CorruptState | Kind::CorruptLog => "files",
        Kind::RotateSigningKey | Kind::RotateAuthority | Kind::Join | Kind::Drain => "API",
        Kind::Herd => "clients",
    }
}

/// Whether its victims are hit by nothing else meanwhile.
fn is_exclusive(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Delay
            | Kind::Loss
            | Kind::Narrow
            | Kind::Herd
            | Kind::RotateSigningKey
            | Kind::RotateAuthority
    )
}

impl World {
    /// Makes a fault; `None` when there is nobody to be hit.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn begin(
        &mut self,
        fault: &Fault,
        planned: &Planned,
    ) -> Result<Option<Active>, HarnessError> {
        let members = choose(fault.target, &self.present(), planned.coin);
        if members.is_empty() {
            return Ok(None);
        }
        let begun_us = self.recorder.now_us();
        let kind = fault.kind;
        if is_exclusive(kind) {
            self.hit.extend(members.iter().copied());
        }
        let mut active = Active {
            kind,
            members: members.clone(),
            begun_us,
            node: None,
            file: None,
            _turns: None,
        };
        match kind {
            Kind::Kill => members.iter().for_each(|member| self.kill(*member)),
            Kind::Stop => self.signal(&members, Signal::STOP)?,
            Kind::Restart => self.roll(&members).await?,
            Kind::Slow => active._turns = Some(self.slow(&members)),
            Kind::Isolate => self.weather(&self.around(&members, true, true), Weather::cut),
            Kind::Mute => self.weather(&self.around(&members, true, false), Weather::cut),
            Kind::Deaf => self.weather(&self.around(&members, false, true), Weather::cut),
            Kind::Bridge => self.weather(&self.beside(&members), Weather::cut),
            Kind::Flap => active._turns = Some(self.flap(&members, planned.coin)),
            Kind::Delay | Kind::Loss | Kind::Narrow => {
                let (delay_ms, jitter_ms) = (fault.delay_ms, fault.jitter_ms);
                let (loss_percent, bytes_per_s) = (fault.percent, fault.bytes_per_s);
                let bad = Weather { is_cut: false, delay_ms, jitter_ms, loss_percent, bytes_per_s };
                self.weather(&self.around(&members, true, true), |weather| {
                    *weather = Weather { is_cut: weather.is_cut, ..bad };
                });
            }
            Kind::FullDisk => {
                let directory = self.cluster.data_dir(members[0]);
                active.file = Some(damage::fill(&directory)?);
            }
            Kind::CorruptState | Kind::CorruptLog => {
                for member in &members {
                    self.kill(*member);
                    let directory = self.cluster.data_dir(*member);
                    let part = if kind == Kind::CorruptLog { "wal" } else { "state" };
                    damage::corrupt(&directory.join(part), planned.coin)?;
                }
            }
            Kind::RotateSigningKey | Kind::RotateAuthority | Kind::Join | Kind::Drain => {
                // Without a quorum it is refused, as it should be: then nothing has happened.
                if self.operate(&mut active).await.is_err() {
                    self.hit.retain(|member| !members.contains(member));
                    return Ok(None);
                }
            }
            Kind::Herd => self.herd(fault.clients).await,
        }
        Ok(Some(active))
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub async fn end(&mut self, active: Active) -> Result<(), HarnessError> {
        let Active { kind, members, begun_us, node, file, _turns } = active;
        drop(_turns);
        match kind {
            Kind::Kill | Kind::CorruptState => {
                members.iter().try_for_each(|member| self.restart(*member))?;
            }
            Kind::Stop | Kind::Slow => self.signal(&members, Signal::CONT)?,
            Kind::Isolate
            | Kind::Mute
            | Kind::Deaf
            | Kind::Flap
            | Kind::Delay
            | Kind::Loss
            | Kind::Narrow => self.weather(&self.around(&members, true, true), Weather::clear),
            Kind::Bridge => self.weather(&self.beside(&members), Weather::clear),
            Kind::FullDisk => {
                file.iter().try_for_each(|file| {
                    std::fs::remove_file(file).map_err(HarnessError::io(file))
                })?;
                for member in &members {
                    // It takes a moment to end; one that noticed nothing goes on.
                    if self.cluster.process_mut(*member).wait(ENDING).await.is_ok() {
                        self.restart(*member)?;
                    }
                }
            }
            Kind::CorruptLog => {
                for member in members.clone() {
                    self.replace(member).await?;
                }
            }
            Kind::Join => {
                if let Some(node) = node {
                    self.remove(node).await?;
                }
            }
            Kind::Drain => {
                for member in &members {
                    self.order(&format!("/admin/v1/workers/{}/resume", name(*member))).await?;
                }
            }
            Kind::Restart | Kind::RotateSigningKey | Kind::RotateAuthority | Kind::Herd => {}
        }
        for member in &members {
            self.hit.remove(member);
        }
        let names: Vec<String> = members.iter().map(|member| name(*member)).collect();
        let span = Span {
            what: format!("{kind:?}").to_lowercase(),
            target: names.join(", "),
            means: means(kind).to_owned(),
            begun_us,
            ended_us: self.recorder.now_us(),
        };
        self.recorder.note(|history| history.faults.push(span));
        Ok(())
    }

    fn signal(&self, members: &[Member], signal: Signal) -> Result<(), HarnessError> {
        members.iter().try_for_each(|member| self.cluster.process(*member).signal(signal))
    }

    /// SIGTERM and a new start, one after the other, each once the one before is back.
    async fn roll(&mut self, members: &[Member]) -> Result<(), HarnessError> {
        for member in members {
            self.cluster.stop(*member, PATIENCE).await?;
            self.watched.ended(*member);
            self.restart(*member)?;
            self.cluster.wait_for_quorum(self.nodes().len(), PATIENCE).await?;
            self.cluster.wait_for_workers(self.cluster.workers(), PATIENCE).await?;
        }
        Ok(())
    }

    /// Stops processes for most of the time, until the guard is dropped.
    fn slow(&self, members: &[Member]) -> DropGuard {
        let pids: Vec<Pid> = members
            .iter()
            .filter_map(|member| self.watched.life(*member).pid)
            .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .collect();
        let over = CancellationToken::new();
        let turns = async move {
            loop {
                for (signal, ms) in [(Signal::STOP, 80), (Signal::CONT, 20)] {
                    for pid in &pids {
                        // It is our child and not reaped, so the id is nobody else's.
                        let _ = kill_process(*pid, signal);
                    }
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
            }
        };
        tokio::spawn(over.clone().run_until_cancelled_owned(turns));
        over.drop_guard()
    }

    /// Isolates and not, by turns, until the guard is dropped.
    fn flap(&self, members: &[Member], coin: u64) -> DropGuard {
        let (links, around) = (self.net.links.clone(), self.around(members, true, true));
        let mut coin = StdRng::seed_from_u64(coin);
        let over = CancellationToken::new();
        let turns = async move {
            for turn in 0u64.. {
                for link in &around {
                    links.change(*link, |weather| weather.is_cut = turn % 2 == 0);
                }
                let ms = coin.random_range(100..1_500);
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        };
        tokio::spawn(over.clone().run_until_cancelled_owned(turns));
        over.drop_guard()
    }

    /// The links from these to all others, to these from all others, or both.
    fn around(&self, members: &[Member], from: bool, to: bool) -> Vec<Link> {
        let all = self.members();
        let beside: Vec<_> = all.iter().copied().filter(|o| !members.contains(o)).collect();
        // Where everybody is hit, everybody is around.
        let others = if beside.is_empty() { all } else { beside };
        let mut links = Vec::new();
        for other in &others {
            for member in members.iter().filter(|member| *member != other) {
                links.extend(from.then_some((*member, *other)));
                links.extend(to.then_some((*other, *member)));
            }
        }
        links
    }

    /// The links between nodes that are not these.
    fn beside(&self, members: &[Member]) -> Vec<Link> {
        let others: Vec<Member> = self.nodes().into_iter().map(Member::Node).collect();
        let others: Vec<Member> =
            others.into_iter().filter(|other| !members.contains(other)).collect();
        let pairs = others.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    /// Many clients that connect at the same moment, ask for little, and go.
    async fn herd(&self, clients: usize) {
        let urls = self.nodes().into_iter().map(|node| self.cluster.url(node)).cycle();
        let asking = urls.take(clients).map(|url| {
            let api = Api::new(&url).map(|api| api.with_key(self.cluster.key()));
            tokio::spawn(async move {
                let Ok(api) = api else { return };
                let request = api.request(Method::GET, "/api/tags").timeout(ORDER);
                // Whether it is let in is its own affair; that others are served is looked at.
                let _ = request.send().await;
            })
        });
        for asked in asking.collect::<Vec<_>>() {
            let _ = asked.await;
        }
    }

    fn weather(&self, links: &[Link], change: impl Fn(&mut Weather)) {
        links.iter().for_each(|link| self.net.links.change(*link, &change));
    }

    /// What operators do.
    async fn operate(&mut self, active: &mut Active) -> Result<(), HarnessError> {
        match active.kind {
            Kind::RotateSigningKey => self.order("/admin/v1/signing-keys/rotate").await,
            Kind::RotateAuthority => self.order("/admin/v1/authorities/rotate").await,
            Kind::Join => {
                let way = self.net.add(Member::Node(self.cluster.nodes())).await?;
                active.node = Some(self.join(Some(way)).await?);
                Ok(())
            }
            _ => {
                for member in &active.members {
                    self.order(&format!("/admin/v1/workers/{}/drain", name(*member))).await?;
                }
                Ok(())
            }
        }
    }

    /// An order of an operator; refused ones are tried again while there is time.
    async fn order(&self, path: &str) -> Result<(), HarnessError> {
        let ordered = ollamamax_tests::wait_until(ORDER, path, async || {
            let api = self.operator().ok_or("no node is well".to_owned())?;
            let answer = api.request(Method::POST, path).timeout(ORDER).json(&json!({}));
            let answer = answer.send().await.map_err(|error| error.to_string())?;
            match answer.status().as_u16() {
                200..300 => Ok(()),
                status => Err(format!("{status}: {}", answer.text().await.unwrap_or_default())),
            }
        });
        ordered.await
    }

    /// A node joins. Its index.
    async fn join(&mut self, way: Option<ollamamax_tests::Way>) -> Result<usize, HarnessError> {
        let node = self.cluster.add_node(way).await?;
        self.hit.insert(Member::Node(node));
        self.note_start(Member::Node(node));
        self.observer.watch(node, self.cluster.api(node).clone());
        Ok(node)
    }

    /// A node leaves for good, dead or alive.
    async fn remove(&mut self, node: usize) -> Result<(), HarnessError> {
        let member = Member::Node(node);
        let is_known = self.watched.life(member).id.is_some();
        if !is_known && !self.cluster.process_mut(member).is_running() {
            // Nobody could let it in: without a quorum that is right, and there is nothing to remove.
            self.gone.insert(node);
            self.hit.remove(&member);
            self.watched.ended(member);
            return Ok(());
        }
        let id = self.cluster.wait("its id", PATIENCE, async || {
            self.watched.life(member).id.ok_or_else(|| format!("{member:?} has told nobody"))
        });
        let path = format!("/admin/v1/cluster/nodes/{}", id.await?);
        let removed = ollamamax_tests::wait_until(ORDER, &path, async || {
            let api = self.operator().ok_or("no node is well".to_owned())?;
            api.delete(&path, None).await.map(drop).map_err(|error| error.to_string())
        });
        removed.await?;
        self.gone.insert(node);
        self.hit.remove(&member);
        if self.cluster.process_mut(member).is_running() {
            // It hears of it and ends by itself.
            self.cluster.process_mut(member).wait(PATIENCE).await?;
        }
        self.watched.ended(member);
        Ok(())
    }

    /// A node whose log is damaged refuses to start; it is removed, and another one joins.
    async fn replace(&mut self, member: Member) -> Result<(), HarnessError> {
        let Member::Node(node) = member else { return Ok(()) };
        self.restart(member)?;
        let code = self.cluster.process_mut(member).wait(PATIENCE).await?;
        self.watched.ended(member);
        if code.is_none_or(|code| code == 0) {
            let why = format!("{} started with a damaged log: {code:?}", name(member));
            return Err(HarnessError::Other(why));
        }
        self.remove(node).await?;
        let index = self.cluster.nodes();
        let way = self.net.add(Member::Node(index)).await?;
        let node = self.join(Some(way)).await?;
        self.hit.remove(&Member::Node(node));
        Ok(())
    }
}

impl Weather {
    fn cut(&mut self) {
        self.is_cut = true;
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
