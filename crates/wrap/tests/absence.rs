//! After the work is done and the keys are dropped, no half of any key is left anywhere in the process: a parent reads
//! the memory of a child that did the work.
#![cfg(target_os = "linux")]

use std::fs::{File, read_to_string};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write, stdin, stdout};
use std::process::{Command, Stdio};

use base64ct::{Base64UrlUnpadded, Encoding};
use vmseal_secret::SecretKey;
use vmseal_wrap::{at_rest, envelope, hpke, key_check_value, key_wrap, stream};

const MODE: &str = "VMSEAL_WRAP_ABSENCE";
const LENGTHS: [usize; 5] = [32, 64, 32, 32, 32];
const HEADER: &str = r#"{"vmseal":{"id":"6000c291-35bd-fd2d-e77e-709fb2c53635"}}"#;

/// Byte `at` of key `which`: both processes can make the keys, so none has to be sent.
fn key_byte(which: usize, at: usize) -> u8 {
    let mut word = ((which as u64) << 32 | at as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) as u8
}

fn key(which: usize) -> SecretKey {
    SecretKey::try_init(LENGTHS[which], |slot| {
        slot.iter_mut().enumerate().for_each(|(at, byte)| *byte = key_byte(which, at));
        Ok::<(), vmseal_secret::Error>(())
    })
    .unwrap()
}

/// Every way through the crate, there and back, and the refusals that come to light only after decryption.
const WORK: [fn(); 7] = [
    || {
        let wrapped = key_wrap::wrap(&key(0), &key(1)).unwrap();
        assert!(key_wrap::unwrap(&key(4), &wrapped).is_err());
        assert!(key_wrap::unwrap(&key(0), &wrapped).unwrap().ct_eq(&key(1)));
        let mut row = wrapped.repeat(40);
        let opened = key_wrap::unwrap_row(&key(0), &row, wrapped.len()).unwrap();
        assert!(opened.is_none_or(|keys| keys.iter().all(|opened| opened.ct_eq(&key(1)))));
        row[39 * wrapped.len()] ^= 1;
        assert!(key_wrap::unwrap_row(&key(0), &row, wrapped.len()).unwrap().is_none());
    },
    || {
        let wrapped = key_wrap::wrap_padded(&key(0), &key(1)).unwrap();
        assert!(key_wrap::unwrap(&key(0), &wrapped).is_err());
        assert!(key_wrap::unwrap_padded(&key(0), &wrapped).unwrap().ct_eq(&key(1)));
    },
    || {
        let jwe = envelope::seal(&key(0), &key(1), HEADER).unwrap();
        assert!(envelope::open(&key(4), &jwe).is_err());
        assert!(envelope::open(&key(0), &jwe).unwrap().0.ct_eq(&key(1)));
    },
    || {
        let text = envelope::seal_text(&key(2), HEADER, b"x").unwrap();
        assert_eq!(envelope::open_text(&key(2), &text).unwrap().0, b"x");
        assert_ne!(key_check_value(&[1; 16], &key(4)), [0; 16]);
    },
    || {
        let host = hpke::HostKey::generate().unwrap();
        let sealed = hpke::seal(&host.public_key(), b"aad", &key(0)).unwrap();
        assert!(host.open(b"other", &sealed).is_err());
        assert!(host.open(b"aad", &sealed).unwrap().ct_eq(&key(0)));
    },
    || {
        let record = at_rest::seal(&key(3), &key(0), b"aad").unwrap();
        assert!(at_rest::open(&key(4), &record, b"aad").is_err());
        assert!(at_rest::open(&key(3), &record, b"aad").unwrap().ct_eq(&key(0)));
    },
    || {
        let mut file = Vec::new();
        stream::encrypt(&key(2), b"ad", &mut &[7; 4000][..], &mut file, &mut |_| Ok(())).unwrap();
        stream::decrypt(&key(2), b"ad", &mut &file[..], &mut std::io::sink(), &mut |_| Ok(())).unwrap();
    },
];

