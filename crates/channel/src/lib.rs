//! KMIP framing over mutual TLS, with every key byte kept in native memory.
//!
//! A KMIP message that carries keys never leaves this crate whole. What arrives is *cut*: each secret byte string
//! moves into a [`vmseal_secret::SecretKey`] and leaves an empty byte string behind. What is sent is *spliced*: each
//! empty secret byte string takes its key, in a buffer that is wiped.
//!
//! The TLS library hands out plaintext in heap blocks of its own that it frees without wiping. A program that uses
//! this crate must therefore run with [`vmseal_secret::WipingAllocator`] as its global allocator; all other buffers
//! that key bytes pass through are wiped here, also while a connection stays open.

#![forbid(unsafe_code)]

mod bell;
pub mod client;
mod deadline;
mod error;
pub mod pki;
mod plain;
mod probe;
mod proxy;
pub mod server;
mod stack;
mod tls;
pub mod ttlv;

pub use error::{Error, TlsReason};
pub use plain::PlainMessage;
pub use probe::fetch_server_certificate;
pub use proxy::Proxy;
