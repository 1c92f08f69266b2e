//! How much memory there is, and what part of it strangers may use.

/// The least and the most that a side may hold by default.
const LEAST: usize = 64 << 20;
const MOST: usize = 1 << 30;

/// What each side may hold on this machine, or in this container: an eighth of its memory.
#[must_use]
pub fn share_of_memory() -> usize {
    share_of(memory().unwrap_or(usize::MAX))
}

fn share_of(memory: usize) -> usize {
    (memory / 8).clamp(LEAST, MOST)
}

/// Bytes of the container's memory, or of the machine's.
fn memory() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let limit = |path: &str| read(path)?.trim().parse::<usize>().ok();
    let total = read("/proc/meminfo").and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim();
        kib.parse::<usize>().ok().map(|kib| kib << 10)
    });
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .filter_map(limit)
        .chain(total)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_is_shared_by_eighths() {
        assert_eq!(share_of(512 * MIB), 64 * MIB);
        assert_eq!(share_of(4096 * MIB), 512 * MIB);
        assert_eq!(share_of(usize::MAX), MOST);
        assert!(memory().is_some_and(|memory| memory > 64 * MIB), "this machine has some");
    }
}
