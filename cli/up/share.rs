//! What each worker gets of this machine.

/// Each worker's share of the cores.
pub fn threads(asked: Option<u32>, workers: usize) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (cores / workers.max(1)).max(1);
    asked.unwrap_or(u32::try_from(share).unwrap_or(1))
}

/// Each worker's share of the free memory, in bytes; a single worker finds out by itself (0).
pub fn memory(asked: Option<u64>, workers: usize) -> u64 {
    match (asked, workers) {
        (Some(bytes), _) => bytes,
        (None, 0 | 1) => 0,
        (None, workers) => available_memory().unwrap_or(0) / workers as u64 / 10 * 9,
    }
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}
