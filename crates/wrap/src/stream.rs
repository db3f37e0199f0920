//! A VM home file as an authenticated stream: Tink's AES256-GCM-HKDF-1MB, so Tink itself opens it, given the key.
//!
//! `header length 40 (1) || salt (32) || nonce prefix (7) || segment 0 || segment 1 || ...`. Segments are 1 MiB of
//! ciphertext with a 16-byte tag each; segment 0 is shorter by the header, the last one as short as it comes, and only
//! segment 0 may be empty of plaintext. The key is HKDF-SHA256(data-encryption key, salt, info = associated data), the
//! nonce of a segment `nonce prefix || segment number, 32 bits big-endian || 1 for the last segment, else 0`: so no segment
//! can be moved, dropped, repeated or added.

use std::io::{ErrorKind, Read, Write};

use aes_gcm::{AeadInOut, Aes256Gcm};
use hkdf::Hkdf;
use sha2::Sha256;
use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use crate::Error;
use crate::gcm::{self, KEY_LEN, NONCE_LEN, TAG_LEN};
use crate::guard::{guarded, random};

pub mod pieces;

/// Ciphertext of a full segment with its tag, in bytes; memory in use is bounded by two of them.
pub const SEGMENT_LEN: usize = 1 << 20;
/// Length of the header before the first segment, in bytes.
pub const HEADER_LEN: usize = 1 + SALT_LEN + PREFIX_LEN;

const SALT_LEN: usize = 32;
const PREFIX_LEN: usize = 7;

/// Encrypts `reader` to its end under a data-encryption key of 32 bytes; returns the number of plaintext bytes.
///
/// `associated_data` names the place of the file and is bound, not stored. `progress` gets the plaintext bytes done after
/// every segment; its error stops the work and is returned. On any error what `writer` got is to be deleted.
///
/// Errors: [`Error::KeyLength`], [`Error::Io`], [`Error::Random`], those of `progress`.
pub fn encrypt(
    dek: &SecretKey,
    associated_data: &[u8],
    reader: &mut impl Read,
    writer: &mut impl Write,
    progress: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    gcm::check_key("the data-encryption key", dek)?;
    let header = new_header()?;
    let segments = Segments::new(dek, associated_data, &header)?;
    let mut source = Lookahead::new(reader, segment_room(0) - TAG_LEN)?;
    writer.write_all(&header)?;
    let mut done = 0;
    let mut number = 0;
    loop {
        let is_last = source.is_last(SEGMENT_LEN - TAG_LEN)?;
        done += source.current.len() as u64;
        segments.seal(number, is_last, &mut source.current)?;
        writer.write_all(&source.current)?;
        progress(done)?;
        if is_last {
            return Ok(done);
        }
        number = next(number)?;
        source.advance();
    }
}

/// Decrypts what [`encrypt`] (or Tink) made with the same key and associated data; returns the number of plaintext bytes.
///
/// `writer` gets a segment only after its tag was verified. That the file is whole shows at its end: what was written
/// counts only when this returns `Ok`, else it is to be deleted.
///
/// Errors: [`Error::KeyLength`], [`Error::StreamInvalid`], [`Error::Io`], those of `progress`.
pub fn decrypt(
    dek: &SecretKey,
    associated_data: &[u8],
    reader: &mut impl Read,
    writer: &mut impl Write,
    progress: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    let (segments, mut source) = open_stream(dek, associated_data, reader)?;
    let mut done = 0;
    let mut number = 0;
    loop {
        let is_last = source.is_last(SEGMENT_LEN)?;
        segments.open(number, is_last, &mut source.current)?;
        writer.write_all(&source.current)?;
        done += source.current.len() as u64;
        progress(done)?;
        if is_last {
            return Ok(done);
        }
        number = next(number)?;
        source.advance();
    }
}

/// Turns what [`encrypt`] made under `old` into the same under `new` and `new_associated_data`, without plaintext outside memory; returns the number of
/// plaintext bytes. As [`decrypt`], what was written counts only when this returns `Ok`.
///
/// Errors: those of [`decrypt`] and [`encrypt`].
pub fn recrypt(
    old: &SecretKey,
    new: &SecretKey,
    associated_data: &[u8],
    new_associated_data: &[u8],
    reader: &mut impl Read,
    writer: &mut impl Write,
    progress: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    gcm::check_key("the data-encryption key", new)?;
    let (old, mut source) = open_stream(old, associated_data, reader)?;
    let header = new_header()?;
    let new = Segments::new(new, new_associated_data, &header)?;
    writer.write_all(&header)?;
    let mut done = 0;
    let mut number = 0;
    loop {
        // The segments of both streams hold the same plaintext.
        let is_last = source.is_last(SEGMENT_LEN)?;
        old.open(number, is_last, &mut source.current)?;
        done += source.current.len() as u64;
        new.seal(number, is_last, &mut source.current)?;
        writer.write_all(&source.current)?;
        progress(done)?;
        if is_last {
            return Ok(done);
        }
        number = next(number)?;
        source.advance();
    }
}

/// A header with fresh salt and nonce prefix.
fn new_header() -> Result<[u8; HEADER_LEN], Error> {
    let mut header = [HEADER_LEN as u8; HEADER_LEN];
    header[1..].copy_from_slice(&random::<{ HEADER_LEN - 1 }>()?);
    Ok(header)
}

/// Reads the header of a stream; its first segment comes next.
fn open_stream<'r, R: Read>(
    dek: &SecretKey,
    associated_data: &[u8],
    reader: &'r mut R,
) -> Result<(Segments, Lookahead<'r, R>), Error> {
    gcm::check_key("the data-encryption key", dek)?;
    let mut header = [0; HEADER_LEN];
    if fill(reader, &mut header)? < HEADER_LEN {
        return Err(Error::StreamInvalid { reason: "it ends within its header" });
    }
    if usize::from(header[0]) != HEADER_LEN {
        return Err(Error::StreamInvalid { reason: "it does not begin with the header of a stream" });
    }
    let segments = Segments::new(dek, associated_data, &header)?;
    Ok((segments, Lookahead::new(reader, segment_room(0))?))
}

