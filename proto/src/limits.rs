//! Every limit of the system, unit last in the name, with the reason beside it. A limit that is not here does not
//! exist: queues, bodies, names, batches and waits all read this page.

/// Longest host, namespace, model or tag part of a model name: Ollama's own bound (hosts get more).
pub const NAME_PART_CHARS: usize = 80;
/// Longest name of a site: it stands in names of models beside a tag.
pub const SITE_NAME_CHARS: usize = 40;
/// Longest registry host in a model name: Ollama's own bound.
pub const NAME_HOST_CHARS: usize = 350;
/// Longest checkpoint name: fits a path-like key, keeps sled keys short.
pub const CHECKPOINT_NAME_CHARS: usize = 200;
/// Largest checkpoint value: checkpoints are progress marks, not payloads; they travel through Raft.
pub const CHECKPOINT_VALUE_BYTES: usize = 64 * 1024;
/// How often what is new of a long stream is kept, in milliseconds; shorter streams are not kept at all.
pub const STREAM_CHECKPOINT_MS: u64 = 1_000;
/// How long what is kept of a stream stays after its end, in milliseconds: its client reads the rest meanwhile.
pub const STREAM_LINGER_MS: u64 = 30_000;
/// How long what is kept of a stream stays when nobody goes on with it, in milliseconds.
pub const STREAM_KEPT_MS: u64 = 10 * 60 * 1_000;
/// Most streams that one gateway keeps at once: each is written to the log once a second.
pub const STREAMS_KEPT_COUNT: usize = 1_000;
/// Most kept streams that are forgotten in one go.
pub const STREAMS_FORGOTTEN_COUNT: usize = 64;
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
/// Most stages of one replica, shards counted one by one: each more is a hop on the way of every token.
pub const REPLICA_STAGES_COUNT: usize = 32;
/// Longest message with which a stage greets the next: a ring of all its peers with their addresses.
pub const STAGE_HELLO_BYTES: usize = 32 * 1024;
/// Longest frame between stages: the residuals of the longest step of a wide model, and block tables.
pub const STAGE_FRAME_BYTES: usize = 512 * 1024 * 1024;
/// How long a ring may take to close, all its stages connecting one after another, in milliseconds.
pub const STAGE_JOIN_MS: u64 = 5_000;
/// Between two tries to close a ring, in milliseconds: a peer that is just loading is ready soon.
pub const STAGE_REJOIN_MS: u64 = 200;
/// Least time without an answer after which a step of a ring is given up, in milliseconds: below it, a busy machine looks
/// dead.
pub const STAGE_PATIENCE_MS: u64 = 1_500;
/// The same while nothing is known of how long a step takes: the first reads the weights from disk.
pub const STAGE_PATIENCE_FIRST_MS: u64 = 30_000;
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

/// Raft heartbeat: at least seven are missed before anyone asks for votes.
pub const RAFT_HEARTBEAT_MS: u64 = 100;
/// Shortest election timeout. It begins when the dead leader's lease has run out, and the lease lasts as long as the
/// longest one: 750 ms of silence at least, many times a slow append on a loaded core.
pub const RAFT_ELECTION_MIN_MS: u64 = 250;
/// Longest election timeout. With the lease, a second without a leader, and half of one more when the votes split.
pub const RAFT_ELECTION_MAX_MS: u64 = 500;
/// How long a follower may take to flush what it is sent before the leader sends it again.
pub const RAFT_APPEND_TIMEOUT_MS: u64 = 1_000;
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

/// Silence of the quorum after which writes and reads fail at once instead of waiting: longer than any election.
pub const QUORUM_LOST_MS: u64 = 1_500;
/// Pause before a proposal that reached nobody who leads is tried again.
pub const PROPOSE_RETRY_MS: u64 = 50;
/// Batches of commands on their way at once: the next one gathers while the first is flushed.
pub const BATCHES_IN_FLIGHT: usize = 2;
/// Log entries applied with one batch into the storage: bounds the memory of a long replay.
pub const APPLY_ENTRIES: usize = 256;
/// Entries a learner may lack and still be let vote: it catches up within a heartbeat or two.
pub const PROMOTE_LAG_ENTRIES: u64 = 64;
/// How long sending one snapshot may take: beyond it the receiver is taken for dead.
pub const SNAPSHOT_TIMEOUT_MS: u64 = 120_000;
/// How long one change of the membership may take before the leader looks again.
pub const MEMBERSHIP_TIMEOUT_MS: u64 = 5_000;
/// How long a stopping node waits for its requests in flight.
pub const DRAIN_TIMEOUT_MS: u64 = 10_000;
/// How long a stopping leader waits for its successor: an election without a timeout takes a few round trips.
pub const HANDOVER_TIMEOUT_MS: u64 = 1_500;
/// Pause before a hand-over that had no effect is tried again: a few round trips on a loaded core.
pub const HANDOVER_RETRY_MS: u64 = 250;
/// How long bytes no model refers to stay in the blob store: an upload precedes the model that names it.
pub const BLOB_GRACE_MS: u64 = 3_600_000;
/// How often a node looks for blobs it lacks or no longer needs, when no change wakes it.
pub const BLOB_SWEEP_MS: u64 = 5_000;
/// Silence in a blob transfer between nodes after which another peer is tried.
pub const BLOB_STALL_MS: u64 = 5_000;
/// How often each blob is read again to see whether it has rotted, in milliseconds: a week.
pub const BLOB_SCRUB_MS: u64 = 7 * 24 * 3_600_000;
/// Bytes of a blob that are read again at once.
pub const SCRUB_PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Pause between two such pieces, in milliseconds: some tens of MB/s, of which nobody notices anything.
pub const SCRUB_PAUSE_MS: u64 = 200;
/// Silence of a worker after which the leader tries its port: a refused connection means its process is gone.
pub const WORKER_PROBE_MS: u64 = 900;
/// How long such a try may take.
pub const WORKER_PROBE_TIMEOUT_MS: u64 = 300;
/// How often the leader judges its workers.
pub const WORKER_CHECK_MS: u64 = 200;
/// How far the term of a node that speaks may lie before that of one that listens: more elections than there ever are, and so far
/// from the end of the numbers that no liar gets there.
pub const RAFT_TERMS_AHEAD_COUNT: u64 = 1 << 32;
/// How long a chunk of a blob waits for who asked for it, in milliseconds: a disk that is written to may pause.
pub const BLOB_UNREAD_MS: u64 = 60_000;
/// Blobs that one member fetches from a node at once: one for each assignment it can have, and some.
pub const BLOB_FETCHES_PER_MEMBER_COUNT: usize = 80;
/// How long a node tries to join before it gives up.
pub const JOIN_TIMEOUT_MS: u64 = 30_000;
/// Threads of the runtime that carries Raft: one for its core, one for its network.
pub const RAFT_THREADS_COUNT: usize = 2;

