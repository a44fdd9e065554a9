//! Every stream ends exactly once, with the bytes that it has undisturbed.
//!
//! A gateway that is itself cut off may say that it cannot go on: then its client gets the rest at another one. Any other has to go
//! on, whatever happens to workers.

use super::{Bars, Verdict};
use crate::history::History;

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let mut findings = Vec::new();
    for stream in &history.streams {
        let which = format!(
            "stream of prompt {} begun at node {} at {} ms",
            stream.prompt,
            stream.node + 1,
            stream.begun_us / 1_000
        );
        if let Some(error) = &stream.error {
            findings.push(format!("{which} did not end: {error}"));
            continue;
        }
        for told in stream.told.iter().filter(|told| !history.is_hit(told.node, told.at_us)) {
            let (node, at) = (told.node + 1, told.at_us / 1_000);
            findings
                .push(format!("{which} was broken off by node {node} at {at} ms: {}", told.words));
        }
        if stream.ends != 1 || stream.after_end != 0 {
            findings.push(format!(
                "{which} ended {} times, and {} records came after that",
                stream.ends, stream.after_end
            ));
        }
        match history.references.get(&stream.prompt) {
            None => findings.push(format!("{which} has nothing to be compared with")),
            Some(reference) if *reference != stream.text => {
                let both = reference.bytes().zip(stream.text.bytes());
                let same = both.take_while(|(a, b)| a == b).count();
                findings.push(format!(
                    "{which} differs from byte {same} on: {} bytes came, {} were due",
                    stream.text.len(),
                    reference.len()
                ));
            }
            Some(_) => {}
        }
    }
    Verdict::of(findings, history.streams.len(), "there were no streams")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Span, Stream, Told};

    fn judge(change: impl FnOnce(&mut Stream)) -> Verdict {
        let mut stream = Stream {
            prompt: 3,
            node: 0,
            begun_us: 0,
            ended_us: 9,
            text: "one two three".to_owned(),
            ends: 1,
            after_end: 0,
            moves: 1,
            restarts: 0,
            pause_us: 2,
            told: Vec::new(),
            error: None,
        };
        change(&mut stream);
        let references = [(3, "one two three".to_owned())].into();
        let (what, target, means) = (String::new(), "node-2, worker-1".to_owned(), String::new());
        let faults = vec![Span { what, target, means, begun_us: 10, ended_us: 20 }];
        let history = History { streams: vec![stream], references, faults, ..History::default() };
        check(&history, &Bars::default())
    }

    #[test]
    fn the_undisturbed_bytes_and_one_end_pass() {
        assert_eq!(judge(|_| {}), Verdict::Pass { looked_at: 1 });
    }

    #[test]
    fn a_token_too_many_too_few_or_other_fails() {
        for text in ["one two two three", "one three", "one two thrice", "one two three four", ""] {
            assert!(judge(|stream| stream.text = text.to_owned()).is_failure(), "{text}");
        }
    }

    #[test]
    fn only_a_gateway_that_is_hit_itself_may_break_a_stream_off() {
        let told = |node| {
            judge(|stream| stream.told = vec![Told { at_us: 15, node, words: String::new() }])
        };
        assert!(told(1).is_pass());
        assert!(told(0).is_failure());
    }

    #[test]
    fn no_end_two_ends_and_more_after_the_end_fail() {
        assert!(judge(|stream| stream.ends = 0).is_failure());
        assert!(judge(|stream| stream.ends = 2).is_failure());
        assert!(judge(|stream| stream.after_end = 1).is_failure());
        assert!(judge(|stream| stream.error = Some("cut".to_owned())).is_failure());
        assert!(judge(|stream| stream.prompt = 4).is_failure());
    }
}
