//! What the principals of a tenant use together of calls, and how much they may.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::routing::line::NO_TENANT;
use crate::wire::headers::MM_TENANT;
use crate::wire::retry::retry_later;
use crate::wire::status::{Code, Status};

/// A tenant that was idle may make the calls of so many nanoseconds at once.
const BURST_NS: u64 = 1_000_000_000;
/// One part in so many of a new duration goes into the mean.
const WEIGHT: u64 = 16;
/// Bounds of the retry delay.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_secs(60);

/// What a tenant may use at this instance; None: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    pub calls_per_second: Option<f64>,
    pub calls_at_once: Option<usize>,
}

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    began: Instant,
    /// Between two calls at the limit, in nanoseconds; 0: no limit.
    interval_ns: AtomicU64,
    most: AtomicUsize,
    running: AtomicUsize,
    /// When all calls so far would have come, had they come at the limit: the generic cell rate algorithm, in nanoseconds
    /// since `began`.
    due_ns: AtomicU64,
    mean_ns: AtomicU64,
    calls: AtomicU64,
    refused: AtomicU64,
    time_ns: AtomicU64,
    bytes: AtomicU64,
}

/// What a tenant has used at this instance since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Calls that have ended; one that names several models counts as so many.
    pub calls: u64,
    /// Calls that were refused because of a quota.
    pub refused: u64,
    /// How long the calls took together, in milliseconds.
    pub time_ms: u64,
    /// Of the messages of requests and answers.
    pub bytes: u64,
}

impl Used {
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            refused: self.refused + other.refused,
            time_ms: self.time_ms + other.time_ms,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            interval_ns: AtomicU64::new(0),
            most: AtomicUsize::new(usize::MAX),
            running: AtomicUsize::new(0),
            due_ns: AtomicU64::new(0),
            mean_ns: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            time_ns: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

/// A call of a tenant that runs, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    tenant: Arc<Tenant>,
    began: Instant,
    /// As how many it counts.
    calls: u64,
    /// Of its messages.
    pub bytes: u64,
}