/// Largest record in the write-ahead log: refuses a corrupt length before it becomes an allocation.
pub const WAL_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// Size of one write-ahead log segment, preallocated so that an append does not change file metadata.
pub const WAL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes the log writer gathers under one sync: group commit without letting one sync delay the next too long.
pub const WAL_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Bytes waiting for the log writer: past it an append waits, so that a slow disk cannot fill the memory.
pub const WAL_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of recent entries kept decoded: followers that keep up and the apply never read the disk.
pub const WAL_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of entries one read for a lagging follower returns: bounds the memory of one message.
pub const WAL_READ_BYTES: usize = 4 * 1024 * 1024;
/// How long a report of the committed position may wait for company before it is written alone.
pub const WAL_COMMITTED_DELAY_MS: u64 = 50;
/// Longest cluster id: it is part of every segment head.
pub const CLUSTER_ID_CHARS: usize = 100;
/// How long opening and checking the materialised state may take before it is given up and rebuilt.
pub const STATE_VERIFY_TIMEOUT_MS: u64 = 60_000;
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
/// Time a client has to send its request headers, and for a TLS handshake.
pub const HEADER_TIMEOUT_MS: u64 = 10_000;
/// HTTP connections served at once by one node; more wait to be accepted, and idle ones make room.
pub const CONNECTIONS_COUNT: usize = 10_000;
/// Connections the operating system keeps for a node that has not accepted them yet: a burst of clients.
pub const CONNECTIONS_WAITING_COUNT: u32 = 1_024;
/// Of those served, from one address (of IPv6: one /64), so that no single client takes them all; proxies that are trusted apart.
pub const CONNECTIONS_PER_ADDRESS_COUNT: usize = 256;
/// How long a connection without a request is kept: longer than the minute most clients keep theirs.
pub const CONNECTION_IDLE_MS: u64 = 75_000;
/// Bytes buffered for one HTTP/1 connection, each way.
pub const CONNECTION_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes read and thrown away of what a client goes on sending after its last answer: without, it may never see that answer.
pub const CONNECTION_LINGER_BYTES: usize = 64 * 1024;
/// How long that may take.
pub const CONNECTION_LINGER_MS: u64 = 1_000;
/// Request line and headers of one request: cookies and tokens of browsers behind proxies take half of it.
pub const HEADER_BYTES: usize = 16 * 1024;
/// Headers of one request: browsers behind proxies send some thirty.
pub const HEADERS_COUNT: usize = 64;
/// Longest path and query of a URL.
pub const URL_BYTES: usize = 8 * 1024;
/// Longest request id taken from a client: it stands in log lines and travels to workers.
pub const REQUEST_ID_BYTES: usize = 128;
/// Streams one HTTP/2 connection may have open; more are refused.
pub const HTTP2_STREAMS_COUNT: u32 = 256;
/// Streams a client may have reset before they were looked at: more is an attack (rapid reset), and ends the connection.
pub const HTTP2_RESETS_COUNT: usize = 20;
/// Streams reset because of what the client sent, after which its connection ends.
pub const HTTP2_FAULTS_COUNT: usize = 128;
/// How long a request body may bring nothing, and after which its average counts.
pub const BODY_STALL_MS: u64 = 30_000;
/// Least average of a body that takes longer: far below any network in use.
pub const BODY_BYTES_PER_S: u64 = 1_024;
/// Addresses looked at in a list of proxies: no way through the network has as many.
pub const FORWARDED_COUNT: usize = 32;
/// How long a browser may keep what an origin may send: a changed setting counts within it.
pub const PREFLIGHT_AGE_S: u32 = 600;
/// Arrays and objects nested in JSON of a request: serde_json's own bound, held for fields that nobody reads, too.
pub const JSON_DEPTH: usize = 127;
/// How often certificates are looked at for a change.
pub const TLS_RELOAD_MS: u64 = 60_000;
/// Largest file of certificates or of a key: a chain has some kilobytes.
pub const HTTPS_FILE_BYTES: u64 = 1024 * 1024;
/// Longest text of an error, in its answer and in the log: what a client sent is quoted, but not whole.
pub const ERROR_TEXT_CHARS: usize = 2_000;
/// Longest value of one field in a log line.
pub const LOG_FIELD_CHARS: usize = 8 * 1024;
/// Largest temperature on OpenAI's endpoints: OpenAI's own bound.
pub const OPENAI_TEMPERATURE_MAX: f64 = 2.0;
/// Requests one gateway holds for one model while its workers are busy (`OLLAMA_MAX_QUEUE`).
pub const REQUESTS_QUEUED: usize = 512;
/// Longest time a client may give a request, in seconds.
pub const REQUEST_TIMEOUT_S: f64 = 86_400.0;
/// How long a request waits for its model to be loaded somewhere (`OLLAMA_LOAD_TIMEOUT`).
pub const LOAD_TIMEOUT_MS: u64 = 300_000;
/// Silence of a worker in the middle of a stream after which the gateway resumes elsewhere.
pub const STREAM_STALL_MS: u64 = 10_000;
/// Attempts (first one included) a request may make over workers.
pub const ATTEMPTS_COUNT: u32 = 4;
/// How long a broken stream waits for another worker: the planner needs about [`WORKER_DOWN_MS`] to notice and a load to repair.
pub const RESUME_TIMEOUT_MS: u64 = 30_000;
/// How long a request waits while no worker at all can be used: a worker that restarts is back by then.
pub const NO_WORKER_TIMEOUT_MS: u64 = 5_000;
/// How long a client may leave a full stream unread before its sequence is given up.
pub const CLIENT_STALL_MS: u64 = 120_000;
/// HTTP/2 window of one token stream: what a slow client can make a gateway hold, beside its buffered chunks.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// HTTP/2 window of all token streams of one worker together: stalled ones must not hold up the others.
pub const STREAMS_WINDOW_BYTES: u32 = 256 * 1024 * 1024;
/// How often a gateway pings a worker it has streams from, and how long it waits for the answer: a dead host says nothing.
pub const WORKER_PING_MS: u64 = 2_000;
/// Replicas a model gets when a request is the first to want it: one may fail.
pub const DEMAND_REPLICAS_COUNT: u32 = 2;
/// Ready-made text a stream gathers into one write when several chunks wait.
pub const STREAM_WRITE_BYTES: usize = 16 * 1024;
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
/// Bytes of a tag or token that tells the parts of an answer apart.
pub const MARKER_BYTES: usize = 128;
/// Bytes of one call of a tool in an answer: what is longer is told as text.
pub const TOOL_CALL_BYTES: usize = 256 * 1024;
/// Requests that a gateway remembers after their end.
pub const REQUESTS_REMEMBERED_COUNT: usize = 4_096;
/// Of these, told in one answer.
pub const REQUESTS_LISTED_COUNT: usize = 1_000;
/// Longest that a client which found a full queue is told to stay away, in seconds.
pub const RETRY_AFTER_MOST_S: u32 = 60;
/// How long an event stream may be silent before it shows that it is alive.
pub const STREAM_PING_MS: u64 = 15_000;
/// Tools in one request.
pub const TOOLS_COUNT: usize = 1_024;
/// Answers to one request.
pub const CHOICES_COUNT: usize = 16;
/// Control tokens that one request may ask to be shown.
pub const MARKERS_COUNT: usize = 32;
/// Largest temperature: far below it every choice is even already.
pub const TEMPERATURE_MAX: f32 = 100.0;
/// Largest repeat penalty: ten times what silences every repetition.
pub const REPEAT_PENALTY_MAX: f32 = 100.0;
/// Largest presence and frequency penalty, either way: as much as a bias may do.
pub const PENALTY_LOGITS: f32 = 100.0;
/// Largest bias on a token, either way: OpenAI's own bound, it forbids or forces the token.
pub const BIAS_LOGITS: f32 = 100.0;
/// Tokens with a bias in one request: OpenAI's own bound.
pub const BIASES_COUNT: usize = 1_024;
/// Largest target of Mirostat: no vocabulary has that much surprise.
pub const MIROSTAT_TAU_MAX_BITS: f32 = 100.0;
/// Largest learning rate of Mirostat: above 1 the loop overshoots with every token.
pub const MIROSTAT_ETA_MAX: f32 = 10.0;
/// Tokens whose log-probabilities may be asked beside the chosen one's: Ollama's and OpenAI's own bound.
pub const TOP_LOGPROBS_COUNT: u32 = 20;
/// Longest JSON schema or grammar of an output: schemas of programs have a few kilobytes, and compiling grows with the
/// square of some.
pub const OUTPUT_FORMAT_BYTES: usize = 32 * 1024;
/// Symbols of the grammar a format becomes, repetitions written out: some five hundred properties of a schema. The first
/// row of a parse has an item for each symbol.
pub const CONSTRAINT_SYMBOLS_COUNT: usize = 4_000;
/// Work of compiling a format's regular expressions, in nodes made: some tens of milliseconds.
pub const CONSTRAINT_COMPILE_FUEL: u64 = 1_000_000;
/// Possibilities a format may leave open at one place: each step looks at pairs of them.
pub const CONSTRAINT_ROW_ITEMS_COUNT: usize = 1_000;
/// Possibilities looked at for one token: a few milliseconds, in which all other sequences wait.
pub const CONSTRAINT_STEP_ITEMS_COUNT: usize = 20_000;
/// Work on a format's regular expressions for one token, in nodes made: a few milliseconds, as above.
pub const CONSTRAINT_STEP_FUEL: u64 = 100_000;
/// States the automaton of one format's words may come to: each takes a kilobyte or two.
pub const CONSTRAINT_LEXER_STATES_COUNT: usize = 20_000;
/// Largest least common multiple of a schema's `multipleOf`: the automaton has a state for each remainder.
pub const CONSTRAINT_MULTIPLE_MAX: u64 = 10_000;
/// Entries of a schema's `patternProperties`: each pair is proved disjoint.
pub const CONSTRAINT_PATTERNS_COUNT: usize = 32;
/// Inputs of one request to embed: its answer is held whole, as vectors and as text.
pub const EMBED_INPUTS_COUNT: usize = 8_192;
/// Inputs a worker is asked to embed at once: a request with more takes turns with others, and is repeated elsewhere in part only.
pub const EMBED_PART_COUNT: usize = 64;
/// Bytes of such inputs after which no further one is added: so many texts of a full context keep a slow worker busy for a minute.
pub const EMBED_PART_BYTES: usize = 64 * 1024;
/// Largest width of an embedding: the widest models have sixteen thousand, and a part of them fits an RPC message.
pub const EMBEDDING_VALUES_COUNT: usize = 32_768;
/// Longest spelling of one token: the longest in real vocabularies are some hundreds of bytes.
pub const TOKEN_BYTES: usize = 64 * 1024;