/// Works below `depth` KiB of stack, where nothing that runs later overwrites what the work left.
#[inline(never)]
fn below(depth: usize, work: &dyn Fn()) {
    let frame = black_box([0u8; 1024]);
    if depth == 0 {
        work()
    } else {
        below(depth - 1, work)
    }
    black_box(&frame);
}

/// The child's part; a test of nothing when it is run by itself.
#[test]
fn child() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let part = move || {
        // The deepest first, each piece with room of its own.
        for (index, work) in WORK.iter().enumerate().rev() {
            below(100 * (index + 1), work);
        }
        let leak = || {
            black_box(key(0).expose(|bytes| <[u8; 32]>::try_from(bytes).unwrap()));
        };
        if mode == "leak" {
            below(50, &leak);
        }
        println!("ready");
        stdout().flush().unwrap();
        stdin().read_line(&mut String::new()).unwrap();
    };
    std::thread::Builder::new().stack_size(8 << 20).spawn(part).unwrap().join().unwrap();
}

/// What must not be found: every 16 bytes of every key at a multiple of 8, and the key of the JWK as base64url.
fn needles() -> Vec<(String, Vec<u8>)> {
    let mut needles = Vec::new();
    for (which, len) in LENGTHS.into_iter().enumerate() {
        let bytes: Vec<u8> = (0..len).map(|at| key_byte(which, at)).collect();
        for at in (0..=len - 16).step_by(8) {
            needles.push((format!("key {which}, bytes {at}.."), bytes[at..at + 16].to_vec()));
        }
        let text = Base64UrlUnpadded::encode_string(&bytes);
        for at in (0..text.len() - 20).step_by(10) {
            needles.push((format!("key {which}, base64url {at}.."), text.as_bytes()[at..at + 20].to_vec()));
        }
    }
    needles
}

/// The names of the needles in the memory of a child in this mode; `None` if its memory may not be read here.
fn found_in_child(mode: &str) -> Option<Vec<String>> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(MODE, mode)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended early");
    }
    let found = scan(child.id());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    found
}

fn scan(process: u32) -> Option<Vec<String>> {
    let mut memory = File::open(format!("/proc/{process}/mem")).ok()?;
    let (needles, mut found, mut scanned) = (needles(), Vec::new(), 0);
    let mut starts = vec![false; 1 << 16];
    for (_, needle) in &needles {
        starts[usize::from(u16::from_le_bytes([needle[0], needle[1]]))] = true;
    }
    for line in read_to_string(format!("/proc/{process}/maps")).ok()?.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        // File-backed code cannot hold a key; what the kernel does not give (guard pages, secret memory) nobody reads.
        if !rest.starts_with("rw") {
            continue;
        }
        let mut region = Vec::new();
        let is_read = memory.seek(SeekFrom::Start(start)).is_ok()
            && (&mut memory).take(end - start).read_to_end(&mut region).is_ok();
        if !is_read {
            continue;
        }
        scanned += region.len();
        for (at, pair) in region.windows(2).enumerate() {
            if starts[usize::from(u16::from_le_bytes([pair[0], pair[1]]))] {
                let here = needles.iter().filter(|(_, needle)| region[at..].starts_with(needle));
                found.extend(here.map(|(name, _)| format!("{name} in {line}")));
            }
        }
    }
    (scanned > 0).then_some(found)
}

#[test]
fn no_key_is_left_after_the_work() {
    match (found_in_child("work"), found_in_child("leak")) {
        (Some(left), Some(leaked)) => {
            assert!(
                leaked.iter().any(|name| name.starts_with("key 0, bytes 16")),
                "the control was not found"
            );
            assert!(left.is_empty(), "{left:#?}");
        }
        _ => {
            assert_ne!(
                std::env::var("VMSEAL_REQUIRE_PEERS").as_deref(),
                Ok("1"),
                "the memory of a child is not readable"
            );
            println!("skipped: the memory of a child process may not be read here (ptrace is restricted)");
        }
    }
}
