//! Encrypted VM home files: what comes back, and everything that must not.

use std::io::{self, Read, Write};

use vmseal_secret::SecretKey;
use vmseal_wrap::Error;
use vmseal_wrap::stream::{HEADER_LEN, SEGMENT_LEN, decrypt, encrypt, recrypt};

const FIRST: usize = SEGMENT_LEN - HEADER_LEN - 16;
const FULL: usize = SEGMENT_LEN - 16;
const AD: &[u8] = b"vmseal file 1 6000c291 nvram";

fn key(bytes: &[u8]) -> SecretKey {
    SecretKey::try_init(bytes.len(), |slot| {
        slot.copy_from_slice(bytes);
        Ok::<(), vmseal_secret::Error>(())
    })
    .unwrap()
}

fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

fn sealed(text: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let done = encrypt(&key(&[1; 32]), AD, &mut &text[..], &mut file, &mut |_| Ok(())).unwrap();
    assert_eq!(done, text.len() as u64);
    file
}

fn opened(file: &[u8]) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let done = decrypt(&key(&[1; 32]), AD, &mut &file[..], &mut text, &mut |_| Ok(()))?;
    assert_eq!(done, text.len() as u64);
    Ok(text)
}

fn assert_refused(file: &[u8], what: &str) {
    assert_eq!(opened(file).map(|text| text.len()).unwrap_err().code(), "VMSEAL_STREAM_INVALID", "{what}");
}

#[test]
fn sizes_around_every_border_come_back() {
    for len in
        [0, 1, 15, 16, 17, FIRST - 1, FIRST, FIRST + 1, FIRST + FULL - 1, FIRST + FULL, FIRST + FULL + 1]
    {
        let (text, segments) = (plain(len), 1 + len.saturating_sub(FIRST).div_ceil(FULL));
        let file = sealed(&text);
        assert_eq!(file.len(), HEADER_LEN + len + segments * 16);
        assert_eq!(file[0], 40);
        assert!(opened(&file).unwrap() == text, "{len}");
    }
}

#[test]
fn every_flipped_bit_of_a_short_file_is_refused() {
    let file = sealed(&plain(30));
    for bit in 0..file.len() * 8 {
        let mut altered = file.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_refused(&altered, &format!("bit {bit}"));
    }
}

#[test]
fn flips_in_every_segment_are_refused() {
    let file = sealed(&plain(FIRST + FULL + 100));
    for at in [HEADER_LEN, SEGMENT_LEN - 1, SEGMENT_LEN, 2 * SEGMENT_LEN - 1, 2 * SEGMENT_LEN, file.len() - 1]
    {
        let mut altered = file.clone();
        altered[at] ^= 0x10;
        assert_refused(&altered, &format!("byte {at}"));
    }
}

#[test]
fn every_cut_of_a_short_file_is_refused() {
    let file = sealed(&plain(30));
    for len in 0..file.len() {
        assert_refused(&file[..len], &format!("cut to {len}"));
    }
}

#[test]
fn cuts_at_borders_are_refused() {
    let file = sealed(&plain(FIRST + 2 * FULL));
    for len in [
        HEADER_LEN,
        SEGMENT_LEN - 1,
        SEGMENT_LEN,
        SEGMENT_LEN + 1,
        SEGMENT_LEN + 15,
        SEGMENT_LEN + 16,
        2 * SEGMENT_LEN,
        3 * SEGMENT_LEN - 1,
    ] {
        assert_refused(&file[..len], &format!("cut to {len}"));
    }
}

