//! Every limit of the system, unit last in the name, with the reason beside it. A limit that is not here does not
//! exist: queues, bodies, names, batches and waits all read this page.

/// Longest host, namespace, model or tag part of a model name: Ollama's own bound (hosts get more).
pub const NAME_PART_CHARS: usize = 80;
/// Longest registry host in a model name: Ollama's own bound.
pub const NAME_HOST_CHARS: usize = 350;
/// Longest checkpoint name: fits a path-like key, keeps sled keys short.
pub const CHECKPOINT_NAME_CHARS: usize = 200;
/// Largest checkpoint value: checkpoints are progress marks, not payloads; they travel through Raft.
pub const CHECKPOINT_VALUE_BYTES: usize = 64 * 1024;
/// Most checkpoints kept: they live in every node's memory.
pub const CHECKPOINTS_COUNT: usize = 100_000;
/// Most model names kept: the catalogue lives in every node's memory.
pub const MODELS_COUNT: usize = 100_000;
/// Most workers registered: the planner and the pick walk them.
pub const WORKERS_COUNT: usize = 2_000;
/// Most nodes in one quorum: more voters only slow every write.
pub const NODES_COUNT: usize = 9;
/// Most replicas a model may ask for.
pub const REPLICAS_COUNT: u32 = 64;
/// Largest GGUF metadata kept per model as JSON: it travels through Raft and is answered by `/api/show`.
pub const MODEL_METADATA_BYTES: usize = 256 * 1024;
/// Largest template, system prompt or licence of one model, each.
pub const MODEL_TEXT_BYTES: usize = 256 * 1024;
/// Largest encoded command: the biggest is a model version with all its texts.
pub const COMMAND_BYTES: usize = 1024 * 1024;
/// Commands gathered into one Raft entry: group commit without letting one entry delay the next too long.
pub const BATCH_COMMANDS: usize = 512;
/// Bytes gathered into one Raft entry; a single command above it travels alone.
pub const BATCH_BYTES: usize = 256 * 1024;
/// Commands waiting for the batcher: past it a proposal is refused at once instead of queueing without end.
pub const PROPOSALS_QUEUED: usize = 8_192;
/// How long a write waits for a quorum before it says so: an election takes about a second.
pub const PROPOSE_TIMEOUT_MS: u64 = 3_000;
/// How long a linearizable read waits for a quorum before it says so.
pub const READ_TIMEOUT_MS: u64 = 3_000;

/// Raft heartbeat: a tenth of the election timeout.
pub const RAFT_HEARTBEAT_MS: u64 = 100;
/// Shortest election timeout: at least ten times a slow append on a loaded core.
pub const RAFT_ELECTION_MIN_MS: u64 = 500;
/// Longest election timeout: bounds the time without a leader.
pub const RAFT_ELECTION_MAX_MS: u64 = 1_000;
/// Entries per append call: bounds the size of one message to a lagging follower.
pub const RAFT_APPEND_ENTRIES: u64 = 256;
/// Entries between snapshots: bounds the replay at start.
pub const RAFT_SNAPSHOT_ENTRIES: u64 = 20_000;
/// Entries kept behind a snapshot, so that a briefly absent follower needs no snapshot.
pub const RAFT_KEEP_ENTRIES: u64 = 2_000;
/// Chunk of a snapshot or blob on the wire.
pub const TRANSFER_CHUNK_BYTES: usize = 256 * 1024;
/// Largest gRPC message accepted between our own processes: one batch of entries with room to spare.
pub const RPC_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest snapshot accepted from a peer: refuses a lying header before the disk is full.
pub const SNAPSHOT_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// HTTP/2 flow-control window between our processes: covers a chunk burst without stalls.
pub const RPC_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How long to try to connect to another process before calling it unreachable.
pub const CONNECT_TIMEOUT_MS: u64 = 1_000;

