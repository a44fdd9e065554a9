//! Several answers to one request (`n`): as many generations, each with a seed of its own, told apart by their place.

use crate::Gateway;
use crate::answer::{Answer, Part, Read, Syntax, Whole};
use crate::dispatch::{Job, Summary};
use crate::error::Failure;
use crate::stream::{EVENT_STREAM, Render, event_stream};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::{self, select_all};
use ollamamax_proto::limits;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

/// How many answers are asked for.
pub(super) fn count(n: Option<i64>) -> Result<usize, Failure> {
    let most = limits::CHOICES_COUNT;
    let n = n.unwrap_or(1);
    usize::try_from(n).ok().filter(|count| (1..=most).contains(count)).ok_or_else(|| {
        let text = format!("`n` is {n}, expected a number from 1 to {most}");
        Failure::InvalidField { field: "n", text }
    })
}

/// Starts generations.
pub(super) async fn begin(
    gateway: &Arc<Gateway>,
    jobs: impl IntoIterator<Item = Job>,
    syntax: &Syntax,
) -> Result<Vec<Answer>, Failure> {
    let one = async |job: Job| Answer::begin(gateway.generate(job).await?, syntax, 0);
    try_join_all(jobs.into_iter().map(one)).await
}

/// The same job so often, each with a seed of its own.
pub(super) fn seeded(job: Job, count: usize) -> impl Iterator<Item = Job> {
    (0..count as u64).map(move |place| {
        let mut job = job.clone();
        let seed = &mut job.options.sampling.seed;
        *seed = seed.wrapping_add(place);
        job
    })
}

/// All of them, whole.
pub(super) async fn whole(answers: Vec<Answer>) -> Result<Vec<Whole>, Failure> {
    try_join_all(answers.into_iter().map(Answer::whole)).await
}

/// A body of all parts of all answers as they come, and what it ends with.
pub(super) fn respond<R: Render>(
    answers: Vec<Answer>,
    render: impl Fn(usize) -> R,
    end: impl FnOnce(&[Summary]) -> Vec<u8> + Send + 'static,
) -> Response {
    debug_assert_eq!(R::CONTENT_TYPE, EVENT_STREAM);
    let summaries = Arc::new(Mutex::new(Vec::new()));
    let each = answers.into_iter().enumerate().map(|(place, answer)| {
        let (render, summaries) = (render(place), Arc::clone(&summaries));
        let parts = stream::unfold(Some((answer, render)), move |state| {
            let summaries = Arc::clone(&summaries);
            async move {
                let (mut answer, mut render) = state?;
                let mut out = Vec::new();
                match answer.next().await {
                    Some(Ok(Read::Had(part) | Read::New(part))) => {
                        let ending = match &part {
                            Part::Done(summary) => Some(Summary::clone(summary)),
                            _ => None,
                        };
                        render.part(part, &mut out);
                        let Some(summary) = ending else {
                            return Some((Bytes::from(out), Some((answer, render))));
                        };
                        summaries.lock().unwrap_or_else(PoisonError::into_inner).push(summary);
                    }
                    Some(Err(failure)) => {
                        tracing::warn!(error = failure.to_string(), "the stream broke off");
                        render.failure(&failure, &mut out);
                    }
                    None => {
                        let failure = Failure::Internal("the generation broke off".to_owned());
                        render.failure(&failure, &mut out);
                    }
                }
                Some((Bytes::from(out), None))
            }
        });
        parts.boxed()
    });
    let each: Vec<_> = each.collect();
    let wanted = each.len();
    let last = stream::once(async move {
        let summaries = summaries.lock().unwrap_or_else(PoisonError::into_inner);
        // A stream that broke off has said so and is not said to be complete.
        if summaries.len() == wanted { Bytes::from(end(&summaries)) } else { Bytes::new() }
    });
    let body = select_all(each).chain(last).map(Ok::<_, Infallible>);
    event_stream(Body::from_stream(body))
}
