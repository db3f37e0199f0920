//! The boundary between Node and the crates: translation only, no decisions.
//!
//! * A key crosses as a [`key::KeyHandle`]; its bytes never do.
//! * An error crosses as `CODE\0text` in the reason; `load.ts` makes a `VmsealError` of it.
//! * No panic crosses: every export runs inside [`fault::guard`], every thread inside `background`.
//! * Nothing of ours runs after its environment: [`lifetime`] cancels and joins.

#![deny(unsafe_code)]

mod background;
mod direct;
mod disk;
mod disk_chain;
mod disk_conversion;
mod disk_copy;
mod disk_view;
mod envelope;
mod fault;
mod guest_stream;
mod home_file;
mod key;
mod key_wrap;
mod kmip_connection;
mod kmip_listener;
mod lifetime;
mod luks_import;
mod pki;
#[cfg(feature = "planted-faults")]
mod planted_faults;
mod seal;
mod task;
mod token;
mod verbatim;
mod xts;

/// Freed memory may have held key bytes (TLS records, parsed messages), so it is wiped first.
#[global_allocator]
static ALLOCATOR: vmseal_secret::WipingAllocator = vmseal_secret::WipingAllocator;
