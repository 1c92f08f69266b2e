//! A bounded number of bytes that many calls share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bound and what is in use of it.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.used() >= self.max
    }

    /// A share of nothing, that grows.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one call has of a budget; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Takes more; false (and nothing taken) if that is beyond the bound.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.budget.max {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Takes what is here already; false if that is beyond the bound. It counts all the same: whoever looks at the budget
    /// takes nothing more in.
    pub fn add(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.budget.max
    }

    /// Gives some back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.bytes -= bytes;
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub fn clear(&mut self) {
        self.shrink(self.bytes);
    }

    #[must_use]
    pub fn budget_is_exhausted(&self) -> bool {
        self.budget.exhausted()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back() {
        let budget = Budget::new(10);
        let mut one = budget.share();
        let mut two = budget.share();
        assert!(one.grow(6) && two.grow(4) && !two.grow(1));
        one.shrink(100);
        assert!(two.grow(6));
        assert!(!one.add(3) && budget.exhausted(), "what is here is counted");
        drop((one, two));
        assert_eq!(budget.used(), 0);
    }
}