impl Tenant {
    pub fn limit(&self, limits: Limits) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float saturates, and is positive"
        )]
        let interval = limits.calls_per_second.map_or(0, |rate| (1e9 / rate).max(1.0) as u64);
        self.interval_ns.store(interval, Ordering::Relaxed);
        self.most.store(limits.calls_at_once.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Begins a call at the time `now` that counts as `calls`.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED that says when the next one may begin.
    pub fn begin(self: &Arc<Self>, name: &str, calls: usize, now: Instant) -> Result<Turn, Status> {
        let most = self.most.load(Ordering::Relaxed);
        let refused = if self.running.fetch_add(1, Ordering::Relaxed) >= most {
            let mean = Duration::from_nanos(self.mean_ns.load(Ordering::Relaxed));
            let wait = mean / u32::try_from(most).unwrap_or(u32::MAX).max(1);
            over(format!("tenant {name} has {most} calls running, its limit"), wait)
        } else {
            match self.count(calls, now) {
                Ok(()) => return Ok(Turn { tenant: Arc::clone(self), began: now, calls: calls as u64, bytes: 0 }),
                Err(wait) => over(format!("tenant {name} is at its limit of calls a second"), wait),
            }
        };
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(refused)
    }

    #[must_use]
    pub fn used(&self) -> Used {
        Used {
            calls: self.calls.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            time_ms: self.time_ns.load(Ordering::Relaxed) / 1_000_000,
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts calls against the rate; an error says how long to wait.
    fn count(&self, calls: usize, now: Instant) -> Result<(), Duration> {
        let interval = self.interval_ns.load(Ordering::Relaxed).saturating_mul(calls as u64);
        if interval == 0 {
            return Ok(());
        }
        let now = nanoseconds(now.saturating_duration_since(self.began));
        let ahead = BURST_NS.max(interval);
        let mut due = self.due_ns.load(Ordering::Relaxed);
        loop {
            let next = due.max(now).saturating_add(interval);
            let too_far = next.saturating_sub(now.saturating_add(ahead));
            if too_far > 0 {
                return Err(Duration::from_nanos(too_far));
            }
            match self.due_ns.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let tenant = &self.tenant;
        tenant.running.fetch_sub(1, Ordering::Relaxed);
        // Two that end at a time may lose one of both: a mean of very many does not show it.
        let mean = tenant.mean_ns.load(Ordering::Relaxed);
        let took = nanoseconds(self.began.elapsed());
        tenant.mean_ns.store(mean - mean / WEIGHT + took / WEIGHT, Ordering::Relaxed);
        tenant.calls.fetch_add(self.calls, Ordering::Relaxed);
        tenant.time_ns.fetch_add(took, Ordering::Relaxed);
        tenant.bytes.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Says on a call whose it is, to this instance and to others that it is forwarded to.
pub fn mark(headers: &mut HeaderMap, tenant: &str) {
    if let Ok(tenant) = HeaderValue::from_str(tenant) {
        headers.insert(MM_TENANT, tenant);
    }
}

/// By what the line of a copy tells tenants apart.
#[must_use]
pub fn number_of(headers: &HeaderMap) -> u64 {
    let Some(tenant) = headers.get(MM_TENANT) else { return NO_TENANT };
    let mut hasher = DefaultHasher::new();
    tenant.as_bytes().hash(&mut hasher);
    hasher.finish().max(1)
}

fn over(message: String, wait: Duration) -> Status {
    retry_later(Code::ResourceExhausted, message, wait.clamp(SOONEST, LATEST))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(calls_per_second: Option<f64>, calls_at_once: Option<usize>) -> Arc<Tenant> {
        let tenant = Arc::new(Tenant::default());
        tenant.limit(Limits { calls_per_second, calls_at_once });
        tenant
    }

    fn pushback_ms(status: &Status) -> u64 {
        let (_, value) = status.trailers.iter().find(|(name, _)| name == "grpc-retry-pushback-ms").unwrap();
        value.to_str().unwrap().parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_come_at_the_rate_after_a_burst_and_the_wait_is_true() {
        let tenant = tenant(Some(10.0), None);
        let mut now = Instant::now();
        for _ in 0..10 {
            tenant.begin("t", 1, now).unwrap();
        }
        let refused = tenant.begin("t", 1, now).unwrap_err();
        assert_eq!((refused.code, pushback_ms(&refused)), (Code::ResourceExhausted, 100));
        now += Duration::from_millis(99);
        assert_eq!(pushback_ms(&tenant.begin("t", 1, now).unwrap_err()), 1);
        now += Duration::from_millis(1);
        tenant.begin("t", 1, now).unwrap();
        tenant.begin("t", 1, now).unwrap_err();
    }

    #[test]
    fn what_a_client_says_of_its_tenant_is_replaced() {
        let said = || HeaderMap::from_iter([(MM_TENANT, HeaderValue::from_static("rich"))]);
        let mut headers = said();
        mark(&mut headers, "poor");
        assert_eq!(headers[MM_TENANT], "poor");
        assert_ne!(number_of(&headers), number_of(&said()));
        crate::access::strip(&mut headers);
        assert_eq!(number_of(&headers), NO_TENANT);
    }

    #[tokio::test(start_paused = true)]
    async fn over_a_long_time_it_is_the_rate() {
        let tenant = tenant(Some(3.0), None);
        let start = Instant::now();
        let begun = (0..100_000).filter(|ms| tenant.begin("t", 1, start + Duration::from_millis(*ms)).is_ok()).count();
        assert!((300..=303).contains(&begun), "{begun}");
        let slow = self::tenant(Some(0.1), None);
        assert!(slow.begin("t", 1, start).is_ok());
        assert_eq!(pushback_ms(&slow.begin("t", 1, start).unwrap_err()), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_at_once_are_counted_down_however_they_end() {
        let tenant = tenant(None, Some(2));
        let now = Instant::now();
        let first = tenant.begin("t", 1, now).unwrap();
        let second = tenant.begin("t", 1, now).unwrap();
        tokio::time::advance(Duration::from_millis(1600)).await;
        drop(first);
        let third = tenant.begin("t", 1, now).unwrap();
        // The mean is a sixteenth of the one call that ended, and two run.
        assert_eq!(pushback_ms(&tenant.begin("t", 1, now).unwrap_err()), 50);
        drop((second, third));
        assert_eq!(tenant.running.load(Ordering::Relaxed), 0);
        tenant.limit(Limits::default());
        let many: Vec<_> = (0..100).map(|_| tenant.begin("t", 1, now).unwrap()).collect();
        drop(many);
        assert_eq!(tenant.running.load(Ordering::Relaxed), 0);
    }
}
