//! Virtual disks of vmseal: ordinary VMDKs whose flat extent may be AES-256-XTS ciphertext.
//!
//! # What to use when
//!
//! * [`inspect`]: what a file is, how large, sealed by whom and with which KEK.
//! * [`import`]: any image into a datastore as a plain disk. [`create_plain`], [`create_sealed`]: a new empty disk.
//! * [`describe_raw`]: a descriptor beside a raw image, for work on it in place.
//! * [`encrypt_copy`], [`decrypt_copy`], [`recrypt_copy`]: a sealed copy of a plain disk, back, and one under another key. An
//!   interruption leaves what [`resume_copy`] goes on with; [`copy_job_info`] looks at it.
//! * [`verify_copy`]: whether a copy holds what its source holds; [`discard_source`] takes the source away after that.
//! * [`shallow_recrypt`]: another KEK for the same data key; no data is touched and the disk may be open.
//! * [`copy_verbatim`]: a file as it lies, verified; [`reseal_copy`]: a descriptor for a copy of a sealed disk's extent, its data key
//!   under another KEK and bound to another place; [`sum_file`]: what both can be checked by.
//! * [`encrypt_in_place`], [`decrypt_in_place`], [`recrypt_in_place`]: the same where the disk lies, and deep recrypt;
//!   [`resume`] and [`repair`] after whatever stopped them, [`job_info`] and [`verify_job`] to look.
//! * [`open_sealed`], [`open_plain`]: read what the guest would read, or its digest.
//! * [`chain`]: a base and its children, one for each snapshot: reading and writing through them, merging, flattening.
//! * [`import_luks`]: a LUKS volume becomes a sealed disk as it lies.
//! * [`view`]: a LUKS header with which cryptsetup, the kernel and QEMU open the very same extent.
//! * [`descriptor`]: the text that makes a flat file a disk, and its atomic replacement.
//! * [`remove`]: all files of a disk. [`remove_unfinished`]: what a process that died left of one.
//!
//! # What holds for all of them
//!
//! * A source of a copy is opened read-only and never changed. A target must not exist; it is complete and durable when the call
//!   returns. Its descriptor comes last, so nothing takes an unfinished target for a disk.
//! * Every check of a sealed disk (its lines, its wrapped key, its extent) comes before the first target byte.
//! * Memory does not grow with the disk. Plaintext buffers are wiped.
//! * XTS hides data but does not protect it against change: who can write to a datastore can damage a disk unnoticed.

#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("holes, atomic renames and fsync of folders are used as Linux has them");

mod buffer;
pub mod chain;
mod control;
mod convert;
mod copy_job;
pub mod descriptor;
mod direct;
mod error;
mod image;
mod import;
mod in_place;
mod lock;
mod luks;
mod no_follow;
mod open;
mod pipeline;
mod qemu_img;
mod raw;
mod remove;
mod reseal;
mod rewrap;
mod seal;
mod source;
mod target;
mod transform;
pub mod uuid;
mod verbatim;

pub use control::{Control, Progress};
pub use convert::{Outcome, create_plain, create_sealed};
pub use copy_job::{
    CopyJobInfo, DiscardSource, UnfinishedDiscard, copy_job_info, copy_job_path, decrypt_copy,
    discard_record_path, discard_source, encrypt_copy, finish_discard, overwrite_file, recrypt_copy,
    resume_copy, unfinished_discard, verify_copy,
};
pub use descriptor::{Descriptor, Holes};
pub use error::{Error, Result};
pub use image::{ImageFormat, ImageInfo, SealInfo, inspect};
pub use import::import;
#[doc(hidden)]
pub use in_place::measurement;
pub use in_place::{
    JobInfo, JobMode, JobPhase, NewKek, Repair, decrypt_in_place, encrypt_in_place, job_info, job_path,
    recrypt_in_place, repair, resume, verify_job,
};
pub use luks::{LuksImport, View, ViewKind, import_luks, view};
pub use open::{OpenDisk, open_plain, open_sealed};
pub use raw::describe_raw;
pub use remove::{remove, remove_unfinished};
pub use reseal::reseal_copy;
pub use rewrap::shallow_recrypt;
pub use seal::{Binding, KekName, SealSpec};
pub use verbatim::{copy_verbatim, sum_file};
