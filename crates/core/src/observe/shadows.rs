//! Copies of calls for shadows of vmodels: what they may hold, and how they ended.

use std::sync::Arc;

use crate::budget::Budget;
use crate::observe::by_vmodel::ByVModel;

/// Copies of calls that may run at a time.
const AT_ONCE: usize = 256;

/// What copies of calls may hold.
pub struct ShadowBudgets {
    /// Bytes of requests, and of answers that are compared.
    pub bytes: Arc<Budget>,
    /// Copies that run.
    pub at_once: Arc<Budget>,
}

impl ShadowBudgets {
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { bytes: Budget::new(max_bytes), at_once: Budget::new(AT_ONCE) }
    }
}

/// How a copy of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowEnd {
    /// The shadow answered, and its answer was not to be compared, or could not be.
    Answered,
    /// It answered as the caller was answered.
    Equal,
    Different,
    /// It ended with another status than OK, or not in time.
    Failed,
    /// No copy of the model was ready.
    Cold,
    /// There was no room for it.
    Dropped,
    /// The call was no single message, so that it was not copied.
    Stream,
}

/// In the order of `ShadowEnd`.
pub const SHADOW_ENDS: [&str; 7] = ["answered", "equal", "different", "failed", "cold", "dropped", "stream"];

/// So many copies ended so, in the order of `ShadowEnd`.
pub type ShadowCounts = [u64; SHADOW_ENDS.len()];

/// Since the instance began, by vmodel and shadow.
pub type Shadows = ByVModel<{ SHADOW_ENDS.len() }>;
