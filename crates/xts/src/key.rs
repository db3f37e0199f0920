use subtle::ConstantTimeEq;

use crate::Error;

/// The two halves of an AES-256-XTS key (IEEE 1619 section 5.1): borrowed from locked memory, never copied.
pub(crate) struct KeyHalves<'a> {
    pub(crate) data: &'a [u8; 32],
    pub(crate) tweak: &'a [u8; 32],
}

impl<'a> KeyHalves<'a> {
    /// Splits a 64-byte key and refuses equal halves without telling through timing where they differ.
    ///
    /// The only place that decides on key bytes. Not inlined, so that the test of secret-dependent branches knows it.
    #[inline(never)]
    pub(crate) fn split(key: &'a [u8]) -> Result<KeyHalves<'a>, Error> {
        let ([data, tweak], []) = key.as_chunks::<32>() else {
            return Err(Error::KeyLength { length: key.len() });
        };
        if bool::from(data.ct_eq(tweak)) {
            return Err(Error::WeakKey);
        }
        Ok(KeyHalves { data, tweak })
    }
}
