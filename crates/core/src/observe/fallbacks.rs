//! Calls of vmodels that went to their fallbacks, by the reason.

use crate::observe::by_vmodel::ByVModel;

/// Why a call went to the fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackReason {
    /// No copy of the wanted model was ready.
    Cold,
    /// The wanted model failed the call.
    Failed,
}

/// In the order of `FallbackReason`.
pub const FALLBACK_REASONS: [&str; 2] = ["cold", "failed"];

/// Since the instance began, by vmodel and fallback.
pub type Fallbacks = ByVModel<{ FALLBACK_REASONS.len() }>;
