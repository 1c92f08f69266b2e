//! Which copies of a model are known, and which of them a call goes to.

pub mod accounting;
pub mod copy;
pub mod gate;
pub mod line;
pub mod local;
pub mod naming;
pub mod peer;
pub mod resolve;
pub mod table;
pub mod trial;
