//! What somebody does to a record, text and file.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Map, Value, json};

use super::stopped::{CAPACITY, STRETCH, Stopped, clear};
use crate::in_place::model::crash::Random;

/// Bits, bytes, ranges, the length, a block from elsewhere.
pub(super) fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        let len = random.below(80).min(bytes.len() - at);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes[at..at + len].fill(0),
            4 => bytes.insert(at, b"0\"{[,\\\n\xff"[random.below(8)]),
            5 => bytes[at..at + len].fill(b'9'),
            6 => drop(bytes.drain(at..at + len)),
            _ => {
                let from = random.below(bytes.len() - len + 1);
                bytes.copy_within(from..from + len, at);
            }
        }
    }
}

/// The first line with its fields changed, dropped, doubled or exchanged.
pub(super) fn change_fields(stopped: &Stopped<'_>, random: &mut Random) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(stopped.json()) else {
        unreachable!("a record")
    };
    for _ in 0..=random.below(2) {
        match random.below(6) {
            0 => drop(fields.remove(any_name(&fields, random).as_str())),
            1 => {
                let (one, two) = (any_name(&fields, random), any_name(&fields, random));
                let (first, second) = (fields[&one].clone(), fields[&two].clone());
                fields.insert(one, second);
                fields.insert(two, first);
            }
            2 => {
                let name = any_name(&fields, random);
                fields.insert(name, any_number(random));
            }
            3 => {
                let frontier = (random.below(9) * STRETCH / 2) as u64;
                fields.insert("frontier".to_owned(), json!(frontier));
            }
            4 => {
                fields.insert("source".to_owned(), json!(any_path(stopped, random)));
            }
            _ => {
                let text = any_descriptor(stopped, random);
                fields.insert("descriptor".to_owned(), json!(text));
            }
        }
        if fields.is_empty() {
            break;
        }
    }
    let text = Value::Object(fields).to_string();
    if random.below(8) > 0 {
        return text;
    }
    // A field that stands twice: which one counts shall be no question.
    let twice = format!("\"frontier\":{},", any_number(random));
    text.replacen('{', &format!("{{{twice}"), 1)
}

fn any_name(fields: &Map<String, Value>, random: &mut Random) -> String {
    fields.keys().nth(random.below(fields.len().max(1))).cloned().unwrap_or_default()
}

fn any_number(random: &mut Random) -> Value {
    match random.below(9) {
        0 => json!(0),
        1 => json!(-1),
        2 => json!(u64::MAX),
        3 => json!(i64::MAX),
        4 => json!(1e308),
        5 => json!(0.5),
        6 => json!(CAPACITY as u64 + 1),
        7 => json!([random.next(), i64::MIN]),
        _ => json!(random.next()),
    }
}

fn any_path(stopped: &Stopped<'_>, random: &mut Random) -> String {
    let beside = |end: &str| stopped.beside(end).to_string_lossy().into_owned();
    match random.below(9) {
        0 => String::new(),
        1 => "s.raw".to_owned(),
        2 => "/etc/passwd".to_owned(),
        3 => "/dev/zero".to_owned(),
        4 => "/".to_owned(),
        5 => "x".repeat(5000),
        6 => beside("-flat.vmdk"),
        7 => beside(".vmdk"),
        _ => stopped.folder.path("victim").to_string_lossy().into_owned(),
    }
}

fn any_descriptor(stopped: &Stopped<'_>, random: &mut Random) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(stopped.json()) else { unreachable!("a record") };
    let text = fields["descriptor"].as_str().expect("its text");
    match random.below(6) {
        0 => String::new(),
        1 => "# Disk DescriptorFile\n".repeat(2000),
        2 => text.replace("-flat.vmdk", "-other.vmdk"),
        3 => text.replace(&format!("{}", CAPACITY / 512), "9007199254740993"),
        // A plain disk: what has no key needs none.
        4 => text.lines().filter(|line| !line.contains("vmseal")).map(|line| format!("{line}\n")).collect(),
        _ => {
            let mut bytes = text.as_bytes().to_vec();
            change_bytes(&mut bytes, random);
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

/// Puts something else in the place of a file: no regular one, or one with another name, size or owner of its bytes.
pub(super) fn change_kind(path: &Path, victim: &Path, kind: usize) {
    if fs::symlink_metadata(path).is_ok() {
        clear(path);
    }
    match kind {
        0 => symlink(victim, path).expect("a link"),
        1 => symlink("/nowhere/at/all", path).expect("a link"),
        FOLDER => fs::create_dir(path).expect("a folder"),
        3 => mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe"),
        4 => File::create(path).and_then(|file| file.set_len(1 << 42)).expect("a huge file"),
        5 => fs::hard_link(victim, path).expect("a second name"),
        _ => drop(File::create(path).expect("an empty file")),
    }
}

pub(super) const FOLDER: usize = 2;
/// How many [`change_kind`] knows.
pub(super) const KINDS: usize = 7;
