//! What a worker's process may touch: model files come from anywhere, and a bug in what reads them must do little harm.
//!
//! ```text
//! rules(Surroundings)  ->  paths: read | write | use as a device     -> Landlock
//!                          nothing is executed, one port is listened at -^
//!                          calls that no worker makes                 -> seccomp
//! ```
//!
//! It is entered by the only thread there is, before there are others: each thread is confined by what it comes from. It is best
//! effort: a kernel without Landlock confines less, and [`Confined`] says so.

use landlock::{
    ABI, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};
use ollamamax_engine::cuda::{kernels, library};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What may be done with a path and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read, write, make and remove.
    Write,
    /// Read, write, and give it orders.
    Device,
}

/// A path and what may be done there. What is not there is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A file, or a directory with all below it.
    pub path: PathBuf,
    /// What.
    pub access: Access,
}

/// What a worker was told that decides what it needs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its own; the one place where it keeps anything.
    pub data_dir: PathBuf,
    /// Further files and directories that it was told to read.
    pub reads: Vec<PathBuf>,
    /// Where it listens; 0: any port.
    pub port: u16,
    /// Whether its own calls are bound to an address, for which the system picks a port.
    pub binds_calls: bool,
    /// Whether a GPU may be used.
    pub gpu: bool,
    /// Whether it is root's process, who may read what others may not.
    pub is_root: bool,
    /// Where CUDA's libraries may lie, beside the system's places.
    pub libraries: Vec<PathBuf>,
    /// Where compiled kernels are kept.
    pub kernels: Option<PathBuf>,
}

impl Surroundings {
    /// What this process finds.
    pub fn look(data_dir: PathBuf, reads: Vec<PathBuf>, port: u16, gpu: bool) -> Self {
        let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let libraries = library::prefixes().into_iter().chain(std::env::split_paths(&path));
        let libraries = libraries.filter(|path| path.is_absolute()).collect();
        let is_root = rustix::process::geteuid().is_root();
        let kernels = kernels::default_dir();
        Self { data_dir, reads, port, binds_calls: false, gpu, is_root, libraries, kernels }
    }
}

/// The system's programs, libraries, and what it tells of itself.
const SYSTEM: [&str; 7] = ["/usr", "/lib", "/lib64", "/proc", "/sys", "/bin", "/sbin"];
/// Where else systems keep libraries, drivers and the addresses of name servers.
const ELSEWHERE: [&str; 6] = [
    "/opt",
    "/nix/store",
    "/run/opengl-driver",
    "/run/nvidia",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// What of `/etc` is needed for libraries, names and times.
const ETC: [&str; 11] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/nvidia",
];
const HARMLESS_DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// What a GPU's driver shares with other processes of it.
const GPU_SHARED: [&str; 2] = ["/dev/shm", "/tmp/nvidia-mps"];

/// What the worker may touch; `devices` are the names in `/dev`.
pub fn rules(around: &Surroundings, devices: &[String]) -> Vec<Rule> {
    let rule = |access| move |path: &Path| Rule { path: path.to_owned(), access };
    let (read, write, device) = (rule(Access::Read), rule(Access::Write), rule(Access::Device));
    let mut rules = vec![write(&around.data_dir)];
    rules.extend(around.reads.iter().map(|path| read(path)));
    rules.extend(SYSTEM.iter().chain(&ELSEWHERE).map(|path| read(Path::new(path))));
    match around.is_root {
        true => rules.extend(ETC.map(|path| read(Path::new(path)))),
        false => rules.push(read(Path::new("/etc"))),
    }
    rules.extend(HARMLESS_DEVICES.map(|path| device(Path::new(path))));
    if around.gpu {
        rules.extend(around.libraries.iter().map(|path| read(path)));
        rules.extend(around.kernels.iter().map(|path| write(path)));
        rules.extend(GPU_SHARED.map(|path| write(Path::new(path))));
        let gpus = devices.iter().filter(|name| name.starts_with("nvidia") || *name == "dxg");
        rules.extend(gpus.map(|name| device(&Path::new("/dev").join(name))));
    }
    rules
}

fn rights(access: Access, is_dir: bool) -> BitFlags<AccessFs> {
    let file = match access {
        Access::Read => make_bitflags!(AccessFs::{ReadFile}),
        Access::Write => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate}),
        Access::Device => make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev}),
    };
    let below = match access {
        Access::Read | Access::Device => make_bitflags!(AccessFs::{ReadDir}),
        Access::Write => make_bitflags!(AccessFs::{
            ReadDir | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSym | Refer
        }),
    };
    if is_dir { file | below } else { file }
}

/// How much of it this kernel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// All.
    All,
    /// Some: the kernel knows an older Landlock.
    Part,
    /// None: the kernel has no Landlock, or has it switched off.
    None,
}

/// What holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// Files, the port, and signals.
    pub files: Held,
    /// Why calls are not filtered, if they are not.
    pub calls: Result<(), String>,
}

impl Confined {
    /// Whether something that was wanted does not hold.
    pub fn is_less(&self) -> bool {
        self.files != Held::All || self.calls.is_err()
    }
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.files {
            Held::All => {
                "only this worker's own files can be written, and no program can be started"
            }
            Held::Part => {
                "only this worker's own files can be written, as far as this kernel's Landlock goes"
            }
            Held::None => {
                "this kernel has no Landlock: what this worker reads and writes is not confined"
            }
        })?;
        match &self.calls {
            Ok(()) => Ok(()),
            Err(why) => write!(f, "; system calls are not filtered: {why}"),
        }
    }
}