/// Blocks and parentheses nested in a Go template: real ones reach five, the parser recurses.
pub const TEMPLATE_DEPTH: usize = 64;
/// Work one rendering of a chat template may do, in minijinja's units (an instruction, or 64 bytes made): the longest
/// conversations take a tenth of it, a hostile template stops within 128 MB and a fraction of a second.
pub const TEMPLATE_FUEL: u64 = 2_000_000;

/// Requests waiting in one worker's scheduler.
pub const WORKER_WAITING_COUNT: usize = 256;
/// Of these, how many no single caller can take from all others.
pub const WORKER_OTHERS_COUNT: usize = 64;
/// Sequences one worker runs at once per model.
pub const SEQUENCES_COUNT: u32 = 16;
/// Tokens a sequence may hold when neither the request nor the model says otherwise (Ollama's default).
pub const CONTEXT_TOKENS: u32 = 4_096;
/// Between two looks at how a GPU is.
pub const GPU_HEALTH_MS: u64 = 1_000;
/// Tokens one step may process on a CPU: keeps the time between tokens even while prompts join.
pub const STEP_TOKENS_CPU: usize = 128;
/// Tokens one step may process on a GPU, which is not busy with few.
pub const STEP_TOKENS_GPU: usize = 2_048;
/// Sequences that may run while any of them guesses ahead: with more, a step has enough to compute.
pub const SPECULATING_SEQUENCES_COUNT: usize = 2;
/// Tokens per KV block on a CPU.
pub const KV_BLOCK_TOKENS: usize = 16;
/// Assignments one worker accepts: each is a loaded model with a thread of its own.
pub const WORKER_ASSIGNMENTS_COUNT: usize = 64;
/// How long a worker that drains lets running sequences finish before it breaks them off.
pub const WORKER_DRAIN_MS: u64 = 30_000;
/// Bytes of blobs no assignment needs that a worker keeps for a quick return.
pub const WORKER_BLOB_CACHE_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Rounds over all nodes that a worker tries to fetch one blob before it reports the assignment as failed.
pub const WORKER_FETCH_ROUNDS: u32 = 8;
/// Silence in the middle of a blob transfer after which a worker turns to another node.
pub const WORKER_FETCH_STALL_MS: u64 = 5_000;
/// Longest wait of a worker for the answer to a call that should be quick, before it tries another node.
pub const WORKER_CALL_TIMEOUT_MS: u64 = 750;
/// Pings on a worker's quiet connection: with the timeout below a dead node is noticed within about a second.
pub const WORKER_PING_PERIOD_MS: u64 = 300;
/// Silence after a ping that means the other side is gone.
pub const WORKER_PING_TIMEOUT_MS: u64 = 700;
/// Calls one gateway connection may have open at a worker: more than the queues of its models, so that the refusal
/// comes from them, with its reason.
pub const WORKER_STREAMS_COUNT: u32 = 4_096;
/// First window of a worker's waits between attempts to reach the control plane.
pub const WORKER_RETRY_FIRST_MS: u64 = 100;
/// Largest window of these waits: a control plane that comes back is found within it.
pub const WORKER_RETRY_MAX_MS: u64 = 2_000;
/// Control-plane addresses a worker remembers: the quorum, a few former members and the configured ones.
pub const WORKER_CONTROL_PLANES_COUNT: usize = 32;

