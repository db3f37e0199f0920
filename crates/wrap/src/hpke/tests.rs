//! RFC 9180 appendix A.1.1 (the same KEM and KDF with AES-128-GCM) and the vector of exactly this suite from the RFC's
//! machine-readable set (github.com/cfrg/draft-irtf-cfrg-hpke test-vectors.json: mode 0, kem 32, kdf 1, aead 2).

use ::hpke::aead::AesGcm128;
use proptest::prelude::*;

use super::*;
use crate::vectors::{bytes, hex, key};

const PUBLISHED_INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
const PUBLISHED_AAD: &[u8] = b"Count-0";
const PUBLISHED_TEXT: &[u8] = b"Beauty is truth, truth beauty";

const A_1_1_IKM_E: &str = "7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234";
const A_1_1_SK_R: &str = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8";
const A_1_1_PK_R: &str = "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d";
const A_1_1_SEALED: &str = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431\
     f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a";

const SUITE_SK_R: &str = "497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d";
const SUITE_PK_R: &str = "430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c";
const SUITE_SEALED: &str = "6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256\
     e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a";

#[test]
fn opens_the_published_seal_of_this_suite() {
    let host = HostKey::from_private(key(&hex(SUITE_SK_R))).unwrap();
    assert_eq!(host.public_key().to_vec(), hex(SUITE_PK_R));
    let opened =
        open_with::<AesGcm256>(&host.private, &hex(PUBLISHED_INFO), PUBLISHED_AAD, &hex(SUITE_SEALED))
            .unwrap();
    assert_eq!(bytes(&opened), PUBLISHED_TEXT);
    assert!(matches!(host.open(PUBLISHED_AAD, &hex(SUITE_SEALED)), Err(Error::SealInvalid)), "another info");
}

#[test]
fn a_1_1_both_ways() {
    let private = key(&hex(A_1_1_SK_R));
    let opened =
        open_with::<AesGcm128>(&private, &hex(PUBLISHED_INFO), PUBLISHED_AAD, &hex(A_1_1_SEALED)).unwrap();
    assert_eq!(bytes(&opened), PUBLISHED_TEXT);
    let mut ephemeral =
        EphemeralSeed { bytes: Zeroizing::new(hex(A_1_1_IKM_E).try_into().unwrap()), taken: 0 };
    let sealed = seal_with::<AesGcm128>(
        &mut ephemeral,
        &hex(A_1_1_PK_R),
        &hex(PUBLISHED_INFO),
        PUBLISHED_AAD,
        &key(PUBLISHED_TEXT),
    );
    assert_eq!(sealed.unwrap(), hex(A_1_1_SEALED));
}

#[test]
fn another_host_aad_or_length_is_refused() {
    let (host, other, kek) = (HostKey::generate().unwrap(), HostKey::generate().unwrap(), key(&[5; 32]));
    let sealed = seal(&host.public_key(), b"host-1 key-9", &kek).unwrap();
    assert!(host.open(b"host-1 key-9", &sealed).unwrap().ct_eq(&kek));
    assert!(matches!(other.open(b"host-1 key-9", &sealed), Err(Error::SealInvalid)));
    for aad in [&b""[..], b"host-2 key-9", b"host-1 key-90", b"host-1 key-"] {
        assert!(matches!(host.open(aad, &sealed), Err(Error::SealInvalid)));
    }
    for len in 0..sealed.len() {
        assert!(matches!(host.open(b"host-1 key-9", &sealed[..len]), Err(Error::SealInvalid)), "{len}");
    }
    for len in [sealed.len() + 1, 48 + 4096, 48 + 4097, 1 << 20] {
        let mut longer = sealed.clone();
        longer.resize(len, 0);
        assert!(matches!(host.open(b"host-1 key-9", &longer), Err(Error::SealInvalid)), "{len}");
    }
}

/// The highest bit of the encapsulated key is not used by X25519 (RFC 7748 section 5), but HPKE hashes it into the key.
#[test]
fn every_flipped_bit_is_refused() {
    let (host, kek) = (HostKey::generate().unwrap(), key(&[5; 32]));
    let sealed = seal(&host.public_key(), b"aad", &kek).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut altered = sealed.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(host.open(b"aad", &altered).unwrap_err().code(), "VMSEAL_SEAL_INVALID", "bit {bit}");
    }
}

/// The points of small order of RFC 7748 section 6.1 and cr.yp.to/ecdh.html: 0, 1, the two of order 8, p-1, p, p+1.
#[test]
fn small_order_points_are_refused() {
    let (host, kek) = (HostKey::generate().unwrap(), key(&[5; 32]));
    for point in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert_eq!(seal(&hex(point), b"", &kek).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT", "{point}");
        let mut sealed = hex(point);
        sealed.extend_from_slice(&[0; 48]);
        assert_eq!(host.open(b"", &sealed).unwrap_err().code(), "VMSEAL_SEAL_INVALID", "{point}");
    }
}

#[test]
fn public_keys_and_keys_of_other_lengths_are_refused() {
    let public = HostKey::generate().unwrap().public_key();
    for len in [0, 31, 33, 64] {
        assert_eq!(seal(&vec![9; len], b"", &key(&[5; 32])).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
    }
    for len in [1, 15] {
        assert_eq!(seal(&public, b"", &key(&vec![5; len])).unwrap_err().code(), "VMSEAL_KEY_LENGTH");
    }
}

#[test]
fn a_sealed_key_that_is_too_short_is_refused() {
    let host = HostKey::generate().unwrap();
    let mut seed = EphemeralSeed { bytes: Zeroizing::new([3; 32]), taken: 0 };
    let sealed = seal_with::<AesGcm256>(&mut seed, &host.public_key(), INFO, b"", &key(&[5; 15])).unwrap();
    assert!(matches!(host.open(b"", &sealed), Err(Error::SealInvalid)));
}

#[test]
fn debug_shows_no_private_byte() {
    let text = format!("{:?}", HostKey::from_private(key(&[0xab; 32])).unwrap());
    assert!(text.contains("SecretKey(32 bytes)") && !text.contains("171, 171"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens(secret in proptest::collection::vec(any::<u8>(), 16..200), aad in proptest::collection::vec(any::<u8>(), 0..100)) {
        let (host, secret) = (HostKey::generate().unwrap(), key(&secret));
        let sealed = seal(&host.public_key(), &aad, &secret).unwrap();
        prop_assert_eq!(sealed.len(), secret.len() + 48);
        prop_assert!(host.open(&aad, &sealed).unwrap().ct_eq(&secret));
    }

    #[test]
    fn no_seal_panics(sealed in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(HostKey::from_private(key(&[1; 32])).unwrap().open(b"", &sealed).is_err());
    }
}
