//! The header of a whole message, checked before anything is allocated for its body.

use super::Limits;
use crate::Error;

/// Length of an item header: tag, type and length, in bytes.
pub const HEADER: usize = 8;

/// Which of the two messages of KMIP (1.1 section 7) is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Request Message, tag 0x420078.
    Request,
    /// Response Message, tag 0x42007B.
    Response,
}

impl MessageKind {
    /// The tag of the outermost structure.
    pub fn tag(self) -> u32 {
        match self {
            MessageKind::Request => 0x42_0078,
            MessageKind::Response => 0x42_007B,
        }
    }
}

/// Length of the whole message, header included, in bytes.
///
/// Errors: [`Error::Malformed`] when this is not the header of such a message, [`Error::TooLarge`] when the message
/// would exceed `limits.max_message`.
pub fn message_length(header: &[u8; HEADER], kind: MessageKind, limits: &Limits) -> Result<usize, Error> {
    let malformed = |offset, reason| Err(Error::Malformed { offset, reason });
    if u32::from_be_bytes([0, header[0], header[1], header[2]]) != kind.tag() {
        return match kind {
            MessageKind::Request => malformed(0, "a request message (tag 420078) was expected"),
            MessageKind::Response => malformed(0, "a response message (tag 42007B) was expected"),
        };
    }
    if header[3] != super::walk::STRUCTURE {
        return malformed(3, "a message must be a structure");
    }
    let body = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if !body.is_multiple_of(8) {
        return malformed(4, "the length of a structure must be a multiple of 8");
    }
    match body.checked_add(HEADER) {
        Some(length) if length <= limits.max_message => Ok(length),
        _ => Err(Error::TooLarge {
            what: "bytes",
            actual: body.saturating_add(HEADER),
            limit: limits.max_message,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: [u8; 8]) -> Result<usize, &'static str> {
        message_length(&header, MessageKind::Request, &Limits::default()).map_err(|error| error.code())
    }

    #[test]
    fn an_honest_header_gives_the_whole_length() {
        assert_eq!(check([0x42, 0, 0x78, 1, 0, 0, 0, 0x68]), Ok(0x70));
        assert_eq!(check([0x42, 0, 0x78, 1, 0, 0x0F, 0xFF, 0xF8]), Ok(1 << 20));
    }

    #[test]
    fn a_wrong_header_is_refused() {
        let malformed = Err("VMSEAL_KMIP_MALFORMED");
        assert_eq!(check([0x42, 0, 0x7B, 1, 0, 0, 0, 8]), malformed, "a response");
        assert_eq!(check(*b"GET / HT"), malformed, "another protocol");
        assert_eq!(check([0x42, 0, 0x78, 8, 0, 0, 0, 8]), malformed, "not a structure");
        assert_eq!(check([0x42, 0, 0x78, 1, 0, 0, 0, 9]), malformed, "no multiple of 8");
    }

    #[test]
    fn a_claim_over_the_limit_is_refused() {
        assert_eq!(check([0x42, 0, 0x78, 1, 0, 0x10, 0, 0]), Err("VMSEAL_KMIP_TOO_LARGE"));
        assert_eq!(check([0x42, 0, 0x78, 1, 0xFF, 0xFF, 0xFF, 0xF8]), Err("VMSEAL_KMIP_TOO_LARGE"));
    }
}