/// Metadata entries in a GGUF: real files have under a hundred.
pub const GGUF_METADATA_COUNT: u64 = 65_536;
/// Tensors in a GGUF: the largest known models have a few thousand.
pub const GGUF_TENSORS_COUNT: u64 = 1_048_576;
/// Bytes of one GGUF string: chat templates reach tens of kilobytes.
pub const GGUF_STRING_BYTES: u64 = 16 * 1024 * 1024;
/// Elements of one GGUF array: vocabularies reach a few hundred thousand.
pub const GGUF_ARRAY_COUNT: u64 = 16 * 1024 * 1024;
/// Bytes of a GGUF before its tensor data: the largest vocabularies with merges take tens of megabytes.
pub const GGUF_HEADER_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes of the JSON header of a safetensors file: the format's own limit.
pub const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;
/// Bytes of a JSON file of a checkpoint: tokenizers of the largest vocabularies take some 35 MB.
pub const CHECKPOINT_JSON_BYTES: u64 = 64 * 1024 * 1024;
/// Files of a checkpoint: the largest are cut into some 200.
pub const CHECKPOINT_FILES_COUNT: usize = 1_024;
/// Rank of an adapter: few have more than 256, and two matrices of one layer are held at a time.
pub const ADAPTER_RANK_COUNT: u64 = 1_024;
/// Bytes of floats that a thread converts at once: large enough for its start not to count, small beside any model.
pub const IMPORT_PART_BYTES: u64 = 4 * 1024 * 1024;
/// Models a node converts or quantises at a time: each takes half of its processors.
pub const IMPORTS_COUNT: usize = 1;
/// Seconds after which to try again when a node converts another model: some take minutes.
pub const IMPORT_RETRY_S: u32 = 30;

/// Longest name of a cluster or worker: shown to people, kept in every node's memory.
pub const DISPLAY_NAME_CHARS: usize = 200;
/// Longest host:port: a DNS name has at most 253 characters.
pub const ADDRESS_CHARS: usize = 300;
/// Longest reason kept with a worker or placement: a sentence, not a trace; longer ones are cut.
pub const REASON_CHARS: usize = 1_000;
/// Most assignments in the whole cluster: they live in every node's memory and the planner walks them.
pub const PLACEMENTS_COUNT: usize = 100_000;
/// Most steps of one plan: it travels through Raft as one command; the next plan does the rest.
pub const PLAN_STEPS_COUNT: usize = 1_000;
/// Looks at what a plan's own steps leave free: each may free more, and what is left is for the next plan.
pub const PLAN_LOOKS_COUNT: usize = 8;
/// How long a worker that could not load a model is left alone with it.
pub const PLACEMENT_RETRY_MS: u64 = 60_000;
/// States the planner's search for a better packing may visit before it keeps the best one found.
pub const PLAN_SEARCH_COUNT: u32 = 20_000;
/// Failures in a row after which a worker's breaker opens: one or two may be the request's own fault.
pub const BREAKER_FAILURES_COUNT: u32 = 3;
/// How long a breaker stays open the first time; doubles with each failed probe.
pub const BREAKER_OPEN_MS: u64 = 1_000;
/// Longest time a breaker stays open: a repaired worker is found again within it.
pub const BREAKER_OPEN_MAX_MS: u64 = 30_000;
/// Workers compared by the least-outstanding pick: bounds the pick while the best of so many is near the best of all.
pub const PICK_SCAN_COUNT: usize = 32;
/// Time constant of latency averages: long enough to smooth tokens, short enough to forget a slow minute.
pub const LATENCY_DECAY_MS: u64 = 10_000;
/// Load a worker may have for a cached prefix to win, in percent of the mean load.
pub const PREFIX_LOAD_PERCENT: u64 = 125;
/// Missing replicas times ready workers up to which the planner searches for a better packing at all: beyond, the search sees too little.
pub const PLAN_SEARCH_PAIRS_COUNT: usize = 256;

