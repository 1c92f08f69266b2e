//! Usage of routes since the last look, packed so that Python gets one buffer for all of them.

use std::sync::atomic::Ordering;

use crate::routing::copy::LocalCopy;
use crate::routing::table::{Route, Table};

/// Records of the routes used since the last call, or with requests in flight.
///
/// One record: slot u32, in flight u32, waiting u32, reserved u32, last use u64 (epoch ms),
/// requests u64, service µs u64; little-endian, 40 bytes.
#[must_use]
pub fn usage(table: &Table) -> Vec<u8> {
    let mut records = Vec::new();
    table.visit(|route| add(route, &mut records));
    records
}

fn add(route: &Route, records: &mut Vec<u8>) {
    let copies = route.copies.read();
    let local = copies.local.as_deref();
    let inside = local.map_or(0, LocalCopy::inside);
    if !route.touched.swap(false, Ordering::Relaxed) && inside == 0 {
        return;
    }
    let waiting = local.map_or(0, |copy| u32::try_from(copy.waiting()).unwrap_or(u32::MAX));
    let (requests, service_us) = local
        .map_or((0, 0), |copy| (copy.requests.swap(0, Ordering::Relaxed), copy.service_us.swap(0, Ordering::Relaxed)));
    for number in [route.slot, inside.saturating_sub(waiting), waiting, 0] {
        records.extend_from_slice(&number.to_le_bytes());
    }
    for number in [route.last_use_ms.load(Ordering::Relaxed), requests, service_us] {
        records.extend_from_slice(&number.to_le_bytes());
    }
}
