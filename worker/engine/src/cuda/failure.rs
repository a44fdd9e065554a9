//! The first failure of a device, and who is told of it.

use super::device::DeviceError;

/// A failure ends the device's use: what it holds cannot be trusted any more.
#[derive(Default)]
pub(super) struct Failure {
    pub found: Option<DeviceError>,
    /// Told of the first one.
    pub told: Option<OnFailure>,
}

/// Told of the first failure of a device. Its process should then end: the driver does not recover within one.
pub type OnFailure = Box<dyn FnOnce(&DeviceError) + Send>;

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Failure").field(&self.found).finish()
    }
}

impl Failure {
    pub fn find(&mut self, error: DeviceError) {
        if let Some(told) = self.told.take() {
            told(&error);
        }
        self.found.get_or_insert(error);
    }
}