/// Load a worker may have for what it has cached to count at all, in percent of the mean load: beyond it the queue is the
/// larger cost, whatever it saves.
pub const PREFIX_IMBALANCE_PERCENT: u64 = 200;
/// Bytes of a conversation one hash stands for: some sixty tokens, a few blocks of a worker's cache.
pub const PREFIX_BLOCK_BYTES: usize = 256;
/// Hashes of one conversation: its first sixteen kilobytes, about a context of the usual length. They travel with the request.
pub const PREFIX_BLOCKS_COUNT: usize = 64;
/// Blocks whose hash chooses the home of what nobody has cached: a common system prompt, before conversations part.
pub const PREFIX_HOME_BLOCKS_COUNT: usize = 4;
/// Hashes a gateway keeps for one placement: a cache of a million tokens.
pub const PREFIX_HASHES_COUNT: usize = 16_384;
/// Time after which a fresh worker gets as much as the others: its caches are warm and its averages mean something.
pub const SLOW_START_MS: u64 = 10_000;
/// What a fresh worker gets at first, in percent of a usual share.
pub const SLOW_START_PERCENT: u64 = 10;
/// How often a gateway looks for outliers.
pub const OUTLIER_PERIOD_MS: u64 = 1_000;
/// Answers in such a period below which nobody is judged: one slow answer is chance.
pub const OUTLIER_ANSWERS_COUNT: u32 = 3;
/// Latency of an outlier, in percent of the median.
pub const OUTLIER_LATENCY_PERCENT: u64 = 400;
/// And at least so far above it, in microseconds: below that nobody notices.
pub const OUTLIER_LATENCY_US: u64 = 100_000;
/// Failures of an outlier, in percent of its answers above the median.
pub const OUTLIER_FAILURES_PERCENT: u64 = 50;
/// Most workers left out at once, in percent: the rest must carry the load.
pub const OUTLIER_SHARE_PERCENT: usize = 34;
/// How long an outlier is left out the first time; the second time twice as long, and so on.
pub const OUTLIER_OUT_MS: u64 = 10_000;
/// Longest time an outlier is left out: a repaired worker is found again within it.
pub const OUTLIER_OUT_MAX_MS: u64 = 120_000;
/// Extra attempts at workers, retries and hedges together, in percent of all requests: a cluster that fails is not loaded much more.
pub const RETRY_PERCENT: u64 = 20;
/// Extra attempts a gateway may make each second whatever its traffic, and at its start: a quiet one may try again, too.
pub const RETRY_RESERVE_COUNT: u64 = 10;
/// Extra attempts that can be saved up: bounds the burst after a long good time.
pub const RETRY_HELD_COUNT: u64 = 100;
/// Samples below which nobody claims to know what a worker usually does.
pub const PACE_SAMPLES_COUNT: u32 = 4;
/// How many times longer than hardly ever a worker is silent before that is a bad sign.
pub const PACE_SILENCE_TIMES: u64 = 3;
/// Silence of a whole worker that is never a bad sign: in that time it computes the prompts of others beside a full batch.
pub const SILENCE_FLOOR_MS: u64 = 1_500;
/// What is added for a worker of which nothing is known yet, beside others of its model that are: it may be slower than they.
pub const SILENCE_UNKNOWN_MS: u64 = 1_000;
/// Shortest wait before a second attempt is made beside the first: what it saves must be worth a prompt.
pub const HEDGE_MIN_MS: u64 = 250;
/// Silence of a whole worker that is never a bad sign while it computes prompts: other gateways sent it some, too.
pub const PROMPT_FLOOR_MS: u64 = 5_000;
/// Latest changes of what a worker has cached that it keeps for gateways: who comes by later gets everything anew.
pub const CACHE_NEWS_COUNT: usize = 4_096;
/// How often a worker tells of changes: gateways know what they sent themselves at once.
pub const CACHE_NEWS_PERIOD_MS: u64 = 100;
/// How long a gateway waits before it asks again for a worker's news after a break, and how often it looks whether it still cares.
pub const CACHE_NEWS_RETRY_MS: u64 = 2_000;
/// Longest wait of a batch request for a place: a client that waits longer does better to come back.
pub const BATCH_WAIT_MS: u64 = 600_000;

/// Sets of unlike workers up to which the best order of a replica's stages is searched exactly: a millisecond or two.
pub const PARTITION_EXACT_SETS_COUNT: usize = 64;
/// Layers up to which it is: the search grows with their square, and the largest models have some 130.
pub const PARTITION_EXACT_LAYERS_COUNT: usize = 160;
/// Workers of which every tensor group is looked at: 256 groups at most, beyond only those of neighbouring speed.
pub const PARTITION_GROUP_WORKERS_COUNT: usize = 8;
/// Places whose workers are tried alone before all together: those with the most room.
pub const PARTITION_PLACES_COUNT: usize = 8;
/// Labels of one worker, and of one deployment: each is compared for every worker of every plan.
pub const WORKER_LABELS_COUNT: usize = 32;
/// Longest key or value of a label: as long as a part of a DNS name, which many are.
pub const LABEL_CHARS: usize = 63;
/// Models on their way from worker to worker at once: each is looked at with every command.
pub const MIGRATIONS_COUNT: usize = 64;
/// Workers a replica is searched over: those with the most room, many times what one replica may use.
pub const PARTITION_WORKERS_COUNT: usize = 64;
/// Models that one rebalancing sets on their way: each is loaded anew beside what serves.
pub const REBALANCE_MOVES_COUNT: usize = 4;
/// What a move must even out at least, in thousandths of a worker's memory: less is not worth a load.
pub const REBALANCE_GAIN_THOUSANDTHS: u64 = 50;

/// Versions kept of one model name beside the one it stands for: each keeps its bytes on every node.
pub const MODEL_VERSIONS_COUNT: usize = 3;
/// Attempts at a new version before a gateway judges it: a few failures are chance.
pub const ROLLOUT_ATTEMPTS_COUNT: u32 = 20;
/// Failures of a new version above which it is given up, in percent of its attempts: half of them is no accident.
pub const ROLLOUT_FAILURES_PERCENT: u32 = 50;
/// Workers that could not load a new version after which no other is tried: it is the version, not the worker.
pub const ROLLOUT_LOADS_COUNT: usize = 3;
/// How long an old version stays loaded after the new one serves everything: the requests that picked it just before have
/// come, and two heartbeats have told of them.
pub const ROLLOUT_DRAIN_MS: u64 = 1_500;
/// How long a model has been loaded before it may go for another one: whoever waited for it has come by then.
pub const EVICTION_LOADED_MS: u64 = 2_000;

/// How full a worker is, in thousandths of what it may use, when models are moved away from it: the rest is for longer contexts.
pub const WORKER_FULL_THOUSANDTHS: u64 = 900;
/// How long a model is left alone after anything of it has changed place or phase, before it is moved unasked: each move
/// loads it anew and costs its caches.
pub const MOVE_COOLDOWN_MS: u64 = 600_000;
/// How much longer a slow worker takes than the one a model moves to, in percent: less is not worth a load.
pub const MOVE_SPEED_PERCENT: u64 = 150;
/// Longest measurement of a worker's speed when it starts: some tens of rounds through more memory than caches hold.
pub const SPEED_MEASURE_MS: u64 = 150;
/// Fewest nanoseconds per MiB that are believed: ten times faster than any memory there is.
pub const NS_PER_MIB_MIN: u64 = 16;
/// Most that are believed: a second per MiB is no computer.
pub const NS_PER_MIB_MAX: u64 = 1_000_000_000;
/// Time constant of a worker's measured speed: long enough that a burst elsewhere on the machine is smoothed away.
pub const SPEED_DECAY_MS: u64 = 10_000;
/// How long a step's time counts: what has run nothing since then may be as fast as ever.
pub const SPEED_KEPT_MS: u64 = 300_000;
/// Sequences up to which a step is bound by reading weights and not by computing: only such steps tell a speed.
pub const SPEED_SEQUENCES_COUNT: usize = 2;
/// How long a worker's steps take when it counts as slow, in percent of its best.
pub const SLOW_PERCENT: u64 = 200;
/// Below which it does so no more.
pub const SLOW_OVER_PERCENT: u64 = 150;
/// How long it must be that slow before anything moves.
pub const SLOW_AFTER_MS: u64 = 60_000;
/// Requests of a model, in percent of its places, at which it gets more replicas: above it they begin to wait.
pub const SCALE_UP_PERCENT: u64 = 80;
/// How full its places shall be then: room for as much again until the next look.
pub const SCALE_AIM_PERCENT: u64 = 60;
/// How full one replica less may be for it to go: far from what would bring it back.
pub const SCALE_DOWN_PERCENT: u64 = 40;
/// How long a model must be that full: longer than one burst of requests takes to be sent.
pub const SCALE_UP_MS: u64 = 5_000;
/// How long one replica less must have sufficed: loading it again costs more than keeping it for some minutes.
pub const SCALE_DOWN_MS: u64 = 300_000;
/// How often `--watch` asks again: as often as workers speak.
pub const WATCH_PERIOD_MS: u64 = 1_000;

