//! No key byte stays in ordinary memory, even while both ends of the connection stay open.
//!
//! One test in a process of its own: it searches the memory of the whole process.
#![cfg(target_os = "linux")]

mod fixture;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use fixture::*;
use vmseal_channel::client::{ClientConfig, Connection, TlsVersions};
use vmseal_channel::server::{Handler, Reply, Request, Responder, Server};
use vmseal_secret::{SecretKey, WipingAllocator};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

const MASK: u8 = 0x5C;

/// Makes a fresh key for each request and remembers it masked; answers with it and with the keys it was sent.
#[derive(Default)]
struct Maker {
    masked: Mutex<Vec<Vec<u8>>>,
}

impl Handler for Maker {
    fn handle(&self, request: Request, responder: Responder) {
        let key = SecretKey::generate(64).unwrap();
        self.masked.lock().unwrap().push(masked(&key));
        let message = message(RESPONSE, &[query(), raw_key(&[]), raw_key(&[])]);
        let mut keys: Vec<_> = request.keys.into_iter().map(Arc::new).collect();
        keys.insert(0, Arc::new(key));
        responder.send(&Reply { message, keys });
    }
}

fn masked(key: &SecretKey) -> Vec<u8> {
    key.expose(|bytes| bytes.iter().map(|byte| std::hint::black_box(byte ^ MASK)).collect())
}

/// Counts in all readable memory the places where 16 bytes of `masked`, from any of its quarters, stand unmasked.
fn places(masked: &[Vec<u8>]) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = Vec::new();
    let mut page = vec![0u8; 1 << 20];
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let range = fields.next().unwrap();
        if !fields.next().unwrap().starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let length = page.len().min((end - at) as usize);
            // Secret memory cannot be read, which is its purpose.
            let Ok(read @ 1..) = memory.read_at(&mut page[..length], at) else { break };
            // Masked before it is searched, so that the search itself makes no copies of keys.
            page[..read].iter_mut().for_each(|byte| *byte ^= MASK);
            for (number, key) in masked.iter().enumerate() {
                for quarter in key.chunks_exact(16) {
                    let mut from = 0;
                    while let Some(hit) = position(&page[from..read], quarter) {
                        // The masked list itself shows up masked twice, that is, not at all.
                        found.push(format!("key {number} at {:#x} in {line}", at + (from + hit) as u64));
                        from += hit + 1;
                    }
                }
            }
            page[..read].fill(0);
            // Overlapping, so that nothing hides on a border.
            at += if read < length || at + read as u64 == end { read } else { read - 16 } as u64;
        }
    }
    found
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(next) = bytes[from..].iter().position(|byte| *byte == wanted[0]) {
        if bytes[from + next..].starts_with(wanted) {
            return Some(from + next);
        }
        from += next + 1;
    }
    None
}

#[test]
fn keys_leave_no_trace_on_open_connections() {
    let installation = Installation::new();
    let maker = Arc::new(Maker::default());
    let server = Server::start(installation.server_config(), maker.clone()).unwrap();
    let mut connections = Vec::new();
    let mut sent = Vec::new();
    let mut received = 0;
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let config =
            ClientConfig { tls_versions: versions, ..installation.client_config(server.local_addr()) };
        let mut connection = Connection::open(&config).unwrap();
        for _ in 0..3 {
            let ours = SecretKey::generate(32).unwrap();
            sent.push(masked(&ours));
            let request = message(REQUEST, &[raw_key(&[])]);
            let response = connection.request(&request, &[ours]).unwrap();
            // Proof that the keys were really received.
            assert_eq!(masked(&response.keys[0]), *maker.masked.lock().unwrap().last().unwrap());
            assert_eq!(masked(&response.keys[1]), *sent.last().unwrap());
            received += response.keys.len();
        }
        connections.push(connection);
    }
    assert_eq!(received, 12);

    let mut keys = maker.masked.lock().unwrap().clone();
    keys.append(&mut sent);
    // The search must find what is there to be found.
    let leak: Vec<u8> = keys[0].iter().map(|byte| std::hint::black_box(byte ^ MASK)).collect();
    assert!(places(&keys[..1]).len() >= 4, "the search does not find a leaked key");
    drop(std::hint::black_box(leak));

    let found = places(&keys);
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
    for connection in &mut connections {
        connection.request(&message(REQUEST, &[raw_key(&[])]), &[key(&[1; 32])]).unwrap();
    }
}
