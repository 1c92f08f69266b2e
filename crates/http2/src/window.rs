//! What one side may still send the other: RFC 9113, section 5.2.

use crate::frame::LARGEST_WINDOW;

/// A window. It is below zero after the other side has made its windows smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window(i64);

/// More than the window permits, or than a window may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beyond;

impl Window {
    pub fn of(bytes: u32) -> Self {
        Self(bytes.into())
    }

    /// Bytes that may be sent now.
    pub fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub fn is_open(self) -> bool {
        self.0 > 0
    }

    /// The other side has sent so many bytes; they count in any case.
    ///
    /// # Errors
    /// It was not permitted so many.
    pub fn receive(&mut self, bytes: usize) -> Result<(), Beyond> {
        self.send(bytes);
        if self.0 < 0 { Err(Beyond) } else { Ok(()) }
    }

    /// We send so many bytes, for which there is room.
    pub fn send(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// So many more may be sent.
    ///
    /// # Errors
    /// It is larger than a window may be.
    pub fn grow(&mut self, bytes: u32) -> Result<(), Beyond> {
        self.0 += i64::from(bytes);
        if self.0 > i64::from(LARGEST_WINDOW) { Err(Beyond) } else { Ok(()) }
    }

    /// All windows begin with another size now: this one changes by the difference.
    ///
    /// # Errors
    /// It is larger than a window may be.
    pub fn resize(&mut self, before: u32, now: u32) -> Result<(), Beyond> {
        self.0 -= i64::from(before);
        self.grow(now)
    }

    /// Bytes of a window that was so large that have been sent and not been given back.
    pub fn used_of(self, whole: u32) -> usize {
        usize::try_from(i64::from(whole) - self.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_and_come_back() {
        let mut window = Window::of(10);
        window.receive(7).unwrap();
        assert_eq!((window.room(), window.used_of(10)), (3, 7));
        assert_eq!(window.receive(4), Err(Beyond));
        assert!(!window.is_open() && window.room() == 0);
        window.grow(6).unwrap();
        assert_eq!(window.room(), 5);
        assert_eq!(window.grow(LARGEST_WINDOW), Err(Beyond));
    }

    #[test]
    fn a_smaller_size_may_leave_less_than_nothing() {
        let mut window = Window::of(100);
        window.send(60);
        window.resize(100, 20).unwrap();
        assert!(!window.is_open());
        window.resize(20, 61).unwrap();
        assert_eq!(window.room(), 1);
        assert_eq!(Window::of(5).resize(4, LARGEST_WINDOW), Err(Beyond));
    }
}
