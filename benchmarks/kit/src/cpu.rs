//! CPU time of other processes, from /proc.

#![allow(clippy::cast_precision_loss)] // figures for people, not for machines

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

/// Clock ticks a second in /proc, on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process to account for.
pub struct Process {
    pub name: String,
    pub pid: u32,
}

/// What a process had used at one moment.
#[derive(Default)]
pub struct Sample {
    user_ticks: u64,
    system_ticks: u64,
    /// Nanoseconds and name by thread. More exact than ticks, but threads that have ended are missing.
    threads: BTreeMap<u32, (u64, String)>,
    pub resident_bytes: u64,
}

impl Process {
    /// Read `name=pid`.
    ///
    /// # Errors
    /// If it is not that, or no such process runs.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').ok_or("--pid takes name=PID")?;
        let pid = pid.parse().map_err(|_| format!("{pid} is no process id"))?;
        fs::metadata(format!("/proc/{pid}")).map_err(|_| format!("there is no process {pid} ({name})"))?;
        Ok(Self { name: name.to_owned(), pid })
    }

    /// What it has used until now; nothing if it has ended.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let mut sample = Sample::default();
        if let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            // The name is in parentheses and may hold anything; utime and stime are fields 14 and 15.
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            let field = |index: usize| after.split_ascii_whitespace().nth(index).and_then(|t| t.parse().ok());
            sample.user_ticks = field(11).unwrap_or(0);
            sample.system_ticks = field(12).unwrap_or(0);
        }
        if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", self.pid)) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
            sample.resident_bytes = kib.unwrap_or(0u64) * 1024;
        }
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return sample };
        for task in tasks.flatten() {
            let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let nanoseconds = fs::read_to_string(task.path().join("schedstat"))
                .ok()
                .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if let Some(nanoseconds) = nanoseconds {
                sample.threads.insert(tid, (nanoseconds, name.trim().to_owned()));
            }
        }
        sample
    }
}

/// What was used between two samples, per request and by thread name.
#[must_use]
pub fn used(before: &Sample, after: &Sample, requests: u64) -> Value {
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for (tid, (nanoseconds, name)) in &after.threads {
        let start = before.threads.get(tid).map_or(0, |(start, _)| *start);
        *by_name.entry(name).or_default() += nanoseconds.saturating_sub(start);
    }
    let total: u64 = by_name.values().sum();
    let per_request =
        |microseconds: f64| if requests == 0 { Value::Null } else { json!(microseconds / requests as f64) };
    let ticks = |before: u64, after: u64| after.saturating_sub(before) as f64 / TICKS_PER_SECOND;
    let user_s = ticks(before.user_ticks, after.user_ticks);
    let system_s = ticks(before.system_ticks, after.system_ticks);
    json!({
        "user_s": user_s,
        "system_s": system_s,
        "schedstat_s": total as f64 / 1e9,
        "us_per_request": per_request(total as f64 / 1e3),
        "us_per_request_by_ticks": per_request((user_s + system_s) * 1e6),
        "threads_s": by_name.into_iter().map(|(name, ns)| (name.to_owned(), json!(ns as f64 / 1e9)))
            .collect::<serde_json::Map<_, _>>(),
    })
}