/// Most users: they live in every node's memory.
pub const USERS_COUNT: usize = 10_000;
/// Most roles of one's own.
pub const ROLES_COUNT: usize = 500;
/// Most roles of one user: each is looked up with every request.
pub const ROLES_OF_USER_COUNT: usize = 16;
/// Most grants of a role or of a key: each is looked at with every request.
pub const GRANTS_COUNT: usize = 100;
/// Longest pattern of a grant: as long as a model name.
pub const GRANT_PATTERN_BYTES: usize = 300;
/// Longest name of a user or role: mail addresses fit mostly.
pub const ACCESS_NAME_CHARS: usize = 64;
/// Longest password hash in PHC form: Argon2id with its usual salt has about a hundred.
pub const PASSWORD_HASH_BYTES: usize = 256;
/// Most API keys: they live in every node's memory.
pub const KEYS_COUNT: usize = 50_000;
/// Most logins at once.
pub const SESSIONS_COUNT: usize = 50_000;
/// Most logins of one user at once: the oldest goes for the next.
pub const SESSIONS_OF_USER_COUNT: usize = 50;
/// How long a login lasts, refreshed or not, in milliseconds.
pub const SESSION_MS: u64 = 7 * 24 * 3_600_000;
/// How long after a refresh token was replaced it gets the same successor again, in milliseconds: an answer may get lost.
pub const REFRESH_GRACE_MS: u64 = 10_000;
/// Longest life of an access token, in milliseconds: what is revoked is remembered that long.
pub const ACCESS_TOKEN_MAX_MS: u64 = 600_000;
/// Most access tokens void before their time: each is forgotten when it would have expired.
pub const REVOKED_TOKENS_COUNT: usize = 100_000;
/// Most signing keys at once: the next, the active one, and some whose tokens have not expired.
pub const SIGNING_KEYS_COUNT: usize = 8;
/// Most bytes of a key or certificate, sealed or not: RSA with 4096 bits takes some 2400.
pub const SIGNING_KEY_BYTES: usize = 8_192;
/// Most authorities at once.
pub const AUTHORITIES_COUNT: usize = 4;
/// Shortest life of a certificate of a node or worker that may be asked for, in milliseconds: it is renewed in time by a busy machine.
pub const CERTIFICATE_MIN_MS: u64 = 5_000;
/// Longest life of a certificate of a node or worker, in milliseconds.
pub const CERTIFICATE_MAX_MS: u64 = 24 * 3_600_000;
/// Most join tokens at once.
pub const JOIN_TOKENS_COUNT: usize = 1_000;
/// Most processes one join token lets in: a rack.
pub const JOIN_TOKEN_USES_COUNT: u32 = 100;
/// Longest life of a join token, in milliseconds.
pub const JOIN_TOKEN_MAX_MS: u64 = 24 * 3_600_000;
/// Most quotas.
pub const QUOTAS_COUNT: usize = 60_000;
/// Notes that one command may put into the trail.
pub const AUDIT_NOTES_COUNT: usize = 256;
/// Longest text in the trail; longer ones are cut.
pub const AUDIT_TEXT_BYTES: usize = 512;
/// Records of the trail that every node has at hand: about a week of a busy team. Older ones are where they were exported to.
pub const AUDIT_RECORDS_COUNT: usize = 10_000;
/// Records of the trail in one answer.
pub const AUDIT_PAGE_COUNT: usize = 1_000;
/// Receivers of the trail of which the cluster remembers how far they are.
pub const AUDIT_RECEIVERS_COUNT: usize = 16;
/// Records that go to a receiver at once: some hundred kilobytes.
pub const AUDIT_EXPORT_COUNT: usize = 256;
/// Between two looks for more to export, in milliseconds: records that come together are written together.
pub const AUDIT_EXPORT_PERIOD_MS: u64 = 200;
/// How often the cluster is told how far a receiver is, in milliseconds: so much comes twice at most when another node leads.
pub const AUDIT_CURSOR_MS: u64 = 2_000;
/// How long a node that does not lead may be behind what it exported before that is not believed, in milliseconds.
pub const AUDIT_AHEAD_MS: u64 = 60_000;
/// How long a receiver may take to answer, in milliseconds.
pub const AUDIT_EXPORT_TIMEOUT_MS: u64 = 10_000;
/// Longest pause before an export that failed is tried again, in milliseconds.
pub const AUDIT_EXPORT_RETRY_MS: u64 = 15_000;
/// Longest line of an exported trail: seven texts with each byte escaped.
pub const AUDIT_LINE_BYTES: usize = 64 * 1024;
/// Kinds of refusals kept apart between two entries in the trail.
pub const REFUSALS_COUNT: usize = 100;
/// How often refusals go into the trail, in milliseconds: a flood costs the cluster a command each time.
pub const REFUSALS_PERIOD_MS: u64 = 500;
/// Longest access token; ours have some 900 bytes.
pub const ACCESS_TOKEN_BYTES: usize = 8 * 1024;
/// Verified access tokens that a gateway remembers: a check of the signature takes tens of microseconds.
pub const ACCESS_TOKENS_CACHED_COUNT: usize = 10_000;
/// How far clocks may differ, in seconds.
pub const CLOCK_LEEWAY_S: u64 = 5;
/// How long after it last heard of the others a node still believes access tokens, in milliseconds: what was revoked meanwhile
/// it does not know.
pub const STALE_VIEW_MS: u64 = 30_000;
/// How long a signing key is published before it signs, in milliseconds: others fetch the public keys now and then.
pub const SIGNING_KEY_LEAD_MS: u64 = 60_000;
/// Largest body of a login, a key or a role.
pub const LOGIN_BODY_BYTES: usize = 64 * 1024;
/// Shortest password.
pub const PASSWORD_MIN_CHARS: usize = 8;
/// Longest password: Argon2 reads all of it.
pub const PASSWORD_BYTES: usize = 1_024;
/// Passwords checked at once: each takes 19 MiB and a core.
pub const PASSWORD_CHECKS_COUNT: usize = 2;
/// Failed credentials of one address at once, before it has to wait.
pub const AUTH_FAILURES_COUNT: u64 = 50;
/// After how long one of them is forgiven, in milliseconds.
pub const AUTH_FAILURE_MS: u64 = 1_000;
/// Logins as one user from one address at once, before it has to wait.
pub const LOGINS_COUNT: u64 = 5;
/// After how long one of them is forgiven, in milliseconds: five a minute.
pub const LOGIN_MS: u64 = 12_000;
/// Addresses and users whose failures are counted.
pub const THROTTLED_COUNT: usize = 10_000;

