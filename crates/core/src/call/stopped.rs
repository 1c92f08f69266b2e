//! Waiting for something, but not longer than the client does.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::end::End;

/// Ready when the client has gone or its deadline has passed.
pub fn poll_stopped(caller: &mut Caller, deadline: &mut Option<Deadline>, cx: &mut Context<'_>) -> Poll<End> {
    if caller.poll_gone(cx).is_ready() {
        return Poll::Ready(End::Gone);
    }
    match deadline {
        Some(deadline) => deadline.poll(cx).map(|()| End::Late),
        None => Poll::Pending,
    }
}

/// Waits for something, but not longer than the client does.
///
/// # Errors
/// Why the client does not wait any more.
pub async fn unless_stopped<T>(
    caller: &mut Caller,
    deadline: &mut Option<Deadline>,
    wanted: impl Future<Output = T>,
) -> Result<T, End> {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        if let Poll::Ready(value) = wanted.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        poll_stopped(caller, deadline, cx).map(Err)
    })
    .await
}
