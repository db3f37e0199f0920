//! VM home files as authenticated streams.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use napi::Env;
use napi::bindgen_prelude::Result;
use napi_derive::napi;
use vmseal_disk::Control;
use vmseal_wrap::stream;

use crate::fault::coded;
use crate::key::{KeyHandle, io_error};
use crate::task::NativeTask;

type Outcome<T> = std::result::Result<T, vmseal_wrap::Error>;
type OnProgress<'a> = &'a mut dyn FnMut(u64) -> Outcome<()>;

/// Encrypts a VM home file under the VM home DEK. The target must not exist and is durable when the task is done.
#[napi]
pub fn encrypt_file(
    env: &Env,
    dek: &KeyHandle,
    associated_data: &[u8],
    source: String,
    target: String,
) -> Result<NativeTask> {
    let (dek, context) = (dek.get()?, associated_data.to_vec());
    start(env, source, target, move |reader, writer, progress| {
        stream::encrypt(&dek, &context, reader, writer, progress)
    })
}

/// Decrypts a VM home file; VMSEAL_STREAM_INVALID when it was altered, cut, or belongs to another VM or role.
#[napi]
pub fn decrypt_file(
    env: &Env,
    dek: &KeyHandle,
    associated_data: &[u8],
    source: String,
    target: String,
) -> Result<NativeTask> {
    let (dek, context) = (dek.get()?, associated_data.to_vec());
    start(env, source, target, move |reader, writer, progress| {
        stream::decrypt(&dek, &context, reader, writer, progress)
    })
}

/// Moves a VM home file from one VM home DEK to another, and to another VM or role with `new_associated_data`; its plaintext
/// stays in memory. Errors as `decryptFile`.
#[napi]
pub fn recrypt_file(
    env: &Env,
    dek: &KeyHandle,
    new_dek: &KeyHandle,
    associated_data: &[u8],
    source: String,
    target: String,
    new_associated_data: Option<&[u8]>,
) -> Result<NativeTask> {
    let (dek, new_dek, context) = (dek.get()?, new_dek.get()?, associated_data.to_vec());
    let new_context = new_associated_data.map_or_else(|| context.clone(), <[u8]>::to_vec);
    start(env, source, target, move |reader, writer, progress| {
        stream::recrypt(&dek, &new_dek, &context, &new_context, reader, writer, progress)
    })
}

fn start(
    env: &Env,
    source: String,
    target: String,
    transform: impl FnOnce(&mut File, &mut File, OnProgress<'_>) -> Outcome<u64> + Send + 'static,
) -> Result<NativeTask> {
    NativeTask::start(env, move |control| {
        let mut reader = File::open(&source).map_err(|error| io_error(&source, &error))?;
        let length = reader.metadata().map_err(|error| io_error(&source, &error))?.len();
        control.start(length);
        let mut writer = create(&target).map_err(|error| io_error(&target, &error))?;
        let written = convert(&mut reader, &mut writer, control, transform)
            .and_then(|bytes| make_durable(&writer, &target).map(|()| bytes));
        match written {
            Ok(bytes) => Ok(format!("{{\"bytes\":{bytes}}}")),
            Err(error) => {
                // The half-made target is ours alone; the first error is the one that counts.
                let _ = fs::remove_file(&target);
                Err(error)
            }
        }
    })
}

fn convert(
    reader: &mut File,
    writer: &mut File,
    control: &Control,
    transform: impl FnOnce(&mut File, &mut File, OnProgress<'_>) -> Outcome<u64>,
) -> Result<u64> {
    let outcome = transform(reader, writer, &mut |bytes| {
        control.set_done(bytes);
        if control.is_cancelled() { Err(vmseal_wrap::Error::Cancelled) } else { Ok(()) }
    });
    outcome.map_err(|error| coded(error.code(), error))
}

fn create(target: &str) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)
}

fn make_durable(file: &File, target: &str) -> Result<()> {
    let directory = Path::new(target).parent().filter(|parent| !parent.as_os_str().is_empty());
    file.sync_all()
        .and_then(|()| File::open(directory.unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|error| io_error(target, &error))
}
