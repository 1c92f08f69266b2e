//! Why a call was refused before it was known what model it is about.

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    NotGrpc,
    HeadersTooLarge,
    BadTimeout,
    NotAllowed,
    NotFromInstance,
    BadId,
    /// The connection holds nearly as much as it may.
    TooMuchOpen,
}

/// Every reason, with the name that metrics carry.
pub const REJECTIONS: [(Rejection, &str); 7] = [
    (Rejection::NotGrpc, "not-grpc"),
    (Rejection::HeadersTooLarge, "headers-too-large"),
    (Rejection::BadTimeout, "bad-timeout"),
    (Rejection::NotAllowed, "not-allowed"),
    (Rejection::NotFromInstance, "not-from-instance"),
    (Rejection::BadId, "bad-id"),
    (Rejection::TooMuchOpen, "too-much-open"),
];