#[test]
fn reordered_repeated_missing_and_added_segments_are_refused() {
    let file = sealed(&plain(FIRST + 2 * FULL + 500));
    let part = |range: std::ops::Range<usize>| &file[range];
    let (head, one, two, last) = (
        part(0..SEGMENT_LEN),
        part(SEGMENT_LEN..2 * SEGMENT_LEN),
        part(2 * SEGMENT_LEN..3 * SEGMENT_LEN),
        part(3 * SEGMENT_LEN..file.len()),
    );
    assert!(opened(&[head, one, two, last].concat()).is_ok());
    for (what, parts) in [
        ("reordered", vec![head, two, one, last]),
        ("repeated", vec![head, one, one, last]),
        ("missing in the middle", vec![head, two, last]),
        ("missing at the end", vec![head, one, two]),
        ("repeated at the end", vec![head, one, two, last, last]),
        ("one byte more", vec![head, one, two, last, &[0]]),
        ("a tag more", vec![head, one, two, last, &[0; 16]]),
        ("the header twice", vec![&head[..HEADER_LEN], head, one, two, last]),
    ] {
        assert_refused(&parts.concat(), what);
    }
    let other = sealed(&plain(FIRST + 2 * FULL + 500));
    let mixed = [head, &other[SEGMENT_LEN..2 * SEGMENT_LEN], two, last];
    assert_refused(&mixed.concat(), "a segment of another file under the same key");
}

#[test]
fn another_key_or_place_is_refused() {
    let file = sealed(b"nvram");
    let mut writer = Vec::new();
    let wrong_key = decrypt(&key(&[2; 32]), AD, &mut &file[..], &mut writer, &mut |_| Ok(()));
    assert_eq!(wrong_key.unwrap_err().code(), "VMSEAL_STREAM_INVALID");
    for ad in [&b""[..], b"vmseal file 1 6000c291 vswp", b"vmseal file 1 6000c291 nvram "] {
        let wrong_place = decrypt(&key(&[1; 32]), ad, &mut &file[..], &mut writer, &mut |_| Ok(()));
        assert_eq!(wrong_place.unwrap_err().code(), "VMSEAL_STREAM_INVALID");
    }
    assert!(writer.is_empty());
    for len in [16, 31, 33, 64] {
        let wrong_len = decrypt(&key(&vec![1; len]), AD, &mut &file[..], &mut writer, &mut |_| Ok(()));
        assert_eq!(wrong_len.unwrap_err().code(), "VMSEAL_KEY_LENGTH");
        let wrong_len = encrypt(&key(&vec![1; len]), AD, &mut &file[..], &mut writer, &mut |_| Ok(()));
        assert_eq!(wrong_len.unwrap_err().code(), "VMSEAL_KEY_LENGTH");
    }
}

#[test]
fn nothing_unverified_reaches_the_writer() {
    let text = plain(FIRST + FULL + 100);
    let mut file = sealed(&text);
    file[SEGMENT_LEN + 5] ^= 1;
    let mut writer = Vec::new();
    let result = decrypt(&key(&[1; 32]), AD, &mut &file[..], &mut writer, &mut |_| Ok(()));
    assert_eq!(result.unwrap_err().code(), "VMSEAL_STREAM_INVALID");
    assert!(writer == text[..FIRST], "{}", writer.len());
}

/// Gives one byte short of what is asked for, and interruptions between.
struct Halting<'a>(&'a [u8], bool);

impl Read for Halting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buffer.len().div_ceil(2);
        self.0.read(&mut buffer[..len])
    }
}

#[test]
fn short_and_interrupted_reads_change_nothing() {
    let text = plain(FIRST + 1000);
    let (mut file, mut back) = (Vec::new(), Vec::new());
    encrypt(&key(&[1; 32]), AD, &mut Halting(&text, false), &mut file, &mut |_| Ok(())).unwrap();
    decrypt(&key(&[1; 32]), AD, &mut Halting(&file, false), &mut back, &mut |_| Ok(())).unwrap();
    assert!(back == text);
}

