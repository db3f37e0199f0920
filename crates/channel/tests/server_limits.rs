//! Clients that misbehave: they lose their connection, the others notice nothing.

mod fixture;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use vmseal_channel::client::Connection;
use vmseal_channel::server::{Handler, Reply, Request, Responder, Server};

type Raw = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A TLS client that sends whatever bytes it is told to.
fn raw(installation: &Installation, server: &Server) -> Raw {
    let config = trusting(installation)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(installation.client.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_file(installation.path("client.key")).unwrap(),
        )
        .unwrap();
    open(config, server)
}

fn trusting(
    installation: &Installation,
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(installation.ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

fn open(config: rustls::ClientConfig, server: &Server) -> Raw {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.local_addr()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

/// Reads until the server closes; the number of bytes it had sent.
fn drain(stream: &mut impl Read) -> usize {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server did not close the connection");
    }
    bytes.len()
}

/// A server with short times, a connection to it that must survive, and what the server was told.
fn quick() -> (Installation, Server, Arc<Echo>, Connection) {
    let installation = Installation::new();
    let mut config = installation.server_config();
    config.handshake_timeout = Duration::from_millis(300);
    config.request_timeout = Duration::from_millis(600);
    let (server, echo) = installation.start_with(config);
    let bystander = installation.connect(&server);
    (installation, server, echo, bystander)
}

#[test]
fn a_client_that_never_starts_the_handshake_is_closed() {
    let (_, server, echo, mut bystander) = quick();
    let mut silent = TcpStream::connect(server.local_addr()).unwrap();
    let start = Instant::now();
    drain(&mut silent);
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!(echo.rejected_with("TLS handshake of the client took longer"));
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_client_that_drips_its_handshake_is_closed() {
    let (_, server, echo, mut bystander) = quick();
    let mut slow = TcpStream::connect(server.local_addr()).unwrap();
    // The start of a ClientHello, a byte at a time: each byte alone would be in time.
    for byte in [22u8, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0] {
        if slow.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    drain(&mut slow);
    assert!(echo.rejected_with("TLS handshake of the client took longer"));
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn what_is_no_tls_is_closed() {
    let (_, server, echo, mut bystander) = quick();
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n"[..], &[0xFF; 4096], &[0; 64], &[22, 3, 3, 0xFF, 0xFF, 1]]
    {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.write_all(garbage).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        drain(&mut stream);
    }
    assert!(eventually(|| echo.rejections.lock().unwrap().len() == 4));
    assert!(
        echo.rejections.lock().unwrap().iter().all(|reason| reason.starts_with("TLS with")),
        "no panic of ours"
    );
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_client_without_a_certificate_is_closed() {
    let (installation, server, echo, mut bystander) = quick();
    let mut stream = open(trusting(&installation).with_no_client_auth(), &server);
    // With TLS 1.3 the client may send before it hears that it is refused.
    let _ = stream.write_all(&query());
    assert_eq!(drain(&mut stream), 0);
    assert!(echo.rejected_with("presented no certificate"));
    assert!(echo.seen.lock().unwrap().is_empty());
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_slow_header_is_closed() {
    let (installation, server, echo, mut bystander) = quick();
    let mut stream = raw(&installation, &server);
    stream.write_all(&query()[..3]).unwrap();
    assert_eq!(drain(&mut stream), 0);
    assert!(echo.rejected_with("receiving the request header took longer"));
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_slow_body_is_closed() {
    let (installation, server, echo, mut bystander) = quick();
    let mut stream = raw(&installation, &server);
    let request = message(REQUEST, &[item(0x54_0001, BYTES, &[1; 64])]);
    stream.write_all(&request[..8]).unwrap();
    let start = Instant::now();
    for byte in &request[8..request.len() - 1] {
        if start.elapsed() > Duration::from_secs(2) || stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drain(&mut stream);
    assert!(echo.rejected_with("receiving the request took longer"));
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn half_a_message_and_a_close_is_no_request() {
    let (installation, server, echo, mut bystander) = quick();
    let mut stream = raw(&installation, &server);
    stream.write_all(&query()[..20]).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    drain(&mut stream);
    assert!(echo.rejected_with("in the middle of a message"));
    assert!(echo.seen.lock().unwrap().is_empty());
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn broken_messages_close_the_connection() {
    let (installation, server, echo, mut bystander) = quick();
    let response = message(RESPONSE, &[]);
    let mut oversize = query();
    oversize[4..8].copy_from_slice(&0x7FFF_FFF8u32.to_be_bytes());
    let broken_inside = structure(REQUEST, &[item(0x42_0069, 2, &[0; 8])]);
    let empty_key = message(REQUEST, &[raw_key(&[])]);
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "request message (tag 420078)"),
        (&response, "request message (tag 420078)"),
        (&oversize, "too large"),
        (&broken_inside, "length does not fit"),
        (&empty_key, "key material is empty"),
    ] {
        let mut stream = raw(&installation, &server);
        stream.write_all(bytes).unwrap();
        assert_eq!(drain(&mut stream), 0);
        assert!(echo.rejected_with(reason), "{reason}: {:?}", echo.rejections.lock().unwrap());
        echo.rejections.lock().unwrap().clear();
    }
    assert!(echo.seen.lock().unwrap().is_empty());
    bystander.request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn requests_sent_in_one_go_are_answered_in_turn() {
    let (installation, server, echo, _) = quick();
    let mut stream = raw(&installation, &server);
    let request = message(REQUEST, &[raw_key(&[9; 32])]);
    stream.write_all(&request.repeat(100)).unwrap();
    stream.flush().unwrap();
    let mut answers = vec![0; request.len() * 100];
    stream.read_exact(&mut answers).unwrap();
    let expected = message(RESPONSE, &[raw_key(&[9; 32])]);
    assert!(answers.chunks(request.len()).all(|answer| answer == expected));
    assert_eq!(echo.seen.lock().unwrap().len(), 100);
}

#[test]
fn an_idle_connection_is_closed() {
    let installation = Installation::new();
    let mut config = installation.server_config();
    config.idle_timeout = Duration::from_millis(200);
    let (server, echo) = installation.start_with(config);
    let mut connection = installation.connect(&server);
    connection.request(&query(), &NO_KEYS).unwrap();
    assert!(eventually(|| server.connections() == 0));
    let error = connection.request(&query(), &NO_KEYS).unwrap_err();
    assert!(error.nothing_was_sent(), "{error}");
    assert_eq!(echo.closed.lock().unwrap().len(), 1);
    assert!(echo.rejections.lock().unwrap().is_empty(), "silence is no offence");
}

#[test]
fn a_client_that_does_not_read_its_answer_is_closed() {
    struct Verbose;
    impl Handler for Verbose {
        fn handle(&self, _: Request, responder: Responder) {
            responder.send(&Reply {
                message: message(RESPONSE, &[item(0x54_0001, BYTES, &vec![7; 1_000_000])]),
                keys: vec![],
            });
        }
    }
    let installation = Installation::new();
    let mut config = installation.server_config();
    config.request_timeout = Duration::from_millis(300);
    let server = Server::start(config, Arc::new(Verbose)).unwrap();
    let mut stream = raw(&installation, &server);
    stream.write_all(&query().repeat(40)).unwrap();
    stream.flush().unwrap();
    assert!(eventually(|| server.connections() == 0));
}

#[test]
fn connections_over_the_limit_are_closed_and_the_others_stay() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    // 256 is the default limit. Plain sockets: the limit counts handshakes too.
    let mut kept = installation.connect(&server);
    let sockets: Vec<_> = (0..299).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect();
    assert!(
        eventually(|| echo.rejections.lock().unwrap().len() == 44),
        "{}",
        echo.rejections.lock().unwrap().len()
    );
    assert_eq!(server.connections(), 256);
    assert!(echo.rejected_with("limit of 256 connections"));
    kept.request(&query(), &NO_KEYS).unwrap();
    let mut closed = sockets.last().unwrap();
    closed.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(drain(&mut closed), 0);
    drop(sockets);
    assert!(eventually(|| server.connections() == 1));
    installation.connect(&server).request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_bad_answer_of_the_handler_closes_only_that_connection() {
    struct Clumsy;
    impl Handler for Clumsy {
        fn handle(&self, request: Request, responder: Responder) {
            let reply = |message: Vec<u8>| responder.send(&Reply { message, keys: vec![] });
            match request.message.len() % 5 {
                // Keys missing, no response at all, key bytes in the message.
                0 => reply(message(RESPONSE, &[raw_key(&[])])),
                1 => reply(b"what?".to_vec()),
                2 => reply(message(RESPONSE, &[raw_key(&[1; 32])])),
                3 => {}
                _ => panic!("expected by this test"),
            }
        }
    }
    let installation = Installation::new();
    let server = Server::start(installation.server_config(), Arc::new(Clumsy)).unwrap();
    for filler in [8, 16, 24, 32, 40] {
        let mut connection = installation.connect(&server);
        let request = message(REQUEST, &[item(0x54_0001, BYTES, &vec![0; filler])]);
        assert!(connection.request(&request, &NO_KEYS).is_err());
        assert!(!connection.is_open());
    }
    assert!(eventually(|| server.connections() == 0));
}
