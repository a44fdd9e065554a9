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

/// All answers, whole: each is read as it comes, so that none waits for another.
pub(super) async fn whole(
    gateway: &Arc<Gateway>,
    jobs: impl IntoIterator<Item = Job>,
    syntax: &Syntax,
) -> Result<Vec<Whole>, Failure> {
    let one = async |(place, job): (usize, Job)| {
        let generation = gateway.generate(job).await?;
        Answer::begin(generation, &syntax.for_choice(place), 0)?.whole().await
    };
    try_join_all(jobs.into_iter().enumerate().map(one)).await
}

/// Where an answer comes from.
enum Source {
    /// It has not begun.
    Job(Box<Job>),
    Answer(Box<Answer>),
}

/// A choice on its way.
struct Choice<R> {
    gateway: Arc<Gateway>,
    place: usize,
    syntax: Syntax,
    source: Source,
    render: R,
    ended: Arc<Mutex<Vec<(usize, Summary)>>>,
}

impl<R: Render> Choice<R> {
    async fn begin(mut self) -> (Self, Result<(), Failure>) {
        if let Source::Job(job) = self.source {
            let begun = match self.gateway.generate(Job::clone(&job)).await {
                Ok(generation) => Answer::begin(generation, &self.syntax, 0),
                Err(failure) => Err(failure),
            };
            match begun {
                Ok(answer) => self.source = Source::Answer(Box::new(answer)),
                Err(failure) => {
                    self.source = Source::Job(job);
                    return (self, Err(failure));
                }
            }
        }
        (self, Ok(()))
    }

    /// What comes next as bytes, and what follows that.
    async fn step(self) -> (Bytes, Option<Self>) {
        let (mut this, begun) = self.begin().await;
        let mut out = Vec::new();
        let next = match (begun, &mut this.source) {
            (Err(failure), _) => Some(Err(failure)),
            (Ok(()), Source::Answer(answer)) => answer.next().await,
            (Ok(()), Source::Job(_)) => None,
        };
        match next {
            Some(Ok(Read::Had(part) | Read::New(part))) => {
                let ending = match &part {
                    Part::Done(summary) => Some(Summary::clone(summary)),
                    _ => None,
                };
                this.render.part(part, &mut out);
                let Some(summary) = ending else { return (Bytes::from(out), Some(this)) };
                let mut ended = this.ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.push((this.place, summary));
            }
            Some(Err(failure)) => {
                tracing::warn!(error = failure.to_string(), "the stream broke off");
                this.render.failure(&failure, &mut out);
            }
            None => {
                let failure = Failure::Internal("the generation broke off".to_owned());
                this.render.failure(&failure, &mut out);
            }
        }
        (Bytes::from(out), None)
    }
}

/// A body of all parts of all answers as they come, and what it ends with. Fails where the first one does not begin.
pub(super) async fn respond<R: Render>(
    gateway: &Arc<Gateway>,
    jobs: impl IntoIterator<Item = Job>,
    syntax: &Syntax,
    render: impl Fn(usize) -> R,
    end: impl FnOnce(&[Summary]) -> Vec<u8> + Send + 'static,
) -> Result<Response, Failure> {
    debug_assert_eq!(R::CONTENT_TYPE, EVENT_STREAM);
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut each = Vec::new();
    for (place, job) in jobs.into_iter().enumerate() {
        let mut choice = Choice {
            gateway: Arc::clone(gateway),
            place,
            syntax: syntax.for_choice(place),
            source: Source::Job(Box::new(job)),
            render: render(place),
            ended: Arc::clone(&ended),
        };
        if place == 0 {
            let begun;
            (choice, begun) = choice.begin().await;
            begun?;
        }
        let steps = stream::unfold(Some(choice), async |choice| Some(choice?.step().await));
        each.push(steps.boxed());
    }
    let wanted = each.len();
    let last = stream::once(async move {
        let mut ended = std::mem::take(&mut *ended.lock().unwrap_or_else(PoisonError::into_inner));
        ended.sort_by_key(|(place, _)| *place);
        let summaries: Vec<Summary> = ended.into_iter().map(|(_, summary)| summary).collect();
        // A stream that broke off has said so and is not said to be complete.
        if summaries.len() == wanted { Bytes::from(end(&summaries)) } else { Bytes::new() }
    });
    let body = alive(select_all(each).chain(last).boxed());
    Ok(event_stream(Body::from_stream(body.map(Ok::<_, Infallible>))))
}
