//! Calls that were not answered.

use modelmesh_core::Refused;

use crate::fault::Fault;

/// What a client is told of a call that was not answered.
#[must_use]
pub fn fault_of(refused: Refused) -> Fault {
    let Refused { code, message, pushback } = refused;
    let message = if message.is_empty() { code.name().to_owned() } else { message };
    Fault::of_call(code as u32, message, pushback)
}
