//! Which of the known ready copies gets this request. Everything else is for Python to decide.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::routing::copy::{LocalCopy, RemoteCopy, choose_copy};
use crate::routing::local::LocalUse;
use crate::routing::peer::RemoteUse;
use crate::shared::Shared;

/// Where a request goes.
pub enum Choice {
    Local(LocalUse),
    Remote(RemoteUse),
    /// No ready copy can be reached.
    Miss,
}

/// Chooses among all copies, for a request of a client of this instance.
///
/// `balanced`: the caller spreads its requests evenly over instances, so the local copy is preferred.
pub fn choose(shared: &Arc<Shared>, model: &str, balanced: bool) -> Choice {
    let Some(route) = shared.table.get(model) else { return Choice::Miss };
    let copies = route.copies.read();
    let mut local = copies.local.as_ref().filter(|copy| copy.is_ready() && !runtime_is_lost(shared));
    loop {
        let enter = |copy: &Arc<LocalCopy>| LocalUse::enter(shared, &route, copy, true);
        let remote = || copies.remote.iter().filter(|copy| copy.peer.is_reachable());
        let count = remote().count() + usize::from(local.is_some());
        if count == 0 {
            return Choice::Miss;
        }
        let chosen = if balanced && local.is_some() {
            0
        } else {
            let load = |index| load_of(index, local, remote());
            choose_copy(count, load, (fastrand::u32(..), fastrand::u32(..)))
        };
        match local {
            Some(copy) if chosen == 0 => match enter(copy) {
                Some(used) => return Choice::Local(used),
                // It left between the look and the step; choose among the others.
                None => local = None,
            },
            _ => {
                let mut remote = remote();
                return remote
                    .nth(chosen - usize::from(local.is_some()))
                    .map_or(Choice::Miss, |copy| Choice::Remote(RemoteUse::of_copy(&route, copy)));
            }
        }
    }
}

/// The local copy, if it is ready.
pub fn local(shared: &Arc<Shared>, model: &str, from_here: bool) -> Option<LocalUse> {
    let route = shared.table.get(model)?;
    let copies = route.copies.read();
    LocalUse::enter(shared, &route, copies.local.as_ref()?, from_here)
}

fn runtime_is_lost(shared: &Shared) -> bool {
    shared.runtime.read().is_lost()
}

fn load_of<'a>(
    index: usize,
    local: Option<&Arc<LocalCopy>>,
    mut remote: impl Iterator<Item = &'a Arc<RemoteCopy>>,
) -> u32 {
    match local {
        Some(copy) if index == 0 => copy.from_here.load(Ordering::Relaxed),
        _ => remote
            .nth(index - usize::from(local.is_some()))
            .map_or(u32::MAX, |copy| copy.in_flight.load(Ordering::Relaxed)),
    }
}
