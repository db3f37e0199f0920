//! Running `qemu-img`, whose input anyone may have made.
//!
//! The format is always passed, never probed; images that name other files are refused, because qemu-img would read any
//! file of this machine an image points to; what it prints is bounded; cancelling kills it.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::control::Control;
use crate::error::{Error, Result};

/// How often a running child is looked after.
const POLL: Duration = Duration::from_millis(10);
/// Output kept; the rest is read and dropped, so that the child never blocks on a full pipe.
const MAX_OUTPUT: usize = 1 << 20;

pub(crate) struct QemuImg {
    program: PathBuf,
}

impl QemuImg {
    /// Finds the program on PATH.
    pub(crate) fn find() -> Option<Self> {
        let path = env::var_os("PATH")?;
        let executable = |program: &PathBuf| {
            fs::metadata(program)
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        };
        let program = env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("qemu-img"));
        program.into_iter().find(executable).map(|program| Self { program })
    }

    /// Virtual size in bytes of an image that stands alone.
    pub(crate) fn capacity(&self, image: &Path, driver: &str, control: &Control) -> Result<u64> {
        let mut command = self.command();
        command.args(["info", "--output=json", "-f", driver, "--"]).arg(image);
        let output = run(command, control, |_| {})?;
        let info: Value = serde_json::from_slice(&output).map_err(|_| Error::QemuImgFailed {
            reason: "its answer about the image cannot be read".to_owned(),
        })?;
        refuse_outside_files(image, &info)?;
        info["virtual-size"]
            .as_u64()
            .ok_or_else(|| Error::QemuImgFailed { reason: "it tells no size for the image".to_owned() })
    }

    /// Copies the image's sectors into `flat`, which exists.
    pub(crate) fn convert(
        &self,
        image: &Path,
        driver: &str,
        flat: &Path,
        capacity: u64,
        control: &Control,
    ) -> Result<()> {
        let mut command = self.command();
        command.args(["convert", "-p", "-f", driver, "-O", "raw", "--"]).arg(image).arg(flat);
        run(command, control, |percent| {
            // In hundredths of a percent; u128 because the product may pass 2^64.
            let done = u128::from(capacity) * u128::from(percent) / 10_000;
            control.set_done(u64::try_from(done).unwrap_or(capacity).min(capacity));
        })?;
        control.set_done(capacity);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// An image may name a backing file, a data file or (VMDK) extents anywhere on this machine.
fn refuse_outside_files(image: &Path, info: &Value) -> Result<()> {
    let leans =
        |what: &str| Error::image(image, format!("it leans on another file ({what}); flatten it first"));
    if info.get("backing-filename").is_some() || info.get("full-backing-filename").is_some() {
        return Err(leans("backing file"));
    }
    if info["encrypted"].as_bool() == Some(true) {
        return Err(Error::image(image, "it is encrypted; decrypt it with the tool that made it first"));
    }
    let specific = &info["format-specific"]["data"];
    if specific.get("data-file").is_some() {
        return Err(leans("external data file"));
    }
    if specific.get("parent-cid").and_then(Value::as_u64).is_some_and(|cid| cid != u64::from(u32::MAX)) {
        return Err(leans("snapshot parent"));
    }
    let extents = specific["extents"].as_array().map(Vec::as_slice).unwrap_or_default();
    for name in extents.iter().filter_map(|extent| extent["filename"].as_str()) {
        let path = Path::new(name);
        let beside = path.is_absolute() && path.parent() == image.parent();
        let linked = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if !beside || linked {
            return Err(leans("extent outside its folder"));
        }
    }
    Ok(())
}

/// Runs to the end and returns standard output; `progress` gets hundredths of a percent from lines like `(12.34/100%)`.
fn run(mut command: Command, control: &Control, progress: impl Fn(u64) + Sync) -> Result<Vec<u8>> {
    control.check()?;
    let program = PathBuf::from(command.get_program());
    let mut child = command.spawn().map_err(|error| Error::io("run", &program, error))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let out = scope.spawn(|| stdout.map(|pipe| drain(pipe, &progress)).unwrap_or_default());
        let err = scope.spawn(|| stderr.map(|pipe| drain(pipe, &|_| {})).unwrap_or_default());
        let status = wait(&mut child, &program, control);
        let out = out.join().unwrap_or_default();
        let err = err.join().unwrap_or_default();
        let status = status?;
        if status.success() { Ok(out) } else { Err(failure(status, &err)) }
    })
}

fn wait(child: &mut Child, program: &Path, control: &Control) -> Result<ExitStatus> {
    let outcome = loop {
        if let Err(cancelled) = control.check() {
            break Err(cancelled);
        }
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => thread::sleep(POLL),
            Err(error) => break Err(Error::io("wait for", program, error)),
        }
    };
    // Fails only for a child that has ended already.
    let _ = child.kill();
    let _ = child.wait();
    outcome
}

fn drain(mut pipe: impl Read, progress: &impl Fn(u64)) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut block = [0; 4096];
    loop {
        match pipe.read(&mut block) {
            Ok(0) => return kept,
            Ok(count) => {
                let room = MAX_OUTPUT.saturating_sub(kept.len());
                kept.extend_from_slice(&block[..count.min(room)]);
                if let Some(percent) = last_percent(&block[..count]) {
                    progress(percent);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}

/// Hundredths of a percent in the last complete `(12.34/100%)`.
fn last_percent(text: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(text);
    let (before, _) = text.rsplit_once("/100%")?;
    let (_, number) = before.rsplit_once('(')?;
    let (whole, fraction) = number.trim().split_once('.')?;
    let whole: u64 = whole.parse().ok().filter(|&whole| whole <= 100)?;
    let fraction: u64 = fraction.parse().ok().filter(|_| fraction.len() == 2)?;
    Some(whole * 100 + fraction)
}

fn failure(status: ExitStatus, stderr: &[u8]) -> Error {
    let text = String::from_utf8_lossy(stderr);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    Error::QemuImgFailed { reason: format!("{status}: {}", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_complete_percentage_counts() {
        assert_eq!(last_percent(b"    (12.34/100%)\r    (56.07/100%)\r    (6"), Some(5607));
        assert_eq!(last_percent(b"    (100.00/100%)\r"), Some(10_000));
        for noise in [
            &b""[..],
            b"(/100%)",
            b"(12/100%)",
            b"(999.00/100%)",
            b"(1.2.3/100%)",
            b"100%",
            b"\xff(\xff/100%)",
        ] {
            assert_eq!(last_percent(noise), None);
        }
    }

    #[test]
    fn images_that_name_other_files_are_refused() {
        let image = Path::new("/ds/a.img");
        let refused = [
            json!({"virtual-size": 512, "backing-filename": "/etc/shadow"}),
            json!({"full-backing-filename": "x"}),
            json!({"encrypted": true}),
            json!({"format-specific": {"data": {"data-file": "x"}}}),
            json!({"format-specific": {"data": {"parent-cid": 1}}}),
            json!({"format-specific": {"data": {"extents": [{"filename": "/etc/shadow"}]}}}),
            json!({"format-specific": {"data": {"extents": [{"filename": "/ds/a.img"}, {"filename": "nbd:host:1"}]}}}),
        ];
        for info in refused {
            assert_eq!(
                refuse_outside_files(image, &info).map_err(|error| error.code()),
                Err("VMSEAL_IMAGE_INVALID"),
                "{info}"
            );
        }
        let alone = json!({"format-specific": {"data": {"parent-cid": 4_294_967_295u32, "extents": [{"filename": "/ds/a.img"}]}}});
        assert!(refuse_outside_files(image, &alone).is_ok());
    }
}
