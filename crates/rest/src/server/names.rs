//! Whether a name is that of a vmodel or of a model.

use std::collections::HashMap;

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long a name counts as no vmodel's without asking again.
const REMEMBERED: Duration = Duration::from_secs(5);
const MOST: usize = 10_000;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    VModel,
}

/// Names that were found to be no vmodel's. Vmodels that are called are known to the core.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, Instant>>);

impl Names {
    /// Whether the name was found lately to be no vmodel's.
    #[must_use]
    pub fn is_no_vmodel(&self, name: &str) -> bool {
        self.0.lock().get(name).is_some_and(|found| found.elapsed() < REMEMBERED)
    }

    /// The name is no vmodel's.
    pub fn remember(&self, name: &str) {
        let mut names = self.0.lock();
        if names.len() >= MOST {
            names.retain(|_, found| found.elapsed() < REMEMBERED);
            if names.len() >= MOST {
                names.clear();
            }
        }
        names.insert(name.to_owned(), Instant::now());
    }

    /// It may be one after all.
    pub fn forget(&self, name: &str) {
        self.0.lock().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_are_forgotten_after_their_time_and_bounded() {
        let names = Names::default();
        assert!(!names.is_no_vmodel("a"));
        names.remember("a");
        assert!(names.is_no_vmodel("a"));
        tokio::time::advance(REMEMBERED).await;
        assert!(!names.is_no_vmodel("a"));
        for number in 0..3 * MOST {
            names.remember(&number.to_string());
        }
        assert!(names.0.lock().len() <= MOST && names.is_no_vmodel(&(3 * MOST - 1).to_string()));
        names.forget(&(3 * MOST - 1).to_string());
        assert!(!names.is_no_vmodel(&(3 * MOST - 1).to_string()));
    }
}
