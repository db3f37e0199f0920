//! Import of LUKS volumes. The passphrase is read here: it never passes through JavaScript.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use napi::{Env, Result};
use napi_derive::napi;
use serde_json::json;
use vmseal_secret::SecretKey;

use crate::disk::{Seal, SealSpec};
use crate::fault::{caught, coded, guard, invalid_argument};
use crate::key::KeyHandle;
use crate::task::NativeTask;

/// A LUKS volume and where the passphrase of one of its key slots is.
#[napi(object)]
pub struct LuksVolume {
    pub volume: String,
    /// File of a detached header.
    pub header: Option<String>,
    /// Read up to 4095 bytes.
    pub secret_file: String,
    /// Whether the file is a key to its last byte, or a text whose first line is a passphrase.
    pub whole_file: bool,
}

/// Longest passphrase or key file in bytes.
const MAX_SECRET: usize = vmseal_secret::MAX_LEN;

/// Makes a LUKS volume an encrypted disk as it lies; JSON with version, bytes, dataOffset, sectorSize. Sector size and holes of
/// `spec` are not looked at.
#[napi]
pub fn import_luks_volume(
    env: &Env,
    source: LuksVolume,
    target: String,
    kek: &KeyHandle,
    spec: SealSpec,
) -> Result<NativeTask> {
    let seal = Seal::new(kek, spec)?;
    NativeTask::start(env, move |control| {
        let passphrase = read_secret(Path::new(&source.secret_file), source.whole_file)?;
        let header = source.header.as_deref().map(Path::new);
        let (volume, target) = (Path::new(&source.volume), Path::new(&target));
        let import = || vmseal_disk::import_luks(volume, header, &passphrase, target, &seal.spec(), control);
        let made = guard(import)?;
        Ok(json!({
            "version": made.version,
            "bytes": made.bytes,
            "dataOffset": made.data_offset,
            "sectorSize": made.sector_size,
        })
        .to_string())
    })
}

fn read_secret(path: &Path, whole: bool) -> Result<SecretKey> {
    let mut len = 0;
    let room = caught(|| {
        let failed = |error| coded("VMSEAL_IO", format!("cannot read {}: {error}", path.display()));
        let mut file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => coded("VMSEAL_NOT_FOUND", format!("{} does not exist", path.display())),
            ErrorKind::PermissionDenied => {
                coded("VMSEAL_PERMISSION_DENIED", format!("no permission to read {}", path.display()))
            }
            _ => failed(error),
        })?;
        let mut failure = None;
        let room = SecretKey::try_init(MAX_SECRET, |room| {
            while len < room.len() {
                match file.read(&mut room[len..]) {
                    Ok(0) => break,
                    Ok(count) => len += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        failure = Some(failed(error));
                        break;
                    }
                }
            }
            Ok::<(), vmseal_secret::Error>(())
        });
        failure.map_or_else(|| room.map_err(|error| coded(error.code(), &error)), Err)
    })?;
    if !whole {
        len = room.expose(|bytes| bytes[..len].iter().position(|&byte| byte == b'\n').unwrap_or(len));
    }
    // The longest that fits is refused: there may be more behind it.
    if len == 0 || len == MAX_SECRET {
        let reason = format!("{} must hold 1 to {} bytes of secret", path.display(), MAX_SECRET - 1);
        return Err(invalid_argument(reason));
    }
    guard(|| {
        SecretKey::try_init(len, |into| {
            room.expose(|bytes| into.copy_from_slice(&bytes[..len]));
            Ok::<(), vmseal_secret::Error>(())
        })
    })
}
