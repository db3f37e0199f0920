//! The open connections of a server and their threads.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustls::pki_types::CertificateDer;

use super::{Closing, Handler, PeerIdentity, guarded};
use crate::deadline::Deadline;

#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Entry>,
    /// Threads that have nothing left to do but return.
    finished: Vec<JoinHandle<()>>,
    accepting: Option<JoinHandle<()>>,
    last_id: u64,
    stopping: bool,
}

struct Entry {
    socket: TcpStream,
    closing: Closing,
    peer: Option<Peer>,
    thread: Option<JoinHandle<()>>,
}

/// A client that was let in.
struct Peer {
    identity: Arc<PeerIdentity>,
    chain: Vec<CertificateDer<'static>>,
}

/// Why no connection was added.
pub(super) enum NotAdded {
    Stopping,
    Full,
    System(std::io::Error),
}

impl Registry {
    /// Starts `thread` for a new connection, which gets a number.
    pub(super) fn add(
        &self,
        socket: TcpStream,
        limit: usize,
        thread: impl FnOnce(u64, TcpStream, Closing) -> std::io::Result<JoinHandle<()>>,
    ) -> Result<(), NotAdded> {
        let mut state = self.state();
        if state.stopping {
            return Err(NotAdded::Stopping);
        }
        if state.open.len() >= limit {
            return Err(NotAdded::Full);
        }
        let own = socket.try_clone().map_err(NotAdded::System)?;
        let closing = Closing::default();
        state.last_id += 1;
        let id = state.last_id;
        // The thread cannot look itself up before it is entered: the state is locked.
        let thread = thread(id, own, closing.clone()).map_err(NotAdded::System)?;
        state.open.insert(id, Entry { socket, closing, peer: None, thread: Some(thread) });
        let finished = std::mem::take(&mut state.finished);
        drop(state);
        join(finished);
        Ok(())
    }

    /// Notes who a connection belongs to. From here on it is closed by [`Registry::close`] by name. False when it is
    /// being closed already.
    pub(super) fn identify(
        &self,
        id: u64,
        identity: Arc<PeerIdentity>,
        chain: Vec<CertificateDer<'static>>,
    ) -> bool {
        let mut state = self.state();
        match state.open.get_mut(&id) {
            Some(entry) if !entry.closing.is_set() => {
                entry.peer = Some(Peer { identity, chain });
                true
            }
            _ => false,
        }
    }

    /// Takes a connection off; called by its own thread as the last thing it does.
    pub(super) fn remove(&self, id: u64, handler: &dyn Handler) {
        let entry = self.state().open.get_mut(&id).map(|entry| (entry.closing.set(), entry.peer.is_some()));
        if let Some((true, true)) = entry {
            guarded(|| handler.closed(id));
        }
        let mut state = self.state();
        if let Some(entry) = state.open.remove(&id) {
            state.finished.extend(entry.thread);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Closes the connections that `which` picks and returns how many; the handler is told of each.
    pub(super) fn close(
        &self,
        handler: &dyn Handler,
        which: impl Fn(u64, Option<&PeerIdentity>) -> bool,
    ) -> usize {
        let mut closed = Vec::new();
        for (id, entry) in &self.state().open {
            let peer = entry.peer.as_ref().map(|peer| &*peer.identity);
            if which(*id, peer) && entry.closing.set() {
                // Wakes the thread from whatever it waits for on the socket.
                let _ = entry.socket.shutdown(Shutdown::Both);
                closed.push((*id, peer.is_some()));
            }
        }
        for (id, identified) in &closed {
            if *identified {
                guarded(|| handler.closed(*id));
            }
        }
        closed.len()
    }

    /// The connections of known clients for which `pick` gives something, given their certificate chains.
    pub(super) fn identified<T>(
        &self,
        pick: impl Fn(u64, &[CertificateDer<'static>]) -> Option<T>,
    ) -> Vec<T> {
        let known: Vec<_> = {
            let state = self.state();
            state
                .open
                .iter()
                .filter_map(|(id, entry)| Some((*id, entry.peer.as_ref()?.chain.clone())))
                .collect()
        };
        known.into_iter().filter_map(|(id, chain)| pick(id, &chain)).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.state().open.len()
    }

    pub(super) fn refuse_new(&self) {
        self.state().stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state().stopping
    }

    /// Notes the thread that accepts; it calls [`Registry::accepting_ended`] when it is done.
    pub(super) fn accepting(
        &self,
        thread: impl FnOnce() -> std::io::Result<JoinHandle<()>>,
    ) -> std::io::Result<()> {
        let mut state = self.state();
        state.accepting = Some(thread()?);
        Ok(())
    }

    pub(super) fn accepting_ended(&self) {
        let mut state = self.state();
        let thread = state.accepting.take();
        state.finished.extend(thread);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until all threads have ended, or for as long as `deadline` allows; returns how many have not.
    pub(super) fn wait(&self, deadline: Deadline) -> usize {
        let mut state = self.state();
        loop {
            let running = state.open.len() + usize::from(state.accepting.is_some());
            let left = deadline.remaining();
            if let (1.., Ok(left)) = (running, left) {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let finished = std::mem::take(&mut state.finished);
            drop(state);
            join(finished);
            return running;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that have finished do not keep the caller waiting.
fn join(finished: Vec<JoinHandle<()>>) {
    for thread in finished {
        // A panic was dealt with on the thread itself.
        let _ = thread.join();
    }
}
