//! The kernels compile for every architecture they are meant for, with NVIDIA's compiler and without a GPU.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use ollamamax_engine::cuda::kernels::{UNITS, machine_code};
use ollamamax_engine::cuda::nvrtc::{CompileError, Nvrtc};
use std::fs;

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

#[test]
fn the_kernels_compile_for_every_architecture_and_are_kept() {
    let libraries = ollamamax_tests::model::nvrtc();
    let nvrtc = Nvrtc::at(&libraries.path().join("libnvrtc.so.12")).expect("it was just fetched");
    assert_eq!(nvrtc.version(), "12.9");
    let kept = tempfile::tempdir().expect("a temporary directory");
    for architecture in ARCHITECTURES {
        let code = machine_code(&nvrtc, architecture, Some(kept.path())).expect("they compile");
        for (unit, code) in &code {
            // Machine code is an ELF file that names its kernels.
            assert!(code.starts_with(b"\x7fELF"), "{}", unit.name);
            for kernel in unit.kernels {
                let name = format!("kernel_{kernel}");
                let named = code.windows(name.len()).any(|window| window == name.as_bytes());
                assert!(named, "{} for {architecture} has no `{kernel}`", unit.name);
            }
        }
        let again = machine_code(&nvrtc, architecture, Some(kept.path())).expect("kept");
        let same = code.iter().zip(&again).all(|(one, other)| one.1 == other.1);
        assert!(same, "what was kept is what was compiled");
    }
    let files = fs::read_dir(kept.path()).expect("readable").count();
    assert_eq!(files, ARCHITECTURES.len() * UNITS.len());

    // A kept file that is damaged is made anew.
    let damaged = fs::read_dir(kept.path()).expect("readable").next().expect("one").expect("one");
    let whole = fs::read(damaged.path()).expect("readable");
    fs::write(damaged.path(), &whole[..whole.len() / 2]).expect("written");
    for architecture in ARCHITECTURES {
        machine_code(&nvrtc, architecture, Some(kept.path())).expect("they compile");
    }
    assert_eq!(fs::read(damaged.path()).expect("readable"), whole);

    let error = nvrtc.compile("wrong.cu", "nonsense", "sm_90", &[]).expect_err("no C");
    let CompileError::Refused { log, .. } = &error else { unreachable!("{error}") };
    assert!(log.contains("wrong.cu(1)") && error.to_string().contains("sm_90"), "{error}");
    let error = nvrtc.compile("empty.cu", "", "sm_1", &[]).expect_err("no architecture");
    assert!(error.to_string().contains("sm_1"), "{error}");
}
