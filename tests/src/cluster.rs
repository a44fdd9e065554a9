//! A cluster of real processes, each of which a test can kill, stop and start again by itself.

mod disk;
mod waits;

use self::disk::Disk;
use crate::error::HarnessError;
use crate::http::Api;
use crate::ports;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::status::ClusterStatus;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long a cluster may take to start: an unoptimised build on a busy machine.
const START: Duration = Duration::from_secs(90);

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The `ollamamax` binary.
    pub binary: PathBuf,
    /// Nodes of the control plane.
    pub nodes: usize,
    /// Workers.
    pub workers: usize,
    /// Threads of each worker.
    pub threads: u32,
    /// Bytes each worker may use; 0: what it finds.
    pub memory_bytes: u64,
    /// Variables set for every process.
    pub env: Vec<(OsString, OsString)>,
    /// Roles of who brings no credential; empty: nobody may.
    pub anonymous: String,
    /// Further arguments of every node.
    pub node_args: Vec<OsString>,
    /// How each node is reached by the others, where that is not directly: by index, none for those beyond.
    pub node_ways: Vec<Way>,
    /// Bytes of a file system in memory that each node gets for its data (as root, on Linux); 0: none of its own.
    pub disk_bytes: u64,
}

/// How a member is reached by others, and where it comes from when it calls them.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where it listens for them, on this machine.
    pub port: u16,
    /// `host:port` by which they call it.
    pub advertised: String,
    /// Address its own calls come from.
    pub source: IpAddr,
}

impl Way {
    fn args(&self, advertise: &str) -> [OsString; 4] {
        let (advertised, source) = (self.advertised.clone(), self.source.to_string());
        [advertise.into(), advertised.into(), "--dial-from".into(), source.into()]
    }
}

impl ClusterOptions {
    /// Three nodes and one worker of this binary.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            nodes: 3,
            workers: 1,
            threads: 1,
            memory_bytes: 1 << 30,
            env: Vec::new(),
            anonymous: "admin".to_owned(),
            node_args: Vec::new(),
            node_ways: Vec::new(),
            disk_bytes: 0,
        }
    }

    /// With so many nodes and workers.
    #[must_use]
    pub fn size(mut self, nodes: usize, workers: usize) -> Self {
        (self.nodes, self.workers) = (nodes, workers);
        self
    }
}

/// A node or a worker, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A node of the control plane.
    Node(usize),
    /// A worker.
    Worker(usize),
}

/// A running cluster. Dropping it kills every process and removes the data.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    http: Vec<u16>,
    raft: Vec<u16>,
    nodes: Vec<Process>,
    workers: Vec<Process>,
    apis: Vec<Api>,
    /// Of the first user.
    key: String,
    worker_token: String,
    disks: Vec<Disk>,
    directory: TempDir,
}

impl Cluster {
    /// Starts nodes and workers and waits until every node knows the leader and every worker is ready.
    pub async fn start(options: ClusterOptions) -> Result<Self, HarnessError> {
        let directory = tempfile::Builder::new().prefix("ollamamax-cluster-").tempdir();
        let directory = directory.map_err(HarnessError::io(std::env::temp_dir()))?;
        let count = u16::try_from(options.nodes).unwrap_or(u16::MAX);
        let first = ports::run_of(count)?;
        let http: Vec<u16> = (first..first + count).collect();
        let ways = options.node_ways.iter().map(|way| Ok(way.port));
        let ports = ways.chain(std::iter::repeat_with(ports::free)).take(http.len());
        let raft = ports.collect::<Result<Vec<_>, _>>()?;
        let apis = http.iter().map(|port| Api::new(&format!("http://127.0.0.1:{port}")));
        let apis = apis.collect::<Result<Vec<_>, _>>()?;
        let (nodes, workers) = (Vec::new(), Vec::new());
        let (key, worker_token, disks) = (String::new(), String::new(), Vec::new());
        let mut cluster =
            Self { options, http, raft, nodes, workers, apis, key, worker_token, disks, directory };
        for index in 0..cluster.options.nodes {
            cluster.start_node(index).await?;
            if index == 0 {
                cluster.take_key().await?;
            }
            cluster.wait_for_quorum(index + 1, START).await?;
        }
        cluster.wait_for_signing_key(START).await?;
        cluster.worker_token = cluster.apis[0].join_token("worker", 100).await?;
        for _ in 0..cluster.options.workers {
            cluster.add_worker()?;
        }
        cluster.wait_for_workers(cluster.options.workers, START).await?;
        Ok(cluster)
    }

