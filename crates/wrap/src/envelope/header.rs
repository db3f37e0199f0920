//! The JOSE protected header. It is public: ordinary JSON values may hold it.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use vmseal_secret::SecretKey;

use super::compact;
use crate::{Error, key_check_value};

pub(super) const MAX_LEN: usize = 8 * 1024;

/// The two kinds of JWE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A content key wrapped by RFC 3394 under the KEK; the payload is a key.
    WrappedKey,
    /// Encrypted directly under a data-encryption key; the payload is text.
    SealedText,
}

impl Kind {
    fn alg(self) -> &'static str {
        match self {
            Kind::WrappedKey => "A256KW",
            Kind::SealedText => "dir",
        }
    }
}

const ENC: &str = "A256GCM";

pub(super) struct Header {
    /// As it stands in the JWE.
    pub text: String,
    members: Map<String, Value>,
}

impl Header {
    /// Parses the first part of a JWE: an object without duplicate members, neither compressed nor with extensions that
    /// must be understood.
    pub fn parse(protected: &str) -> Result<Header, Error> {
        let bytes = compact::decode(protected)?;
        if bytes.len() > MAX_LEN {
            return Err(Error::EnvelopeInvalid { reason: "the header is longer than 8 KiB" });
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::EnvelopeInvalid { reason: "the header is not UTF-8" })?;
        let members = parse_object(&text).map_err(|reason| Error::EnvelopeInvalid { reason })?;
        Ok(Header { text, members })
    }

    /// The kind `alg` and `enc` tell, if vmseal uses that pair.
    pub fn kind(&self) -> Option<Kind> {
        let is = |name: &str, value: &str| self.members.get(name).and_then(Value::as_str) == Some(value);
        [Kind::WrappedKey, Kind::SealedText].into_iter().find(|kind| is("alg", kind.alg()) && is("enc", ENC))
    }

    pub fn require(&self, kind: Kind) -> Result<(), Error> {
        if self.kind() == Some(kind) {
            return Ok(());
        }
        Err(Error::EnvelopeInvalid { reason: "alg and enc are not those of this kind of envelope" })
    }

    /// The 16 bytes of `vmseal.id`.
    pub fn id(&self) -> Result<[u8; 16], Error> {
        self.vmseal("id")
            .and_then(parse_uuid)
            .ok_or(Error::EnvelopeInvalid { reason: "vmseal.id is not a UUID" })
    }

    /// The key check value in `vmseal.kcv`.
    pub fn kcv(&self) -> Result<[u8; 16], Error> {
        let text = self.vmseal("kcv").ok_or(Error::EnvelopeInvalid { reason: "vmseal.kcv is missing" })?;
        compact::decode_exact(text)
    }

    fn vmseal(&self, name: &str) -> Option<&str> {
        self.members.get("vmseal")?.get(name)?.as_str()
    }
}

/// Completes the caller's header and encodes it. With `committed`, `vmseal.kcv` is set to the check value of that key.
pub(super) fn build(json: &str, kind: Kind, committed: Option<&SecretKey>) -> Result<String, Error> {
    if json.len() > MAX_LEN {
        return Err(Error::InvalidArgument { reason: "the header is longer than 8 KiB; shorten it" });
    }
    let mut members = parse_object(json).map_err(|reason| Error::InvalidArgument { reason })?;
    members.insert("alg".into(), kind.alg().into());
    members.insert("enc".into(), ENC.into());
    if let Some(key) = committed {
        let missing = Error::InvalidArgument { reason: "the header needs vmseal.id, a UUID" };
        let Some(Value::Object(vmseal)) = members.get_mut("vmseal") else {
            return Err(missing);
        };
        let id = vmseal.get("id").and_then(Value::as_str).and_then(parse_uuid).ok_or(missing)?;
        vmseal.insert("kcv".into(), Base64UrlUnpadded::encode_string(&key_check_value(&id, key)).into());
    }
    let text = Value::Object(members).to_string();
    if text.len() > MAX_LEN {
        return Err(Error::InvalidArgument { reason: "the header is longer than 8 KiB; shorten it" });
    }
    Ok(Base64UrlUnpadded::encode_string(text.as_bytes()))
}

fn parse_object(text: &str) -> Result<Map<String, Value>, &'static str> {
    let value: Unique =
        serde_json::from_str(text).map_err(|_| "the header is not JSON, or a member stands twice")?;
    let Value::Object(members) = value.0 else {
        return Err("the header is not a JSON object");
    };
    if members.contains_key("zip") || members.contains_key("crit") {
        return Err("the header asks for compression or critical extensions (zip, crit)");
    }
    Ok(members)
}

/// 32 hexadecimal digits, plain or as 8-4-4-4-12.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.bytes().enumerate().filter_map(|(at, byte)| match (text.len(), at) {
        (36, 8 | 13 | 18 | 23) if byte == b'-' => None,
        _ => Some((byte as char).to_digit(16)),
    });
    let mut id = [0; 16];
    for byte in &mut id {
        *byte = (digits.next()?? << 4 | digits.next()??) as u8;
    }
    (matches!(text.len(), 32 | 36) && digits.next().is_none()).then_some(id)
}

/// A JSON value in which no object has two members of one name (RFC 7515 section 4: names must be unique).
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON with unique member names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Unique(value) = map.next_value()?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids() {
        let id =
            [0x60, 0, 0xc2, 0x91, 0x35, 0xbd, 0xfd, 0x2d, 0xe7, 0x7e, 0x70, 0x9f, 0xb2, 0xc5, 0x36, 0x35];
        for text in ["6000c291-35bd-fd2d-e77e-709fb2c53635", "6000C29135BDFD2DE77E709FB2C53635"] {
            assert_eq!(parse_uuid(text), Some(id));
        }
        for text in [
            "",
            "6000c291-35bd-fd2d-e77e-709fb2c5363",
            "6000c291-35bd-fd2d-e77e-709fb2c536355",
            "6000c29135bd-fd2d-e77e-709fb2c5363-5",
            "6000c29135bdfd2de77e709fb2c5363",
            "6000c29135bdfd2de77e709fb2c536355",
            "6000c291+35bd-fd2d-e77e-709fb2c53635",
            "g000c291-35bd-fd2d-e77e-709fb2c53635",
            "6000c291-35bd-fd2d-e77e-709fb2c5363\u{e9}",
            "6000c29135bdfd2de77e709fb2c53635----",
        ] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }

    #[test]
    fn refuses_headers_that_are_ambiguous_or_no_objects() {
        for text in [
            "",
            "[]",
            "null",
            "\"a\"",
            "{",
            "{}x",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"v":{"b":[{"c":1,"c":2}]}}"#,
            r#"{"zip":"DEF"}"#,
            r#"{"crit":[]}"#,
            r#"{"a":1e999}"#,
            r#"{"a":01}"#,
            "{\"a\":\"\u{1}\"}",
        ] {
            assert!(parse_object(text).is_err(), "{text}");
        }
        let deep = format!("{}{}", r#"{"a":"#.repeat(1000), "1".to_string() + &"}".repeat(1000));
        assert!(parse_object(&deep).is_err());
    }

    #[test]
    fn keeps_every_kind_of_value() {
        let text = r#"{"a":null,"b":true,"c":-1,"d":18446744073709551615,"e":1.5,"f":"\u00e9","g":[1,{}]}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(parse_object(text).unwrap()), expected);
    }
}
