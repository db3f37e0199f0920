//! Errors and panics on their way to JavaScript.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use napi::{Error, Result, Status};

/// An error of a crate: a stable code and a text without secrets.
pub(crate) trait Coded: Display {
    fn code(&self) -> &'static str;
}

macro_rules! coded {
    ($($crate_error:ty),* $(,)?) => {
        $(impl Coded for $crate_error {
            fn code(&self) -> &'static str {
                <$crate_error>::code(self)
            }
        })*
    };
}

coded!(
    vmseal_secret::Error,
    vmseal_xts::Error,
    vmseal_wrap::Error,
    vmseal_disk::Error,
    vmseal_channel::Error,
);

/// `CODE\0text`: the form that `load.ts` takes apart.
pub(crate) fn coded(code: &str, text: impl Display) -> Error {
    Error::new(Status::GenericFailure, format!("{code}\0{text}"))
}

/// Runs the body of an export: crate errors become coded errors, a panic becomes VMSEAL_INTERNAL.
pub(crate) fn guard<T, E: Coded>(body: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    caught(|| body().map_err(|error| coded(error.code(), &error)))
}

/// [`guard`] for a body that already speaks napi's error.
pub(crate) fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // A panic must not unwind into Node, which would abort the process.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    coded("VMSEAL_INTERNAL", format!("internal error: {text}"))
}

pub(crate) fn invalid_argument(text: impl Display) -> Error {
    coded("VMSEAL_INVALID_ARGUMENT", text)
}
