//! The answer of a source to a range: whether it is what was asked for, and what it says of the whole file.

use super::pace::Tries;
use super::{Origin, Wanted};
use crate::error::SourceError;
use crate::guard::shown;
use crate::http::refused;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, LAST_MODIFIED};
use reqwest::{Response, StatusCode};
use std::ops::Range;

/// What an answer says of the file.
pub(super) struct Opening {
    pub answer: Response,
    pub range: Range<u64>,
    /// How many bytes the file has; `None`: it ends where it ends.
    pub total: Option<u64>,
    /// Whether the answer holds the range alone.
    pub partial: bool,
    pub validator: String,
}

/// The first answer, which says how long the file is.
pub(super) async fn begin(
    origin: &dyn Origin,
    wanted: &Wanted,
    range: Range<u64>,
) -> Result<Opening, SourceError> {
    let mut tries = Tries::default();
    loop {
        match opening(origin, wanted, range.clone()).await {
            Err(error) if error.may_pass() => tries.again(error, 0).await?,
            done => return done,
        }
    }
}

/// One answer.
pub(super) async fn opening(
    origin: &dyn Origin,
    wanted: &Wanted,
    mut range: Range<u64>,
) -> Result<Opening, SourceError> {
    let host = || shown(origin.url());
    let lied = |what: String| Err(SourceError::Lied { host: host(), what });
    let answer = origin.get(range.clone()).await?;
    let partial = match answer.status() {
        StatusCode::PARTIAL_CONTENT => true,
        StatusCode::OK => false,
        status => return Err(refused(origin.url(), status)),
    };
    let total = if partial {
        match content_range(answer.headers()) {
            Some((start, end, total)) if start == range.start && end <= range.end => {
                range.end = end;
                Some(total)
            }
            _ => return lied("answers with another range than was asked for".to_owned()),
        }
    } else {
        range = 0..answer.content_length().unwrap_or(wanted.bytes.unwrap_or(wanted.limit));
        answer.content_length().or(wanted.bytes)
    };
    if let (Some(total), Some(expected)) = (total, wanted.bytes)
        && total != expected
    {
        return lied(format!("has {total} bytes where its manifest says {expected}"));
    }
    if let Some(bytes) = total.filter(|total| *total > wanted.limit) {
        let what = format!("the file at `{}`", host());
        return Err(SourceError::TooLarge { what, bytes, limit: wanted.limit });
    }
    let headers = answer.headers();
    let strong = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    let validator = strong.or_else(|| headers.get(LAST_MODIFIED));
    let validator = validator.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Ok(Opening { answer, range, total, partial, validator })
}

/// `bytes start-end/total`, as a half-open range.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last, total): (u64, u64, u64) =
        (start.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (start <= last && last < total).then_some((start, last.checked_add(1)?, total))
}
