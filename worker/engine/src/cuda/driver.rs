//! GPUs through the CUDA driver.
//!
//! Everything of a [`Gpu`] happens on one stream, in order. The driver is loaded when it is first asked for; where it is not
//! there, that is an error in words, never a panic.

use super::device::{Address, Device, DeviceError, Grid, aligned};
use super::kernels;
use super::nvrtc::{CompileError, Nvrtc};
use super::probe::{GpuInfo, OLDEST_ARCHITECTURE, Unavailable, gpus, in_words, start};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::time::{Duration, Instant};

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
    /// It reads this process's memory itself, when it comes to it.
    reads_host: bool,
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
        let code = |minor: i32| kernels::machine_code(&nvrtc, &format!("sm_{major}{minor}"), kept);
        // An older compiler does not know the newest GPUs, but the first of their kind, whose machine code they run.
        let units = match (code(minor), minor) {
            (Err(CompileError::Refused { .. }), 1..) => code(0)?,
            (units, _) => units?,
        };
        let failed = |operation| failure(&info, operation);
        let device = result::device::get(index as i32).map_err(failed("finding it"))?;
        // SAFETY: the device was just given by the driver.
        let (context, processors, reads_host) = unsafe {
            let count = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
            let processors = result::device::get_attribute(device, count);
            let processors = processors.map_err(failed("asking for its processors"))?;
            let context = result::primary_ctx::retain(device).map_err(failed("its context"))?;
            let access = Attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS;
            let reads_host = result::device::get_attribute(device, access).unwrap_or(1);
            (context, processors, reads_host)
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
            reads_host: reads_host != 0,
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
        // pinned memory; where the device reads them itself, that is waited for.
        let sent = unsafe {
            result::memcpy_htod_async(to.0, bytes, self.stream).and_then(|()| {
                match self.reads_host {
                    true => result::stream::synchronize(self.stream),
                    false => Ok(()),
                }
            })
        };
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
        let mut aligned = aligned(arguments);
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