/// Largest record in the write-ahead log: refuses a corrupt length before it becomes an allocation.
pub const WAL_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// Size of one write-ahead log segment, preallocated so that an append does not change file metadata.
pub const WAL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Changes kept for watchers that resume: older ones get a fresh snapshot.
pub const WATCH_RING_CHANGES: usize = 8_192;

/// How often a worker reports to the leader.
pub const WORKER_HEARTBEAT_MS: u64 = 500;
/// Silence after which a worker is suspect: no new requests are sent to it.
pub const WORKER_SUSPECT_MS: u64 = 1_500;
/// Silence after which a worker is down and its assignments are moved.
pub const WORKER_DOWN_MS: u64 = 3_000;
/// What a new leader allows every worker before it judges silence.
pub const WORKER_GRACE_MS: u64 = 3_000;
/// How often the leader compares what is with what should be, when nothing wakes it earlier.
pub const RECONCILE_PERIOD_MS: u64 = 500;
/// Share of a worker's memory kept free of weights and KV cache, in percent.
pub const WORKER_HEADROOM_PERCENT: u64 = 10;

/// Largest HTTP body of an API request other than a blob: long conversations with images fit.
pub const BODY_BYTES: usize = 64 * 1024 * 1024;
/// Largest blob accepted: refuses a lying `Content-Length` before the disk is full.
pub const BLOB_BYTES: u64 = 512 * 1024 * 1024 * 1024;
/// Time a client has to send its request headers.
pub const HEADER_TIMEOUT_MS: u64 = 10_000;
/// HTTP connections served at once by one node.
pub const CONNECTIONS_COUNT: usize = 10_000;
/// Requests one gateway holds for one model while its workers are busy (`OLLAMA_MAX_QUEUE`).
pub const REQUESTS_QUEUED: usize = 512;
/// How long a request waits for its model to be loaded somewhere (`OLLAMA_LOAD_TIMEOUT`).
pub const LOAD_TIMEOUT_MS: u64 = 300_000;
/// Silence of a worker in the middle of a stream after which the gateway resumes elsewhere.
pub const STREAM_STALL_MS: u64 = 10_000;
/// Attempts (first one included) a request may make over workers.
pub const ATTEMPTS_COUNT: u32 = 4;
/// Default time a model stays loaded after its last use (`OLLAMA_KEEP_ALIVE`).
pub const KEEP_ALIVE_MS: i64 = 300_000;
/// Chunks buffered between a worker's stream and a slow client.
pub const STREAM_CHUNKS_BUFFERED: usize = 64;
/// Messages in one chat request.
pub const MESSAGES_COUNT: usize = 16_384;
/// Stop strings in one request.
pub const STOPS_COUNT: usize = 64;
/// Bytes of one stop string: the detokeniser holds that much text back.
pub const STOP_BYTES: usize = 1_024;

/// Requests waiting in one worker's scheduler.
pub const WORKER_WAITING_COUNT: usize = 256;
/// Sequences one worker runs at once per model.
pub const SEQUENCES_COUNT: u32 = 16;
/// Tokens a sequence may hold when neither the request nor the model says otherwise (Ollama's default).
pub const CONTEXT_TOKENS: u32 = 4_096;
/// Tokens one step may process on a CPU: keeps the time between tokens even while prompts join.
pub const STEP_TOKENS_CPU: usize = 128;
/// Tokens per KV block on a CPU.
pub const KV_BLOCK_TOKENS: usize = 16;

/// Metadata entries in a GGUF: real files have under a hundred.
pub const GGUF_METADATA_COUNT: u64 = 65_536;
/// Tensors in a GGUF: the largest known models have a few thousand.
pub const GGUF_TENSORS_COUNT: u64 = 1_048_576;
/// Bytes of one GGUF string: chat templates reach tens of kilobytes.
pub const GGUF_STRING_BYTES: u64 = 16 * 1024 * 1024;
/// Elements of one GGUF array: vocabularies reach a few hundred thousand.
pub const GGUF_ARRAY_COUNT: u64 = 16 * 1024 * 1024;
