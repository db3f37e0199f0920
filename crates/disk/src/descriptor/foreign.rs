//! Key lines vSphere writes: `keyID=` and `encryptionKeys=`. They are shown, never opened: the locked part is not public.

/// Who sealed the disk, as far as the cleartext says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForeignSeal {
    /// Key provider id of the first `fqid` locator.
    pub provider_id: Option<String>,
    /// Key id of the first `fqid` locator, else the `keyID` value.
    pub key_id: Option<String>,
}

impl ForeignSeal {
    /// Whether a header key belongs to vSphere's encryption.
    pub(super) fn is_key_line(key: &str) -> bool {
        matches!(key, "keyID" | "encryptionKeys")
    }

    pub(super) fn note(&mut self, key: &str, value: &str) {
        match key {
            "encryptionKeys" => {
                // kl grammar: "fqid/" id "/" keyServerId "/" keyId, the elements percent-escaped.
                if let Some((_, fqid)) = value.split_once("fqid/") {
                    let fqid = fqid.split([',', ')']).next().unwrap_or_default();
                    let mut elements = fqid.split('/').skip(1);
                    self.provider_id = elements.next().map(unescape);
                    self.key_id = elements.next().map(unescape);
                }
            }
            _ => {
                if self.key_id.is_none() {
                    self.key_id = Some(printable(value.as_bytes()));
                }
            }
        }
    }
}

fn unescape(element: &str) -> String {
    let mut bytes = Vec::with_capacity(element.len());
    let mut rest = element.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => char::from(*high)
                .to_digit(16)
                .zip(char::from(*low).to_digit(16))
                .map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match escaped.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    printable(&bytes)
}

/// Ids come from a file anyone may have written and end up in logs.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(512).collect()
}
