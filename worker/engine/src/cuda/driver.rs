//! GPUs through the CUDA driver.
//!
//! Everything of a [`Gpu`] happens on one stream, in order. The driver is loaded when it is first asked for; where it is not
//! there, that is an error in words, never a panic.

use super::device::{Address, Device, DeviceError, Grid};
use super::kernels;
use super::library::NotFound;
use super::nvrtc::{CompileError, Nvrtc};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::time::{Duration, Instant};

/// The oldest architecture whose tensor cores the kernels use: 8.0, Ampere.
const OLDEST_ARCHITECTURE: (i32, i32) = (8, 0);
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
fn start() -> Result<i32, Unavailable> {
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

fn in_words(error: DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// A GPU, ready to compute.
pub struct Gpu {
    info: GpuInfo,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    memory: Vec<sys::CUdeviceptr>,
    processors: u32,
}

// SAFETY: handles of the driver may be used from any thread; one at a time uses them, through `&mut self`, and each call makes
// the context current on its thread first.
unsafe impl Send for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Gpu {
    /// Prepares the GPU of a number: its kernels are had from `kept`, or compiled.
    ///
    /// # Errors
    /// When it is not there, too old, or fails; when its kernels cannot be compiled.
    pub fn open(index: u32, kept: Option<&Path>) -> Result<Self, Unavailable> {
        let gpus = gpus()?;
        let count = gpus.len() as u32;
        let info = gpus.into_iter().nth(index as usize);
        let info = info.ok_or(Unavailable::NoSuchGpu { index, count })?;
        let words = |(major, minor): (i32, i32)| format!("{major}.{minor}");
        if info.architecture < OLDEST_ARCHITECTURE {
            let (found, needed) = (words(info.architecture), words(OLDEST_ARCHITECTURE));
            return Err(Unavailable::OldGpu { name: info.name, found, needed });
        }
        let (major, minor) = info.architecture;
        let nvrtc = Nvrtc::open(start()? / 1_000)?;
        let units = kernels::machine_code(&nvrtc, &format!("sm_{major}{minor}"), kept)?;
        let failed = |operation| failure(&info, operation);
        let device = result::device::get(index as i32).map_err(failed("finding it"))?;
        // SAFETY: the device was just given by the driver.
        let (context, processors) = unsafe {
            let count = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
            let processors = result::device::get_attribute(device, count);
            let processors = processors.map_err(failed("asking for its processors"))?;
            let context = result::primary_ctx::retain(device).map_err(failed("its context"))?;
            (context, processors)
        };
        let mut gpu = Self {
            info: info.clone(),
            device,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            functions: HashMap::new(),
            memory: Vec::new(),
            processors: processors.unsigned_abs(),
        };
        gpu.enter("its context")?;
        let kind = result::stream::StreamKind::NonBlocking;
        gpu.stream = result::stream::create(kind).map_err(failed("creating a stream"))?;
        for (unit, code) in units {
            gpu.load(&unit, &code)?;
        }
        Ok(gpu)
    }

    /// What it is.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Bytes it reads and writes in a second, measured by copies within its memory for about `time`.
    pub fn read_rate(&mut self, time: Duration) -> Result<f64, DeviceError> {
        const BYTES: u64 = 256 << 20;
        let (from, to) = (self.allocate(BYTES)?, self.allocate(BYTES)?);
        let (begun, mut copied) = (Instant::now(), 0);
        while begun.elapsed() < time {
            for _ in 0..8 {
                // SAFETY: both are allocations of so many bytes.
                let copy =
                    unsafe { result::memcpy_dtod_async(to.0, from.0, BYTES as usize, self.stream) };
                copy.map_err(failure(&self.info, "a copy within it"))?;
                copied += 2 * BYTES;
            }
            // SAFETY: the stream is this one's own.
            let waited = unsafe { result::stream::synchronize(self.stream) };
            waited.map_err(failure(&self.info, "a copy within it"))?;
        }
        Ok(copied as f64 / begun.elapsed().as_secs_f64())
    }

    fn load(&mut self, unit: &kernels::Unit, code: &[u8]) -> Result<(), DeviceError> {
        let failed = |operation| failure(&self.info, operation);
        // SAFETY: the bytes are what the compiler made for this architecture, checked against their digest.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = module.map_err(failed("loading kernels"))?;
        self.modules.push(module);
        for kernel in unit.kernels {
            let name = CString::new(format!("kernel_{kernel}")).unwrap_or_default();
            // SAFETY: the module was just loaded and lives as long as this.
            let function = unsafe { result::module::get_function(module, name) };
            let function = function.map_err(failed("finding a kernel"))?;
            if *kernel == "attend" {
                // More than a kernel has without asking.
                let attribute =
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // SAFETY: the function was just given by the driver.
                let set = unsafe {
                    result::function::set_function_attribute(function, attribute, SHARED_BYTES)
                };
                set.map_err(failed("asking for shared memory"))?;
            }
            self.functions.insert(kernel, function);
        }
        Ok(())
    }

    /// Makes its context the current one of this thread.
    fn enter(&self, operation: &'static str) -> Result<(), DeviceError> {
        // SAFETY: the context is held until this is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(failure(&self.info, operation))
    }
}

/// Shared memory of a block of attention at most.
const SHARED_BYTES: i32 = 96 * 1024;

fn failure(info: &GpuInfo, operation: &'static str) -> impl Fn(DriverError) -> DeviceError + use<> {
    let device = info.name.clone();
    move |error| DeviceError::Failed { device: device.clone(), operation, reason: in_words(error) }
}

impl Device for Gpu {
    fn allocate(&mut self, bytes: u64) -> Result<Address, DeviceError> {
        self.enter("an allocation")?;
        // SAFETY: what is allocated is cleared before it is used and freed once, when this is dropped.
        let at = match unsafe { result::malloc_sync(bytes.max(1) as usize) } {
            Ok(at) => at,
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let free = result::mem_get_info().map_or(0, |(free, _)| free as u64);
                return Err(DeviceError::Memory { device: self.info.name.clone(), bytes, free });
            }
            Err(error) => return Err(failure(&self.info, "an allocation")(error)),
        };
        self.memory.push(at);
        // SAFETY: so many bytes were just allocated there.
        let cleared = unsafe { result::memset_d8_async(at, 0, bytes as usize, self.stream) };
        cleared.map_err(failure(&self.info, "clearing memory"))?;
        Ok(Address(at))
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.enter("a copy")?;
        // SAFETY: callers write within what they allocated. The driver has taken the bytes when it returns, since they are no
        // pinned memory.
        let sent = unsafe { result::memcpy_htod_async(to.0, bytes, self.stream) };
        sent.map_err(failure(&self.info, "a copy to it"))
    }

    fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.enter("a copy")?;
        // SAFETY: callers read within what they allocated, and the bytes live until the stream has been waited for.
        let read = unsafe {
            result::memcpy_dtoh_async(bytes, from.0, self.stream)
                .and_then(|()| result::stream::synchronize(self.stream))
        };
        read.map_err(failure(&self.info, "a copy from it"))
    }

    fn launch(
        &mut self,
        kernel: &'static str,
        grid: Grid,
        arguments: &[u8],
    ) -> Result<(), DeviceError> {
        self.enter(kernel)?;
        let Some(function) = self.functions.get(kernel).copied() else {
            let (device, reason) = (self.info.name.clone(), "no such kernel".to_owned());
            return Err(DeviceError::Failed { device, operation: kernel, reason });
        };
        // Aligned as the kernels' structs are.
        let mut aligned = vec![0u64; arguments.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut aligned)[..arguments.len()].copy_from_slice(arguments);
        let mut parameters: [*mut c_void; 1] = [aligned.as_mut_ptr().cast()];
        let [x, y, z] = grid.blocks;
        // SAFETY: the kernel takes one struct, which these bytes are, and the driver copies it before it returns; what it points to
        // are allocations of this device, within which the backend's shapes keep.
        let launched = unsafe {
            let (threads, shared) = ((grid.threads, 1, 1), grid.shared_bytes);
            result::launch_kernel(
                function,
                (x, y, z),
                threads,
                shared,
                self.stream,
                &mut parameters,
            )
        };
        launched.map_err(failure(&self.info, kernel))
    }

    fn processors(&self) -> u32 {
        self.processors
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter("its end").is_err() {
            return;
        }
        // SAFETY: all handles are this one's own, and nothing uses them afterwards. An error means that the device has failed; then
        // there is nothing left to free.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for at in self.memory.drain(..) {
                let _ = result::free_sync(at);
            }
            for module in self.modules.drain(..) {
                let _ = result::module::unload(module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
