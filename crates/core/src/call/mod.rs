//! One inference call, from its first header to its last.

pub mod admission;
pub mod attempt;
pub mod caller;
pub mod deadline;
pub mod direct;
pub mod end;
pub mod entry;
pub mod extraction;
pub mod held;
pub mod identify;
pub mod inference;
pub mod multi;
pub mod outcome;
pub mod part;
pub mod patience;
pub mod rejection;
pub mod relay;
pub mod replay;
pub mod route;
pub mod rules;
pub mod shadow;
pub mod stopped;
pub mod subject;
pub mod who;
pub mod whole;
