//! Who calls: known at once, or known to Python.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use crate::access::{Principal, Question};
use crate::call::caller::Caller;
use crate::call::deadline::Deadline;
use crate::call::end::End;
use crate::call::stopped::poll_stopped;
use crate::events::Event;
use crate::shared::Shared;
use crate::wire::status::{Code, Status};

/// How long Python may take. It may have to fetch an issuer's keys.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who calls.
#[derive(Debug)]
pub enum Who {
    /// There are no access rules.
    Unchecked,
    Known(Arc<Principal>),
    Unknown(Question),
}

impl Who {
    /// Waits until it is known; None if there are no access rules.
    ///
    /// # Errors
    /// The credential is unknown, it cannot be checked now, or the client does not wait for that.
    pub async fn settle(
        self,
        shared: &Shared,
        caller: &mut Caller,
        deadline: &mut Option<Deadline>,
    ) -> Result<Option<Arc<Principal>>, End> {
        let question = match self {
            Self::Unchecked => return Ok(None),
            Self::Known(principal) => return Ok(Some(principal)),
            Self::Unknown(question) => question,
        };
        let tell = |asked| shared.events.offer(Event::Asked(asked)).is_ok();
        let answer = shared.access.ask(question, shared.held.token(), tell).map_err(End::Refused)?;
        let mut answer = pin!(timeout(PATIENCE, answer));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(Ok(Ok(answer))) => Poll::Ready(answer.map(Some).map_err(End::Refused)),
            Poll::Ready(_) => {
                let message = "it could not be found out in time whose credential this is; try again";
                Poll::Ready(Err(End::Refused(Status::new(Code::Unavailable, message))))
            }
            Poll::Pending => poll_stopped(caller, deadline, cx).map(Err),
        })
        .await
    }
}