/// How long the certificate of a node or worker lives, in milliseconds: a stolen one is worth a day.
pub const TLS_LIFETIME_MS: u64 = 24 * 60 * 60 * 1_000;
/// Longest life a certificate may be given, in milliseconds: one that never ends is never renewed.
pub const TLS_LIFETIME_MAX_MS: u64 = 90 * TLS_LIFETIME_MS;
/// How long the authority of a cluster lives, in milliseconds: ten years; it is replaced by hand.
pub const TLS_AUTHORITY_LIFETIME_MS: u64 = 3_650 * TLS_LIFETIME_MS;
/// How far before now a certificate begins, in milliseconds: clocks of machines differ.
pub const TLS_SKEW_MS: u64 = 60_000;
/// The part of its life after which a certificate is renewed: a third is left for trying again.
pub const TLS_RENEW_PERCENT: u64 = 67;
/// How long the HTTPS certificate that `up --tls` makes lives, in milliseconds: 825 days, the most that some clients take.
pub const TLS_LOCAL_LIFETIME_MS: u64 = 825 * TLS_LIFETIME_MS;
/// How long before its end `up` makes another, in milliseconds: it is looked at when `up` starts.
pub const TLS_LOCAL_RENEW_MS: u64 = 90 * TLS_LIFETIME_MS;
/// Longest request for a certificate: a P-256 key and its signature take about 200 bytes.
pub const TLS_REQUEST_BYTES: usize = 1_024;
/// Largest certificate read: ours take about 500 bytes.
pub const TLS_CERTIFICATE_BYTES: usize = 4 * 1_024;
/// Most authorities trusted at once: two while one replaces the other, and room for haste.
pub const TLS_AUTHORITIES_COUNT: usize = 4;
/// Largest file with a key and certificates.
pub const TLS_FILE_BYTES: usize = 32 * 1_024;
/// How long connecting to another process and greeting it may take, in milliseconds: a hung one looks like a dead one.
pub const TLS_DIAL_MS: u64 = 2_000;
/// How long who connects may take for the handshake, in milliseconds.
pub const TLS_HANDSHAKE_MS: u64 = 5_000;
/// Handshakes under way at once; more connections wait to be accepted.
pub const TLS_HANDSHAKES_COUNT: usize = 1_024;
/// Handshakes under way at once from one address: one machine alone cannot take all.
pub const TLS_HANDSHAKES_PER_ADDRESS_COUNT: usize = 256;
/// How long a connection without a certificate may last, in milliseconds: longer than joining takes.
pub const TLS_STRANGER_MS: u64 = 60_000;
/// Connections without a certificate at once: who joins needs one for a moment.
pub const TLS_STRANGERS_COUNT: usize = 512;
/// Connections without a certificate at once from one address: a rack that joins from behind one.
pub const TLS_STRANGERS_PER_ADDRESS_COUNT: usize = 128;
/// Failed handshakes are warned of once in this time, in milliseconds: a port scan fills no log.
pub const TLS_WARN_PERIOD_MS: u64 = 10_000;
/// After a connection could not be accepted, until the next is tried, in milliseconds: a lack of descriptors passes.
pub const TLS_ACCEPT_RETRY_MS: u64 = 100;
/// Longest join token: nine addresses of 255 bytes fit.
pub const JOIN_TOKEN_CHARS: usize = 4_096;
/// Accounts of quotas that one gateway keeps.
pub const QUOTA_ACCOUNTS_COUNT: usize = 20_000;
/// Accounts of which gateways tell each other at once.
pub const QUOTA_NEWS_COUNT: usize = 2_000;
/// How often gateways tell each other what was used, in milliseconds.
pub const QUOTA_NEWS_PERIOD_MS: u64 = 1_000;
/// How long streams at another gateway count that tells nothing any more, in milliseconds.
pub const QUOTA_NEWS_KEPT_MS: u64 = 5_000;
/// Models that one user makes in a day where nobody says otherwise: a script that runs wild stops within the day.
pub const MODELS_MADE_PER_DAY_COUNT: u32 = 1_000;
/// Bytes that one user uploads in a day where nobody says otherwise: 4 TiB, some large models.
pub const BLOB_BYTES_PER_DAY: u64 = 4 << 40;
/// When to come back for a stream, in milliseconds: one of the others ends sometime.
pub const QUOTA_STREAM_RETRY_MS: u64 = 1_000;
/// Longest wait for an OpenID provider, in milliseconds.
pub const OIDC_TIMEOUT_MS: u64 = 5_000;
/// How often its keys are read, in milliseconds.
pub const OIDC_REFRESH_MS: u64 = 600_000;
/// Shortest time between two reads, in milliseconds: whoever makes up key ids must not make us ask.
pub const OIDC_RETRY_MS: u64 = 2_000;
/// Largest answer of a provider: key sets have a few kilobytes.
pub const OIDC_ANSWER_BYTES: usize = 256 * 1024;
/// Most keys of a provider.
pub const OIDC_KEYS_COUNT: usize = 64;
/// Longest id of one of its keys.
pub const OIDC_KEY_ID_BYTES: usize = 256;
/// Longest name it has for somebody.
pub const OIDC_SUBJECT_BYTES: usize = 255;
/// Largest message of who joins, and largest answer: a request for a certificate, or certificates and addresses.
pub const JOIN_MESSAGE_BYTES: usize = 64 * 1_024;
/// Requests to join that a node works on at once: each costs signatures, and who asks is not known yet.
pub const JOINS_COUNT: usize = 8;
/// How long a join token is good when nobody says otherwise, in milliseconds: until the machine beside has been started.
pub const JOIN_TOKEN_MS: u64 = 15 * 60_000;
/// How long an authority is trusted before it signs, in milliseconds: until then every member must have heard of it.
pub const AUTHORITY_LEAD_MS: u64 = 60_000;
/// How long a key signs access tokens before another one is made, in milliseconds.
pub const SIGNING_KEY_ROTATION_MS: u64 = 30 * 24 * 3_600_000;
/// Between two looks of the leader for what is due in access, in milliseconds: keys to make, things that have expired.
pub const ACCESS_CHECK_MS: u64 = 1_000;
/// Longest wait of a member until it looks again whether its certificate is to be renewed, in milliseconds.
pub const RENEW_CHECK_MS: u64 = 60_000;
/// Shortest such wait, and between two tries to renew, in milliseconds.
pub const RENEW_RETRY_MS: u64 = 500;
/// Longest name of an account: the longest model name.
pub const QUOTA_NAME_BYTES: usize = 700;
/// Longest wait for a place to check a password, in milliseconds: longer queues are somebody's attack.
pub const PASSWORD_WAIT_MS: u64 = 2_000;
/// Most API keys of one user.
pub const KEYS_OF_USER_COUNT: usize = 200;
/// Refusals of unknown callers that go into the trail at once, before they are only counted.
pub const REFUSALS_UNKNOWN_COUNT: u64 = 30;
/// After how long one more of them does, in milliseconds: a flood must not push out what is worth keeping.
pub const REFUSALS_UNKNOWN_MS: u64 = 2_000;
/// How often those that were only counted are told of, in milliseconds.
pub const REFUSALS_COUNTED_MS: u64 = 60_000;
/// How many failed credentials a failed password counts for.
pub const LOGIN_FAILURE_WEIGHT: u64 = 5;
/// Longest text that names a model to pull: a URL.
pub const PULL_REFERENCE_BYTES: usize = 4 * 1024;
/// Redirects followed from one request: registries use one or two.
pub const PULL_REDIRECTS_COUNT: usize = 5;
/// How long connecting to a source may take, in milliseconds.
pub const PULL_CONNECT_MS: u64 = 10_000;
/// Silence of a source after which it is asked again, in milliseconds.
pub const PULL_STALL_MS: u64 = 30_000;
/// Fewest bytes that a source sends in that time: less is silence, too.
pub const PULL_PACE_BYTES: u64 = 64 * 1024;
/// Tries in a row that bring less than that before a source is given up.
pub const PULL_ATTEMPTS_COUNT: u32 = 6;
/// Shortest wait between two of them, in milliseconds.
pub const PULL_RETRY_FIRST_MS: u64 = 200;
/// Longest, in milliseconds.
pub const PULL_RETRY_MOST_MS: u64 = 10_000;
/// Ranges of one file fetched at once: what one connection of a registry gives is less than what a network does.
pub const PULL_RANGES_COUNT: usize = 4;
/// Bytes of one of them: large beside the time a request takes, small beside a model.
pub const PULL_PIECE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that came before they are written down as there: what a killed process fetches again of each file.
pub const PULL_RECORD_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes pushed to a registry with one request.
pub const PUSH_PIECE_BYTES: u64 = 64 * 1024 * 1024;
/// Pulls and pushes of one node at once.
pub const TRANSFERS_COUNT: usize = 16;
/// How long an answer to a pull waits for the manifest before it begins without, in milliseconds: what fails sooner has a status of
/// its own.
pub const PULL_ANSWER_MS: u64 = 5_000;
/// Shortest time between two records of a transfer's progress, in milliseconds.
pub const PROGRESS_PERIOD_MS: u64 = 100;
/// Largest manifest: a few layers.
pub const MANIFEST_BYTES: u64 = 1024 * 1024;
/// Most layers of a model: a file, texts and licences.
pub const MANIFEST_LAYERS_COUNT: usize = 64;
/// Largest answer of who gives out tokens for a registry.
pub const TOKEN_ANSWER_BYTES: u64 = 64 * 1024;
/// Largest answer of a package index: packages with thousands of files.
pub const INDEX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;
/// How many times larger than packed a file may be: weights hardly shrink.
pub const UNPACK_RATIO: u64 = 10;
/// Bytes of a disk that a pull leaves free: the log and its snapshots are on the same one.
pub const DISK_LEFT_BYTES: u64 = 256 * 1024 * 1024;

