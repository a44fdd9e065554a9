//! NVIDIA's runtime compiler: C text in, machine code of one architecture out.

use super::library::{self, NotFound};
use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

/// File names, newest first, with the versions they are of.
const NAMES: [(&str, i32); 3] =
    [("libnvrtc.so.13", 13), ("libnvrtc.so.12", 12), ("libnvrtc.so", OLDEST_MAJOR)];
const WHAT: &str = "NVRTC (the compiler of CUDA's kernels)";
/// The oldest version whose machine code every driver loads that is not too old itself.
const OLDEST_MAJOR: i32 = 12;
const SUCCESS: c_int = 0;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    version: (i32, i32),
}

/// What the compiler could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The library is there, but not what it should be.
    #[error("NVRTC has no `{0}`: it is too old, or no NVRTC")]
    Symbol(&'static str),
    /// A kernel does not compile.
    #[error("NVRTC {version} cannot compile `{name}` for {architecture}: {log}")]
    Refused {
        /// The file.
        name: String,
        /// What for.
        architecture: String,
        /// The compiler's version.
        version: String,
        /// Its words.
        log: String,
    },
}

impl Nvrtc {
    /// Looks for the library: the newest of which a driver of version `newest_major` loads what it compiles.
    pub fn open(newest_major: i32) -> Result<Self, NotFound> {
        let names = NAMES.iter().filter(|(_, major)| *major <= newest_major);
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        let found = library::open(WHAT, &names).map(Self::of)?;
        // A name without a number may be of any version.
        match (OLDEST_MAJOR..=newest_major).contains(&found.version.0) {
            true => Ok(found),
            false => Err(NotFound::new(WHAT, &names)),
        }
    }

    /// The library of a path.
    pub fn at(path: &Path) -> Result<Self, NotFound> {
        library::open("NVRTC", &[&path.to_string_lossy()]).map(Self::of)
    }

    fn of(library: Library) -> Self {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: `nvrtcVersion` has this type in every version and writes two integers.
        unsafe {
            if let Ok(version) = library.get::<Version>(b"nvrtcVersion\0") {
                version(&raw mut major, &raw mut minor);
            }
        }
        Self { library, version: (major, minor) }
    }

    /// As in `12.9`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    fn symbol<T>(&self, name: &'static str) -> Result<Symbol<'_, T>, CompileError> {
        let zero_ended = format!("{name}\0");
        // SAFETY: callers name functions of NVRTC together with their types, from its header.
        unsafe { self.library.get(zero_ended.as_bytes()) }.map_err(|_| CompileError::Symbol(name))
    }

    /// Compiles `source` for an architecture, as in `sm_90`.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        architecture: &str,
        options: &[&str],
    ) -> Result<Vec<u8>, CompileError> {
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (source, file) = (text(source), text(name));
        let architecture_option = format!("--gpu-architecture={architecture}");
        let options: Vec<CString> = options
            .iter()
            .chain([&architecture_option.as_str()])
            .map(|option| text(option))
            .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let create: Symbol<'_, Create> = self.symbol("nvrtcCreateProgram")?;
        let compile: Symbol<'_, Compile> = self.symbol("nvrtcCompileProgram")?;
        let destroy: Symbol<'_, Destroy> = self.symbol("nvrtcDestroyProgram")?;
        let mut program: Program = ptr::null_mut();
        let (none, count) = (ptr::null(), pointers.len() as c_int);
        // SAFETY: all pointers are to zero-ended texts that live until the program is destroyed below.
        let code = unsafe {
            match create(&raw mut program, source.as_ptr(), file.as_ptr(), 0, none, none) {
                SUCCESS => compile(program, count, pointers.as_ptr()),
                code => code,
            }
        };
        let result = match code {
            SUCCESS => self.bytes(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
            _ => Ok(Vec::new()),
        };
        let result = match result {
            Ok(code) if !code.is_empty() => Ok(code),
            Err(error) => Err(error),
            Ok(_) => {
                let log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
                let log = log.unwrap_or_default();
                let log = String::from_utf8_lossy(&log).trim_matches(['\0', '\n', ' ']).to_owned();
                Err(CompileError::Refused {
                    name: name.to_owned(),
                    architecture: architecture.to_owned(),
                    version: self.version(),
                    log: if log.is_empty() { format!("error {code}") } else { log },
                })
            }
        };
        // SAFETY: the program was created above, or is null, which is refused.
        unsafe { destroy(&raw mut program) };
        result
    }

    /// What one of a pair of functions measures and the other writes.
    fn bytes(
        &self,
        program: Program,
        size: &'static str,
        bytes: &'static str,
    ) -> Result<Vec<u8>, CompileError> {
        let (size, write): (Symbol<'_, Size>, Symbol<'_, Bytes>) =
            (self.symbol(size)?, self.symbol(bytes)?);
        let mut len = 0;
        // SAFETY: the first function says how many bytes the second one writes.
        unsafe {
            if size(program, &raw mut len) != SUCCESS {
                return Ok(Vec::new());
            }
            let mut out = vec![0u8; len];
            if write(program, out.as_mut_ptr().cast()) != SUCCESS {
                out.clear();
            }
            Ok(out)
        }
    }
}
