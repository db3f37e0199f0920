//! The environment variable that forces a kernel. Each case is a process of its own, because the environment is.

mod inputs;

use std::process::Command;

use vmseal_xts::{KERNEL_VARIABLE, Kernel, Xts};

#[test]
fn every_supported_kernel_can_be_forced() {
    for kernel in inputs::kernels() {
        assert_eq!(outcome(Some(kernel.name())), format!("kernel {kernel}"));
    }
}

#[test]
fn unset_or_empty_lets_the_cpu_decide() {
    let detected = format!("kernel {}", Kernel::detect());
    assert_eq!(outcome(None), detected);
    assert_eq!(outcome(Some("")), detected);
}

#[test]
fn unknown_names_are_refused() {
    for name in ["AESNI", "vaes", "vaes1024", "portable ", "1"] {
        assert_eq!(outcome(Some(name)), "refused VMSEAL_INVALID_ARGUMENT", "{name}");
    }
}

#[test]
fn unsupported_kernels_are_refused() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !kernel.is_supported()) {
        assert_eq!(outcome(Some(kernel.name())), "refused VMSEAL_INVALID_ARGUMENT");
    }
}

/// Not a test by itself: the body of the child process.
#[test]
#[ignore = "run by the other tests in a process of its own"]
fn child() {
    match Xts::new(&inputs::numbered_key(1), 512, 1) {
        Ok(xts) => println!("\noutcome: kernel {}", xts.kernel()),
        Err(error) => println!("\noutcome: refused {}", error.code()),
    }
}

fn outcome(variable: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().expect("the test program"));
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    match variable {
        Some(value) => command.env(KERNEL_VARIABLE, value),
        None => command.env_remove(KERNEL_VARIABLE),
    };
    let output = command.output().expect("the test program starts again");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix("outcome: "));
    line.unwrap_or_else(|| panic!("no outcome in {text}")).to_owned()
}
