//! Views: headers with which other programs open a disk. The secret is made, and written, here.

use std::path::Path;

use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use serde_json::json;
use vmseal_disk::ViewKind;

use crate::background;
use crate::disk::{DiskBinding, Place};
use crate::fault::{guard, invalid_argument};
use crate::key::KeyHandle;

/// Makes a LUKS header of an encrypted disk, and the one-time secret that opens it, in a folder that must be a tmpfs; JSON with
/// header, secret, extent, vmdk (LUKS1: what QEMU opens, else null), sectorSize.
#[napi(ts_return_type = "Promise<string>")]
pub fn view_disk<'env>(
    env: &'env Env,
    descriptor: String,
    kek: &KeyHandle,
    binding: DiskBinding,
    #[napi(ts_arg_type = "'luks1' | 'luks2'")] kind: String,
    folder: String,
) -> Result<Object<'env>> {
    let (kek, place) = (kek.get()?, Place::new(&binding)?);
    let kind = match kind.as_str() {
        "luks1" => ViewKind::Luks1,
        "luks2" => ViewKind::Luks2,
        _ => return Err(invalid_argument("kind must be luks1 or luks2")),
    };
    background::promise(env, move || {
        let (descriptor, folder) = (Path::new(&descriptor), Path::new(&folder));
        let view = guard(|| vmseal_disk::view(descriptor, &kek, &place.binding(), kind, folder))?;
        Ok(json!({
            "header": view.header.to_string_lossy(),
            "secret": view.secret.to_string_lossy(),
            "extent": view.extent.to_string_lossy(),
            "vmdk": view.vmdk.map(|path| path.to_string_lossy().into_owned()),
            "sectorSize": view.sector_size,
        })
        .to_string())
    })
}