/// Most servers of others that are adopted: each gateway looks after each of them.
pub const ADOPTED_COUNT: usize = 256;
/// Longest URL of an adopted server.
pub const ADOPTED_URL_BYTES: usize = 500;
/// Longest key of an adopted server, sealed or not; keys of known services have a few hundred bytes at most.
pub const ADOPTED_KEY_BYTES: usize = 4 * 1024;
/// Most requests that one gateway may have in flight at one adopted server.
pub const ADOPTED_PLACES_COUNT: u32 = 4_096;
/// The same where nobody says otherwise: what such servers batch at once, and some that wait there.
pub const ADOPTED_PLACES_DEFAULT_COUNT: u32 = 128;
/// How often each gateway looks at each adopted server: one that died is noticed before many requests find out.
pub const ADOPTED_PROBE_MS: u64 = 5_000;
/// How long such a look may take: a server that is busy with a batch may answer late.
pub const ADOPTED_PROBE_TIMEOUT_MS: u64 = 5_000;
/// How long connecting to an adopted server may take: it may be on another continent.
pub const ADOPTED_CONNECT_MS: u64 = 3_000;
/// How long an idle connection to an adopted server is kept: less than servers keep theirs (uvicorn, under vLLM, five seconds).
pub const ADOPTED_IDLE_MS: u64 = 4_000;
/// How long the first byte of an answer of an adopted server may take: it may load a large model first, and a whole answer comes at
/// once.
pub const ADOPTED_FIRST_BYTE_MS: u64 = 600_000;
/// How long an answer of an adopted server may be silent once it has begun.
pub const ADOPTED_SILENCE_MS: u64 = 60_000;
/// Models of one adopted server: what it has beyond is not served.
pub const ADOPTED_MODELS_COUNT: usize = 2_000;
/// Longest list of models of an adopted server.
pub const ADOPTED_LIST_BYTES: usize = 8 * 1024 * 1024;
/// Longest answer of an adopted server, streamed or whole: many vectors fit.
pub const ADOPTED_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// Longest line of a stream of an adopted server.
pub const ADOPTED_LINE_BYTES: usize = 4 * 1024 * 1024;
/// Most that is read of an error of an adopted server.
pub const ADOPTED_ERROR_BYTES: usize = 64 * 1024;
