//! What a node's `/metrics` says that changes from second to second, and the rates between two looks.
//!
//! Counters begin anew when a node starts again: a counter that went back counts from nothing.

use std::collections::BTreeMap;
use std::time::Duration;

const REQUESTS: &str = "ollamamax_http_requests_total";
const TOKENS: &str = "ollamamax_output_tokens_total";
const PROMPT_TOKENS: &str = "ollamamax_prompt_tokens_total";
const STREAMS: &str = "ollamamax_generations_in_flight";
const FIRST_TOKEN: &str = "ollamamax_ttft_seconds";

/// One look at one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests answered since the node started.
    pub requests: f64,
    /// Tokens of prompts and answers, by model.
    pub tokens: BTreeMap<String, f64>,
    /// Answers under way.
    pub streams: f64,
    /// Seconds to the first token that 95 of 100 answers keep to, over the models: the worst.
    pub first_token_s: Option<f64>,
}

/// What happens in a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Requests.
    pub requests: f64,
    /// Tokens of answers.
    pub tokens: f64,
    /// The same by model.
    pub tokens_of: BTreeMap<String, f64>,
}

impl Sample {
    /// Reads the text format of Prometheus, as far as it is of interest.
    pub fn parse(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                REQUESTS => sample.requests += value,
                STREAMS => sample.streams += value.max(0.0),
                TOKENS => *sample.tokens.entry(label(labels, "model")).or_default() += value,
                PROMPT_TOKENS => {
                    sample.tokens.entry(label(labels, "model")).or_default();
                }
                FIRST_TOKEN if label(labels, "quantile") == "0.95" && value > 0.0 => {
                    let worst = sample.first_token_s.unwrap_or(0.0).max(value);
                    sample.first_token_s = Some(worst);
                }
                _ => {}
            }
        }
        sample
    }

    /// The rates since an earlier look.
    pub fn since(&self, before: &Self, elapsed: Duration) -> Rates {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let rate =
            |now: f64, then: f64| if now >= then { (now - then) / seconds } else { now / seconds };
        let then = |model: &String| before.tokens.get(model).copied().unwrap_or(0.0);
        let of = self.tokens.iter().map(|(model, now)| (model.clone(), rate(*now, then(model))));
        let tokens_of: BTreeMap<String, f64> = of.collect();
        Rates {
            requests: rate(self.requests, before.requests),
            // The sum of nothing is minus zero.
            tokens: tokens_of.values().sum::<f64>().abs(),
            tokens_of,
        }
    }
}

impl Rates {
    /// Adds another node's.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
        for (model, rate) in &other.tokens_of {
            *self.tokens_of.entry(model.clone()).or_default() += rate;
        }
    }
}

fn label(labels: &str, name: &str) -> String {
    let start = format!("{name}=\"");
    let found = labels.split_once(&start).and_then(|(_, rest)| rest.split('"').next());
    found.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE ollamamax_http_requests_total counter
ollamamax_http_requests_total{route=\"/api/chat\",method=\"POST\",status=\"200\"} 10
ollamamax_http_requests_total{route=\"/\",method=\"GET\",status=\"200\"} 5
ollamamax_output_tokens_total{model=\"smollm2:135m\"} 100
ollamamax_generations_in_flight 3
ollamamax_ttft_seconds{model=\"a\",quantile=\"0.5\"} 0.1
ollamamax_ttft_seconds{model=\"a\",quantile=\"0.95\"} 0.4
ollamamax_ttft_seconds_sum{model=\"a\"} 9
nonsense
";

    #[test]
    fn a_sample_is_read_from_the_text() {
        let sample = Sample::parse(TEXT);
        assert_eq!((sample.requests, sample.streams), (15.0, 3.0));
        assert_eq!(sample.tokens["smollm2:135m"], 100.0);
        assert_eq!(sample.first_token_s, Some(0.4));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_node_says_is_read(text in "([a-z_]{1,30}(\\{[a-z\"=,é]{0,20}\\}?)? ?[0-9.naif+-]{0,8}\n){0,6}") {
            let sample = Sample::parse(&text);
            proptest::prop_assert!(sample.streams >= 0.0);
        }
    }

    #[test]
    fn rates_lie_between_two_looks_and_survive_a_restart() {
        let before = Sample::parse(TEXT);
        let mut now = before.clone();
        now.requests += 4.0;
        now.tokens.insert("smollm2:135m".to_owned(), 150.0);
        now.tokens.insert("new".to_owned(), 10.0);
        let rates = now.since(&before, Duration::from_secs(2));
        assert_eq!((rates.requests, rates.tokens, rates.tokens_of["new"]), (2.0, 30.0, 5.0));
        let restarted = Sample { requests: 2.0, ..Sample::default() };
        assert_eq!(restarted.since(&before, Duration::from_secs(1)).requests, 2.0);
        let mut sum = rates.clone();
        sum.add(&rates);
        assert_eq!((sum.requests, sum.tokens_of["smollm2:135m"]), (4.0, 50.0));
    }
}
