//! The addresses of one name, tried so that a dead one costs little: the next begins when the one before has failed, or
//! has said nothing for a moment (RFC 8305).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

/// After an attempt without an outcome the next one begins beside it.
const STAGGER: Duration = Duration::from_millis(250);
/// Further addresses of a name are not tried.
const MOST_ADDRESSES: usize = 16;

type Attempt<F> = Pin<Box<F>>;

/// The first success; the other attempts are given up.
///
/// # Errors
/// The last failure, when all have failed; NotFound without an address.
pub async fn race<A, T, F>(addresses: impl IntoIterator<Item = A>, attempt: impl Fn(A) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter().take(MOST_ADDRESSES).peekable();
    let mut running: Vec<Attempt<F>> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = waiting.next() {
            running.push(Box::pin(attempt(address)));
        }
        loop {
            if running.is_empty() && waiting.peek().is_none() {
                return Err(failure);
            }
            tokio::select! {
                biased;
                outcome = poll_fn(|cx| first(&mut running, cx)), if !running.is_empty() => match outcome {
                    Ok(won) => return Ok(won),
                    Err(error) => {
                        failure = error;
                        if waiting.peek().is_some() {
                            break;
                        }
                    }
                },
                () = sleep(STAGGER), if waiting.peek().is_some() => break,
            }
        }
    }
}

/// The outcome of an attempt that has one, which is then taken out.
fn first<T, F>(running: &mut Vec<Attempt<F>>, cx: &mut Context<'_>) -> Poll<io::Result<T>>
where
    F: Future<Output = io::Result<T>>,
{
    for place in 0..running.len() {
        if let Poll::Ready(outcome) = running[place].as_mut().poll(cx) {
            drop(running.swap_remove(place));
            return Poll::Ready(outcome);
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    async fn outcome(address: &'static str) -> io::Result<&'static str> {
        match address {
            "swallows" => pending().await,
            "refuses" => Err(io::ErrorKind::ConnectionRefused.into()),
            other => Ok(other),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_everything_costs_a_moment() {
        let began = tokio::time::Instant::now();
        assert_eq!(race(["swallows", "swallows", "good"], outcome).await.unwrap(), "good");
        assert_eq!(began.elapsed(), 2 * STAGGER);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_costs_nothing() {
        let began = tokio::time::Instant::now();
        assert_eq!(race(["refuses", "good", "other"], outcome).await.unwrap(), "good");
        assert_eq!(race(["swallows", "refuses", "good"], outcome).await.unwrap(), "good");
        assert_eq!(began.elapsed(), STAGGER);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_told_and_the_number_of_attempts_bounded() {
        assert_eq!(race(["refuses"; 3], outcome).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race([], outcome).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let tried = std::cell::Cell::new(0);
        let counted = |address| {
            tried.set(tried.get() + 1);
            outcome(address)
        };
        assert!(race(vec!["refuses"; 1000], counted).await.is_err());
        assert_eq!(tried.get(), MOST_ADDRESSES);
    }
}
