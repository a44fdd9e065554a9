//! What the backend needs of a device: memory and kernels, in order. [`super::driver`] is a GPU through the CUDA driver; the
//! tests have one that runs the same kernels on the host.

use std::fmt;

/// A place in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(crate) struct Address(pub u64);

impl Address {
    /// Nothing, where a kernel may be given nothing.
    pub const NONE: Self = Self(0);

    /// So many bytes further on.
    pub fn after(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// What a device refused or could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// It has not that much memory.
    #[error(
        "device `{device}` refuses {bytes} bytes, {free} are free; use a smaller model, a shorter context or fewer sequences"
    )]
    Memory {
        /// Its name.
        device: String,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes it says are free.
        free: u64,
    },
    /// An operation failed; what comes after it fails as well.
    #[error("device `{device}`: {operation} failed: {reason}")]
    Failed {
        /// Its name.
        device: String,
        /// What was done.
        operation: &'static str,
        /// The driver's words.
        reason: String,
    },
}

/// How many blocks of how many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Blocks.
    pub blocks: [u32; 3],
    /// Threads of each, a multiple of 32.
    pub threads: u32,
    /// Bytes of shared memory of each, besides what the kernel declares.
    pub shared_bytes: u32,
}

impl Grid {
    /// `blocks` in one direction.
    pub fn of(blocks: u32, threads: u32) -> Self {
        Self::wide(blocks, 1, threads)
    }

    /// `x` by `y` blocks.
    pub fn wide(x: u32, y: u32, threads: u32) -> Self {
        Self { blocks: [x, y, 1], threads, shared_bytes: 0 }
    }
}

/// The bytes of a kernel's arguments, aligned as its struct is.
pub(super) fn aligned(arguments: &[u8]) -> Vec<u64> {
    let mut aligned = vec![0u64; arguments.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut aligned)[..arguments.len()].copy_from_slice(arguments);
    aligned
}

/// A device. Everything happens in the order of the calls; only [`Device::read`] waits for it.
pub(crate) trait Device: Send + fmt::Debug {
    /// Zeroed memory, aligned to at least 256 bytes, kept until the device is dropped.
    fn allocate(&mut self, bytes: u64) -> Result<Address, DeviceError>;

    /// Copies bytes to the device.
    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies bytes from the device, after all that was asked for before.
    fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Runs a kernel of `worker/engine/kernels`, by its name, with the bytes of its arguments.
    fn launch(
        &mut self,
        kernel: &'static str,
        grid: Grid,
        arguments: &[u8],
    ) -> Result<(), DeviceError>;

    /// Blocks that run at the same time, roughly: its multiprocessors.
    fn processors(&self) -> u32;
}
