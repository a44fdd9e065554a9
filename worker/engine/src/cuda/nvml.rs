//! How a GPU is, as NVIDIA's management library tells: memory, load, temperature, memory errors and failures.

use super::library::{self, NotFound};
use libloading::{Library, Symbol};
use ollamamax_proto::placement::DeviceHealth;
use std::ffi::{CString, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;
use std::ptr;

const NAMES: [&str; 1] = ["libnvidia-ml.so.1"];
const SUCCESS: c_int = 0;
/// `NVML_TEMPERATURE_GPU`.
const OF_THE_GPU: c_uint = 0;
/// `NVML_MEMORY_ERROR_TYPE_UNCORRECTED`.
const UNCORRECTED: c_uint = 1;
/// `NVML_VOLATILE_ECC`: since the driver was loaded.
const VOLATILE: c_uint = 0;
/// `nvmlEventTypeXidCriticalError`.
const XID: c_ulonglong = 8;

type Handle = *mut c_void;
type Init = unsafe extern "C" fn() -> c_int;
type ByPci = unsafe extern "C" fn(*const std::ffi::c_char, *mut Handle) -> c_int;
type MemoryInfo = unsafe extern "C" fn(Handle, *mut [c_ulonglong; 3]) -> c_int;
type Utilization = unsafe extern "C" fn(Handle, *mut [c_uint; 2]) -> c_int;
type Temperature = unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> c_int;
type EccErrors = unsafe extern "C" fn(Handle, c_uint, c_uint, *mut c_ulonglong) -> c_int;
type EventSet = unsafe extern "C" fn(*mut Handle) -> c_int;
type Register = unsafe extern "C" fn(Handle, c_ulonglong, Handle) -> c_int;
type Wait = unsafe extern "C" fn(Handle, *mut Event, c_uint) -> c_int;

/// `nvmlEventData_t`.
#[repr(C)]
struct Event {
    device: Handle,
    kind: c_ulonglong,
    data: c_ulonglong,
    instances: [c_uint; 2],
}

/// The management library, looking at one GPU.
#[derive(Debug)]
pub struct Monitor {
    library: Library,
    device: Handle,
    events: Handle,
    /// The last failure that was told of; 0 for none.
    xid: u64,
}

// SAFETY: the library may be called from any thread, and the handles are its own.
unsafe impl Send for Monitor {}

/// Why a GPU cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MonitorError {
    /// No library.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The library refuses.
    #[error("NVML: `{function}` failed with error {code}")]
    Failed {
        /// What was called.
        function: &'static str,
        /// What it returned.
        code: i32,
    },
}

impl Monitor {
    /// Watches the GPU at a PCI address, as in `0000:1b:00.0`.
    pub fn open(pci: &str) -> Result<Self, MonitorError> {
        Self::of(library::open("NVML (NVIDIA's management library)", &NAMES)?, pci)
    }

    /// The same with the library of a path.
    pub fn at(path: &Path, pci: &str) -> Result<Self, MonitorError> {
        Self::of(library::open("NVML", &[&path.to_string_lossy()])?, pci)
    }

    fn of(library: Library, pci: &str) -> Result<Self, MonitorError> {
        let (device, events) = (ptr::null_mut(), ptr::null_mut());
        let mut monitor = Self { library, device, events, xid: 0 };
        let pci = CString::new(pci).unwrap_or_default();
        let mut device: Handle = ptr::null_mut();
        // SAFETY: the types are those of NVML's header; the text lives longer than the call.
        unsafe {
            monitor.call("nvmlInit_v2", |init: &Init| init())?;
            let by_pci = |call: &ByPci| call(pci.as_ptr(), &raw mut device);
            monitor.call("nvmlDeviceGetHandleByPciBusId_v2", by_pci)?;
        }
        monitor.device = device;
        // Not every GPU tells of failures; the rest is of use without.
        let _ = monitor.listen();
        Ok(monitor)
    }

