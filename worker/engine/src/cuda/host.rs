//! A device that runs the kernels on the host: they are C, and a C compiler is at hand wherever Rust links. It is for tests; what it
//! shows is that the kernels' arithmetic and the code that launches them are right.

use super::device::{Address, Device, DeviceError, Grid, aligned};
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

type Kernel = unsafe extern "C" fn(*const c_void);
type RunKernel = unsafe extern "C" fn(Kernel, *const u32, u32, u32, *const c_void) -> i32;

/// The host as a device.
#[derive(Debug, Default)]
pub(super) struct HostDevice {
    memory: Vec<Vec<u64>>,
    /// What [`Device::processors`] says.
    pub processors: u32,
    /// Kernels that were run.
    pub launches: u64,
    /// Launches after which every operation fails.
    pub fails_after: Option<u64>,
}

/// The kernels as a library of the host, built once for all tests of a process.
fn library() -> &'static libloading::Library {
    static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/host.h");
        let target: PathBuf = dir.path().join("kernels.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let output = Command::new(&compiler)
            .args(["-O2", "-std=gnu11", "-ffp-contract=off", "-ftls-model=initial-exec"])
            .args(["-Wall", "-Wextra", "-Werror"])
            .args(["-Wno-clobbered", "-shared", "-fPIC", "-x", "c"])
            .arg(&source)
            .arg("-o")
            .arg(&target)
            .arg("-lm")
            .output()
            .expect("a C compiler");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{compiler} cannot compile the kernels: {errors}");
        // SAFETY: the library has just been built from this crate's own sources and has no initialisers.
        unsafe { libloading::Library::new(&target) }.expect("a library that was just built")
    })
}

impl HostDevice {
    /// With as many processors as it says.
    pub fn new(processors: u32) -> Self {
        Self { processors, ..Self::default() }
    }

    fn check(&self, operation: &'static str) -> Result<(), DeviceError> {
        match self.fails_after {
            Some(launches) if self.launches >= launches => Err(DeviceError::Failed {
                device: "host".to_owned(),
                operation,
                reason: "made to fail".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Fails the test unless the bytes lie in one allocation.
    fn check_range(&self, at: Address, len: usize) {
        let inside = self.memory.iter().any(|memory| {
            let start = memory.as_ptr() as u64;
            at.0 >= start && at.0 + len as u64 <= start + memory.len() as u64 * 8
        });
        assert!(inside || len == 0, "{len} bytes at {at:?} are not allocated");
    }
}

impl Device for HostDevice {
    fn allocate(&mut self, bytes: u64) -> Result<Address, DeviceError> {
        self.check("an allocation")?;
        let memory = vec![0u64; bytes.div_ceil(8).max(1) as usize];
        let address = Address(memory.as_ptr() as u64);
        self.memory.push(memory);
        Ok(address)
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check("a copy")?;
        self.check_range(to, bytes.len());
        // SAFETY: the range lies in an allocation that this device owns.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len());
        }
        Ok(())
    }

    fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check("a copy")?;
        self.check_range(from, bytes.len());
        // SAFETY: the range lies in an allocation that this device owns.
        unsafe {
            std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn launch(
        &mut self,
        kernel: &'static str,
        grid: Grid,
        arguments: &[u8],
    ) -> Result<(), DeviceError> {
        self.check(kernel)?;
        self.launches += 1;
        let name = CString::new(format!("kernel_{kernel}")).expect("a name");
        let aligned = aligned(arguments);
        // SAFETY: `host.h` defines both functions so. A kernel reads the struct that its arguments are, and of this device's
        // memory what they point to.
        let code = unsafe {
            let run: libloading::Symbol<'_, RunKernel> =
                library().get(b"run_kernel\0").expect("the runner");
            let kernel: libloading::Symbol<'_, Kernel> =
                library().get(name.as_bytes_with_nul()).expect("a kernel of this name");
            run(
                *kernel,
                grid.blocks.as_ptr(),
                grid.threads,
                grid.shared_bytes,
                aligned.as_ptr().cast(),
            )
        };
        assert_eq!(code, 0, "kernel `{kernel}`: its threads wait for each other, or are too many");
        Ok(())
    }

    fn processors(&self) -> u32 {
        self.processors
    }
}
