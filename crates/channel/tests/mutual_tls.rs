//! Client and server over real sockets: keys travel, and who may talk to whom.

mod fixture;

use std::time::{Duration, SystemTime};

use fixture::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use vmseal_channel::client::{ClientConfig, Connection, Connector, TlsVersions};
use vmseal_channel::pki;
use vmseal_channel::server::ClientTrust;
use vmseal_channel::{Error, TlsReason};

fn reason(result: Result<Connection, Error>) -> TlsReason {
    match result.map(|_| ()).unwrap_err() {
        Error::Tls { reason, .. } => reason,
        other => panic!("not a TLS failure: {other}"),
    }
}

/// The failure a client sees whom the server does not let in: at once with TLS 1.2, at its first request with 1.3.
fn refusal(config: &ClientConfig) -> Error {
    match Connection::open(config) {
        Err(error) => error,
        Ok(mut connection) => connection.request(&query(), &NO_KEYS).unwrap_err(),
    }
}

fn assert_refused(installation: &Installation, config: &ClientConfig, text: &str) {
    let (server, echo) = installation.start();
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let config =
            ClientConfig { port: server.local_addr().port(), tls_versions: versions, ..config.clone() };
        let error = refusal(&config);
        assert!(
            matches!(&error, Error::Tls { reason: TlsReason::CertificateRefused, .. }),
            "{versions:?}: {error}"
        );
        assert!(echo.rejected_with(text), "{:?}", echo.rejections.lock().unwrap());
        echo.rejections.lock().unwrap().clear();
    }
    assert!(echo.seen.lock().unwrap().is_empty(), "no request of a refused client is handed up");
}

#[test]
fn keys_travel_both_ways_on_both_tls_versions() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    for versions in [TlsVersions::Only12, TlsVersions::Only13, TlsVersions::Both] {
        let config =
            ClientConfig { tls_versions: versions, ..installation.client_config(server.local_addr()) };
        let mut connection = Connection::open(&config).unwrap();
        let request = message(REQUEST, &[raw_key(&[]), raw_key(&[]), query()]);
        let keys = [key(&[0xC1; 32]), key(&[0xC2; 64])];
        for _ in 0..3 {
            let response = connection.request(&request, &keys).unwrap();
            assert!(holds(&response.keys[0], &[0xC1; 32]) && holds(&response.keys[1], &[0xC2; 64]));
            assert_eq!(response.message[8..], request[8..]);
        }
        for seen in echo.seen.lock().unwrap().drain(..) {
            assert_eq!(seen, request, "what is handed up has empty key material");
        }
    }
    let expected = (pki::spki_sha256(&installation.client).unwrap(), Some("test client".to_owned()));
    assert!(echo.peers.lock().unwrap().iter().all(|peer| *peer == expected));
    assert!(echo.rejections.lock().unwrap().is_empty(), "{:?}", echo.rejections.lock().unwrap());
}

#[test]
fn messages_of_many_records_arrive_whole() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let mut connection = installation.connect(&server);
    for length in [16_000, 16_384, 100_000, 900_000] {
        let filler = vec![0xEE; length];
        let request = message(REQUEST, &[raw_key(&[]), item(0x54_0001, BYTES, &filler), raw_key(&[])]);
        let response = connection.request(&request, &[key(&[1; 32]), key(&[2; 32])]).unwrap();
        assert_eq!(response.message[8..], request[8..]);
        assert!(holds(&response.keys[1], &[2; 32]));
    }
}

#[test]
fn the_server_certificate_can_be_looked_at() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let mut connection = installation.connect(&server);
    let expected = rustls::pki_types::pem::PemObject::from_pem_slice(installation.server.as_bytes());
    let expected: rustls::pki_types::CertificateDer<'_> = expected.unwrap();
    assert_eq!(connection.peer_certificate_der(), &*expected);
    connection.close();
    assert!(connection.peer_certificate_der().is_empty());
    assert!(connection.request(&query(), &NO_KEYS).unwrap_err().nothing_was_sent());
}

#[test]
fn sessions_are_resumed_and_the_client_is_still_known() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let config =
            ClientConfig { tls_versions: versions, ..installation.client_config(server.local_addr()) };
        let connector = Connector::new(config).unwrap();
        for _ in 0..3 {
            connector.connect().unwrap().request(&query(), &NO_KEYS).unwrap();
        }
    }
    let expected = pki::spki_sha256(&installation.client).unwrap();
    let peers = echo.peers.lock().unwrap();
    assert_eq!(peers.len(), 6);
    assert!(peers.iter().all(|(spki, _)| *spki == expected));
}

