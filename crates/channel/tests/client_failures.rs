//! Servers that misbehave, as the client sees them.

mod fixture;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use vmseal_channel::Error;
use vmseal_channel::client::{ClientConfig, Connection};

type Raw = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

/// A TLS server for one connection that reads a request and then does `act`.
fn server(installation: &Installation, act: impl FnOnce(&mut Raw) + Send + 'static) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(installation.server.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_file(installation.path("server.key")).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let socket = listener.accept().unwrap().0;
        let mut stream = Raw::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), socket);
        let mut request = vec![0; query().len()];
        if stream.read_exact(&mut request).is_ok() {
            act(&mut stream);
        }
    });
    address
}

fn config(installation: &Installation, address: SocketAddr) -> ClientConfig {
    let mut config = installation.client_config(address);
    config.connect_timeout = Duration::from_millis(400);
    config.request_timeout = Duration::from_millis(400);
    config
}

/// What the client makes of a server that answers a request with `bytes` and closes.
fn answer(bytes: Vec<u8>) -> Result<vmseal_channel::client::Response, Error> {
    let installation = Installation::new();
    let address = server(&installation, move |stream| {
        stream.write_all(&bytes).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let mut connection = Connection::open(&config(&installation, address)).unwrap();
    let result = connection.request(&query(), &NO_KEYS);
    assert_eq!(connection.is_open(), result.is_ok());
    result
}

#[test]
fn a_silent_server_times_out() {
    let installation = Installation::new();
    let address = server(&installation, |_| std::thread::sleep(Duration::from_secs(2)));
    let mut connection = Connection::open(&config(&installation, address)).unwrap();
    let start = Instant::now();
    let error = connection.request(&query(), &NO_KEYS).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_TIMEOUT");
    assert!(!error.nothing_was_sent());
    assert!((300..1500).contains(&start.elapsed().as_millis()));
    assert!(!connection.is_open());
    assert!(matches!(connection.request(&query(), &NO_KEYS), Err(Error::ClosedWhileIdle { .. })));
}

#[test]
fn a_server_that_drips_its_answer_times_out() {
    let installation = Installation::new();
    let address = server(&installation, |stream| {
        for byte in message(RESPONSE, &[item(0x54_0001, BYTES, &[1; 64])]) {
            if stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    let mut connection = Connection::open(&config(&installation, address)).unwrap();
    let error = connection.request(&query(), &NO_KEYS).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_TIMEOUT");
}

#[test]
fn a_server_that_never_starts_the_handshake_times_out() {
    let installation = Installation::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error =
        Connection::open(&config(&installation, listener.local_addr().unwrap())).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_TIMEOUT");
}

#[test]
fn a_server_that_closes_in_the_middle_is_a_lost_connection() {
    let response = message(RESPONSE, &[raw_key(&[1; 32])]);
    for length in [0, 1, 7, 8, 9, response.len() - 1] {
        let error = answer(response[..length].to_vec()).unwrap_err();
        assert_eq!(error.code(), "VMSEAL_KMIP_CONNECTION", "{length} bytes: {error}");
        assert!(!error.nothing_was_sent());
    }
}

#[test]
fn a_broken_answer_is_malformed() {
    let mut oversize = message(RESPONSE, &[]);
    oversize[4..8].copy_from_slice(&0x0010_0000u32.to_be_bytes());
    assert_eq!(answer(oversize).unwrap_err().code(), "VMSEAL_KMIP_TOO_LARGE");
    for bytes in [query(), b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), message(RESPONSE, &[raw_key(&[])])] {
        assert_eq!(answer(bytes).unwrap_err().code(), "VMSEAL_KMIP_MALFORMED");
    }
}

#[test]
fn bytes_nobody_asked_for_close_the_connection_before_the_next_request() {
    let installation = Installation::new();
    let address = server(&installation, |stream| {
        stream
            .write_all(&[message(RESPONSE, &[]), message(RESPONSE, &[raw_key(&[1; 32])])].concat())
            .unwrap();
        std::thread::sleep(Duration::from_secs(1));
    });
    let mut connection = Connection::open(&config(&installation, address)).unwrap();
    connection.request(&query(), &NO_KEYS).unwrap();
    assert!(matches!(connection.request(&query(), &NO_KEYS), Err(Error::ClosedWhileIdle { .. })));
}

#[test]
fn a_server_that_does_not_speak_tls_is_named() {
    let installation = Installation::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"220 smtp ready\r\n").unwrap());
    let error = Connection::open(&config(&installation, address)).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_TLS");
}

#[test]
fn nobody_at_the_address_is_a_connection_error() {
    let installation = Installation::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Connection::open(&config(&installation, address)).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_CONNECTION");
    let mut unknown = config(&installation, address);
    unknown.host = "no-such-host.invalid".to_owned();
    unknown.connect_timeout = Duration::from_secs(2);
    let error = Connection::open(&unknown).map(|_| ()).unwrap_err();
    assert!(["VMSEAL_KMIP_CONNECTION", "VMSEAL_KMIP_TIMEOUT"].contains(&error.code()), "{error}");
}

#[test]
fn a_server_that_says_goodbye_with_its_answer_is_noticed_before_the_next_request() {
    let installation = Installation::new();
    let address = server(&installation, |stream| {
        stream.conn.writer().write_all(&message(RESPONSE, &[])).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        std::thread::sleep(Duration::from_secs(1));
    });
    let mut connection = Connection::open(&config(&installation, address)).unwrap();
    connection.request(&query(), &NO_KEYS).unwrap();
    assert!(connection.request(&query(), &NO_KEYS).unwrap_err().nothing_was_sent());
}

#[test]
fn connections_can_be_used_on_any_thread() {
    fn movable<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    movable::<Connection>();
    shared::<vmseal_channel::client::Connector>();
    shared::<vmseal_channel::server::Server>();
}

#[test]
fn a_request_refused_before_it_is_sent_leaves_the_connection_open() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    let mut connection = installation.connect(&server);
    let empty = message(REQUEST, &[raw_key(&[])]);
    for (request, code) in [
        (empty, "VMSEAL_INVALID_ARGUMENT"),
        (message(REQUEST, &[raw_key(&[1; 32])]), "VMSEAL_INVALID_ARGUMENT"),
        (message(RESPONSE, &[]), "VMSEAL_KMIP_MALFORMED"),
        (b"short".to_vec(), "VMSEAL_KMIP_MALFORMED"),
    ] {
        assert_eq!(connection.request(&request, &NO_KEYS).unwrap_err().code(), code);
        assert!(connection.is_open());
    }
    connection.request(&query(), &NO_KEYS).unwrap();
    assert_eq!(echo.seen.lock().unwrap().len(), 1);
}
