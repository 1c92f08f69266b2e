//! Work on large bodies, which is done on threads of its own: it must not hold up the other clients of a REST thread.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::fault::Fault;

/// From so many bytes on. Less takes less than a millisecond, which is what the way to another thread is worth.
pub const LARGE: usize = 256 << 10;

/// Threads for large bodies: so many work at a time, the others wait in line.
#[derive(Clone, Debug)]
pub struct Heavy(Arc<Semaphore>);

impl Heavy {
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads.max(1))))
    }

    /// Does work on so many bytes, here or elsewhere.
    ///
    /// # Errors
    /// Those of the work. 500: it ended without a result.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        if bytes < LARGE {
            return work();
        }
        let broken = || Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the body could not be worked at");
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(|_| broken())?;
        let done = spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.unwrap_or_else(|_| Err(broken()))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn large_bodies_are_worked_at_elsewhere_and_so_many_at_a_time() {
        let heavy = Heavy::new(1);
        let here = thread::current().id();
        let at = |bytes| heavy.run(bytes, || Ok(thread::current().id()));
        assert_eq!(at(LARGE - 1).await, Ok(here));
        assert_ne!(at(LARGE).await, Ok(here));
        let turn = Arc::clone(&heavy.0).acquire_owned().await.unwrap();
        let waits = heavy.run(LARGE, || Ok(()));
        tokio::pin!(waits);
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
        assert_eq!(at(1).await, Ok(here), "small ones do not wait");
        drop(turn);
        assert_eq!(waits.await, Ok(()));
        let refused = heavy.run(LARGE, || Err::<(), _>(Fault::bad("no"))).await;
        assert_eq!(refused.unwrap_err().status.as_u16(), 400);
    }
}
