//! OpenSSL at the other end.

mod fixture;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixture::*;
use vmseal_channel::client::{ClientConfig, Connection};
use vmseal_channel::{Error, TlsReason, pki};

/// False, said aloud, when there is no OpenSSL; a failure when peers are required.
fn openssl_found() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            std::env::var_os("VMSEAL_REQUIRE_PEERS").is_none_or(|value| value != "1"),
            "openssl is required"
        );
        println!("skipped: openssl not found (Debian: apt install openssl)");
    }
    found
}

/// Kills the program when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs openssl in `installation`'s directory with `input`; what it printed, and whether it succeeded.
fn openssl(installation: &Installation, arguments: &str, input: &[u8]) -> (bool, Vec<u8>, String) {
    let mut child = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(installation.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn installed() -> Installation {
    let installation = Installation::new();
    installation.write("ca.pem", &installation.ca);
    installation.write("client.pem", &installation.client);
    installation.write("server.pem", &installation.server);
    installation
}

#[test]
fn s_client_is_served_on_both_tls_versions() {
    if !openssl_found() {
        return;
    }
    let installation = installed();
    let mut config = installation.server_config();
    // s_client ends when the server closes.
    config.idle_timeout = Duration::from_millis(500);
    let (server, echo) = installation.start_with(config);
    let request = message(REQUEST, &[raw_key(&[0x5A; 32])]);
    for version in ["-tls1_2", "-tls1_3"] {
        let (done, answer, log) = openssl(
            &installation,
            &format!(
                "s_client -connect {} -CAfile ca.pem -cert client.pem -key client.key -verify_return_error \
                 -verify_ip 127.0.0.1 -quiet {version}",
                server.local_addr()
            ),
            &request,
        );
        assert!(done, "{version}: {log}");
        assert_eq!(answer, message(RESPONSE, &[raw_key(&[0x5A; 32])]), "{version}: {log}");
    }
    assert!(echo.rejections.lock().unwrap().is_empty(), "{:?}", echo.rejections.lock().unwrap());
}

#[test]
fn s_client_is_refused_for_the_right_reasons() {
    if !openssl_found() {
        return;
    }
    let installation = installed();
    let (server, echo) = installation.start();
    let address = server.local_addr();
    for (arguments, reason) in [
        ("-tls1_2", "presented no certificate"),
        ("-tls1_3", "presented no certificate"),
        (
            "-cert client.pem -key client.key -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256",
            "no common cipher suite",
        ),
        ("-cert client.pem -key client.key -tls1_1 -cipher ALL@SECLEVEL=0", "no common TLS version"),
    ] {
        let (_, answer, log) = openssl(
            &installation,
            &format!("s_client -connect {address} -CAfile ca.pem -quiet {arguments}"),
            &query(),
        );
        assert!(answer.is_empty(), "{arguments}");
        assert!(echo.rejected_with(reason), "{arguments}: {:?}\n{log}", echo.rejections.lock().unwrap());
        echo.rejections.lock().unwrap().clear();
    }
    assert!(echo.seen.lock().unwrap().is_empty());
}

/// An s_server that asks for client certificates of the authority in `ca.pem`.
fn s_server(installation: &Installation, arguments: &str) -> (Running, ClientConfig) {
    let mut child = Command::new("openssl")
        .args(
            "s_server -accept 127.0.0.1:0 -cert server.pem -key server.key -Verify 1 -verify_return_error"
                .split(' '),
        )
        .args(arguments.split_whitespace())
        .current_dir(installation.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.ok()?.strip_prefix("ACCEPT ").map(str::to_owned)).unwrap();
    // Nobody reads further: s_server must not be held up by a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (Running(child), installation.client_config(address.parse().unwrap()))
}

#[test]
fn our_client_is_let_in_by_s_server_on_both_tls_versions() {
    if !openssl_found() {
        return;
    }
    let installation = installed();
    for argument in ["-tls1_2", "-tls1_3"] {
        // -rev answers with the line reversed: no KMIP, but proof that our bytes were let in and read.
        let (_server, config) = s_server(&installation, &format!("-CAfile ca.pem -rev {argument}"));
        let mut connection = Connection::open(&config).unwrap();
        let text = item(UNIQUE_IDENTIFIER, TEXT, b"12345\n78");
        let error = connection.request(&structure(REQUEST, &[text]), &NO_KEYS).unwrap_err();
        assert_eq!(error.code(), "VMSEAL_KMIP_MALFORMED", "{argument}: {error}");
    }
}

#[test]
fn our_client_tells_why_s_server_refuses_it() {
    if !openssl_found() {
        return;
    }
    let (installation, other) = (installed(), installed());
    installation.write("other.pem", &other.ca);
    for (arguments, reason) in [
        ("-CAfile other.pem -tls1_2", TlsReason::CertificateRefused),
        ("-CAfile other.pem -tls1_3", TlsReason::CertificateRefused),
        ("-CAfile ca.pem -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256", TlsReason::NoCommonCipherSuite),
        ("-CAfile ca.pem -tls1_1 -cipher ALL@SECLEVEL=0", TlsReason::NoCommonVersion),
    ] {
        let (_server, config) = s_server(&installation, arguments);
        let outcome =
            Connection::open(&config).and_then(|mut connection| connection.request(&query(), &NO_KEYS));
        match outcome.unwrap_err() {
            Error::Tls { reason: found, .. } => assert_eq!(found, reason, "{arguments}"),
            other => panic!("{arguments}: {other}"),
        }
    }
}

#[test]
fn openssl_verifies_what_the_authority_issues() {
    if !openssl_found() {
        return;
    }
    let installation = installed();
    for (purpose, file, fits) in [
        ("sslclient", "client.pem", true),
        ("sslserver", "client.pem", false),
        ("sslserver", "server.pem", true),
        ("sslclient", "server.pem", false),
    ] {
        let arguments = format!("verify -x509_strict -CAfile ca.pem -purpose {purpose} {file}");
        let (done, _, log) = openssl(&installation, &arguments, b"");
        assert_eq!(done, fits, "{purpose} {file}: {log}");
    }
}

#[test]
fn requests_made_by_openssl_are_signed() {
    if !openssl_found() {
        return;
    }
    let installation = installed();
    for (kind, extra) in [
        ("ec -pkeyopt ec_paramgen_curve:P-256", ""),
        ("ec -pkeyopt ec_paramgen_curve:P-384", ""),
        ("rsa:2048", "-addext basicConstraints=CA:TRUE -addext subjectKeyIdentifier=hash"),
        ("ed25519", "-addext extendedKeyUsage=serverAuth"),
    ] {
        let (done, csr, log) = openssl(
            &installation,
            &format!("req -new -newkey {kind} -noenc -keyout csr.key -subj /O=Example/CN=asker {extra}"),
            b"",
        );
        assert!(done, "{kind}: {log}");
        let csr = String::from_utf8(csr).unwrap();
        let ca_key = installation.path("ca.key");
        let certificate = pki::sign_csr(&installation.ca, &ca_key, &csr, None, None).unwrap();
        let description = pki::describe(&certificate).unwrap();
        assert_eq!(description.subject, "CN=asker");
        assert!(!description.is_authority, "what the request asks for beyond its key does not count");
        installation.write("signed.pem", &certificate);
        let (done, _, log) =
            openssl(&installation, "verify -x509_strict -CAfile ca.pem -purpose sslclient signed.pem", b"");
        assert!(done, "{kind}: {log}");

        let (server, _) = installation.start();
        let mut config = installation.client_config(server.local_addr());
        config.certificate_pem = certificate;
        config.key_file = installation.path("csr.key");
        Connection::open(&config).unwrap().request(&query(), &NO_KEYS).unwrap();

        let renamed = pki::sign_csr(&installation.ca, &ca_key, &csr, Some("vcenter"), None).unwrap();
        assert_eq!(pki::describe(&renamed).unwrap().subject_cn.as_deref(), Some("vcenter"));
    }
}
