//! The authority and what it issues.

mod fixture;

use std::time::{SystemTime, UNIX_EPOCH};

use fixture::*;
use rcgen::{CertificateParams, KeyPair};
use vmseal_channel::pki::{self, AUTHORITY_DAYS, LEAF_DAYS, describe};

const DAY: i64 = 86_400;

#[test]
fn an_authority_describes_itself() {
    let installation = Installation::new();
    let authority = describe(&installation.ca).unwrap();
    assert_eq!(authority.subject, "CN=test authority");
    assert_eq!(authority.issuer, authority.subject);
    assert!(authority.is_authority);
}

#[test]
fn validity_starts_five_minutes_ago_and_has_the_agreed_length() {
    let installation = Installation::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    for (certificate, days) in [
        (&installation.ca, AUTHORITY_DAYS),
        (&installation.server, LEAF_DAYS),
        (&installation.client, LEAF_DAYS),
    ] {
        let description = describe(certificate).unwrap();
        assert!((now - 310..=now - 300).contains(&description.not_before));
        let lasting = description.not_after - description.not_before - 300;
        assert_eq!(lasting, i64::from(days) * DAY);
    }
}

#[test]
fn a_leaf_does_not_outlive_its_authority() {
    let installation = Installation::new();
    let key = installation.path("short.key");
    let short = pki::create_authority("short", &key, 30).unwrap();
    let client = pki::issue_client(&short, &key, "client", &installation.path("c.key")).unwrap();
    assert_eq!(describe(&client).unwrap().not_after, describe(&short).unwrap().not_after);
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let installation = Installation::new();
    let serials = [&installation.ca, &installation.server, &installation.client]
        .map(|certificate| describe(certificate).unwrap().serial);
    assert!(serials.iter().all(|serial| serial.len() == 32 && serial.as_str() < "8"));
    assert!(serials[0] != serials[1] && serials[1] != serials[2]);
}

#[test]
fn the_public_key_hash_is_that_of_the_key_file() {
    use sha2::{Digest, Sha256};
    let installation = Installation::new();
    let key = KeyPair::from_pem(&std::fs::read_to_string(installation.path("client.key")).unwrap()).unwrap();
    let expected: [u8; 32] = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key)).into();
    assert_eq!(pki::spki_sha256(&installation.client).unwrap(), expected);
    assert_eq!(describe(&installation.client).unwrap().spki_sha256, expected);
}

