//! Accepting connections. Nothing here waits for a client: the handshake is done on the connection's own thread.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::registry::NotAdded;
use super::{Shared, connection};
use crate::Error;

/// Stack of a connection's thread, in bytes: TLS needs some 30 KiB, the rest is the handler's.
const STACK: usize = 1 << 20;
/// Pause after a failed accept, so that a lack of file descriptors does not become a busy loop.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn start(shared: &Arc<Shared>, listener: TcpListener) -> Result<(), Error> {
    let accepting = shared.clone();
    shared
        .registry
        .accepting(|| {
            thread::Builder::new().name("vmseal-accept".to_owned()).spawn(move || {
                accept(&accepting, &listener);
                drop(listener);
                accepting.registry.accepting_ended();
            })
        })
        .map_err(|error| Error::Connection {
            peer: format!("{}:{}", shared.config.host, shared.config.port),
            reason: format!("cannot start a thread: {error}"),
        })
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.registry.is_stopping() {
            return;
        }
        match accepted {
            Ok((socket, address)) => admit(shared, socket, address),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn admit(shared: &Arc<Shared>, socket: TcpStream, address: SocketAddr) {
    let limit = shared.config.max_connections;
    let serving = shared.clone();
    let added = shared.registry.add(socket, limit, move |id, socket, closing| {
        thread::Builder::new()
            .name(format!("vmseal-kmip-{id}"))
            .stack_size(STACK)
            .spawn(move || connection::serve(&serving, id, socket, address, closing))
    });
    match added {
        Ok(()) | Err(NotAdded::Stopping) => {}
        Err(NotAdded::Full) => {
            shared.reject(address, &format!("the limit of {limit} connections is reached"))
        }
        Err(NotAdded::System(error)) => shared.reject(address, &format!("the system has no room: {error}")),
    }
}
