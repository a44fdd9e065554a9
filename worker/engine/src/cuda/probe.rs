//! Whether there is a driver that can be used, and which GPUs it finds: asked before anything else, and never a panic.

use super::device::DeviceError;
use super::library::NotFound;
use super::nvrtc::CompileError;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

/// The oldest architecture whose tensor cores the kernels use: 8.0, Ampere.
pub(super) const OLDEST_ARCHITECTURE: (i32, i32) = (8, 0);
/// The oldest driver: 12.0 loads what compilers of all versions 12 make.
const OLDEST_DRIVER: i32 = 12_000;

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number, from 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Its PCI address, as in `0000:1b:00.0`.
    pub pci: String,
    /// Major and minor version of its architecture.
    pub architecture: (i32, i32),
}

/// Why no GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No driver.
    #[error(
        "no CUDA driver: looked for libcuda.so.1 where the system looks; install NVIDIA's driver"
    )]
    NoDriver,
    /// The driver does not start.
    #[error("the CUDA driver does not start: {0}")]
    Driver(String),
    /// The driver is too old.
    #[error(
        "the CUDA driver is of version {found}, {needed} or newer is needed; update NVIDIA's driver"
    )]
    OldDriver {
        /// What is there.
        found: String,
        /// What is needed.
        needed: String,
    },
    /// There is a driver, but no GPU.
    #[error("the CUDA driver finds no GPU")]
    NoGpu,
    /// No GPU of this number.
    #[error("there is no GPU {index}: the CUDA driver finds {count}, numbered from 0")]
    NoSuchGpu {
        /// The number asked for.
        index: u32,
        /// GPUs there are.
        count: u32,
    },
    /// A GPU without the tensor cores that the kernels use.
    #[error("GPU `{name}` is of architecture {found}, {needed} or newer is needed")]
    OldGpu {
        /// Its name.
        name: String,
        /// What it is.
        found: String,
        /// What is needed.
        needed: String,
    },
    /// No compiler of kernels.
    #[error(transparent)]
    NoCompiler(#[from] NotFound),
    /// Its kernels do not compile.
    #[error(transparent)]
    Kernels(#[from] CompileError),
    /// It failed while it was prepared.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The GPUs of this machine.
///
/// # Errors
/// When there is no driver that starts, it is too old, or it finds none.
pub fn gpus() -> Result<Vec<GpuInfo>, Unavailable> {
    let _ = start()?;
    let words = |error: DriverError| Unavailable::Driver(in_words(error));
    let count = result::device::get_count().map_err(words)?;
    let gpus = (0..count).map(|index| info(index).map_err(words)).collect::<Result<Vec<_>, _>>()?;
    if gpus.is_empty() { Err(Unavailable::NoGpu) } else { Ok(gpus) }
}

/// Starts the driver and returns its version, as in 12080; more than once is fine.
pub(super) fn start() -> Result<i32, Unavailable> {
    // SAFETY: it opens NVIDIA's driver library, whose initialisers any program may run.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoDriver);
    }
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Unavailable::NoGpu),
        Err(error) => return Err(Unavailable::Driver(in_words(error))),
    }
    let mut version = 0;
    // SAFETY: it writes one integer.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    asked.map_err(|error| Unavailable::Driver(in_words(error)))?;
    if version < OLDEST_DRIVER {
        let words = |version: i32| format!("{}.{}", version / 1_000, version % 1_000 / 10);
        return Err(Unavailable::OldDriver { found: words(version), needed: words(OLDEST_DRIVER) });
    }
    Ok(version)
}

fn info(index: i32) -> Result<GpuInfo, DriverError> {
    let device = result::device::get(index)?;
    // SAFETY: the device was just given by the driver.
    let (memory_bytes, major, minor) = unsafe {
        (
            result::device::total_mem(device)? as u64,
            result::device::get_attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            )?,
            result::device::get_attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )?,
        )
    };
    let name = result::device::get_name(device)?;
    let mut pci = [0u8; 32];
    // SAFETY: the text is ended within so many bytes.
    unsafe {
        let len = pci.len() as i32;
        sys::cuDeviceGetPCIBusId(pci.as_mut_ptr().cast(), len, device).result()?;
    }
    let pci = std::ffi::CStr::from_bytes_until_nul(&pci).unwrap_or_default();
    Ok(GpuInfo {
        index: index.unsigned_abs(),
        name: name.chars().take(100).collect(),
        memory_bytes,
        pci: pci.to_string_lossy().into_owned(),
        architecture: (major, minor),
    })
}

pub(super) fn in_words(error: DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}