#[test]
fn progress_counts_plaintext_and_can_stop() {
    let text = plain(FIRST + FULL + 7);
    let mut steps = Vec::new();
    let mut file = Vec::new();
    let mut note = |done| {
        steps.push(done as usize);
        Ok(())
    };
    encrypt(&key(&[1; 32]), AD, &mut &text[..], &mut file, &mut note).unwrap();
    decrypt(&key(&[1; 32]), AD, &mut &file[..], &mut io::sink(), &mut note).unwrap();
    assert_eq!(steps, [FIRST, FIRST + FULL, FIRST + FULL + 7].repeat(2));
    let stopped =
        encrypt(&key(&[1; 32]), AD, &mut &text[..], &mut io::sink(), &mut |_| Err(Error::Cancelled));
    assert_eq!(stopped.unwrap_err().code(), "VMSEAL_CANCELLED");
    let stopped =
        decrypt(&key(&[1; 32]), AD, &mut &file[..], &mut io::sink(), &mut |_| Err(Error::Cancelled));
    assert_eq!(stopped.unwrap_err().code(), "VMSEAL_CANCELLED");
}

struct Failing(io::ErrorKind);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
}

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_of_reader_and_writer_are_named() {
    for (kind, code) in [
        (io::ErrorKind::StorageFull, "VMSEAL_NO_SPACE"),
        (io::ErrorKind::BrokenPipe, "VMSEAL_IO"),
        (io::ErrorKind::PermissionDenied, "VMSEAL_PERMISSION_DENIED"),
    ] {
        let dek = key(&[1; 32]);
        let result = encrypt(&dek, AD, &mut Failing(kind), &mut io::sink(), &mut |_| Ok(()));
        assert_eq!(result.unwrap_err().code(), code);
        let result = encrypt(&dek, AD, &mut &b"x"[..], &mut Failing(kind), &mut |_| Ok(()));
        assert_eq!(result.unwrap_err().code(), code);
        let result = decrypt(&dek, AD, &mut Failing(kind), &mut io::sink(), &mut |_| Ok(()));
        assert_eq!(result.unwrap_err().code(), code);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn any_file_comes_back(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
        proptest::prop_assert!(opened(&sealed(&text)).unwrap() == text);
    }

    #[test]
    fn any_other_bytes_are_refused(mut file in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        assert_refused(&file, "random bytes");
        if let Some(first) = file.first_mut() {
            *first = 40;
        }
        assert_refused(&file, "random bytes under a header");
    }
}

#[test]
fn d2_a_recrypted_stream_opens_with_the_new_key_alone() {
    let (old, new) = (key(&[1; 32]), key(&[2; 32]));
    for len in [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + FULL, FIRST + FULL + 1] {
        let (text, mut file, mut back) = (plain(len), Vec::new(), Vec::new());
        let before = sealed(&text);
        let done = recrypt(&old, &new, AD, AD, &mut &before[..], &mut file, &mut |_| Ok(())).unwrap();
        assert_eq!((done, file.len()), (len as u64, before.len()));
        assert_refused(&file, "the old key");
        decrypt(&new, AD, &mut &file[..], &mut back, &mut |_| Ok(())).unwrap();
        assert!(back == text, "{len}");
    }
}

#[test]
fn a_recrypt_refuses_what_a_decryption_refuses() {
    let (old, new) = (key(&[1; 32]), key(&[2; 32]));
    let file = sealed(&plain(FIRST + 10));
    let refused = |old: &SecretKey, ad: &[u8], bytes: &[u8]| {
        let made = recrypt(old, &new, ad, ad, &mut &bytes[..], &mut io::sink(), &mut |_| Ok(()));
        made.unwrap_err().code()
    };
    assert_eq!(refused(&new, AD, &file), "VMSEAL_STREAM_INVALID");
    assert_eq!(refused(&old, b"another place", &file), "VMSEAL_STREAM_INVALID");
    for len in [0, 39, 40, 55, SEGMENT_LEN, file.len() - 1] {
        assert_eq!(refused(&old, AD, &file[..len]), "VMSEAL_STREAM_INVALID", "{len}");
    }
    let short = recrypt(&old, &key(&[2; 64]), AD, AD, &mut &file[..], &mut io::sink(), &mut |_| Ok(()));
    assert!(short.is_err(), "a key of 64 bytes is no key of a stream");
}