#[test]
fn a_client_taken_off_the_trust_cannot_resume_its_session() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let trusting = ClientTrust { authorities_pem: vec![installation.ca.clone()], pinned: vec![] };
        server.set_trust(&trusting).unwrap();
        let config =
            ClientConfig { tls_versions: versions, ..installation.client_config(server.local_addr()) };
        let connector = Connector::new(config).unwrap();
        connector.connect().unwrap().request(&query(), &NO_KEYS).unwrap();
        server.set_trust(&ClientTrust::default()).unwrap();
        let outcome = connector.connect().and_then(|mut connection| connection.request(&query(), &NO_KEYS));
        assert!(outcome.is_err(), "{versions:?}");
        assert!(echo.rejected_with("unknown authority"), "{:?}", echo.rejections.lock().unwrap());
        echo.rejections.lock().unwrap().clear();
    }
    assert_eq!(echo.seen.lock().unwrap().len(), 2);
}

#[test]
fn a_server_of_another_authority_is_refused() {
    let (ours, theirs) = (Installation::new(), Installation::new());
    let (server, echo) = theirs.start();
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let config = ClientConfig { tls_versions: versions, ..ours.client_config(server.local_addr()) };
        assert_eq!(reason(Connection::open(&config)), TlsReason::UnknownIssuer);
        assert!(echo.rejected_with("refused our certificate"));
        echo.rejections.lock().unwrap().clear();
    }
}

#[test]
fn a_server_of_another_name_is_refused() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let mut config = installation.client_config(server.local_addr());
    for (name, matches) in
        [("kms.example", false), ("127.0.0.2", false), ("localhost", true), ("127.0.0.1", true)]
    {
        config.server_name = Some(name.to_owned());
        let result = Connection::open(&config);
        if matches {
            assert!(result.is_ok(), "{name}");
        } else {
            assert_eq!(reason(result), TlsReason::NameMismatch, "{name}");
        }
    }
    config.server_name = Some("no name at all".to_owned());
    assert_eq!(Connection::open(&config).map(|_| ()).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
}

#[test]
fn a_host_name_is_resolved() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let mut config = installation.client_config(server.local_addr());
    config.host = "localhost".to_owned();
    Connection::open(&config).unwrap().request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn an_expired_server_certificate_is_refused() {
    let mut installation = Installation::new();
    let now = SystemTime::now();
    let (certificate, key) =
        issue(&installation, now - 20 * DAY, now - DAY, &[ExtendedKeyUsagePurpose::ServerAuth]);
    installation.server = certificate;
    installation.write("server.key", &key);
    let (server, _) = installation.start();
    let config = installation.client_config(server.local_addr());
    assert_eq!(reason(Connection::open(&config)), TlsReason::Expired);
}

#[test]
fn a_client_certificate_of_the_wrong_kind_as_server_is_refused() {
    let mut installation = Installation::new();
    let now = SystemTime::now();
    let (certificate, key) =
        issue(&installation, now - DAY, now + DAY, &[ExtendedKeyUsagePurpose::ClientAuth]);
    installation.server = certificate;
    installation.write("server.key", &key);
    let (server, _) = installation.start();
    let config = installation.client_config(server.local_addr());
    assert_eq!(reason(Connection::open(&config)), TlsReason::WrongPurpose);
}

#[test]
fn a_client_of_another_authority_is_refused() {
    let (ours, theirs) = (Installation::new(), Installation::new());
    let mut config = ours.client_config("127.0.0.1:1".parse().unwrap());
    config.certificate_pem = theirs.client.clone();
    config.key_file = theirs.path("client.key");
    assert_refused(&ours, &config, "unknown authority");
}

#[test]
fn an_expired_client_is_refused() {
    let ours = Installation::new();
    let now = SystemTime::now();
    let (certificate, key) = issue(&ours, now - 20 * DAY, now - DAY, &[ExtendedKeyUsagePurpose::ClientAuth]);
    let mut config = ours.client_config("127.0.0.1:1".parse().unwrap());
    config.certificate_pem = certificate;
    config.key_file = ours.write("expired.key", &key);
    assert_refused(&ours, &config, "expired");
}

#[test]
fn a_client_whose_certificate_is_for_servers_is_refused() {
    let ours = Installation::new();
    let mut config = ours.client_config("127.0.0.1:1".parse().unwrap());
    config.certificate_pem = ours.server.clone();
    config.key_file = ours.path("server.key");
    assert_refused(&ours, &config, "extended key usage");
    // The log must tell which certificate it was.
    assert_refused(&ours, &config, "client certificate \"CN=localhost\", public key SHA-256 ");
}