    /// Waits for the key that the first node makes, and for the node to know it.
    async fn take_key(&mut self) -> Result<(), HarnessError> {
        let path = self.data_dir(Member::Node(0)).join("admin.key");
        let read = async || {
            let key = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            let key = key.trim().to_owned();
            let known = self.apis[0].clone().with_key(&key).status().await;
            known.map(|_| key).map_err(|error| error.to_string())
        };
        let key = self.wait("the first key", START, read).await?;
        self.apis = self.apis.iter().map(|api| api.clone().with_key(&key)).collect();
        self.key = key;
        Ok(())
    }

    /// The first user's API key.
    pub fn key(&self) -> &str {
        &self.key
    }

    async fn start_node(&mut self, index: usize) -> Result<(), HarnessError> {
        let mut args = self.common("control-plane", &format!("node-{}", index + 1));
        let listen = |port| OsString::from(format!("127.0.0.1:{port}"));
        args.extend(["--listen".into(), listen(self.http[index])]);
        args.extend(["--raft-listen".into(), listen(self.raft[index])]);
        if !self.options.anonymous.is_empty() {
            args.extend(["--anonymous".into(), self.options.anonymous.clone().into()]);
        }
        args.extend(self.options.node_args.iter().cloned());
        if let Some(way) = self.options.node_ways.get(index) {
            args.extend(way.args("--advertise-raft"));
        }
        let token = match index {
            0 => None,
            _ => Some(self.running_api().join_token("node", 1).await?),
        };
        if token.is_none() {
            args.push("--bootstrap".into());
        }
        if self.options.disk_bytes > 0 {
            let at = self.directory.path().join(format!("node-{}", index + 1));
            self.disks.push(Disk::mount(&at, self.options.disk_bytes)?);
        }
        let node = self.spawn(&format!("node-{}", index + 1), args, token)?;
        self.nodes.push(node);
        Ok(())
    }

    /// Starts one more worker; it registers by itself. Its index.
    pub fn add_worker(&mut self) -> Result<usize, HarnessError> {
        self.add_worker_at(ports::free()?, &[])
    }

    /// Starts one more worker, which gateways and other workers reach only over a link that can be cut. Its index.
    pub async fn add_worker_behind_link(&mut self) -> Result<(usize, Proxy), HarnessError> {
        let port = ports::free()?;
        let link = Proxy::start(&format!("127.0.0.1:{port}")).await?;
        let index = self.add_worker_at(port, &["--advertise".into(), link.address().into()])?;
        Ok((index, link))
    }

    /// Starts one more worker, which is reached only by that way. Its index.
    pub fn add_worker_by(&mut self, way: &Way) -> Result<usize, HarnessError> {
        self.add_worker_at(way.port, &way.args("--advertise"))
    }

    /// Starts one more node, which joins by itself; by that way, if there is one. Its index.
    pub async fn add_node(&mut self, way: Option<Way>) -> Result<usize, HarnessError> {
        let index = self.nodes.len();
        self.http.push(ports::free()?);
        self.raft.push(way.as_ref().map_or_else(ports::free, |way| Ok(way.port))?);
        let base = format!("http://127.0.0.1:{}", self.http[index]);
        self.apis.push(Api::new(&base)?.with_key(&self.key));
        self.options.node_ways.truncate(index);
        self.options.node_ways.extend(way);
        if let Err(error) = self.start_node(index).await {
            // As if nobody had asked.
            self.http.truncate(index);
            self.raft.truncate(index);
            self.apis.truncate(index);
            return Err(error);
        }
        Ok(index)
    }

    /// Starts one more worker with so much memory. Its index.
    pub fn add_worker_with(&mut self, memory_bytes: u64) -> Result<usize, HarnessError> {
        let usual = std::mem::replace(&mut self.options.memory_bytes, memory_bytes);
        let added = self.add_worker();
        self.options.memory_bytes = usual;
        added
    }

