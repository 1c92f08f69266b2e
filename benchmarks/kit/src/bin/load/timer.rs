//! A timer finer than tokio's, whose steps of a millisecond are longer than a whole call.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits that end within microseconds of their time.
pub struct Timer(AsyncFd<Descriptor>);

/// nix gives the timer's descriptor in another form than tokio takes.
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    pub fn new() -> std::io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the descriptor is the timer's own, and lives and ends with it.
        Ok(Self(unsafe { AsyncFd::register_with_interest(Descriptor(timer), Interest::READABLE) }?))
    }

    pub async fn sleep_until(&self, moment: Instant) {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return; // late already; the caller counts from the moment, not from now
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
        if self.0.get_ref().0.set(expiration, TimerSetTimeFlags::empty()).is_err() {
            return;
        }
        if let Ok(mut guard) = self.0.readable().await {
            let _ = self.0.get_ref().0.wait();
            guard.clear_ready();
        }
    }
}
