//! The certificates of a small installation: an authority of its own, and what it issues. Private keys are made here,
//! go straight to their files (mode 0600), and are never returned.

mod authority;
mod client_identity;
mod describe;
mod key_file;

pub use authority::{
    AUTHORITY_DAYS, LEAF_DAYS, create_authority, issue_client, issue_server, sign_csr, sign_server_csr,
};
pub use client_identity::{create_request, create_self_signed};
pub use describe::{Description, describe, spki_sha256, to_pem};

pub(crate) use describe::{common_name, spki_hash};