#[test]
fn a_client_certificate_without_extended_key_usage_is_accepted() {
    let ours = Installation::new();
    let now = SystemTime::now();
    let (certificate, key) = issue(&ours, now - DAY, now + DAY, &[]);
    let (server, _) = ours.start();
    let mut config = ours.client_config(server.local_addr());
    config.certificate_pem = certificate;
    config.key_file = ours.write("plain.key", &key);
    Connection::open(&config).unwrap().request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_pinned_client_is_accepted_whoever_issued_its_certificate() {
    let ours = Installation::new();
    let now = SystemTime::now();
    let own = self_signed(now - DAY, now + DAY);
    let late = self_signed(now - 20 * DAY, now - DAY);
    let (server, echo) = ours.start();
    let config = |(certificate, key): &(String, String), name: &str| ClientConfig {
        certificate_pem: certificate.clone(),
        key_file: ours.write(name, key),
        ..ours.client_config(server.local_addr())
    };
    assert!(matches!(refusal(&config(&own, "own.key")), Error::Tls { .. }), "not before it is pinned");

    let pinned = [&own, &late].map(|(certificate, _)| pki::spki_sha256(certificate).unwrap());
    server.set_trust(&ClientTrust { authorities_pem: vec![], pinned: pinned.to_vec() }).unwrap();
    let mut connection = Connection::open(&config(&own, "own.key")).unwrap();
    connection.request(&query(), &NO_KEYS).unwrap();
    assert_eq!(echo.peers.lock().unwrap().last().unwrap().0, pinned[0]);

    assert!(
        matches!(refusal(&config(&late, "late.key")), Error::Tls { .. }),
        "a pin does not outlive the certificate"
    );
    assert!(echo.rejected_with("expired"));
    // The authority is no longer on the list.
    assert!(matches!(refusal(&ours.client_config(server.local_addr())), Error::Tls { .. }));
}

#[test]
fn trust_can_change_while_the_server_runs() {
    let (ours, theirs) = (Installation::new(), Installation::new());
    let (server, echo) = ours.start();
    let mut old = ours.connect(&server);
    old.request(&query(), &NO_KEYS).unwrap();
    let mut config = theirs.client_config(server.local_addr());
    config.ca_pem = ours.ca.clone();
    assert!(matches!(refusal(&config), Error::Tls { .. }));

    let both = vec![ours.ca.clone(), theirs.ca.clone()];
    server.set_trust(&ClientTrust { authorities_pem: both, pinned: vec![] }).unwrap();
    let mut new = Connection::open(&config).unwrap();
    new.request(&query(), &NO_KEYS).unwrap();
    old.request(&query(), &NO_KEYS).unwrap();

    server.set_trust(&ClientTrust { authorities_pem: vec![theirs.ca.clone()], pinned: vec![] }).unwrap();
    assert!(old.request(&query(), &NO_KEYS).is_err(), "who is no longer trusted is disconnected");
    new.request(&query(), &NO_KEYS).unwrap();
    assert_eq!(echo.closed.lock().unwrap().len(), 1);

    let broken = ClientTrust { authorities_pem: vec!["no PEM".to_owned()], pinned: vec![] };
    assert_eq!(server.set_trust(&broken).unwrap_err().code(), "VMSEAL_CERTIFICATE_INVALID");
    new.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_client_with_an_empty_trust_list_is_refused() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    server.set_trust(&ClientTrust::default()).unwrap();
    assert!(matches!(refusal(&installation.client_config(server.local_addr())), Error::Tls { .. }));
    assert!(echo.rejected_with("unknown authority"));
}

#[test]
fn tls_versions_that_do_not_meet_say_so() {
    let installation = Installation::new();
    let mut config = installation.server_config();
    config.tls_versions = TlsVersions::Only13;
    let (server, _) = installation.start_with(config);
    let client =
        ClientConfig { tls_versions: TlsVersions::Only12, ..installation.client_config(server.local_addr()) };
    assert_eq!(reason(Connection::open(&client)), TlsReason::NoCommonVersion);
}

#[test]
fn unusable_credentials_are_named() {
    let installation = Installation::new();
    let code = |change: &dyn Fn(&mut ClientConfig)| {
        let mut config = installation.client_config("127.0.0.1:1".parse().unwrap());
        change(&mut config);
        Connector::new(config).map(|_| ()).unwrap_err().code()
    };
    assert_eq!(code(&|config| config.key_file = installation.path("missing.key")), "VMSEAL_NOT_FOUND");
    assert_eq!(code(&|config| config.key_file = installation.path("ca.key")), "VMSEAL_CERTIFICATE_INVALID");
    assert_eq!(code(&|config| config.ca_pem.clear()), "VMSEAL_CERTIFICATE_INVALID");
    assert_eq!(code(&|config| config.certificate_pem = "nothing".to_owned()), "VMSEAL_CERTIFICATE_INVALID");
    let certificate = installation.write("no.key", &installation.client);
    assert_eq!(code(&|config| config.key_file = certificate.clone()), "VMSEAL_CERTIFICATE_INVALID");
}

const DAY: Duration = Duration::from_secs(86_400);

fn parameters(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "made by hand");
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

/// A certificate of the installation's authority with what the library would not issue; with its key, PEM.
fn issue(
    installation: &Installation,
    not_before: SystemTime,
    not_after: SystemTime,
    usages: &[ExtendedKeyUsagePurpose],
) -> (String, String) {
    let authority =
        KeyPair::from_pem(&std::fs::read_to_string(installation.path("ca.key")).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&installation.ca, authority).unwrap();
    let mut params = parameters(not_before, not_after);
    params.extended_key_usages = usages.to_vec();
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

fn self_signed(not_before: SystemTime, not_after: SystemTime) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (parameters(not_before, not_after).self_signed(&key).unwrap().pem(), key.serialize_pem())
}
