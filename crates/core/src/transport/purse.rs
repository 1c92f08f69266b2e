//! What one request of a client of a door holds, on the account of that client.

use std::sync::Arc;

use crate::ledger::{Charge, Holder};
use crate::transport::refused::Refused;
use crate::wire::status::Code;

/// Beyond the first of them a request pays for its bytes, in steps of this.
const STEP: usize = 32 << 10;

/// What one request holds. Given back when dropped.
pub struct Purse {
    holder: Arc<Holder>,
    charges: Vec<Charge>,
    paid: usize,
    held: usize,
}

impl Purse {
    #[must_use]
    pub fn of(holder: &Arc<Holder>) -> Self {
        Self { holder: Arc::clone(holder), charges: Vec::new(), paid: STEP, held: 0 }
    }

    /// So many more bytes are held; false: they may not be.
    #[must_use]
    pub fn hold(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        if self.held <= self.paid {
            return true;
        }
        let more = (self.held - self.paid).next_multiple_of(STEP);
        let charge = self.holder.charge(more);
        self.paid += more;
        let paid = charge.is_some();
        self.charges.extend(charge);
        paid
    }

    /// What a client is told whose requests hold too much.
    #[must_use]
    pub fn empty() -> Refused {
        Refused::new(Code::ResourceExhausted, "too much is held for this connection; try again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, Side};

    #[test]
    fn a_request_pays_for_what_is_beyond_little_and_gets_it_back() {
        let ledger = Ledger::new(64 << 20, 16 << 20);
        let account = ledger.open(Side::Clients, "a");
        let purse = || Purse::of(account.holder());
        let mut small = purse();
        assert!(small.hold(STEP));
        assert_eq!(ledger.held(Side::Clients), 0);
        let mut large = purse();
        for _ in 0..20 {
            assert!(large.hold(1 << 20));
        }
        let held = ledger.held(Side::Clients);
        assert!(held.abs_diff(20 << 20) <= 2 * STEP, "{held}");
        assert!(!large.hold(20 << 20));
        drop(large);
        assert_eq!(ledger.held(Side::Clients), 0);
    }
}
