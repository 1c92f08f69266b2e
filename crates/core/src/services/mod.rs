//! Services that Python answers.

pub mod calls;
pub mod mailbox;
pub mod pools;
