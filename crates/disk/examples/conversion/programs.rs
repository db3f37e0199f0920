//! Other people's programs, called as their users call them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Outcome;

const PASSPHRASE: &str = "measured-not-kept";

/// Copies over a file that is there.
pub(crate) fn dd(source: &Path, target: &Path) -> Outcome<()> {
    run(Command::new("dd")
        .arg(format!("if={}", source.display()))
        .arg(format!("of={}", target.display()))
        .args(["bs=1M", "conv=notrunc"]))
}

/// Encrypts a file in place with its header in another file, journalled.
pub(crate) fn cryptsetup_reencrypt(file: &Path, header: &Path) -> Outcome<()> {
    let mut command = Command::new("cryptsetup");
    command.args(["reencrypt", "--encrypt", "--type", "luks2", "--batch-mode", "--resilience", "journal"]);
    command.args(["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "512"]);
    // Nothing is spent on the passphrase.
    command.args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    let key_file = header.with_extension("passphrase");
    std::fs::write(&key_file, PASSPHRASE)?;
    run(command.arg("--key-file").arg(&key_file).arg("--header").arg(header).arg(file))
}

/// Makes the LUKS header of a new file for `bytes` of data. Not on qemu-img's time: what the passphrase costs says nothing.
pub(crate) fn qemu_img_create(target: &Path, bytes: u64) -> Outcome<()> {
    let options = "key-secret=s,cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,iter-time=50";
    let create = || {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "luks", "--object", &secret(), "-o", options]);
        run(command.arg(target).arg(bytes.to_string()))
    };
    // With times that short it fails at random.
    (0..9).find_map(|_| create().ok()).map_or_else(create, Ok)
}

/// Converts a raw file into the LUKS file that [`qemu_img_create`] made. `parallel`: with 16 requests at a time, out of order.
pub(crate) fn qemu_img(source: &Path, target: &Path, parallel: bool) -> Outcome<()> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-n", "-f", "raw", "--target-image-opts"]);
    if parallel {
        command.args(["-W", "-m", "16"]);
    }
    let image = format!("driver=luks,key-secret=s,file.driver=file,file.filename={}", target.display());
    run(command.args(["--object", &secret()]).arg(source).arg(image))
}

fn secret() -> String {
    format!("secret,id=s,data={PASSPHRASE}")
}

/// Whether the program is there.
pub(crate) fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn run(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