/// Length of a full segment with its tag.
fn segment_room(number: u32) -> usize {
    if number == 0 { SEGMENT_LEN - HEADER_LEN } else { SEGMENT_LEN }
}

fn next(number: u32) -> Result<u32, Error> {
    number
        .checked_add(1)
        .ok_or(Error::StreamInvalid { reason: "a stream holds at most 2^32 segments (4 PiB)" })
}

/// The cipher of one stream. It wipes its round keys when dropped.
struct Segments {
    cipher: Box<Aes256Gcm>,
    prefix: [u8; PREFIX_LEN],
}

impl Segments {
    fn new(dek: &SecretKey, associated_data: &[u8], header: &[u8; HEADER_LEN]) -> Result<Segments, Error> {
        let (salt, prefix) = header[1..].split_at(SALT_LEN);
        guarded(|| {
            let key = SecretKey::try_init(KEY_LEN, |slot| {
                dek.expose(|dek| Hkdf::<Sha256>::new(Some(salt), dek).expand(associated_data, slot))
                    .expect("32 bytes are one block of HKDF");
                Ok::<(), Error>(())
            })?;
            let prefix = prefix.try_into().expect("the header has room for it");
            Ok(Segments { cipher: key.expose(|key| Box::new(gcm::cipher(key))), prefix })
        })
    }

    /// Encrypts a segment in place and appends its tag.
    fn seal(&self, number: u32, is_last: bool, segment: &mut Vec<u8>) -> Result<(), Error> {
        guarded(|| {
            let nonce = self.nonce(number, is_last);
            let tag = self.cipher.encrypt_inout_detached(&nonce.into(), b"", segment.as_mut_slice().into());
            segment.extend_from_slice(&tag.expect("a segment is far below the 64 GiB of GCM"));
            Ok(())
        })
    }

    /// Verifies a segment, and only then decrypts it in place and cuts its tag off.
    fn open(&self, number: u32, is_last: bool, segment: &mut Vec<u8>) -> Result<(), Error> {
        const CUT: Error = Error::StreamInvalid { reason: "it ends within a segment" };
        let plain_len = segment.len().checked_sub(TAG_LEN).ok_or(CUT)?;
        if plain_len == 0 && number > 0 {
            return Err(CUT);
        }
        guarded(|| {
            let (data, tag) = segment.split_last_chunk_mut::<TAG_LEN>().ok_or(CUT)?;
            let nonce = self.nonce(number, is_last);
            self.cipher.decrypt_inout_detached(&nonce.into(), b"", data.into(), (&*tag).into()).map_err(
                |_| Error::StreamInvalid {
                    reason: "a segment was altered, moved or cut off, or the file is of another VM or role",
                },
            )?;
            segment.truncate(plain_len);
            Ok(())
        })
    }

    fn nonce(&self, number: u32, is_last: bool) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[..PREFIX_LEN].copy_from_slice(&self.prefix);
        nonce[PREFIX_LEN..NONCE_LEN - 1].copy_from_slice(&number.to_be_bytes());
        nonce[NONCE_LEN - 1] = is_last.into();
        nonce
    }
}

/// Reads one piece ahead, to know the last one when it is at hand. Both buffers keep their capacity, so neither is ever
/// moved in memory, and both are wiped in the end.
struct Lookahead<'r, R> {
    reader: &'r mut R,
    current: Zeroizing<Vec<u8>>,
    following: Zeroizing<Vec<u8>>,
    is_at_end: bool,
}

impl<'r, R: Read> Lookahead<'r, R> {
    fn new(reader: &'r mut R, first_len: usize) -> Result<Self, Error> {
        let buffer = || Zeroizing::new(Vec::with_capacity(SEGMENT_LEN));
        let mut source = Lookahead { reader, current: buffer(), following: buffer(), is_at_end: false };
        source.read(first_len)?;
        source.advance();
        Ok(source)
    }

    /// Reads the piece of at most `len` bytes after `current`; whether there is none.
    fn is_last(&mut self, len: usize) -> Result<bool, Error> {
        self.read(len)?;
        Ok(self.following.is_empty())
    }

    fn advance(&mut self) {
        std::mem::swap(&mut self.current, &mut self.following);
    }

    fn read(&mut self, len: usize) -> Result<(), Error> {
        self.following.resize(if self.is_at_end { 0 } else { len }, 0);
        let filled = fill(self.reader, &mut self.following)?;
        self.is_at_end = filled < len;
        self.following.truncate(filled);
        Ok(())
    }
}

/// Reads until `buffer` is full or the end is reached; how much was read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::key;

    /// Only a holder of the key can make it, but two files must not stand for one text.
    #[test]
    fn an_empty_last_segment_after_a_full_one_is_refused() {
        let (dek, header) = (key(&[1; 32]), [HEADER_LEN as u8; HEADER_LEN]);
        let segments = Segments::new(&dek, b"", &header).unwrap();
        let (mut first, mut last) = (vec![7; segment_room(0) - TAG_LEN], Vec::new());
        segments.seal(0, false, &mut first).unwrap();
        segments.seal(1, true, &mut last).unwrap();
        let file = [&header[..], &first, &last].concat();
        let result = decrypt(&dek, b"", &mut &file[..], &mut std::io::sink(), &mut |_| Ok(()));
        assert_eq!(result.unwrap_err().code(), "VMSEAL_STREAM_INVALID");
    }
}
