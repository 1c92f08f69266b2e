//! How a call, or one attempt of it, ended.

use crate::call::outcome::Failure;
use crate::call::replay::BodyError;
use crate::wire::status::{Code, Status};

/// How a call, or one attempt of it, ended.
#[derive(Debug)]
pub enum End {
    /// The client has its answer.
    Answered,
    /// The client has gone.
    Gone,
    /// The deadline has passed.
    Late,
    /// The core itself ends the call.
    Refused(Status),
    /// The client does not take its answer while others wait for room.
    Unread,
    /// Boxed, because every call has room for an end on its way back, and few fail.
    Failed(Box<Failure>),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<BodyError> for End {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Gone => Self::Gone,
            BodyError::TooLong(error) => Self::Refused(Status::new(Code::ResourceExhausted, error.message())),
        }
    }
}

/// The status of a call whose client does not take its answer while others wait for room.
#[must_use]
pub fn read_too_slowly() -> Status {
    Status::new(Code::ResourceExhausted, "the answer is read too slowly")
}
