//! `chaos`: the part of the chaos suite that is safe on a cluster in use. Each worker in turn is drained and resumed, as for maintenance,
//! while seeded answers are asked for; each must have the bytes that it had before.
//!
//! Nothing is killed and nothing is cut off, and whatever ends the trial, the worker is resumed. The rest of the suite is for
//! clusters that it starts itself: `docs/chaos.md`.

use crate::client::Client;
use crate::exit::Failure;
use crate::list::{elements, text};
use crate::out;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(300);
/// Answers that are under way at once.
const ANSWERS_COUNT: u64 = 3;

/// What to try.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster, as `--host` names one
    #[arg(long, value_name = "URL")]
    pub against: Option<String>,
    /// Do it: without this, it only says what it would do
    #[arg(long)]
    yes: bool,
    /// A model that is served; the first one that is when absent
    #[arg(long)]
    model: Option<String>,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    tokens: u32,
    /// How long a worker may take to give away what it holds, and to be back, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
}

/// Does it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let workers = ready(client).await?;
    let model = model(client, args).await?;
    let names = workers.join(", ");
    if workers.len() < 2 {
        let why = format!(
            "chaos needs two workers that are ready, here is `{names}`: with less, draining one is an outage"
        );
        return Err(Failure::Usage(why));
    }
    if !args.yes {
        let plan = format!(
            "this would drain and resume {names}, one after the other, and meanwhile ask `{model}` for answers; \
             `--yes` does it"
        );
        return Err(Failure::Usage(plan));
    }
    let trial = Trial { client, args, model };
    let mut expected = Vec::new();
    for seed in 0..ANSWERS_COUNT {
        expected.push(trial.answer(seed).await?);
    }
    let mut wrong = Vec::new();
    for worker in &workers {
        let begun = Instant::now();
        trial.order(worker, "drain").await?;
        let drained = trial.under_drain(worker, &expected).await;
        // Whatever came of it.
        trial.order(worker, "resume").await?;
        let found = drained?;
        trial.wait(worker, |status, _| status == "ready").await?;
        let (count, took) = (found.len(), begun.elapsed().as_secs_f64());
        out::line(&format!("{worker}: drained and back in {took:.1} s, {count} answers differed"));
        wrong.extend(found);
    }
    match wrong.is_empty() {
        true => {
            let count = workers.len();
            out::line(&format!("{count} workers were drained, and no answer differed by a byte"));
            Ok(())
        }
        false => Err(Failure::Other(wrong.join("; "))),
    }
}

struct Trial<'a> {
    client: &'a Client,
    args: &'a Args,
    model: String,
}

impl Trial<'_> {
    /// An answer that is the same whenever it is asked for.
    async fn answer(&self, seed: u64) -> Result<String, Failure> {
        let prompt = format!("Chapter {seed}. It was a quiet morning when");
        let options = json!({"temperature": 0.8, "seed": seed, "num_predict": self.args.tokens});
        let ask = json!({"model": self.model, "prompt": prompt, "raw": true, "options": options});
        let mut records = self.client.stream("/api/generate", &ask).await?;
        let (mut answer, mut is_done) = (String::new(), false);
        while let Some(record) = records.next().await? {
            answer.push_str(record["response"].as_str().unwrap_or_default());
            is_done |= record["done"] == true;
        }
        if is_done { Ok(answer) } else { Err(records.broken_off()) }
    }

    async fn order(&self, worker: &str, order: &str) -> Result<(), Failure> {
        let path = format!("/admin/v1/workers/{worker}/{order}");
        let body = if order == "drain" { json!({"reason": "chaos"}) } else { json!({}) };
        self.client.post(&path, &body).await.map(drop)
    }

    /// Asks for answers until a drained worker has given everything away; those that differ, or did not come.
    async fn under_drain(&self, worker: &str, expected: &[String]) -> Result<Vec<String>, Failure> {
        let mut wrong = Vec::new();
        let given = self.wait(worker, |_, held| held == 0);
        tokio::pin!(given);
        loop {
            let answers = async {
                let (a, b, c) = tokio::join!(self.answer(0), self.answer(1), self.answer(2));
                [a, b, c]
            };
            for (seed, (answer, expected)) in answers.await.into_iter().zip(expected).enumerate() {
                match answer {
                    Ok(answer) if answer == *expected => {}
                    Ok(_) => {
                        wrong.push(format!("answer {seed} differed while {worker} was drained"))
                    }
                    Err(error) => {
                        wrong.push(format!("answer {seed} while {worker} was drained: {error}"))
                    }
                }
            }
            tokio::select! {
                biased;
                given = &mut given => return given.map(|()| wrong),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Waits until a worker's status and the number of models it holds are as they should be.
    async fn wait(
        &self,
        worker: &str,
        is_good: impl Fn(&str, usize) -> bool,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let shown = self.client.get(&format!("/admin/v1/workers/{worker}")).await?;
            let (status, held) = (text(&shown, "status"), elements(&shown["placements"]).len());
            if is_good(&status, held) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(self.args.patience) {
                let why = format!(
                    "{worker} is {status} and holds {held} models after {} s",
                    self.args.patience
                );
                return Err(Failure::Other(why));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The names of workers that are ready.
async fn ready(client: &Client) -> Result<Vec<String>, Failure> {
    let answer = client.get("/admin/v1/workers").await?;
    let ready = elements(&answer["workers"]).iter().filter(|worker| worker["status"] == "ready");
    // Ids, where names are not one worker's alone.
    let all: Vec<&Value> = ready.collect();
    let same = |name: &str| all.iter().filter(|worker| worker["name"] == name).count();
    let name = |worker: &&Value| {
        let name = text(worker, "name");
        if same(&name) == 1 { name } else { text(worker, "id") }
    };
    Ok(all.iter().map(name).collect())
}

/// The model to be asked.
async fn model(client: &Client, args: &Args) -> Result<String, Failure> {
    if let Some(model) = &args.model {
        return Ok(model.clone());
    }
    let running = client.get("/api/ps").await?;
    let first = elements(&running["models"]).first().map(|model| text(model, "name"));
    first.ok_or_else(|| {
        Failure::Usage("no model is served; `ollamamax deploy MODEL` serves one".to_owned())
    })
}