#[test]
fn bad_names_and_days_are_refused_before_a_key_is_written() {
    let installation = Installation::new();
    let ca_key = installation.path("ca.key");
    let new = installation.path("new.key");
    let long = "x".repeat(65);
    for name in ["", &long, "two\nlines"] {
        assert_eq!(pki::create_authority(name, &new, 10).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
        let client = pki::issue_client(&installation.ca, &ca_key, name, &new);
        assert_eq!(client.unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
    }
    for days in [0, 36_501, u32::MAX] {
        assert_eq!(pki::create_authority("ca", &new, days).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
    }
    for names in [&[][..], &["no name".to_owned()], &["fine.example".to_owned(), String::new()]] {
        let server = pki::issue_server(&installation.ca, &ca_key, names, &new);
        assert_eq!(server.unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT", "{names:?}");
    }
    assert!(!new.exists());
}

#[test]
fn long_host_names_are_served() {
    let installation = Installation::new();
    let name = format!("{}.example", "a".repeat(60));
    let ca_key = installation.path("ca.key");
    pki::issue_server(
        &installation.ca,
        &ca_key,
        &[name, "*.example".to_owned()],
        &installation.path("l.key"),
    )
    .unwrap();
}

#[test]
fn an_existing_key_is_never_overwritten() {
    let installation = Installation::new();
    let ca_key = installation.path("ca.key");
    let before = std::fs::read(&ca_key).unwrap();
    assert_eq!(pki::create_authority("again", &ca_key, 10).unwrap_err().code(), "VMSEAL_ALREADY_EXISTS");
    let client = pki::issue_client(&installation.ca, &ca_key, "client", &ca_key);
    assert_eq!(client.unwrap_err().code(), "VMSEAL_ALREADY_EXISTS");
    assert_eq!(std::fs::read(&ca_key).unwrap(), before);
}

#[test]
fn only_an_authority_with_its_own_key_can_issue() {
    let (installation, other) = (Installation::new(), Installation::new());
    let new = installation.path("new.key");
    let issue = |ca: &str, key: &std::path::Path| {
        pki::issue_client(ca, key, "client", &new).map(|_| ()).unwrap_err().code()
    };
    assert_eq!(issue(&installation.client, &installation.path("client.key")), "VMSEAL_CERTIFICATE_INVALID");
    assert_eq!(issue(&installation.ca, &other.path("ca.key")), "VMSEAL_CERTIFICATE_INVALID");
    assert_eq!(issue("no PEM", &installation.path("ca.key")), "VMSEAL_CERTIFICATE_INVALID");
    assert_eq!(issue(&installation.ca, &installation.path("missing.key")), "VMSEAL_NOT_FOUND");
    assert!(!new.exists());
}

#[test]
fn broken_signing_requests_are_refused() {
    let installation = Installation::new();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new([]).unwrap().serialize_request(&key).unwrap();
    let good = request.pem().unwrap();
    let sign =
        |csr: &str| pki::sign_csr(&installation.ca, &installation.path("ca.key"), csr, Some("asker"), None);
    sign(&good).unwrap();
    // The same request, signed by somebody else: its last byte belongs to the signature.
    let mut forged = request.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let armour = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der))
    };
    let forged = armour("CERTIFICATE REQUEST", &forged);
    let mislabelled = armour("CERTIFICATE", request.der());
    let cut = armour("CERTIFICATE REQUEST", &request.der()[..40]);
    for bad in [&forged, &mislabelled, &cut, &installation.client, "", "no PEM"] {
        assert_eq!(sign(bad).unwrap_err().code(), "VMSEAL_CERTIFICATE_INVALID", "{bad}");
    }
}

/// Base64 of RFC 4648 in one line.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[test]
fn a_self_signed_client_is_let_in_when_it_is_pinned() {
    let installation = Installation::new();
    let key = installation.path("own.key");
    let certificate = pki::create_self_signed("vcenter", &key).unwrap();
    let description = describe(&certificate).unwrap();
    assert_eq!((description.subject.as_str(), description.is_authority), ("CN=vcenter", false));
    assert!(pki::create_self_signed("vcenter", &key).is_err(), "an existing key is never replaced");
}

#[test]
fn a_request_is_signed_by_the_authority_for_the_same_key() {
    let installation = Installation::new();
    let key = installation.path("asked.key");
    let request = pki::create_request("vcenter", &key).unwrap();
    assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    let certificate =
        pki::sign_csr(&installation.ca, &installation.path("ca.key"), &request, None, None).unwrap();
    let own = KeyPair::from_pem(&std::fs::read_to_string(&key).unwrap()).unwrap();
    use rcgen::PublicKeyData;
    use sha2::{Digest, Sha256};
    let hash: [u8; 32] = Sha256::digest(own.subject_public_key_info()).into();
    assert_eq!(describe(&certificate).unwrap().spki_sha256, hash);
    assert!(!request.contains("PRIVATE"));
}

#[test]
fn a_server_shows_its_certificate_to_whoever_asks() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let port = server.local_addr().port();
    let timeout = std::time::Duration::from_secs(5);
    let shown = vmseal_channel::fetch_server_certificate("127.0.0.1", port, None, timeout).unwrap();
    let (shown, own) = (describe(&shown).unwrap(), describe(&installation.server).unwrap());
    assert_eq!(shown, own);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let short = std::time::Duration::from_millis(200);
    let error = vmseal_channel::fetch_server_certificate("127.0.0.1", port, None, short).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_TIMEOUT");
}

#[test]
fn a_request_becomes_a_server_certificate_of_the_names_that_the_authority_says() {
    let installation = Installation::new();
    let ca_key = installation.path("ca.key");
    let request = pki::create_request("esx-1", &installation.path("host.key")).unwrap();
    let names = ["0a1b2c3d.host.example".to_owned()];
    let certificate = pki::sign_server_csr(&installation.ca, &ca_key, &request, &names, None).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
    let parsed = pem.parse_x509().unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=0a1b2c3d.host.example", "not the name in the request");
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert!(!parsed.is_ca());
    let alternative = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(alternative.value.general_names.len(), 1);

    for names in [&[][..], &["no name".to_owned()]] {
        let refused = pki::sign_server_csr(&installation.ca, &ca_key, &request, names, None);
        assert_eq!(refused.unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
    }
    let refused = pki::sign_server_csr(&installation.ca, &ca_key, &installation.ca, &names, None);
    assert_eq!(refused.unwrap_err().code(), "VMSEAL_CERTIFICATE_INVALID");
}

#[test]
fn an_asked_for_end_is_kept_but_for_that_of_the_authority_and_may_have_passed() {
    let installation = Installation::new();
    let ca_key = installation.path("ca.key");
    let request = pki::create_request("host", &installation.path("asked.key")).unwrap();
    let names = ["11111111-1111-4111-8111-111111111111.host.vmseal".to_owned()];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let authority_end = describe(&installation.ca).unwrap().not_after;
    for (asked, end) in [
        (now + DAY, now + DAY),
        (now - 60, now - 60),
        (authority_end + DAY, authority_end),
        (i64::MAX, authority_end),
    ] {
        let server = pki::sign_server_csr(&installation.ca, &ca_key, &request, &names, Some(asked)).unwrap();
        let client = pki::sign_csr(&installation.ca, &ca_key, &request, None, Some(asked)).unwrap();
        assert_eq!([&server, &client].map(|pem| describe(pem).unwrap().not_after), [end, end]);
    }
    for asked in [now - 400, 0, i64::MIN] {
        let refused = pki::sign_server_csr(&installation.ca, &ca_key, &request, &names, Some(asked));
        assert_eq!(refused.unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
        let refused = pki::sign_csr(&installation.ca, &ca_key, &request, None, Some(asked));
        assert_eq!(refused.unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
    }
}
