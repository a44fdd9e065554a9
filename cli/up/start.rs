//! The steps from nothing to ready, and back: which process is started when, with which arguments.

use super::Args;
use super::announce::Ready;
use super::child::{Death, KillHandle, QUICK_DEATHS_MAX, Spec, Supervised};
use super::layout::{DEFAULT_MODEL, Layout, Model, member_directory, node_name, worker_name};
use super::{access, describe, https, log, ports, ready, share};
use crate::client::Client;
use crate::exit::Failure;
use crate::host::Endpoint;
use crate::progress::Progress;
use crate::trust::Trust;
use crate::{out, pull};
use serde_json::json;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// How long nodes may take to elect a leader.
const NODES_DEADLINE: Duration = Duration::from_secs(120);
/// How long a worker may take to register.
const WORKERS_DEADLINE: Duration = Duration::from_secs(60);
/// How long a model may take to be loaded: the bytes are on this machine.
const MODEL_DEADLINE: Duration = Duration::from_secs(600);
/// How long processes of a broken-off run may take to end.
const LEFTOVERS_DEADLINE: Duration = Duration::from_secs(45);
/// How long running answers may go on when the cluster is stopped.
const DRAIN: Duration = Duration::from_secs(10);
/// What a process gets beyond that before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// What programs on this machine may do without a credential: all that Ollama's clients do.
const ANONYMOUS: &str = "developer";
/// Log lines shown of a process that does not start.
const TAIL_LINES: usize = 15;

/// The cluster of one run.
pub struct Cluster {
    args: Args,
    directory: PathBuf,
    layout: Layout,
    worker_count: usize,
    program: PathBuf,
    nodes: Vec<Supervised>,
    workers: Vec<Supervised>,
    deaths: mpsc::UnboundedReceiver<Death>,
    deaths_sender: mpsc::UnboundedSender<Death>,
    /// Of the first user; `None` until the first node has made it.
    key: Option<Zeroizing<String>>,
}

