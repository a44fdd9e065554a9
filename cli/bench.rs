//! `ollamamax bench`: figures of this machine.

use crate::exit::Failure;
use crate::{out, table};
use ollamamax_worker::DeviceChoice;
use ollamamax_worker::bench::{Ceilings, EngineBench, Machine, Memory, Row, Setting, Task};
use serde_json::json;
use std::io::BufRead;
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Tokens per second of a model file: prompts, single tokens, batches, a repeated prompt
    Engine(EngineArgs),
    /// A GPU against the CPU on small random models: every weight type and family
    Device(DeviceArgs),
}

/// Options of `bench device`.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// The GPU, as in cuda:0
    #[arg(long, value_name = "DEVICE", default_value = "cuda:0")]
    device: DeviceChoice,
    /// Print data
    #[arg(long)]
    json: bool,
}

/// Options of `bench engine`.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// A GGUF file
    model: PathBuf,
    /// What to measure: auto (the first GPU that can be used, else the CPU), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Compute threads; 0 for one per processor
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// Sequences there is room for
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    sequences: u32,
    /// Tokens each of them may have
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=131_072))]
    context: u32,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Let sequences guess ahead, as workers do; figures then depend on how much the text repeats itself
    #[arg(long)]
    speculate: bool,
    /// Print data
    #[arg(long, conflicts_with = "serve")]
    json: bool,
    /// Read a task a line from standard input and answer each with its seconds, for programs that measure several engines
    /// in turn
    #[arg(long)]
    serve: bool,
}

const TASKS: [Task; 5] = [
    Task::Prefill(512),
    Task::Repeat(512),
    Task::Decode { count: 128, at: 16 },
    Task::Decode { count: 64, at: 2_000 },
    Task::Batch { sequences: 8, count: 64 },
];

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let args = match args {
        Args::Engine(args) => args,
        Args::Device(args) => return check(args),
    };
    let setting = Setting {
        device: args.device,
        threads: args.threads,
        speculate: args.speculate,
        sequences: args.sequences,
        context_tokens: args.context,
    };
    let bench = EngineBench::load(&args.model, setting);
    let mut bench = bench.map_err(Failure::Other)?;
    if args.serve {
        return serve(&mut bench);
    }
    let mut seconds = vec![Vec::new(); TASKS.len()];
    for _ in 0..args.rounds {
        for (task, seconds) in TASKS.into_iter().zip(&mut seconds) {
            seconds.push(bench.run(task).map_err(Failure::Other)?.as_secs_f64());
        }
    }
    seconds.iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
    let memory = bench.memory();
    // Last, for its buffers would count as memory of the engine.
    let ceilings = bench.ceilings().map_err(Failure::Other)?;
    let results = TASKS.into_iter().zip(&seconds);
    if args.json {
        let rows = results.map(|(task, seconds)| {
            json!({"task": format!("{task:?}"), "tokens": task.tokens(), "seconds": seconds})
        });
        let rows: Vec<_> = rows.collect();
        let memory = memory.map(|m| json!({"peak_bytes": m.peak, "kv_bytes": m.kv}));
        out::json(&json!({
            "load_seconds": bench.load_time().as_secs_f64(),
            "device": bench.machine().name,
            "results": rows,
            "memory": memory,
            "read_bytes_per_second": ceilings.read_bytes,
            "byte_operations_per_second": ceilings.byte_operations,
        }));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = results
        .map(|(task, seconds)| {
            let rate = |seconds: f64| format!("{:.1}", f64::from(task.tokens()) / seconds);
            let (best, worst) = (seconds[0], seconds[seconds.len() - 1]);
            vec![name(task), rate(seconds[seconds.len() / 2]), rate(worst), rate(best)]
        })
        .collect();
    out::text(&table::render(&["TASK", "TOKENS/S", "WORST", "BEST"], &rows));
    out::say(&format!("loaded in {:.2} s", bench.load_time().as_secs_f64()));
    if let Some(Memory { peak, kv }) = memory {
        let file = bench.machine().file_bytes;
        out::say(&format!(
            "memory: {:.1} MiB at most, {:.1} MiB of it KV cache; the rest is {:.2} times the file",
            mib(peak),
            mib(kv),
            peak.saturating_sub(kv) as f64 / file as f64
        ));
    }
    say_ceilings(bench.machine(), ceilings, &seconds);
    Ok(())
}

