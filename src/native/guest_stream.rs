//! The state of a running guest on its way from one host to another, cut into pieces. What is sealed under a migration key is
//! plaintext on this side of the addon only.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{Buffer, BufferSlice, Object};
use napi::{Env, Result};
use napi_derive::napi;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmseal_wrap::stream::pieces::{NextPiece, PieceOpener, PieceReader};
use zeroize::Zeroizing;

use crate::background;
use crate::fault::{coded, guard, invalid_argument};
use crate::key::{KeyHandle, io_error};

/// How long one call waits for a pipe. It keeps a thread of the pool for as long.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A piece of a stream, or nothing yet.
#[napi(object)]
pub struct GuestStatePiece {
    /// Absent: the source has nothing yet, or its last piece was given.
    pub data: Option<Buffer>,
    /// It ends the stream, or ended it.
    pub last: bool,
}

/// Reads the state of a guest from a file or a pipe.
#[napi]
pub struct GuestStateReader {
    source: String,
    reader: Arc<Mutex<Option<PieceReader<Source>>>>,
}

#[napi]
impl GuestStateReader {
    /// Without a key the pieces are plaintext. A pipe need not have a writer yet.
    #[napi(factory)]
    pub fn open(key: Option<&KeyHandle>, associated_data: &[u8], source: String) -> Result<Self> {
        let key = key.map(KeyHandle::get).transpose()?;
        let file = Source::open(&source).map_err(|error| io_error(&source, &error))?;
        let reader = guard(|| PieceReader::new(key, associated_data, file))?;
        Ok(Self { source, reader: Arc::new(Mutex::new(Some(reader))) })
    }

    /// The next piece, up to 1 MiB. One call at a time; after an error the stream cannot go on.
    #[napi(ts_return_type = "Promise<GuestStatePiece>")]
    pub fn read<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (reader, source) = (Arc::clone(&self.reader), self.source.clone());
        background::promise(env, move || {
            let mut open = lock(&reader);
            let reader = open.as_mut().ok_or_else(closed)?;
            let next = reader.next_piece().map_err(|error| stream_error(&source, &error))?;
            Ok(match next {
                NextPiece::Piece { bytes, is_last } => {
                    GuestStatePiece { data: Some(Buffer::from(bytes)), last: is_last }
                }
                NextPiece::NotYet => GuestStatePiece { data: None, last: false },
                NextPiece::End => GuestStatePiece { data: None, last: true },
            })
        })
    }

    /// Idempotent.
    #[napi]
    pub fn close(&self) {
        drop(lock(&self.reader).take());
    }
}

/// Writes the state of a guest to a new file (0600) or to a pipe that somebody reads.
#[napi]
pub struct GuestStateWriter {
    target: String,
    is_pipe: bool,
    writer: Arc<Mutex<Option<Target>>>,
}

#[napi]
impl GuestStateWriter {
    /// Without a key the pieces are plaintext. VMSEAL_ALREADY_EXISTS for a file that is there, VMSEAL_INVALID_STATE for a pipe
    /// that nobody reads.
    #[napi(factory)]
    pub fn open(key: Option<&KeyHandle>, associated_data: &[u8], target: String) -> Result<Self> {
        let key = key.map(KeyHandle::get).transpose()?;
        let opener = guard(|| PieceOpener::new(key, associated_data))?;
        let (file, is_pipe) = open_target(&target)?;
        let pending = Zeroizing::new(Vec::new());
        let writer = Target { file, opener, pending, written: 0, is_pipe };
        Ok(Self { target, is_pipe, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Whether it writes to a pipe, which was there before.
    #[napi(getter)]
    pub fn is_pipe(&self) -> bool {
        self.is_pipe
    }

    /// Opens the next piece and writes it out. False: the pipe is full, and `drain` goes on. VMSEAL_STREAM_INVALID for every
    /// piece but the next one of the stream.
    #[napi(ts_return_type = "Promise<boolean>")]
    pub fn write<'env>(
        &self,
        env: &'env Env,
        #[napi(ts_arg_type = "Uint8Array")] piece: BufferSlice,
        last: bool,
    ) -> Result<Object<'env>> {
        let piece = piece.to_vec();
        self.work(env, move |target| target.take(&piece, last))
    }

    /// Writes on; true: everything that was taken is written, and durable if it is the whole of a file.
    #[napi(ts_return_type = "Promise<boolean>")]
    pub fn drain<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        self.work(env, |_| Ok(()))
    }

    /// Idempotent. A reader of the pipe sees its end.
    #[napi]
    pub fn close(&self) {
        drop(lock(&self.writer).take());
    }

    fn work<'env>(
        &self,
        env: &'env Env,
        begin: impl FnOnce(&mut Target) -> std::result::Result<(), vmseal_wrap::Error> + Send + 'static,
    ) -> Result<Object<'env>> {
        let (writer, path) = (Arc::clone(&self.writer), self.target.clone());
        background::promise(env, move || {
            let mut open = lock(&writer);
            let target = open.as_mut().ok_or_else(closed)?;
            begin(target).map_err(|error| stream_error(&path, &error))?;
            target.drain(&path).map_err(|error| io_error(&path, &error))
        })
    }
}

/// A file, or a pipe that is asked whether it has something instead of waited for.
struct Source(File);

impl Source {
    fn open(path: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(ErrorKind::IsADirectory, "is a folder"));
        }
        Ok(Self(file))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Before its first writer a pipe reads as if at its end; that it hung up it says after one only.
        if !is_ready(&self.0, PollFlags::IN)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

struct Target {
    file: File,
    opener: PieceOpener,
    /// Verified plaintext, of which `written` bytes are written.
    pending: Zeroizing<Vec<u8>>,
    written: usize,
    is_pipe: bool,
}

impl Target {
    fn take(&mut self, piece: &[u8], last: bool) -> std::result::Result<(), vmseal_wrap::Error> {
        if self.written < self.pending.len() {
            return Err(vmseal_wrap::Error::InvalidArgument {
                reason: "the piece before is not written yet",
            });
        }
        self.pending = self.opener.open(piece, last)?;
        self.written = 0;
        Ok(())
    }

    fn drain(&mut self, path: &str) -> io::Result<bool> {
        while self.written < self.pending.len() {
            if self.is_pipe && !is_ready(&self.file, PollFlags::OUT)? {
                return Ok(false);
            }
            match self.file.write(&self.pending[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.opener.is_whole() && !self.is_pipe {
            let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
            self.file.sync_all()?;
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(true)
    }
}

fn open_target(path: &str) -> Result<(File, bool)> {
    let is_pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.write(true);
    if is_pipe {
        options.custom_flags(libc::O_NONBLOCK);
    } else {
        options.create_new(true).mode(0o600);
    }
    match options.open(path) {
        Ok(file) => Ok((file, is_pipe)),
        Err(error) if is_pipe && error.raw_os_error() == Some(libc::ENXIO) => Err(coded(
            "VMSEAL_INVALID_STATE",
            format!("nobody reads the pipe {path}: start its reader first"),
        )),
        Err(error) => Err(io_error(path, &error)),
    }
}

fn is_ready(file: &File, wanted: PollFlags) -> io::Result<bool> {
    let mut watched = [PollFd::new(file, wanted)];
    match poll(&mut watched, Some(&PATIENCE)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn stream_error(path: &str, error: &vmseal_wrap::Error) -> napi::Error {
    match error {
        vmseal_wrap::Error::Io(error) => io_error(path, error),
        other => coded(other.code(), other),
    }
}

fn closed() -> napi::Error {
    invalid_argument("the stream is closed")
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
