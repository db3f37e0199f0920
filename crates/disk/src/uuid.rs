//! The two spellings of a disk's 16-byte id: RFC 9562 text in vmseal lines, VMware's spaced bytes in `ddb.uuid`.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::Result;

/// `6000c291-35bd-fd2d-e77e-709fb2c53635`, lower case.
pub fn format(id: &[u8; 16]) -> String {
    let hex = hex(id);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Reads the form [`format`] writes (either letter case); `None` for anything else.
pub fn parse(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|&at| bytes[at] != b'-') {
        return None;
    }
    from_hex(bytes.iter().copied().filter(|&byte| byte != b'-'))
}

/// `60 00 c2 91 35 bd fd 2d-e7 7e 70 9f b2 c5 36 35`, the form of `ddb.uuid`.
pub fn format_ddb(id: &[u8; 16]) -> String {
    let pairs: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}", pairs[..8].join(" "), pairs[8..].join(" "))
}

/// Reads a `ddb.uuid` value; `None` for anything else.
pub fn parse_ddb(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 47 || bytes[23] != b'-' {
        return None;
    }
    if bytes.iter().enumerate().any(|(at, &byte)| at % 3 == 2 && at != 23 && byte != b' ') {
        return None;
    }
    from_hex(bytes.iter().enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, &byte)| byte))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: impl Iterator<Item = u8>) -> Option<[u8; 16]> {
    let mut id = [0u8; 16];
    let mut count = 0;
    for digit in digits {
        let value = u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        *id.get_mut(count / 2)? |= if count % 2 == 0 { value << 4 } else { value };
        count += 1;
    }
    (count == 32).then_some(id)
}

/// Sixteen random bytes.
pub(crate) fn random() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    match getrandom(&mut id, GetRandomFlags::empty()) {
        Ok(16) => Ok(id),
        _ => Err(vmseal_secret::Error::Random.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_spellings_name_the_same_bytes() {
        let id = parse("6000c291-35bd-fd2d-e77e-709fb2c53635").expect("a uuid");
        assert_eq!(format_ddb(&id), "60 00 c2 91 35 bd fd 2d-e7 7e 70 9f b2 c5 36 35");
        assert_eq!(parse_ddb("60 00 C2 91 35 bd fd 2d-e7 7e 70 9f b2 c5 36 35"), Some(id));
    }

    #[test]
    fn other_texts_are_no_uuid() {
        for text in [
            "",
            "6000c291",
            "6000c291-35bd-fd2d-e77e-709fb2c5363",
            "6000c291-35bd-fd2d-e77e-709fb2c5363g",
            "6000c291 35bd-fd2d-e77e-709fb2c53635",
            "6000c29135bd-fd2d-e77e-709f-b2c53635",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse_ddb("60 00 c2 91 35 bd fd 2d e7 7e 70 9f b2 c5 36 35"), None);
        assert_eq!(parse_ddb("60 00 c2 91 35 bd fd 2d-e7 7e 70 9f b2 c5 36"), None);
    }

    proptest! {
        #[test]
        fn both_spellings_round_trip(id: [u8; 16], noise in ".{0,60}") {
            prop_assert_eq!(parse(&format(&id)), Some(id));
            prop_assert_eq!(parse_ddb(&format_ddb(&id)), Some(id));
            let _ = (parse(&noise), parse_ddb(&noise));
        }
    }
}
