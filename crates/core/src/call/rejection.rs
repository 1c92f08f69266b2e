//! Why a call was refused before it was known what model it is about.

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    NotGrpc,
    HeadersTooLarge,
    BadTimeout,
    NotAllowed,
    NotFromInstance,
    /// The credential is missing, unknown or worth nothing any more.
    Unauthenticated,
    BadId,
    /// Whoever calls may not call this model.
    NotPermitted,
    /// Their tenant uses what it may.
    OverQuota,
    /// The connection holds nearly as much as it may.
    TooMuchOpen,
}

/// Every reason, with the name that metrics carry.
pub const REJECTIONS: [(Rejection, &str); 10] = [
    (Rejection::NotGrpc, "not-grpc"),
    (Rejection::HeadersTooLarge, "headers-too-large"),
    (Rejection::BadTimeout, "bad-timeout"),
    (Rejection::NotAllowed, "not-allowed"),
    (Rejection::NotFromInstance, "not-from-instance"),
    (Rejection::Unauthenticated, "unauthenticated"),
    (Rejection::BadId, "bad-id"),
    (Rejection::NotPermitted, "not-permitted"),
    (Rejection::OverQuota, "over-quota"),
    (Rejection::TooMuchOpen, "too-much-open"),
];
