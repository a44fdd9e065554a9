//! What this machine computes with: a GPU, or its CPU, described from `/proc` and the control group.

use ollamamax_engine::cpu::KvType;
use ollamamax_engine::cuda::{Gpu, GpuInfo, Unavailable, gpus, kernels};
use ollamamax_proto::limits;
use ollamamax_proto::placement::Device;
use std::fs;
use std::str::FromStr;

/// Which device a worker is told to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, and no other device.
    Cuda(u32),
}

/// A name that is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device; expected `auto`, `cpu` or `cuda:N`, as in `cuda:0`")]
pub struct UnknownDevice(String);

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(name: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice(name.chars().take(50).collect());
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            name => {
                let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or_else(unknown)
            }
        }
    }
}

/// Why the device that was asked for cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The GPU cannot.
    #[error("GPU {index} cannot be used: {reason}")]
    Unavailable {
        /// Its number.
        index: u32,
        /// Why.
        #[source]
        reason: Unavailable,
    },
    /// Keys and values that only the CPU has.
    #[error("a GPU keeps keys and values as f16; leave `--kv-type` out, or use `--device cpu`")]
    KvType,
}

/// The device that is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// What others are told of it.
    pub device: Device,
    /// The GPU; `None`: the CPU.
    pub gpu: Option<GpuInfo>,
}

/// The device for a choice; `threads` and `memory_bytes` of 0 are filled from what is there. Why no GPU is used is said once,
/// in the log.
pub fn choose(
    choice: DeviceChoice,
    threads: u32,
    memory_bytes: u64,
    kv_type: KvType,
) -> Result<Chosen, DeviceError> {
    let on_cpu = || Chosen { device: cpu(threads, memory_bytes), gpu: None };
    let on_gpu = |info: &GpuInfo| Chosen {
        device: cuda(info, threads, memory_bytes),
        gpu: Some(info.clone()),
    };
    match choice {
        DeviceChoice::Cpu => Ok(on_cpu()),
        DeviceChoice::Auto if kv_type != KvType::F16 => {
            tracing::info!(reason = %DeviceError::KvType, "no GPU is used");
            Ok(on_cpu())
        }
        DeviceChoice::Auto => match first_gpu() {
            Ok(info) => Ok(on_gpu(&info)),
            Err(reason) => {
                tracing::info!(%reason, "no GPU is used");
                Ok(on_cpu())
            }
        },
        DeviceChoice::Cuda(_) if kv_type != KvType::F16 => Err(DeviceError::KvType),
        DeviceChoice::Cuda(index) => {
            let unavailable = |reason| DeviceError::Unavailable { index, reason };
            let gpu = Gpu::open(index, kernels::default_dir().as_deref()).map_err(unavailable)?;
            Ok(on_gpu(gpu.info()))
        }
    }
}

/// The first GPU whose kernels can be had.
fn first_gpu() -> Result<GpuInfo, Unavailable> {
    let mut failure = Unavailable::NoGpu;
    for info in gpus()? {
        match Gpu::open(info.index, kernels::default_dir().as_deref()) {
            Ok(_) => return Ok(info),
            Err(reason) => failure = reason,
        }
    }
    Err(failure)
}

/// A GPU; the threads of this machine's processors look after it.
fn cuda(info: &GpuInfo, threads: u32, memory_bytes: u64) -> Device {
    let usable = info.memory_bytes / 100 * (100 - limits::WORKER_HEADROOM_PERCENT);
    Device {
        kind: "cuda".to_owned(),
        name: info.name.clone(),
        memory_bytes: if memory_bytes > 0 { memory_bytes.min(usable) } else { usable },
        threads: cpu_threads(threads),
    }
}

/// The CPU of this machine; `threads` and `memory_bytes` of 0 are filled from what is there.
pub fn cpu(threads: u32, memory_bytes: u64) -> Device {
    let threads = cpu_threads(threads);
    let memory_bytes = if memory_bytes > 0 { memory_bytes } else { usable_memory_bytes() };
    Device { kind: "cpu".to_owned(), name: cpu_name(), memory_bytes, threads }
}

fn cpu_threads(asked: u32) -> u32 {
    let there =
        || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    if asked > 0 { asked } else { there() }
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
    fn devices_are_named() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:99999999999", "CPU"] {
            let error = wrong.parse::<DeviceChoice>().expect_err(wrong).to_string();
            assert!(error.contains(wrong) && error.contains("`cuda:N`"), "{error}");
        }
    }

    #[test]
    fn what_is_asked_for_by_number_is_had_or_refused_and_nothing_else_is_taken() {
        assert_eq!(
            choose(DeviceChoice::Cpu, 1, 1, KvType::Q8_0).map(|chosen| chosen.gpu),
            Ok(None)
        );
        let auto = choose(DeviceChoice::Auto, 1, 1, KvType::Q8_0);
        assert_eq!(auto.map(|chosen| chosen.gpu), Ok(None));
        let refused = choose(DeviceChoice::Cuda(0), 1, 1, KvType::Q8_0);
        assert_eq!(refused, Err(DeviceError::KvType));
        let error = choose(DeviceChoice::Cuda(9_999), 1, 1, KvType::F16).expect_err("so many");
        assert!(matches!(error, DeviceError::Unavailable { index: 9_999, .. }), "{error}");
    }

    #[test]
    fn a_device_is_never_empty() {
        let device = cpu(0, 0);
        assert!(device.threads > 0 && device.memory_bytes > 0 && !device.name.is_empty());
        let device = cpu(3, 77);
        assert_eq!((device.threads, device.memory_bytes), (3, 77));
    }
}
