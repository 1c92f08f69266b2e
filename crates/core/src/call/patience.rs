//! How long a call waits for a load: as long as its client says, and until shortly before its deadline. Then the answer says
//! how the load stands.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::call::deadline::Deadline;
use crate::call::end::End;
use crate::call::held::Resolution;
use crate::call::inference::Call;
use crate::events::Event;
use crate::wire::headers::MM_WAIT;
use crate::wire::status::{Code, Status};
use crate::wire::timeout;

/// The longest time before its deadline at which a call that waits for a load is answered.
const LONGEST_WAY_BACK: Duration = Duration::from_millis(100);

/// How long a call waits for a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    time: Duration,
    /// Whether the deadline of the call bounds it, not what its client says about loads.
    until_deadline: bool,
}

/// The shorter of the two bounds. Clients read no answer that comes after their deadline, so a part of the time that is `left` is
/// kept for the way back.
fn patience(said: Option<Duration>, left: Option<Duration>) -> Option<Patience> {
    let left = left.map(|left| left.saturating_sub((left / 32).min(LONGEST_WAY_BACK)));
    match (said, left) {
        (Some(said), left) if left.is_none_or(|left| said <= left) => {
            Some(Patience { time: said, until_deadline: false })
        }
        (_, left) => left.map(|time| Patience { time, until_deadline: true }),
    }
}

impl Call {
    /// Serves the call to its end. The answer is in `caller`.
    pub async fn run(&mut self) {
        if let Some(patience) = self.serve_or_wait().await {
            // Rare, so not a part of every task.
            Box::pin(self.run_for(patience)).await;
        }
    }

    /// As `run`, but a load is waited for no longer than that. What runs at a copy is not cut off.
    async fn run_for(&mut self, Patience { time, until_deadline }: Patience) {
        let loading = Arc::clone(self.loading.get_or_insert_default());
        let mut patience = Deadline::after(time);
        let is_over = {
            let mut work = pin!(self.serve_or_wait());
            poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(false),
                Poll::Pending if loading.load(Ordering::Relaxed) => patience.poll(cx).map(|()| true),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        if !is_over || self.caller.has_begun() {
            return;
        }
        self.token = None;
        let (token, subject) = (self.known_token(), self.subject.clone());
        match self.hold(Event::Overdue { token, subject, until_deadline }).await {
            Ok(Resolution::Fail(status)) => self.caller.end(status),
            Ok(_) => self.caller.end(Status::new(Code::Unavailable, "the model is being loaded")),
            // The state of the load is not known now.
            Err(End::Refused(_)) if until_deadline => self.finish(End::Late),
            Err(end) => self.finish(end),
        }
    }

    /// How long the call waits for a load, if that has a bound and it was not asked before.
    pub fn patience(&self) -> Option<Patience> {
        if self.loading.is_some() || !self.is_ingress() {
            return None;
        }
        patience(self.headers.get(MM_WAIT).and_then(timeout::parse), self.deadline.as_ref().map(Deadline::left))
    }

    /// It waits for a load from now on, or no longer.
    pub fn waits_for_load(&self, waits: bool) {
        if let Some(loading) = &self.loading {
            loading.store(waits, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_bound_counts_and_the_way_back_is_kept_of_the_deadline() {
        let ms = Duration::from_millis;
        let of = |said: Option<u64>, left: Option<u64>| {
            patience(said.map(ms), left.map(ms)).map(|found| (found.time, found.until_deadline))
        };
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(500), None), Some((ms(500), false)));
        assert_eq!(of(None, Some(320)), Some((ms(310), true)));
        assert_eq!(of(None, Some(60_000)), Some((ms(59_900), true)));
        assert_eq!(of(Some(310), Some(320)), Some((ms(310), false)));
        assert_eq!(of(Some(311), Some(320)), Some((ms(310), true)));
        assert_eq!(of(Some(0), Some(0)), Some((ms(0), false)));
    }
}
