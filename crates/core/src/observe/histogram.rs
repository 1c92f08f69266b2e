//! Histograms with fixed bounds, that many threads write without waiting for each other.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::status::{CODES, Code};

/// Bounds in the unit in which values are observed, and how many of those make one of the rendered unit.
#[derive(Debug)]
pub struct Scale {
    bounds: &'static [u64],
    per_unit: u64,
}

/// Observed in microseconds, rendered in milliseconds; the bounds are those of the old system.
pub static TIMES: Scale = Scale {
    bounds: &[
        500,
        1_000,
        2_000,
        5_000,
        10_000,
        20_000,
        50_000,
        75_000,
        100_000,
        200_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        60_000_000,
        120_000_000,
        300_000_000,
    ],
    per_unit: 1_000,
};

/// As `TIMES`, and finer where a decision that waits for nothing belongs.
pub static HOLDS: Scale = Scale {
    bounds: &[
        50,
        100,
        150,
        200,
        250,
        300,
        400,
        500,
        750,
        1_000,
        2_000,
        5_000,
        10_000,
        20_000,
        50_000,
        100_000,
        200_000,
        500_000,
        1_000_000,
        5_000_000,
        20_000_000,
        60_000_000,
        300_000_000,
    ],
    per_unit: 1_000,
};

/// Bytes of payloads.
pub static SIZES: Scale = Scale { bounds: &[128, 512, 2_048, 8_192, 32_768, 131_072, 524_288, 2_097_152], per_unit: 1 };

#[derive(Debug, Default)]
struct Bucket {
    count: AtomicU64,
    /// A sum per bucket costs what one for all would, and lets StatsD be told the mean of each.
    sum: AtomicU64,
}

/// How often values between two bounds were observed, and their sum.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    buckets: Box<[Bucket]>,
}

/// (observations, sum in the rendered unit) of one bucket.
pub type Taken = (u64, f64);

impl Histogram {
    #[must_use]
    pub fn new(scale: &'static Scale) -> Self {
        Self { scale, buckets: (0..=scale.bounds.len()).map(|_| Bucket::default()).collect() }
    }

    pub fn observe(&self, value: u64) {
        let bucket = &self.buckets[self.scale.bounds.partition_point(|bound| *bound < value)];
        bucket.count.fetch_add(1, Ordering::Relaxed);
        bucket.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Whether anything was observed.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.count.load(Ordering::Relaxed) > 0)
    }

    /// What was observed since the last call; it is forgotten here.
    #[must_use]
    pub fn take(&self) -> Vec<Taken> {
        self.buckets
            .iter()
            .map(|bucket| {
                (bucket.count.swap(0, Ordering::Relaxed), self.in_units(bucket.sum.swap(0, Ordering::Relaxed)))
            })
            .filter(|(count, _)| *count > 0)
            .collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "a sum of 2^53 microseconds is 285 years")]
    fn in_units(&self, value: u64) -> f64 {
        value as f64 / self.scale.per_unit as f64
    }

    /// Lines in Prometheus text format; `labels` end with a comma if there are any.
    pub fn render(&self, name: &str, labels: &str, text: &mut String) {
        let (mut count, mut sum) = (0, 0);
        for (bucket, bound) in self.buckets.iter().zip(self.scale.bounds) {
            count += bucket.count.load(Ordering::Relaxed);
            sum += bucket.sum.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{labels}le=\"{:?}\"}} {count}", self.in_units(*bound));
        }
        let beyond = &self.buckets[self.scale.bounds.len()];
        count += beyond.count.load(Ordering::Relaxed);
        sum += beyond.sum.load(Ordering::Relaxed);
        let _ = writeln!(text, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}");
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_count{labels} {count}");
        let _ = writeln!(text, "{name}_sum{labels} {:?}", self.in_units(sum));
    }
}

/// One histogram for each status code that was seen.
#[derive(Debug)]
pub struct ByCode {
    scale: &'static Scale,
    codes: [OnceLock<Box<Histogram>>; CODES.len()],
}

impl ByCode {
    #[must_use]
    pub fn new(scale: &'static Scale) -> Self {
        Self { scale, codes: std::array::from_fn(|_| OnceLock::new()) }
    }

    pub fn observe(&self, code: Code, value: u64) {
        self.codes[code as usize].get_or_init(|| Box::new(Histogram::new(self.scale))).observe(value);
    }

    /// The codes that were seen.
    pub fn seen(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        CODES.iter().zip(&self.codes).filter_map(|((_, name), cell)| cell.get().map(|found| (*name, &**found)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_belong_to_their_bucket() {
        let histogram = Histogram::new(&TIMES);
        for us in [400, 500, 501, 400_000_000] {
            histogram.observe(us);
        }
        let mut text = String::new();
        histogram.render("t", r#"method="M","#, &mut text);
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        has(r#"t_bucket{method="M",le="0.5"} 2"#);
        has(r#"t_bucket{method="M",le="1.0"} 3"#);
        has(r#"t_bucket{method="M",le="300000.0"} 3"#);
        has(r#"t_bucket{method="M",le="+Inf"} 4"#);
        has(r#"t_count{method="M"} 4"#);
        has(r#"t_sum{method="M"} 400001.401"#);
    }

    #[test]
    fn what_is_taken_is_gone() {
        let histogram = Histogram::new(&SIZES);
        for bytes in [100, 28, 1 << 22] {
            histogram.observe(bytes);
        }
        assert_eq!(histogram.take(), [(2, 128.0), (1, 4_194_304.0)]);
        assert!(histogram.take().is_empty() && !histogram.is_used());
    }
}