    fn add_worker_at(&mut self, port: u16, more: &[OsString]) -> Result<usize, HarnessError> {
        let name = format!("worker-{}", self.workers.len() + 1);
        let mut args = self.common("worker", &name);
        args.extend(["--name".into(), name.clone().into()]);
        args.extend(["--listen".into(), format!("127.0.0.1:{port}").into()]);
        args.extend_from_slice(more);
        args.extend(["--threads".into(), self.options.threads.to_string().into()]);
        args.extend(["--memory".into(), self.options.memory_bytes.to_string().into()]);
        let worker = self.spawn(&name, args, Some(self.worker_token.clone()))?;
        self.workers.push(worker);
        Ok(self.workers.len() - 1)
    }

    fn common(&self, command: &str, name: &str) -> Vec<OsString> {
        let data = self.directory.path().join(name).into_os_string();
        vec![command.into(), "--exit-with-stdin".into(), "--data-dir".into(), data]
    }

    fn spawn(
        &self,
        name: &str,
        args: Vec<OsString>,
        join_token: Option<String>,
    ) -> Result<Process, HarnessError> {
        let log = self.directory.path().join(format!("{name}.log"));
        let mut env = self.options.env.clone();
        env.extend(join_token.map(|token| ("OLLAMAMAX_JOIN_TOKEN".into(), token.into())));
        Process::start(name, &self.options.binary, args, env, &log)
    }

    /// Starts one more worker without a join token, in a directory that may hold one's certificate. Its index.
    pub fn add_worker_without_token(&mut self) -> Result<usize, HarnessError> {
        let token = std::mem::take(&mut self.worker_token);
        let added = self.add_worker();
        self.worker_token = token;
        added
    }

    /// What lets workers in.
    pub fn worker_token(&self) -> &str {
        &self.worker_token
    }

    /// Where data and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where a member keeps its data.
    pub fn data_dir(&self, member: Member) -> PathBuf {
        self.directory.path().join(&self.process(member).name)
    }

    /// How many nodes there are, dead ones included.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How many workers there are, dead ones included.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// A client of a node.
    pub fn api(&self, node: usize) -> &Api {
        &self.apis[node]
    }

    /// A client of the first node that runs, or of the first one when none does.
    fn running_api(&self) -> &Api {
        let running = self.nodes.iter().position(|node| node.pid().is_some());
        &self.apis[running.unwrap_or(0)]
    }

    /// `http://127.0.0.1:port` of a node.
    pub fn url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.http[node])
    }

    /// A member's process.
    pub fn process(&self, member: Member) -> &Process {
        match member {
            Member::Node(index) => &self.nodes[index],
            Member::Worker(index) => &self.workers[index],
        }
    }

    /// A member's process, to do something to it.
    pub fn process_mut(&mut self, member: Member) -> &mut Process {
        match member {
            Member::Node(index) => &mut self.nodes[index],
            Member::Worker(index) => &mut self.workers[index],
        }
    }

    /// SIGKILL.
    pub fn kill9(&mut self, member: Member) {
        self.process_mut(member).kill9();
    }

    /// SIGTERM, and its exit code once it has ended.
    pub async fn stop(
        &mut self,
        member: Member,
        deadline: Duration,
    ) -> Result<Option<i32>, HarnessError> {
        self.process_mut(member).stop(deadline).await
    }

    /// Starts it again with the same data and addresses.
    pub fn restart(&mut self, member: Member) -> Result<(), HarnessError> {
        self.process_mut(member).restart()
    }

    /// What the first node that answers says.
    pub async fn status(&self) -> Result<ClusterStatus, HarnessError> {
        let mut last = HarnessError::Other("the cluster has no nodes".to_owned());
        for (api, node) in self.apis.iter().zip(&self.nodes) {
            if node.pid().is_none() {
                continue;
            }
            match api.status().await {
                Ok(status) => return Ok(status),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Creates a model from a file and waits until it is loaded on every worker.
    pub async fn serve_file(&self, model: &str, file: &Path) -> Result<(), HarnessError> {
        let bytes = std::fs::read(file).map_err(HarnessError::io(file))?;
        let digest = ollamamax_proto::Digest::of(&bytes);
        drop(bytes);
        self.apis[0].create_from_file(model, file, &digest).await?;
        let replicas = self.workers.len().max(1);
        self.apis[0].deploy(model, replicas).await?;
        self.wait_for_model(model, self.workers.len(), START).await
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        self.nodes.iter().chain(&self.workers).map(Process::tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test harness shows what is written here beside the failed assertion.
            eprintln!("{}", self.logs());
        }
        // Workers first, so that their last words are not about lost nodes.
        self.workers.iter_mut().chain(&mut self.nodes).for_each(Process::kill9);
    }
}
