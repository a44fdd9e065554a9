//! Several answers to one request (`n`): as many generations, each with a seed of its own, told apart by their place.

use crate::Gateway;
use crate::answer::{Answer, Part, Read, Syntax, Whole};
use crate::dispatch::{Job, Summary};
use crate::error::Failure;
use crate::stream::{EVENT_STREAM, Render, alive, event_stream};
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

/// The same job so often, each with a seed of its own.
pub(super) fn seeded(job: Job, count: usize) -> impl Iterator<Item = Job> {
    (0..count as u64).map(move |place| {
        let mut job = job.clone();
        let seed = &mut job.options.sampling.seed;
        *seed = seed.wrapping_add(place);
        job
    })
}

async fn begin(gateway: &Arc<Gateway>, job: Job, syntax: &Syntax) -> Result<Answer, Failure> {
    Answer::begin(gateway.generate(job).await?, syntax, 0)
}

/// All answers, whole: each is read as it comes, so that none waits for another.
pub(super) async fn whole(
    gateway: &Arc<Gateway>,
    jobs: impl IntoIterator<Item = Job>,
    syntax: &Syntax,
) -> Result<Vec<Whole>, Failure> {
    let one = async |(place, job): (usize, Job)| {
        begin(gateway, job, &syntax.for_choice(place)).await?.whole().await
    };
    try_join_all(jobs.into_iter().enumerate().map(one)).await
}

/// Where an answer comes from.
enum Source {
    /// It has not begun.
    Job(Box<Job>, Syntax),
    Answer(Box<Answer>),
}

/// A choice on its way.
struct Choice<R> {
    gateway: Arc<Gateway>,
    place: usize,
    source: Source,
    render: R,
    ended: Arc<Mutex<Vec<(usize, Summary)>>>,
}

impl<R: Render> Choice<R> {
    /// What comes next as bytes, and what follows that.
    async fn step(mut self) -> (Bytes, Option<Self>) {
        let answer = match self.source {
            Source::Answer(answer) => Ok(answer),
            Source::Job(job, syntax) => begin(&self.gateway, *job, &syntax).await.map(Box::new),
        };
        let mut out = Vec::new();
        let broken = match answer {
            Err(failure) => failure,
            Ok(mut answer) => match answer.next().await {
                Some(Ok(Read::Had(part) | Read::New(part))) => {
                    let ending = match &part {
                        Part::Done(summary) => Some(Summary::clone(summary)),
                        _ => None,
                    };
                    self.render.part(part, &mut out);
                    let Some(summary) = ending else {
                        self.source = Source::Answer(answer);
                        return (Bytes::from(out), Some(self));
                    };
                    let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                    ended.push((self.place, summary));
                    return (Bytes::from(out), None);
                }
                Some(Err(failure)) => failure,
                None => Failure::Internal("the generation broke off".to_owned()),
            },
        };
        tracing::warn!(error = broken.to_string(), "the stream broke off");
        self.render.failure(&broken, &mut out);
        (Bytes::from(out), None)
    }
}

/// A body of all parts of all answers as they come, and what it ends with. Fails where the first one does not begin.
pub(super) async fn respond<R: Render>(
    gateway: &Arc<Gateway>,
    jobs: impl IntoIterator<Item = Job>,
    syntax: &Syntax,
    render: impl Fn(usize) -> R,
    end: impl FnOnce(&[Summary], &mut Vec<u8>) + Send + 'static,
) -> Result<Response, Failure> {
    debug_assert_eq!(R::CONTENT_TYPE, EVENT_STREAM);
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut each = Vec::new();
    for (place, job) in jobs.into_iter().enumerate() {
        let syntax = syntax.for_choice(place);
        let source = match place {
            0 => Source::Answer(Box::new(begin(gateway, job, &syntax).await?)),
            _ => Source::Job(Box::new(job), syntax),
        };
        let (gateway, ended) = (Arc::clone(gateway), Arc::clone(&ended));
        let choice = Choice { gateway, place, source, render: render(place), ended };
        let steps = stream::unfold(Some(choice), async |choice| Some(choice?.step().await));
        each.push(steps.boxed());
    }
    let wanted = each.len();
    let last = stream::once(async move {
        let mut ended = std::mem::take(&mut *ended.lock().unwrap_or_else(PoisonError::into_inner));
        ended.sort_by_key(|(place, _)| *place);
        let summaries: Vec<Summary> = ended.into_iter().map(|(_, summary)| summary).collect();
        let mut out = Vec::new();
        // A stream that broke off has said so and is not said to be complete.
        if summaries.len() == wanted {
            end(&summaries, &mut out);
        }
        Bytes::from(out)
    });
    let body = alive(select_all(each).chain(last).boxed());
    Ok(event_stream(Body::from_stream(body.map(Ok::<_, Infallible>))))
}
