use std::arch::asm;

use super::schedule::RoundKeys;

/// Repeats a block for the 13 inner rounds of AES-256 with the round number as a constant. A loop would leave the
/// unrolling to the compiler, and a round key chosen by a variable cannot stay in a register.
macro_rules! for_each_inner_round {
    ($round:ident => $body:tt) => {
        $crate::x86::rounds::for_each_inner_round!(@ $round $body 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $round:ident $body:tt $($number:literal)*) => {
        $( { const $round: usize = $number; $body } )*
    };
}

/// An assembly block that does nothing to eight vectors, which the compiler cannot know. Every instruction on the
/// vectors before it stays before it, so the rounds of eight streams stay interleaved as written. Without it LLVM's
/// scheduler groups them by stream and a quarter of the AES unit's time is lost.
macro_rules! pin {
    ($class:ident, $vectors:ident) => {
        std::arch::asm!(
            "/* {0} {1} {2} {3} {4} {5} {6} {7} */",
            inout($class) $vectors[0],
            inout($class) $vectors[1],
            inout($class) $vectors[2],
            inout($class) $vectors[3],
            inout($class) $vectors[4],
            inout($class) $vectors[5],
            inout($class) $vectors[6],
            inout($class) $vectors[7],
            options(nomem, nostack, preserves_flags)
        )
    };
}

/// Loads two round keys here and not later. Loads spread one by one between eight AES instructions make an odd period:
/// instructions go to the two vector schedulers by turns, so most AES would pile up in one of them (measured on Zen 4:
/// 5 % of the speed).
macro_rules! load_key_pair {
    ($class:ident, $first:expr, $second:expr) => {{
        let mut pair = [$first, $second];
        std::arch::asm!(
            "/* {0} {1} */",
            inout($class) pair[0],
            inout($class) pair[1],
            options(nomem, nostack, preserves_flags)
        );
        pair
    }};
}

/// The same keys, though the compiler cannot know: it would load them once for a whole loop, find fewer registers than
/// keys, and spill keys to the stack.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "the block does not follow the pointer")]
pub(super) fn keep_in_memory(keys: &RoundKeys) -> &RoundKeys {
    let mut address = std::ptr::from_ref(keys);
    // SAFETY: the block has no instruction, so the address stays what it was.
    unsafe {
        asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags));
        &*address
    }
}

pub(super) use {for_each_inner_round, load_key_pair, pin};
