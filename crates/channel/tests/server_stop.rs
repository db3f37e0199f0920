//! Stopping a server and disconnecting clients, whatever they are doing.

mod fixture;

use std::collections::HashSet;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fixture::*;
use vmseal_channel::pki;
use vmseal_channel::server::{Handler, Request, Responder, Server};

/// Works on each request until it hears that the connection is closed; a deaf one does not listen.
#[derive(Default)]
struct Blocked {
    deaf: bool,
    state: Mutex<(usize, HashSet<u64>, bool)>,
    changed: Condvar,
}

impl Blocked {
    fn working(&self) -> usize {
        self.state.lock().unwrap().0
    }

    fn release(&self) {
        self.state.lock().unwrap().2 = true;
        self.changed.notify_all();
    }
}

impl Handler for Blocked {
    fn handle(&self, request: Request, responder: Responder) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        while !state.2
            && (self.deaf || !(state.1.contains(&request.connection_id) || request.closing.is_set()))
        {
            state = self.changed.wait(state).unwrap();
        }
        state.0 -= 1;
        drop(responder);
    }

    fn closed(&self, connection_id: u64) {
        self.state.lock().unwrap().1.insert(connection_id);
        self.changed.notify_all();
    }
}

/// Starts a server and `count` clients that wait for its answer.
fn waiting(deaf: bool, count: usize) -> (Server, Arc<Blocked>, Vec<std::thread::JoinHandle<bool>>) {
    let installation = Installation::new();
    let handler = Arc::new(Blocked { deaf, ..Blocked::default() });
    let mut config = installation.server_config();
    config.stop_timeout = Duration::from_millis(400);
    let server = Server::start(config, handler.clone()).unwrap();
    let clients = (0..count)
        .map(|_| {
            let mut connection = installation.connect(&server);
            std::thread::spawn(move || connection.request(&query(), &NO_KEYS).is_err())
        })
        .collect();
    assert!(eventually(|| handler.working() == count));
    (server, handler, clients)
}

#[test]
fn stop_ends_handlers_that_listen() {
    let (server, handler, clients) = waiting(false, 5);
    let start = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(start.elapsed() < Duration::from_millis(400));
    assert_eq!(handler.working(), 0);
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
}

#[test]
fn stop_is_bounded_when_a_handler_does_not_listen() {
    let (server, handler, clients) = waiting(true, 2);
    let start = Instant::now();
    assert_eq!(server.stop(), 2);
    assert!(start.elapsed() < Duration::from_secs(3));
    // Their clients were cut off all the same.
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
    handler.release();
    assert!(eventually(|| server.stop() == 0));
}

#[test]
fn stop_closes_idle_connections_and_handshakes() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    let mut idle = installation.connect(&server);
    idle.request(&query(), &NO_KEYS).unwrap();
    let _unfinished = TcpStream::connect(server.local_addr()).unwrap();
    assert!(eventually(|| server.connections() == 2));
    assert_eq!(server.stop(), 0);
    assert_eq!(server.connections(), 0);
    assert!(idle.request(&query(), &NO_KEYS).unwrap_err().nothing_was_sent());
    assert_eq!(*echo.closed.lock().unwrap(), [1]);
    assert!(echo.rejections.lock().unwrap().is_empty(), "{:?}", echo.rejections.lock().unwrap());
    drop(server);
    assert_eq!(echo.closed.lock().unwrap().len(), 1, "told once");
}

#[test]
fn a_stopped_server_accepts_nobody_and_frees_its_port() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let address = server.local_addr();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
    let mut config = installation.server_config();
    config.port = address.port();
    let (server, _) = installation.start_with(config);
    installation.connect(&server).request(&query(), &NO_KEYS).unwrap();
}

#[test]
fn a_port_in_use_is_an_error() {
    let installation = Installation::new();
    let (server, _) = installation.start();
    let mut config = installation.server_config();
    config.port = server.local_addr().port();
    let error = Server::start(config, Arc::new(Echo::default())).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_ADDRESS_UNAVAILABLE");
}

#[test]
fn disconnect_closes_one_client_and_not_the_others() {
    let installation = Installation::new();
    let (server, echo) = installation.start();
    let other_pem = pki::issue_client(
        &installation.ca,
        &installation.path("ca.key"),
        "other",
        &installation.path("other.key"),
    )
    .unwrap();
    let mut config = installation.client_config(server.local_addr());
    config.certificate_pem = other_pem;
    config.key_file = installation.path("other.key");
    let mut other = vmseal_channel::client::Connection::open(&config).unwrap();
    let mut ours: Vec<_> = (0..3).map(|_| installation.connect(&server)).collect();
    for connection in ours.iter_mut().chain([&mut other]) {
        connection.request(&query(), &NO_KEYS).unwrap();
    }
    assert_eq!(server.disconnect(&[0; 32]), 0);
    assert_eq!(server.disconnect(&pki::spki_sha256(&installation.client).unwrap()), 3);
    assert_eq!(echo.closed.lock().unwrap().len(), 3);
    assert!(eventually(|| server.connections() == 1));
    assert!(ours.iter_mut().all(|connection| connection.request(&query(), &NO_KEYS).is_err()));
    other.request(&query(), &NO_KEYS).unwrap();
}
