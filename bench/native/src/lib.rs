//! The native half of `npm run bench`: XTS kernels and key wrap beside other people's implementations.
//!
//! It is a shared library that a Node process loads (`process.dlopen`), so that the OpenSSL inside that Node is one of
//! the peers. The request comes as JSON in `VMSEAL_BENCH_REQUEST`; the results go as JSON to the file it names. Without a
//! request it is an addon with the native rate for the JavaScript half to compare itself with.
#![cfg(unix)]

mod key_wrap;
mod key_wrap_implementations;
mod limits;
mod node_function;
mod peers;
mod progress;
mod report;
mod sector_cipher;
mod sectors;
mod spread;
mod threads;

use std::ffi::c_void;
use std::panic::catch_unwind;

use report::{Report, Request};

/// Called by Node when it loads the library. Runs the whole measurement, or, without a request, gives the script
/// [`node_function`]; ends the process with status 1 when it fails.
#[unsafe(no_mangle)]
pub extern "C" fn napi_register_module_v1(env: *mut c_void, exports: *mut c_void) -> *mut c_void {
    let outcome = if std::env::var_os(REQUEST).is_some() {
        catch_unwind(run).unwrap_or_else(|_| Err("the measurement panicked".into()))
    } else {
        // SAFETY: Node gave both.
        let is_there = unsafe { node_function::export(env, exports) };
        if is_there { Ok(()) } else { Err("Node takes no function".into()) }
    };
    if let Err(error) = outcome {
        eprintln!("native benchmark: {error}");
        std::process::exit(1);
    }
    exports
}

const REQUEST: &str = "VMSEAL_BENCH_REQUEST";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn run() -> Outcome<()> {
    let request: Request = serde_json::from_str(&std::env::var(REQUEST)?)?;
    let found = peers::find();
    let mut report = Report::new(&found);
    report.limits = limits::units(request.rounds);
    report.clock_ghz = limits::clock(request.rounds);
    if request.xts {
        report.memory = limits::memory(&request);
        report.sectors = sectors::measure(&request, &found.ciphers)?;
    }
    if request.key_wrap {
        report.key_wrap = key_wrap::measure(&request, found.libcryptos)?;
    }
    std::fs::write(&request.output, serde_json::to_vec(&report)?)?;
    Ok(())
}
