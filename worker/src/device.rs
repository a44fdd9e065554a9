//! What this machine computes with: a CPU here, described from `/proc` and the control group.

use ollamamax_proto::limits;
use ollamamax_proto::placement::Device;
use std::fs;

/// The CPU of this machine; `threads` and `memory_bytes` of 0 are filled from what is there.
pub fn cpu(threads: u32, memory_bytes: u64) -> Device {
    let threads = if threads > 0 {
        threads
    } else {
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
    };
    let memory_bytes = if memory_bytes > 0 { memory_bytes } else { usable_memory_bytes() };
    Device { kind: "cpu".to_owned(), name: cpu_name(), memory_bytes, threads }
}

fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu_name_in(&text).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    name.chars().take(100).collect()
}

fn cpu_name_in(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn usable_memory_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available_in(&meminfo).unwrap_or(1 << 30);
    let read =
        |path| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let limit = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .unwrap_or(u64::MAX);
    let used = read("/sys/fs/cgroup/memory.current")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
        .unwrap_or(0);
    // A control group that is used up by cache alone must not make the worker useless: half its limit is offered.
    let group = limit.saturating_sub(used).max(limit / 2);
    available.min(group) / 100 * (100 - limits::WORKER_HEADROOM_PERCENT)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_files_are_understood() {
        assert_eq!(
            cpu_name_in("processor\t: 0\nmodel name\t: Example CPU @ 3\nmodel name\t: other\n"),
            Some("Example CPU @ 3".to_owned())
        );
        assert_eq!(cpu_name_in("CPU part: 0xd0c\n"), None);
        assert_eq!(available_in("MemTotal: 9 kB\nMemAvailable:    7 kB\n"), Some(7 * 1024));
    }

    #[test]
    fn a_device_is_never_empty() {
        let device = cpu(0, 0);
        assert!(device.threads > 0 && device.memory_bytes > 0 && !device.name.is_empty());
        let device = cpu(3, 77);
        assert_eq!((device.threads, device.memory_bytes), (3, 77));
    }
}
