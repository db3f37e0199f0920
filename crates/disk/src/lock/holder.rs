//! The lock file: JSON that names its holder, in the form of the host agent's lock of a virtual machine
//! (`src/host/lock.ts`). It is made whole by `link`, so a reader never sees half of it.
//!
//! A lock is void when its holder is known to be gone. Whoever asks has the locks of the kernel on the extent, so every
//! holder of this kernel, whatever its process namespace, is gone; and so is one of an earlier boot of this machine. What
//! cannot be known counts as held.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::locked;
use crate::descriptor::{folder_of, sync_directory};
use crate::error::{Error, Result};
use crate::no_follow::open_to_read;
use crate::uuid;

const MAX_LEN: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    host_id: String,
    boot_id: String,
    token: String,
    pid: u32,
    /// Start time of the process in clock ticks: a pid alone may be reused.
    started: String,
    /// The kernel's boot and process namespace in which `pid` has a meaning.
    pid_space: String,
}

/// A lock file that is ours; removed when dropped.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    text: String,
}

/// `web01.vmdk.lck` beside `web01.vmdk`.
pub(crate) fn lock_path(descriptor: &Path) -> PathBuf {
    let mut name = OsString::from(descriptor.as_os_str());
    name.push(".lck");
    PathBuf::from(name)
}

impl LockFile {
    /// Makes the lock file of `descriptor`; a void one is replaced.
    pub(super) fn make(descriptor: &Path) -> Result<Self> {
        let path = lock_path(descriptor);
        let holder = Holder::this_process()?;
        let text =
            serde_json::to_string(&holder).map_err(|error| Error::Internal { reason: error.to_string() })?;
        let temporary = temporary(descriptor, &holder.token);
        write(&temporary, &text)?;
        let made = Self::link(&temporary, descriptor, &holder);
        // Nobody else knows the name.
        let _ = fs::remove_file(&temporary);
        made?;
        sync_directory(&path)?;
        Ok(Self { path, text })
    }

    fn link(temporary: &Path, descriptor: &Path, ours: &Holder) -> Result<()> {
        let path = &lock_path(descriptor);
        for _ in 0..3 {
            match fs::hard_link(temporary, path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path, error)),
            }
            let Some(text) = read(path)? else { continue };
            match serde_json::from_str::<Holder>(&text) {
                Ok(there) if there.is_gone(ours) => take_away(descriptor, &text, &ours.token)?,
                Ok(there) => {
                    let how = format!(
                        "{}; if that machine is down for good, remove {}",
                        there.name(),
                        path.display()
                    );
                    return Err(locked(path.to_owned(), how));
                }
                Err(_) => {
                    return Err(locked(
                        path.to_owned(),
                        "somebody whose lock file is damaged; remove it if nobody works",
                    ));
                }
            }
        }
        Err(locked(path.to_owned(), "another job"))
    }

    pub(super) fn check(&self) -> Result<()> {
        match read(&self.path)? {
            Some(text) if text == self.text => Ok(()),
            _ => Err(locked(self.path.clone(), "somebody who took this job's lock file away")),
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if read(&self.path).ok().flatten().as_deref() == Some(&self.text) {
            // One that stays is void as soon as this process is gone.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Holder {
    fn this_process() -> Result<Self> {
        let boot = boot_id();
        let space = fs::read_link("/proc/self/ns/pid").map_or_else(|_| "?".into(), PathBuf::into_os_string);
        let pid = std::process::id();
        Ok(Self {
            host_id: host_id(),
            boot_id: boot.clone(),
            token: uuid::format(&uuid::random()?),
            pid,
            started: start_time(pid).unwrap_or_default(),
            pid_space: format!("{boot} {}", space.to_string_lossy()),
        })
    }

    /// Whether the holder cannot be at work, asked by one who holds the kernel's locks on the same extent.
    fn is_gone(&self, ours: &Self) -> bool {
        self.boot_id == ours.boot_id || self.host_id == ours.host_id
    }

    fn name(&self) -> String {
        format!("process {} of host {}", self.pid, self.host_id)
    }
}

/// Who stands in a lock file.
pub(super) fn named(path: &Path) -> Option<String> {
    let holder: Holder = serde_json::from_str(&read(path).ok()??).ok()?;
    Some(holder.name())
}

/// The host agent locks a virtual machine as a whole: a disk of one that another living process holds is not touched. An
/// agent's own addon runs in the agent's process.
pub(crate) fn refuse_held_machine(descriptor: &Path) -> Result<()> {
    let folder = folder_of(descriptor);
    let entries = fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))?;
    let name = descriptor.file_name().unwrap_or_default().as_encoded_bytes();
    let ours = Holder::this_process()?;
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some(stem) = file.as_encoded_bytes().strip_suffix(b".vmx.lck") else { continue };
        // `db01.vmx` has the disks `db01.vmdk` and `db01_1.vmdk`.
        let rest = name.strip_prefix(stem).unwrap_or_default();
        if !rest.starts_with(b".") && !rest.starts_with(b"_") {
            continue;
        }
        let path = folder.join(&file);
        let Some(there) = read(&path)?.and_then(|text| serde_json::from_str::<Holder>(&text).ok()) else {
            continue;
        };
        let same_kernel = there.pid_space == ours.pid_space;
        let lives = !same_kernel || start_time(there.pid).is_some_and(|started| started == there.started);
        if lives && !(same_kernel && there.pid == ours.pid) {
            let how = format!("{}, which works on the virtual machine", there.name());
            return Err(locked(path, how));
        }
    }
    Ok(())
}

/// Moves a void lock aside. Of two that do so one may meet the other's new lock and puts it back.
fn take_away(descriptor: &Path, text: &str, token: &str) -> Result<()> {
    let path = &lock_path(descriptor);
    let aside = temporary(descriptor, &format!("{token}-void"));
    match fs::rename(path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("replace", path, error)),
    }
    let moved = read(&aside)?;
    if moved.as_deref() != Some(text) {
        let _ = fs::hard_link(&aside, path);
    }
    let _ = fs::remove_file(&aside);
    Ok(())
}

/// With the prefix of all temporary files of the disk.
fn temporary(descriptor: &Path, token: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(descriptor.file_name().unwrap_or_default());
    name.push(format!(".tmp-lck-{token}"));
    descriptor.with_file_name(name)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    // At a place, as everything in a disk's folder is written: tests count these calls.
    let written = file.and_then(|file| file.write_all_at(text.as_bytes(), 0).and_then(|()| file.sync_all()));
    written.map_err(|error| {
        let _ = fs::remove_file(path);
        Error::io("write", path, error)
    })
}

fn read(path: &Path) -> Result<Option<String>> {
    let mut text = String::new();
    let file = match open_to_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    match file.take(MAX_LEN).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        // Not ours, whatever it is: damaged.
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// `None`: there is no such process, or it ended and waits for its parent.
fn start_time(pid: u32) -> Option<String> {
    // proc(5): fields 3 (state) and 22, counted after the command, which may hold spaces and parentheses.
    let status = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let (_, fields) = status.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.clone().next(), Some("Z" | "X")) { None } else { fields.nth(19).map(str::to_owned) }
}

fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    // Without /proc nothing is known of others: an id that nobody else has.
    text.map_or_else(|_| format!("unknown {}", std::process::id()), |text| text.trim().to_owned())
}

fn host_id() -> String {
    let text = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let text = text.trim();
    if text.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        text.to_owned()
    }
}
