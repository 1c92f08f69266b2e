//! How long a client waits for a load, if it says so: past that it is told how the load stands.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::call::deadline::Deadline;
use crate::call::held::Resolution;
use crate::call::inference::Call;
use crate::events::Event;
use crate::wire::headers::MM_WAIT;
use crate::wire::status::{Code, Status};
use crate::wire::timeout;

impl Call {
    /// Serves the call to its end. The answer is in `caller`.
    pub async fn run(&mut self) {
        if let Some(wait) = self.serve_or_wait().await {
            // Rare, so not a part of every task.
            Box::pin(self.run_for(wait)).await;
        }
    }

    /// As `run`, but a load is waited for no longer than `wait`. What runs at a copy is not cut off.
    async fn run_for(&mut self, wait: Duration) {
        let loading = Arc::clone(self.loading.get_or_insert_default());
        let mut patience = Deadline::after(wait);
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
        match self.hold(Event::Overdue { token, subject }).await {
            Ok(Resolution::Fail(status)) => self.caller.end(status),
            Ok(_) => self.caller.end(Status::new(Code::Unavailable, "the model is being loaded")),
            Err(end) => self.finish(end),
        }
    }

    /// How long the client waits for a load, if it says so and nobody has asked before.
    pub fn wait(&self) -> Option<Duration> {
        if self.loading.is_some() || !self.is_ingress() {
            return None;
        }
        timeout::parse(self.headers.get(MM_WAIT)?)
    }

    /// It waits for a load from now on, or no longer.
    pub fn waits_for_load(&self, waits: bool) {
        if let Some(loading) = &self.loading {
            loading.store(waits, Ordering::Relaxed);
        }
    }
}