impl Cluster {
    /// Nothing is started yet.
    pub fn new(
        args: &Args,
        directory: PathBuf,
        (layout, worker_count): (Layout, usize),
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Other(format!("cannot find this program's file: {error}")))?;
        let logs = directory.join("logs");
        std::fs::create_dir_all(&logs).map_err(Failure::file("create", logs))?;
        let (deaths_sender, deaths) = mpsc::unbounded_channel();
        let (nodes, workers) = (Vec::new(), Vec::new());
        let args = args.clone();
        Ok(Self {
            args,
            directory,
            layout,
            worker_count,
            program,
            nodes,
            workers,
            deaths,
            deaths_sender,
            key: None,
        })
    }

    /// Says which port is taken before anything is started. A worker's port is not worth a failure: it gets another one.
    pub async fn check_ports(
        &mut self,
        leftovers: bool,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        while let Some((what, address)) = self.taken_port()? {
            if !leftovers || start.elapsed() > LEFTOVERS_DEADLINE {
                return Err(Failure::PortTaken { what, address: address.to_string() });
            }
            progress.status("waiting for the processes of the last run to end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut free = ports::FreePorts::default();
        self.layout.nodes.iter().for_each(|node| free.reserve(node.raft.port()));
        self.layout.workers.iter().for_each(|worker| free.reserve(worker.listen.port()));
        for worker in &mut self.layout.workers {
            if !ports::is_free(worker.listen)? {
                worker.listen = free.next()?;
            }
        }
        self.layout.save(&self.directory)
    }

    /// Makes what HTTPS needs, where it is wanted.
    pub fn prepare_https(&mut self) -> Result<(), Failure> {
        https::prepare(&self.directory, &mut self.layout)
    }

    fn taken_port(&self) -> Result<Option<(String, SocketAddr)>, Failure> {
        for index in self.layout.members() {
            let (name, node) = (node_name(index), &self.layout.nodes[index]);
            for (what, address) in [
                (format!("the API of {name}"), self.layout.http(index)),
                (format!("the gRPC service of {name}"), node.raft),
            ] {
                if !ports::is_free(address)? {
                    return Ok(Some((what, address)));
                }
            }
        }
        Ok(None)
    }

    /// Starts everything and waits until it serves; the name of the model it serves.
    pub async fn bring_up(&mut self, progress: &Progress) -> Result<Option<String>, Failure> {
        self.bring_up_nodes(progress).await?;
        let first = self.layout.members().first().copied().unwrap_or(0);
        let client = self.client(first)?;
        // Workers that belong to the cluster already do not look at it.
        let token = match self.worker_count {
            0 => None,
            count => Some(access::join_token(&client, "worker", count).await?),
        };
        for index in 0..self.worker_count {
            let text = token.as_ref().map(|token| token.text.clone());
            let spec = Spec { join_token: text, ..self.worker_spec(index) };
            self.workers.push(self.start(spec)?);
        }
        for index in 0..self.worker_count {
            let name = worker_name(index);
            let look = |status: &_| ready::worker_ready(status, &name);
            let what = format!("{name} registers");
            let told = |text: &str| progress.status(text);
            let waiting = ready::until(&client, &what, WORKERS_DEADLINE, &told, &look);
            Self::or_death(&mut self.deaths, &self.directory, waiting).await?;
        }
        if let Some(token) = token {
            access::revoke(&client, &token).await;
        }
        let reference = match (&self.args.model, &self.layout.model) {
            (Some(reference), _) => reference.clone(),
            (None, Some(model)) => model.reference.clone(),
            (None, None) => DEFAULT_MODEL.to_owned(),
        };
        if reference == "none" {
            return Ok(None);
        }
        let name = self.bring_model(&client, &reference, progress).await?;
        Ok(Some(name))
    }

    /// Nodes that were part of the quorum go on together; the others join them. Of a new cluster, the first node is all of it.
    async fn bring_up_nodes(&mut self, progress: &Progress) -> Result<(), Failure> {
        let new = !self.layout.nodes.iter().any(|node| node.joined);
        let members = self.layout.members();
        let total = members.len();
        let known = |index: &usize| self.layout.nodes[*index].joined || (new && *index == 0);
        let (first, later): (Vec<usize>, Vec<usize>) = members.into_iter().partition(known);
        let mut started = Vec::new();
        for group in [first, later] {
            for index in &group {
                let mut spec = self.node_spec(*index, new && *index == 0);
                if let Some(up) = started.first() {
                    let token = access::join_token(&self.client(*up)?, "node", 1).await?;
                    spec.join_token = Some(token.text);
                }
                self.nodes.push(self.start(spec)?);
            }
            if self.key.is_none() {
                progress.status("waiting for the first API key");
                let waiting = access::key(&self.directory, &self.layout, NODES_DEADLINE);
                let key = Self::or_death(&mut self.deaths, &self.directory, waiting).await?;
                self.key = Some(key);
            }
            started.extend(&group);
            // Every node of the group must see the leader and all the voters there are by now.
            for index in group {
                let client = self.client(index)?;
                let votes = started.len();
                let look = |status: &_| ready::leads(status, votes);
                let what = format!("{} starts", node_name(index));
                let told = |text: &str| progress.status(text);
                let waiting = ready::until(&client, &what, NODES_DEADLINE, &told, &look);
                Self::or_death(&mut self.deaths, &self.directory, waiting).await?;
                self.layout.nodes[index].joined = true;
            }
            self.layout.save(&self.directory)?;
        }
        progress.status(&format!("{total} nodes, leader elected"));
        Ok(())
    }

    async fn bring_model(
        &mut self,
        client: &Client,
        reference: &str,
        progress: &Progress,
    ) -> Result<String, Failure> {
        let kept = self.layout.model.as_ref().filter(|model| model.reference == reference);
        let likely = kept.map_or(reference, |model| &model.name).to_owned();
        let name = match client.ask("/api/show", &json!({"model": likely})).await {
            Ok(_) => likely,
            // Neither a path nor a URL is a model name: both come back as some refusal.
            Err(Failure::Refused { status: 400 | 404, .. }) => {
                let pulling = pull::pull(client, reference, None, progress);
                Self::or_death(&mut self.deaths, &self.directory, pulling).await?
            }
            Err(failure) => return Err(failure),
        };
        self.layout.model = Some(Model { reference: reference.to_owned(), name: name.clone() });
        self.layout.save(&self.directory)?;
        let replicas = self.worker_count;
        let deploy = json!({"replicas": replicas.max(1), "keep_alive": -1});
        let answer = client.post(&format!("/admin/v1/models/{name}/deploy"), &deploy).await?;
        let name = answer["model"].as_str().map_or(name, str::to_owned);
        let look = |status: &_| ready::placed(status, &name, replicas);
        let told = |text: &str| progress.status(text);
        let what = format!("loading {name}");
        let waiting = ready::until(client, &what, MODEL_DEADLINE, &told, &look);
        Self::or_death(&mut self.deaths, &self.directory, waiting).await?;
        Ok(name)
    }

    /// Waits for something, unless a process turns out not to be able to run.
    async fn or_death<T>(
        deaths: &mut mpsc::UnboundedReceiver<Death>,
        directory: &std::path::Path,
        waiting: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::pin!(waiting);
        loop {
            let death = tokio::select! {
                done = &mut waiting => return done,
                Some(death) = deaths.recv() => death,
            };
            if death.again_in.is_some() && death.quick < QUICK_DEATHS_MAX {
                out::say(&describe(&death));
                continue;
            }
            let path = directory.join("logs").join(format!("{}.log", death.name));
            let tail = log::tail(&path, TAIL_LINES).join("\n  ");
            let (name, how) = (death.name, death.how);
            return Err(Failure::Other(format!(
                "{name} {how}; the end of `{}`:\n  {tail}",
                path.display()
            )));
        }
    }

    fn start(&self, spec: Spec) -> Result<Supervised, Failure> {
        Supervised::start(spec, self.args.restart, self.deaths_sender.clone())
    }

    fn node_spec(&self, index: usize, bootstrap: bool) -> Spec {
        let (http, raft) = (self.layout.http(index), self.layout.nodes[index].raft);
        let mut args: Vec<OsString> = vec!["--listen".into(), http.to_string().into()];
        args.extend(["--raft-listen".into(), raft.to_string().into()]);
        args.extend(["--advertise-http".into(), self.layout.reached(index).to_string().into()]);
        if bootstrap {
            args.push("--bootstrap".into());
        }
        if self.layout.https.is_some() {
            let files = https::files(&self.directory);
            args.extend(["--tls-cert".into(), files.certificate.into()]);
            args.extend(["--tls-key".into(), files.key.into()]);
        }
        args.extend(self.args.sources.to_flags());
        if self.layout.is_local() {
            args.extend(["--anonymous".into(), ANONYMOUS.into()]);
        }
        self.spec("control-plane", node_name(index), args)
    }

    fn worker_spec(&self, index: usize) -> Spec {
        let name = worker_name(index);
        let listen = self.layout.workers[index].listen;
        let mut args: Vec<OsString> = vec!["--listen".into(), listen.to_string().into()];
        args.extend(["--name".into(), name.clone().into()]);
        args.extend(["--drain-ms".into(), DRAIN.as_millis().to_string().into()]);
        args.extend([
            "--threads".into(),
            share::threads(self.args.threads, self.worker_count).to_string().into(),
        ]);
        args.extend([
            "--memory".into(),
            share::memory(self.args.memory, self.worker_count).to_string().into(),
        ]);
        for node in self.layout.members() {
            let blobs = member_directory(&self.directory, &node_name(node)).join("blobs");
            args.extend(["--blob-hint".into(), blobs.into()]);
        }
        self.spec("worker", name, args)
    }

    fn spec(&self, command: &str, name: String, rest: Vec<OsString>) -> Spec {
        let data = member_directory(&self.directory, &name);
        let mut args: Vec<OsString> = vec![command.into(), "--exit-with-stdin".into()];
        args.extend(["--data-dir".into(), data.into()]);
        if self.args.dumps.allow_dumps {
            args.push("--allow-dumps".into());
        }
        args.extend(rest);
        let log = self.directory.join("logs").join(format!("{name}.log"));
        Spec { name, program: self.program.clone(), args, join_token: None, log }
    }

    /// A client of one node alone: what the others say is not asked.
    fn client(&self, index: usize) -> Result<Client, Failure> {
        let address = self.layout.reached(index);
        let endpoint = Endpoint {
            scheme: self.scheme(),
            host: address.ip().to_string(),
            port: address.port(),
            path: String::new(),
        };
        let authority = https::files(&self.directory).authority;
        let trust = Trust::of(self.layout.https.as_ref().map(|_| authority.as_path()));
        match &self.key {
            Some(key) => Client::with_key(endpoint, key, trust),
            None => Client::alone(endpoint, trust),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.layout.https.is_some() { "https" } else { "http" }
    }

    /// Prints where to send the first request.
    pub fn announce(&self, model: Option<&str>, json: bool) {
        let nodes = self.layout.members().into_iter();
        let ready = Ready {
            urls: nodes
                .map(|index| format!("{}://{}", self.scheme(), self.layout.reached(index)))
                .collect(),
            workers: self.worker_count,
            model: model.map(str::to_owned),
            data_dir: self.directory.display().to_string(),
            ca_file: self
                .layout
                .https
                .as_ref()
                .map(|_| https::files(&self.directory).authority.display().to_string()),
            key: access::path(&self.directory, &self.layout).map(|path| path.display().to_string()),
            anonymous: self.layout.is_local().then(|| ANONYMOUS.to_owned()),
        };
        out::text(&if json { ready.to_json() } else { ready.to_text() });
    }

    /// The next process that dies unasked. A node that ends well has left the quorum, and that is remembered.
    pub async fn next_death(&mut self) -> Death {
        match self.deaths.recv().await {
            Some(death) => {
                let index = (0..self.layout.nodes.len()).find(|i| node_name(*i) == death.name);
                if let (Some(index), Some(0)) = (index, death.code) {
                    self.layout.nodes[index].left = true;
                    if let Err(failure) = self.layout.save(&self.directory) {
                        out::say(&format!("Warning: {failure}"));
                    }
                }
                death
            }
            // Not reached: this cluster holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Stops workers, then nodes, the last one first.
    pub async fn stop(&mut self) {
        let workers = std::mem::take(&mut self.workers);
        let stopping = workers.into_iter().map(|worker| worker.stop(DRAIN + GRACE));
        futures_util::future::join_all(stopping).await;
        let nodes = std::mem::take(&mut self.nodes);
        for node in nodes.into_iter().rev() {
            node.stop(GRACE).await;
        }
    }

    /// What ends every process at once, also while they are being stopped.
    pub fn kill_handles(&self) -> Vec<KillHandle> {
        self.nodes.iter().chain(&self.workers).map(Supervised::handle).collect()
    }
}
