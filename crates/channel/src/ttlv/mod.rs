//! TTLV (KMIP 1.1 section 9.1): framing, and the surgery that takes keys out of messages and puts them back.

mod cut;
mod frame;
mod splice;
mod walk;

pub use cut::cut;
pub use frame::{HEADER, MessageKind, message_length};
pub use splice::splice;

/// What a message may cost before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message with its 8-byte header, in bytes. Default 1 MiB.
    pub max_message: usize,
    /// Deepest nesting of structures; the message itself is level 1. Default 32 (real messages need about 8).
    pub max_depth: usize,
    /// Most items, structures included. Default 65,536.
    pub max_items: usize,
    /// Most keys in one message. Default 1,024: a message must not use up the locked memory of the process.
    pub max_keys: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_message: 1 << 20, max_depth: 32, max_items: 65_536, max_keys: 1_024 }
    }
}
