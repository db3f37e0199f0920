//! Private key files: written once, never overwritten, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use zeroize::Zeroizing;

use crate::Error;
use crate::tls::read_key_file;

/// Reads an unencrypted PKCS#8 key, PEM.
pub(super) fn read(path: &Path) -> Result<Zeroizing<KeyPair>, Error> {
    let bytes = read_key_file(path)?;
    let unusable =
        || Error::Certificate(format!("{} holds no unencrypted PKCS#8 private key in PEM", path.display()));
    let pem = std::str::from_utf8(&bytes).map_err(|_| unusable())?;
    KeyPair::from_pem(pem).map(Zeroizing::new).map_err(|_| unusable())
}

/// Writes `key` to `path`, complete and durable or not at all.
///
/// Errors: [`Error::Io`], with the kind `AlreadyExists` when there is such a file: keys are not overwritten.
pub(super) fn create(path: &Path, key: &KeyPair) -> Result<(), Error> {
    let temporary = beside(path)?;
    let written = write(&temporary, key).and_then(|()| move_without_replacing(&temporary, path));
    if let Err(error) = written {
        // What is left of the temporary file is of no use; the error is what matters.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("create private key file", path)(error));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io("sync directory", directory))
}

fn write(path: &Path, key: &KeyPair) -> io::Result<()> {
    let pem = Zeroizing::new(key.serialize_pem());
    // create_new is O_EXCL: neither an existing file nor a link in its place is followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}

fn move_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without this rename have hard links, which do not replace either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

fn beside(path: &Path) -> Result<PathBuf, Error> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::InvalidArgument(format!("{} does not name a file", path.display())))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.new", super::authority::random_hex()?));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_for_its_owner_only_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        let key = KeyPair::generate().unwrap();
        create(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read(&path).unwrap().public_key_raw(), key.public_key_raw());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "precious").unwrap();
        let error = create(&path, &KeyPair::generate().unwrap()).unwrap_err();
        assert_eq!(error.code(), "VMSEAL_ALREADY_EXISTS");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = create(&directory.path().join("no/key.pem"), &KeyPair::generate().unwrap()).unwrap_err();
        assert_eq!(error.code(), "VMSEAL_NOT_FOUND");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert_eq!(read(&path).unwrap_err().code(), "VMSEAL_CERTIFICATE_INVALID");
        fs::write(&path, vec![b'a'; 70_000]).unwrap();
        assert_eq!(read(&path).unwrap_err().code(), "VMSEAL_CERTIFICATE_INVALID");
    }
}