/// Compares a GPU with the CPU; an error where it is too far off.
fn check(args: &DeviceArgs) -> Result<(), Failure> {
    let DeviceChoice::Cuda(index) = args.device else {
        return Err(Failure::Usage(
            "only a GPU is compared with the CPU; name one, as in cuda:0".to_owned(),
        ));
    };
    let rows = ollamamax_worker::bench::check_gpu(index).map_err(Failure::Other)?;
    let wrong = rows.iter().filter(|row| !row.passes()).count();
    if args.json {
        let row = |row: &Row| json!({"what": row.what, "worst": row.worst, "bound": row.bound});
        out::json(&json!({"rows": rows.iter().map(row).collect::<Vec<_>>(), "wrong": wrong}));
    } else {
        let cells = |row: &Row| {
            let verdict = if row.passes() { "ok" } else { "WRONG" };
            let (worst, bound) = (format!("{:.6}", row.worst), format!("{}", row.bound));
            vec![row.what.clone(), worst, bound, verdict.to_owned()]
        };
        let cells: Vec<_> = rows.iter().map(cells).collect();
        out::text(&table::render(&["WHAT", "WORST, OF THE SPREAD", "AT MOST", ""], &cells));
    }
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::Other(format!(
            "GPU {index} is wrong in {wrong} of {} comparisons",
            rows.len()
        ))),
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// How near the figures are to what the machine could do.
fn say_ceilings(machine: &Machine, ceilings: Ceilings, seconds: &[Vec<f64>]) {
    let Machine { name: device, work, .. } = machine;
    let products = ceilings.byte_operations.map(|operations| operations / 2e9);
    let products = products.map(|rate| format!(", multiplies and adds {rate:.0} G bytes/s"));
    out::say(&format!(
        "{device}, now: reads {:.1} GB/s{}",
        ceilings.read_bytes / 1e9,
        products.unwrap_or_default()
    ));
    for (task, seconds) in TASKS.into_iter().zip(seconds) {
        let rate = f64::from(task.tokens()) / seconds[seconds.len() / 2];
        match task {
            Task::Prefill(_) => {
                let Some(byte_operations) = ceilings.byte_operations else { continue };
                // Activations have sixteen bits: two products of bytes for each weight.
                let operations = 2.0 * 2.0 * work.layer_elements as f64 * rate;
                let share = operations / byte_operations;
                out::say(&format!("{}: {:.0} % of these products", name(task), 100.0 * share));
            }
            Task::Decode { .. } => {
                let share = work.bytes as f64 * rate / ceilings.read_bytes;
                out::say(&format!(
                    "{}: weights at {:.0} % of this rate",
                    name(task),
                    100.0 * share
                ));
            }
            Task::Batch { .. } | Task::Repeat(_) => {}
        }
    }
}

fn name(task: Task) -> String {
    match task {
        Task::Prefill(tokens) => format!("prompt of {tokens}"),
        Task::Repeat(tokens) => format!("the same prompt of {tokens} again"),
        Task::Decode { count, at } => format!("{count} tokens after {at}"),
        Task::Batch { sequences, count } => format!("{sequences} sequences of {count} together"),
    }
}

fn serve(bench: &mut EngineBench) -> Result<(), Failure> {
    out::line("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::Other(format!("standard input: {error}")))?;
        let task: Task = line.parse().map_err(|error| Failure::Usage(format!("{error}")))?;
        let time = bench.run(task).map_err(Failure::Other)?;
        out::line(&format!("{:.6}", time.as_secs_f64()));
    }
    Ok(())
}
