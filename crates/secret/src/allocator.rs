//! A global allocator that gives no memory back with its contents.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::wipe::wipe_raw;

/// The system allocator, wiping every block before it is freed.
///
/// Libraries between the wire and a [`SecretKey`](crate::SecretKey) (TLS, parsers, `Vec`) free buffers that held key
/// bytes. With this as the `#[global_allocator]` of the addon, none of them leaves a copy in the heap:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: vmseal_secret::WipingAllocator = vmseal_secret::WipingAllocator;
/// # fn main() {}
/// ```
///
/// Limits: stacks and registers are not the heap; a block that is leaked is not wiped; memory of C libraries
/// (and of V8) does not pass through here.
#[derive(Clone, Copy, Debug, Default)]
pub struct WipingAllocator;

// SAFETY: every block comes from `System` and goes back to it with the layout it was made with. `realloc` keeps the
// contract of the trait: on failure the old block stays valid and untouched.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller owns `block` of `layout.size()` bytes and gives it up with this call.
        unsafe {
            wipe_raw(block, layout.size());
            System.dealloc(block, layout);
        }
    }

    // Never `System.realloc`: it may move the block and free the old place with the contents in it.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not overflow `isize`.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_size` is not zero by the caller's promise.
        let new_block = unsafe { System.alloc(new_layout) };
        if !new_block.is_null() {
            // SAFETY: both blocks are live, distinct and at least as long as the shorter of the two sizes; the old
            // one is given up by the caller when the call succeeds.
            unsafe {
                new_block.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        new_block
    }
}
