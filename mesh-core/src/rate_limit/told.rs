//! How a limit stands, as answers tell it.
//!
//! ```text
//! x-ratelimit-limit: 10, 10;w=60;name="per-tenant"
//! x-ratelimit-remaining: 3
//! x-ratelimit-reset: 41
//! ```
//!
//! Of a token bucket `limit` is `maxTokens`, `remaining` the tokens that are left, and `reset` the
//! seconds, rounded up, until the bucket is full if nobody calls. Of a rate limit service they are
//! what it says, the windows of all its limits behind the first number.
//!
//! Source: draft-polli-ratelimit-headers-03, as Envoy's `DRAFT_VERSION_03` writes it.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::cmp::Ordering;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// How a limit stands. See [`XRatelimitHeaders`](super::XRatelimitHeaders).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Told {
    /// Calls that are allowed in its window.
    pub limit: u32,
    /// Those of them that are left.
    pub remaining: u32,
    /// Seconds until all are there again.
    pub reset: u64,
}

impl Told {
    /// Of two limits that one of which less is left, else the one that takes longer.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let order = self.remaining.cmp(&other.remaining).then(other.reset.cmp(&self.reset));
        if order == Ordering::Greater { other } else { self }
    }

    /// Writes the three fields in place of any that are there. `windows` follows the first number:
    /// `, 10;w=60`.
    pub fn write(&self, windows: &str, fields: &mut HeaderMap) {
        let limit = match windows {
            "" => HeaderValue::from(self.limit),
            _ => HeaderValue::try_from(format!("{}{windows}", self.limit))
                .unwrap_or_else(|_| HeaderValue::from(self.limit)),
        };
        for (name, value) in [
            (LIMIT, limit),
            (REMAINING, HeaderValue::from(self.remaining)),
            (RESET, HeaderValue::from(self.reset)),
        ] {
            // What does not fit any more is left out.
            let _ = fields.try_insert(name, value);
        }
    }
}
