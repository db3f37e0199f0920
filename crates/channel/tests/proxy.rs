//! Reaching a server through an HTTP proxy.

mod fixture;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fixture::*;
use vmseal_channel::client::{ClientConfig, Connection};
use vmseal_channel::server::Server;
use vmseal_channel::{Error, Proxy, fetch_server_certificate};

/// A proxy that gives this answer to whoever asks, and what it was asked. After 200 it passes bytes on to the server.
fn proxy(answer: &'static [u8], server: &Server) -> (Proxy, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = server.local_addr();
    let (asked, questions) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut question = Vec::new();
            let mut byte = [0];
            while !question.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
                question.push(byte[0]);
            }
            let _ = asked.send(String::from_utf8(question).unwrap());
            client.write_all(answer).unwrap();
            if answer.windows(4).any(|part| part == b" 200") {
                pass_on(client, TcpStream::connect(address).unwrap());
            }
        }
    });
    (Proxy { host: "127.0.0.1".to_owned(), port }, questions)
}

fn pass_on(client: TcpStream, server: TcpStream) {
    let ways = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
    for (mut from, mut to) in ways {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

#[test]
fn tls_goes_through_the_proxy_end_to_end() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let (proxy, questions) = proxy(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 here\r\n\r\n", &server);
    let port = server.local_addr().port();
    // A name that only the proxy could resolve; the certificate holds another.
    let mut config =
        ClientConfig { proxy: Some(proxy.clone()), ..installation.client_config(server.local_addr()) };
    config.host = "kms.behind.invalid".to_owned();
    config.server_name = Some("localhost".to_owned());
    let mut connection = Connection::open(&config).unwrap();
    for _ in 0..3 {
        connection.request(&query(), &NO_KEYS).unwrap();
    }
    let question = questions.recv().unwrap();
    assert_eq!(
        question,
        format!("CONNECT kms.behind.invalid:{port} HTTP/1.1\r\nHost: kms.behind.invalid:{port}\r\n\r\n")
    );
    let time = Duration::from_secs(5);
    let shown = fetch_server_certificate("kms.behind.invalid", port, Some(&proxy), time).unwrap();
    assert_eq!(shown.trim(), installation.server.trim());
}

#[test]
fn an_address_of_version_6_is_asked_for_in_brackets() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let (proxy, questions) = proxy(b"HTTP/1.0 200 OK\r\n\r\n", &server);
    let mut config = ClientConfig { proxy: Some(proxy), ..installation.client_config(server.local_addr()) };
    config.host = "2001:db8::7".to_owned();
    config.server_name = Some("localhost".to_owned());
    Connection::open(&config).unwrap();
    assert!(questions.recv().unwrap().starts_with("CONNECT [2001:db8::7]:"));
}

#[test]
fn what_a_proxy_refuses_is_said() {
    for (answer, says) in [
        (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "it says \"HTTP/1.1 403 Forbidden\""),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", "407"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "SSH-2.0"),
        (b"HTTP/1.1 2\x1b[31m\r\n\r\n", "\\u{1b}"),
        (&[b'a'; 9000], "has no end"),
    ] {
        let installation = Installation::new();
        let (server, echo) = installation.start();
        let (proxy, _questions) = proxy(answer, &server);
        let config = ClientConfig { proxy: Some(proxy), ..installation.client_config(server.local_addr()) };
        let error = Connection::open(&config).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Connection { .. }));
        assert!(error.to_string().contains(says), "{error}");
        assert!(echo.peers.lock().unwrap().is_empty());
    }
}

#[test]
fn a_proxy_that_is_silent_or_closes_is_no_hang() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let of = |listener: &TcpListener| {
        Some(Proxy { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() })
    };
    let mut config = ClientConfig { proxy: of(&silent), ..installation.client_config(server.local_addr()) };
    config.connect_timeout = Duration::from_millis(200);
    assert!(matches!(Connection::open(&config).map(|_| ()), Err(Error::Timeout { .. })));
    let closing = TcpListener::bind("127.0.0.1:0").unwrap();
    config.proxy = of(&closing);
    std::thread::spawn(move || drop(closing.accept()));
    let error = Connection::open(&config).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
}

#[test]
fn a_host_that_would_write_a_line_of_its_own_is_refused() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let (proxy, questions) = proxy(b"HTTP/1.1 200 OK\r\n\r\n", &server);
    for host in ["kms\r\nX: y", "kms 1", "kms/", ""] {
        let mut config =
            ClientConfig { proxy: Some(proxy.clone()), ..installation.client_config(server.local_addr()) };
        config.host = host.to_owned();
        config.server_name = Some("localhost".to_owned());
        assert!(matches!(Connection::open(&config).map(|_| ()), Err(Error::InvalidArgument(_))));
    }
    // Each came, asked nothing, and left.
    assert!(questions.recv_timeout(Duration::from_secs(5)).unwrap().is_empty());
}