    /// Calls a function, if there is one of this name.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn call<F>(
        &self,
        function: &'static str,
        call: impl FnOnce(&F) -> c_int,
    ) -> Result<(), MonitorError> {
        let name = format!("{function}\0");
        // SAFETY: the caller vouches for the type.
        let found: Result<Symbol<'_, F>, _> = unsafe { self.library.get(name.as_bytes()) };
        match found.map(|symbol| call(&symbol)) {
            Ok(SUCCESS) => Ok(()),
            Ok(code) => Err(MonitorError::Failed { function, code }),
            // `NVML_ERROR_FUNCTION_NOT_FOUND`.
            Err(_) => Err(MonitorError::Failed { function, code: 13 }),
        }
    }

    fn listen(&mut self) -> Result<(), MonitorError> {
        let mut events: Handle = ptr::null_mut();
        // SAFETY: the types are those of NVML's header; the device is the library's own.
        unsafe {
            self.call("nvmlEventSetCreate", |create: &EventSet| create(&raw mut events))?;
            let register = |call: &Register| call(self.device, XID, events);
            self.call("nvmlDeviceRegisterEvents", register)?;
        }
        self.events = events;
        Ok(())
    }

    /// How the GPU is now; what it does not tell stays empty.
    pub fn health(&mut self) -> DeviceHealth {
        let (device, mut memory, mut load) = (self.device, [0; 3], [0; 2]);
        let (mut celsius, mut errors) = (0, 0);
        // SAFETY: the types are those of NVML's header, each result is as large as it says, and the handle is the library's own.
        let told = unsafe {
            let memory = |call: &MemoryInfo| call(device, &raw mut memory);
            let load = |call: &Utilization| call(device, &raw mut load);
            let celsius = |call: &Temperature| call(device, OF_THE_GPU, &raw mut celsius);
            let errors = |call: &EccErrors| call(device, UNCORRECTED, VOLATILE, &raw mut errors);
            [
                self.call("nvmlDeviceGetMemoryInfo", memory),
                self.call("nvmlDeviceGetUtilizationRates", load),
                self.call("nvmlDeviceGetTemperature", celsius),
                self.call("nvmlDeviceGetTotalEccErrors", errors),
            ]
        };
        let [memory_told, load_told, celsius_told, errors_told] = told.map(|told| told.is_ok());
        self.hear();
        DeviceHealth {
            // Total, free, used.
            memory_used_bytes: memory_told.then_some(memory[2]),
            busy_percent: load_told.then_some(load[0]),
            celsius: celsius_told.then_some(celsius),
            memory_errors: errors_told.then_some(errors),
            xid: (self.xid > 0).then_some(self.xid),
        }
    }

    /// The failures since it was asked last.
    fn hear(&mut self) {
        while !self.events.is_null() {
            let mut event = Event { device: ptr::null_mut(), kind: 0, data: 0, instances: [0; 2] };
            // SAFETY: the type is that of NVML's header; the set is the library's own. It does not wait.
            let heard = unsafe {
                let wait = |call: &Wait| call(self.events, &raw mut event, 0);
                self.call("nvmlEventSetWait_v2", wait)
            };
            match heard {
                Ok(()) if event.kind == XID => self.xid = event.data,
                Ok(()) => {}
                Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A library that knows one GPU, which is warm and has failed once.
    const STAND_IN: &str = r#"
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **device) {
    *device = (void *)7;
    return strcmp(pci, "0000:1b:00.0") == 0 ? 0 : 6;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    memory[0] = 100, memory[1] = 60, memory[2] = 40;
    return device == (void *)7 ? 0 : 2;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *load) { load[0] = 93, load[1] = 50; return device ? 0 : 2; }
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *celsius) { *celsius = 61; return device && sensor == 0 ? 0 : 2; }
int nvmlDeviceGetTotalEccErrors(void *device, unsigned kind, unsigned since, unsigned long long *count) {
    *count = kind + since;
    return 3; /* not supported */
}
int nvmlEventSetCreate(void **set) { *set = (void *)9; return 0; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long kinds, void *set) { return device && kinds == 8 && set ? 0 : 2; }
int nvmlEventSetWait_v2(void *set, unsigned long long *event, unsigned milliseconds) {
    static int told;
    if (told++) return 10; /* timeout */
    event[1] = 8, event[2] = 79;
    return set == (void *)9 && milliseconds == 0 ? 0 : 2;
}
"#;

    #[test]
    fn what_the_library_tells_is_understood() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (source, library) = (dir.path().join("nvml.c"), dir.path().join("nvml.so"));
        std::fs::write(&source, STAND_IN).expect("written");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.expect("a C compiler").success());
        let error = Monitor::at(&library, "0000:ff:00.0").expect_err("no such GPU").to_string();
        assert!(error.contains("ByPciBusId_v2` failed with error 6"), "{error}");
        let mut monitor = Monitor::at(&library, "0000:1b:00.0").expect("the GPU");
        let health = DeviceHealth {
            memory_used_bytes: Some(40),
            busy_percent: Some(93),
            celsius: Some(61),
            memory_errors: None,
            xid: Some(79),
        };
        assert_eq!(monitor.health(), health);
        assert_eq!(monitor.health(), health, "a failure is not forgotten");
    }
}
