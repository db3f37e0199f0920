use zeroize::zeroize_stack;

/// More than the deepest stack the functions of this crate and of the `aes` crate use (about 6 KiB). The `aes` crate
/// copies round keys to the stack on every call and does not wipe them.
const STACK: usize = 16 * 1024;

/// Wipes what the calls that just returned left below the caller's frame and in vector registers. Code that handles
/// keys has to be in a function that is not inlined into the caller.
pub(crate) fn wipe() {
    zeroize_stack::<STACK>();
    #[cfg(target_arch = "x86_64")]
    crate::x86::wipe_vector_registers();
}
