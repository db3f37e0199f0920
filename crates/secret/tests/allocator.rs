//! The wiping allocator as the global allocator of a program, looked at from outside through /proc/self/mem.

mod child;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use vmseal_secret::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

// A test must not be handed the block another one has just freed.
static ALONE: Mutex<()> = Mutex::new(());

const PATTERN: u8 = 0xc7;

// Reads freed blocks through the kernel. Made before the block is freed: its own buffer must not take the block's place.
struct Probe {
    memory: File,
    seen: Vec<u8>,
}

impl Probe {
    fn new(len: usize) -> Probe {
        Probe { memory: File::open("/proc/self/mem").expect("open /proc/self/mem"), seen: vec![0; len] }
    }

    // How many places of the block still hold four bytes of the pattern (one could be part of an address the system
    // allocator keeps in a free block). A block that is no longer mapped holds none.
    fn left(&mut self, address: usize, len: usize) -> usize {
        let read = self.memory.read_at(&mut self.seen[..len], address as u64).unwrap_or(0);
        self.seen[..read].windows(4).filter(|four| **four == [PATTERN; 4]).count()
    }
}

#[test]
fn freed_blocks_hold_nothing_and_would_without_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let layout = Layout::from_size_align(3000, 16).expect("a layout");
    let mut probe = Probe::new(3000);
    // A free block at the end of the heap could be trimmed; a live neighbour prevents that.
    // SAFETY: the layout is not empty, each block is written inside its size and freed once with its layout.
    unsafe {
        let control = System.alloc(layout);
        let neighbour = System.alloc(layout);
        control.write_bytes(PATTERN, 3000);
        let address = control.addr();
        std::hint::black_box(control);
        System.dealloc(control, layout);
        assert!(probe.left(address, 3000) > 2500, "the control must find what the system allocator leaves");
        System.dealloc(neighbour, layout);

        let block = ALLOCATOR.alloc(layout);
        block.write_bytes(PATTERN, 3000);
        let address = block.addr();
        std::hint::black_box(block);
        ALLOCATOR.dealloc(block, layout);
        assert_eq!(probe.left(address, 3000), 0);
    }
}

#[test]
fn growing_and_shrinking_wipe_the_old_block() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (old, new) in [(24, 25), (100, 5000), (5000, 100), (3000, 3000), (200_000, 400_000), (40_000, 1)] {
        let layout = Layout::from_size_align(old, 8).expect("a layout");
        let mut probe = Probe::new(old.max(new));
        // SAFETY: the layout is not empty; the block is written inside its size, resized once and freed once.
        unsafe {
            let block = ALLOCATOR.alloc(layout);
            block.write_bytes(PATTERN, old);
            let address = std::hint::black_box(block).addr();
            let moved = ALLOCATOR.realloc(block, layout, new);
            assert!(!moved.is_null());
            assert_ne!(moved.addr(), address, "both blocks live during the copy");
            let kept = std::slice::from_raw_parts(moved, new.min(old));
            assert!(kept.iter().all(|b| *b == PATTERN), "{old} to {new}");
            assert_eq!(probe.left(address, old), 0, "{old} to {new}");
            ALLOCATOR.dealloc(moved, Layout::from_size_align(new, 8).expect("a layout"));
            assert_eq!(probe.left(moved.addr(), new), 0, "{old} to {new}");
        }
    }
}

#[test]
fn a_failed_growth_keeps_the_block() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let layout = Layout::from_size_align(64, 8).expect("a layout");
    // SAFETY: as above; the size asked for is within `isize` and cannot be had.
    unsafe {
        let block = ALLOCATOR.alloc(layout);
        block.write_bytes(PATTERN, 64);
        let grown = ALLOCATOR.realloc(block, layout, isize::MAX as usize - 64);
        // The optimiser takes an allocation whose address nobody looks at for a success.
        assert!(std::hint::black_box(grown).is_null());
        assert!(std::slice::from_raw_parts(block, 64).iter().all(|b| *b == PATTERN));
        ALLOCATOR.dealloc(block, layout);
    }
}

#[test]
fn zeroed_and_aligned_requests_pass_through() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for align in [1, 16, 64, 4096] {
        let layout = Layout::from_size_align(10_000, align).expect("a layout");
        // SAFETY: the layout is not empty; the block is read inside its size and freed once.
        unsafe {
            let block = ALLOCATOR.alloc_zeroed(layout);
            assert_eq!(block.addr() % align, 0);
            assert!(std::slice::from_raw_parts(block, 10_000).iter().all(|b| *b == 0));
            ALLOCATOR.dealloc(block, layout);
        }
    }
}

#[test]
fn collections_leave_no_needle_in_the_process() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = std::process::id().to_le_bytes()[0] | 1;
    assert_eq!(count(seed), 0, "the needle is nowhere before it is made");
    let grown = grow(seed);
    assert!(count(seed) >= 1, "the control must find a live needle");
    let mut tree = BTreeMap::new();
    (0..200).for_each(|n| _ = tree.insert(n, grow(seed)));
    let joined: Vec<u8> = tree.values().flatten().copied().collect();
    assert!(count(seed) > 200);
    drop((grown, tree, joined));
    assert_eq!(count(seed), 0, "freed memory holds needles");
}

fn needle(seed: u8, index: usize) -> u8 {
    (seed ^ (index as u8).wrapping_mul(59)).wrapping_mul(167) ^ 0x3c
}

// Grows byte by byte, so the needle lives in several blocks one after the other.
fn grow(seed: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..48).for_each(|i| bytes.push(std::hint::black_box(needle(seed, i))));
    bytes
}

// Occurrences of the first 32 needle bytes in every readable mapping; the needle itself is never laid out here.
fn count(seed: u8) -> usize {
    const WINDOW: usize = 1 << 16;
    let memory = File::open("/proc/self/mem").expect("open /proc/self/mem");
    let mut window = vec![0u8; WINDOW];
    let own = window.as_ptr().addr()..window.as_ptr().addr() + WINDOW;
    let mut found = 0;
    for mapping in child::mappings().iter().filter(|m| m.readable && !m.name.starts_with("[v")) {
        let mut at = mapping.start;
        while at < mapping.end {
            let len = WINDOW.min(mapping.end - at);
            let read = memory.read_at(&mut window[..len], at as u64).unwrap_or(0);
            for (offset, candidate) in window[..read].windows(32).enumerate() {
                if !own.contains(&(at + offset))
                    && candidate.iter().enumerate().all(|(i, b)| *b == needle(seed, i))
                {
                    found += 1;
                }
            }
            at += if len == WINDOW { WINDOW - 31 } else { len };
        }
    }
    found
}