/// Why nothing was confined although the kernel could have.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot be entered: {0}; start the worker with `--no-sandbox` to go without")]
pub struct SandboxError(#[from] RulesetError);

/// Confines this thread and all that come from it, for good. To be called while there is no other.
pub fn enter(around: &Surroundings) -> Result<Confined, SandboxError> {
    if let Some(kernels) = around.kernels.as_ref().filter(|_| around.gpu) {
        // A rule needs its path; without one, kernels are compiled each time.
        let _ = fs::create_dir_all(kernels);
    }
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let devices: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let abi = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(<AccessFs as landlock::Access>::from_all(abi))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rule(NetPort::new(around.port, AccessNet::BindTcp))?;
    if around.binds_calls {
        // 0: a port that the system picks.
        ruleset = ruleset.add_rule(NetPort::new(0, AccessNet::BindTcp))?;
    }
    for rule in rules(around, &devices) {
        ruleset = add(ruleset, &rule)?;
    }
    let files = match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Held::All,
        RulesetStatus::PartiallyEnforced => Held::Part,
        RulesetStatus::NotEnforced => Held::None,
    };
    Ok(Confined { files, calls: filter_calls().map_err(|error| error.to_string()) })
}

fn add(ruleset: RulesetCreated, rule: &Rule) -> Result<RulesetCreated, RulesetError> {
    // What is not there needs no rule; what cannot be opened could not be read either.
    let (Ok(meta), Ok(path)) = (fs::metadata(&rule.path), PathFd::new(&rule.path)) else {
        return Ok(ruleset);
    };
    ruleset.add_rule(PathBeneath::new(path, rights(rule.access, meta.is_dir())))
}

/// What no worker asks of the kernel, and much of what breaks out of processes begins with.
const REFUSED_CALLS: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// From now on these calls fail with `EPERM`, in this thread and all that come from it.
fn filter_calls() -> Result<(), seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let refused: BTreeMap<i64, _> =
        REFUSED_CALLS.iter().map(|number| (*number, Vec::new())).collect();
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, refusal, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

/// Makes the device files of NVIDIA's driver, when they are missing: a program of its own does that, and once confined none can be
/// started.
pub fn wake_gpu() {
    let program = Path::new("/usr/bin/nvidia-modprobe");
    if program.exists() && !Path::new("/dev/nvidia-uvm").exists() {
        let mut wake = Command::new(program);
        wake.args(["-c", "0", "-u"]).stdin(Stdio::null());
        // Whether there is a GPU shows later.
        let _ = wake.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(gpu: bool, is_root: bool) -> Surroundings {
        Surroundings {
            data_dir: "/var/lib/worker".into(),
            reads: vec!["/models".into()],
            port: 7_500,
            binds_calls: false,
            gpu,
            is_root,
            libraries: vec!["/home/a/.local".into()],
            kernels: Some("/home/a/.cache/ollamamax/kernels".into()),
        }
    }

    fn with(rules: &[Rule], access: Access) -> Vec<String> {
        let those = rules.iter().filter(|rule| rule.access == access);
        those.map(|rule| rule.path.display().to_string()).collect()
    }

    #[test]
    fn a_worker_writes_to_its_own_directory_alone() {
        let devices = ["nvidia0", "nvidiactl", "sda", "mem"].map(str::to_owned);
        let on_cpu = rules(&around(false, false), &devices);
        assert_eq!(with(&on_cpu, Access::Write), ["/var/lib/worker"]);
        assert_eq!(with(&on_cpu, Access::Device), HARMLESS_DEVICES);
        let on_gpu = rules(&around(true, false), &devices);
        let kernels = "/home/a/.cache/ollamamax/kernels";
        let written = ["/var/lib/worker", kernels, "/dev/shm", "/tmp/nvidia-mps"];
        assert_eq!(with(&on_gpu, Access::Write), written);
        let used = with(&on_gpu, Access::Device);
        assert_eq!(used[HARMLESS_DEVICES.len()..], ["/dev/nvidia0", "/dev/nvidiactl"]);
    }

    #[test]
    fn it_reads_libraries_and_models_and_no_homes() {
        for (gpu, is_root) in [(false, false), (true, true)] {
            let read = with(&rules(&around(gpu, is_root), &[]), Access::Read);
            for needed in ["/usr", "/lib", "/proc", "/sys", "/models"] {
                assert!(read.iter().any(|path| path == needed), "{needed} is not read");
            }
            for private in ["/", "/home", "/root", "/var", "/tmp", "/srv", "/dev", "/run"] {
                assert!(!read.iter().any(|path| path == private), "{private} is read");
            }
            assert_eq!(read.iter().any(|path| path == "/etc"), !is_root);
            assert_eq!(read.iter().any(|path| path == "/home/a/.local"), gpu);
        }
    }

    #[test]
    fn what_does_not_hold_is_said() {
        let all = Confined { files: Held::All, calls: Ok(()) };
        assert!(!all.is_less());
        let none = Confined { files: Held::None, calls: Err("no".to_owned()) };
        assert!(none.is_less());
        let words = none.to_string();
        assert!(words.contains("no Landlock") && words.contains("not filtered: no"), "{words}");
        assert!(Confined { files: Held::Part, calls: Ok(()) }.is_less());
    }
}
