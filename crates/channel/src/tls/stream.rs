//! A TLS connection over a socket, in which received plaintext does not stay behind.
//!
//! This drives the unbuffered interface of the TLS library: records are decrypted in a buffer that belongs to us, and
//! every part that was used up is wiped at once. With the buffered interface a connection that is kept open would keep
//! the last record it decrypted, keys included, until the next one overwrites it.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::unbuffered::ConnectionState;

use super::outgoing::{Failure, Outgoing};
use super::side::Side;
use super::socket::{is_quiet, receive, wait_to_read};
use crate::deadline::Deadline;
use crate::{Error, PlainMessage};

/// Room for received TLS bytes: a record takes at most 18,437 (RFC 5246 section 6.2.3), a flight with a long
/// certificate chain a few thousand more.
const INCOMING: usize = 32 * 1024;
/// Most plaintext in one record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// How long a closing side waits for its last alert to go out or to be read.
const FAREWELL: Duration = Duration::from_millis(250);

pub(crate) struct TlsStream<S> {
    side: S,
    /// Whoever shares it only waits for it.
    socket: Arc<TcpStream>,
    peer: String,
    /// Received TLS bytes, the first `received` of them in use. Records are decrypted here.
    incoming: PlainMessage,
    received: usize,
    /// Decrypted bytes nobody has read yet, from `taken` on. The socket is only read when there are none, so they
    /// never exceed what `incoming` can hold.
    plain: PlainMessage,
    taken: usize,
    outgoing: Outgoing,
    ended: bool,
    /// After a TLS failure: the library must not be shown the same bytes again.
    broken: bool,
}

/// What to do in the state in which application data may be sent.
#[derive(Clone, Copy)]
enum Task<'p> {
    Nothing,
    Send(&'p [u8]),
    SayGoodbye,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Something was done; ask again.
    Advanced,
    /// Nothing can be done without more bytes from the peer.
    NeedsBytes,
    /// The task is done: its bytes stand in `outgoing`.
    Done,
}

impl<S: Side> TlsStream<S> {
    /// Does the whole handshake. On failure the alert for the peer has been sent.
    pub(crate) fn handshake(
        side: S,
        socket: TcpStream,
        peer: String,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let mut stream = TlsStream {
            side,
            socket: Arc::new(socket),
            peer,
            incoming: PlainMessage::zeroed(INCOMING),
            received: 0,
            plain: PlainMessage::with_capacity(INCOMING),
            taken: 0,
            outgoing: Outgoing::with_room(RECORD + 1024),
            ended: false,
            broken: false,
        };
        // KMIP is question and answer: waiting to fill a packet only costs time.
        stream.socket.set_nodelay(true).map_err(|error| stream.lost(&error))?;
        loop {
            match stream.step(Task::Nothing, deadline)? {
                Progress::Advanced => {}
                Progress::NeedsBytes if stream.side.handshaking() => {
                    if stream.fill(deadline)? == 0 {
                        return Err(stream.failed("closed by the peer during the TLS handshake"));
                    }
                }
                Progress::NeedsBytes | Progress::Done => {
                    stream.flush(deadline)?;
                    return Ok(stream);
                }
            }
        }
    }

    /// The peer's certificates, its own first.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.side.certificates().unwrap_or_default()
    }

    /// To wait for what arrives, while somebody else has the stream.
    pub(crate) fn socket(&self) -> Arc<TcpStream> {
        self.socket.clone()
    }

    /// True when nothing has arrived beyond what was read, as far as can be told without waiting.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.holds_more() && !self.ended && is_quiet(&self.socket)
    }

    /// True when bytes have arrived that were not read yet; those that the system still holds are not counted.
    pub(crate) fn holds_more(&self) -> bool {
        self.received > 0 || self.taken < self.plain.len()
    }

    /// Reads at least one byte into `into` (not empty); 0 when the peer has closed.
    pub(crate) fn read(&mut self, into: &mut [u8], deadline: Deadline) -> Result<usize, Error> {
        loop {
            let waiting = &self.plain[self.taken..];
            if !waiting.is_empty() {
                let count = waiting.len().min(into.len());
                into[..count].copy_from_slice(&waiting[..count]);
                self.taken += count;
                if self.taken == self.plain.len() {
                    self.plain.clear();
                    self.taken = 0;
                }
                return Ok(count);
            }
            if self.ended {
                return Ok(0);
            }
            if self.step(Task::Nothing, deadline)? == Progress::NeedsBytes && self.fill(deadline)? == 0 {
                self.ended = true;
            }
        }
    }

    /// Fills `into` completely, or fails.
    pub(crate) fn read_exact(&mut self, into: &mut [u8], deadline: Deadline) -> Result<(), Error> {
        let mut filled = 0;
        while filled < into.len() {
            match self.read(&mut into[filled..], deadline)? {
                0 => return Err(self.failed("closed by the peer in the middle of a message")),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Sends all of `plain`, after what [`TlsStream::write_now`] has left.
    pub(crate) fn write_all(&mut self, plain: &[u8], deadline: Deadline) -> Result<(), Error> {
        self.flush(deadline)?;
        for record in plain.chunks(RECORD) {
            self.encrypt(record, deadline)?;
            self.flush(deadline)?;
        }
        Ok(())
    }

    /// Sends what can be sent of `plain` without waiting: what is left of it for [`TlsStream::write_all`], which also
    /// sends what is encrypted already; None when everything is gone. Only for a stream that holds nothing more.
    pub(crate) fn write_now<'p>(&mut self, plain: &'p [u8]) -> Result<Option<&'p [u8]>, Error> {
        let deadline = Deadline::after(FAREWELL, "the TLS connection");
        let mut rest = plain;
        while let Some((record, others)) = rest.split_at_checked(rest.len().min(RECORD)) {
            if record.is_empty() {
                break;
            }
            self.encrypt(record, deadline)?;
            rest = others;
            match self.outgoing.send_now(&self.socket) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(rest)),
                Err(failure) => return Err(self.unsent(failure, deadline)),
            }
        }
        Ok(None)
    }

    fn encrypt(&mut self, record: &[u8], deadline: Deadline) -> Result<(), Error> {
        loop {
            match self.step(Task::Send(record), deadline)? {
                Progress::Advanced => {}
                Progress::Done => return Ok(()),
                Progress::NeedsBytes => return Err(self.failed("TLS is not ready to send")),
            }
        }
    }

    /// Takes in what has arrived without waiting. True when the connection can still be used and nothing was received
    /// that was not asked for.
    pub(crate) fn is_idle(&mut self) -> Result<bool, Error> {
        let deadline = Deadline::after(FAREWELL, "the TLS connection");
        loop {
            // A record may have come with the last answer.
            while self.step(Task::Nothing, deadline)? == Progress::Advanced {}
            if self.ended || !self.plain.is_empty() {
                return Ok(false);
            }
            // A peer that never stops sending has lost this connection too.
            deadline.remaining()?;
            match self.read_socket() {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return Ok(false),
            }
        }
    }

    /// After a failed send: the alert with which the peer explains itself, when there is one.
    pub(crate) fn explanation(&mut self) -> Option<Error> {
        let deadline = Deadline::after(FAREWELL, "the TLS alert");
        match self.read(&mut [0], deadline) {
            Err(error @ Error::Tls { .. }) => Some(error),
            _ => None,
        }
    }

    /// Tells the peer that no more bytes follow, and closes the socket.
    pub(crate) fn close(mut self) {
        let deadline = Deadline::after(FAREWELL, "closing the TLS connection");
        while let Ok(Progress::Advanced) = self.step(Task::SayGoodbye, deadline) {}
        // The connection ends whether or not the peer hears of it.
        let _ = self.flush(deadline);
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn step(&mut self, task: Task<'_>, deadline: Deadline) -> Result<Progress, Error> {
        if self.broken {
            return Err(self.failed("closed after a TLS failure"));
        }
        let status = self.side.process(&mut self.incoming[..self.received]);
        let mut discard = status.discard;
        let progress = match status.state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                self.outgoing.encode(data).map(|()| Progress::Advanced)
            }
            // It goes out before the peer is waited for, or before what is sent next.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Progress::Advanced)
            }
            Ok(ConnectionState::ReadTraffic(mut records)) => loop {
                match records.next_record() {
                    Some(Ok(record)) => {
                        self.plain.append(record.payload);
                        discard += record.discard;
                    }
                    Some(Err(error)) => break Err(Failure::Tls(error)),
                    None => break Ok(Progress::Advanced),
                }
            },
            Ok(ConnectionState::WriteTraffic(mut ready)) => match task {
                Task::Nothing => Ok(Progress::NeedsBytes),
                Task::Send(plain) => self.outgoing.encrypt(&mut ready, plain).map(|()| Progress::Done),
                Task::SayGoodbye => self.outgoing.say_goodbye(&mut ready).map(|()| Progress::Done),
            },
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                self.ended = true;
                Ok(if matches!(task, Task::SayGoodbye) { Progress::Done } else { Progress::Advanced })
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Progress::NeedsBytes),
            // Early data is never offered.
            Ok(_) => Err(Failure::Tls(rustls::Error::General("unexpected TLS state".to_owned()))),
            Err(error) => Err(Failure::Tls(error)),
        };
        self.discard(discard);
        match progress {
            Ok(progress) => Ok(progress),
            Err(Failure::Tls(error)) => {
                self.broken = true;
                self.alert(deadline);
                Err(super::describe(&self.peer, &error))
            }
            Err(failure) => Err(self.unsent(failure, deadline)),
        }
    }

    /// Drops the first `count` received bytes and wipes what they leave behind.
    fn discard(&mut self, count: usize) {
        let count = count.min(self.received);
        if count > 0 {
            self.incoming.copy_within(count..self.received, 0);
            vmseal_secret::wipe(&mut self.incoming[self.received - count..self.received]);
            self.received -= count;
        }
    }

    /// Sends the alert that the library has prepared after a failure, then lets the peer read it: closing a socket
    /// with unread bytes would make the system throw the alert away.
    fn alert(&mut self, deadline: Deadline) {
        let deadline = deadline.or_sooner(Deadline::after(FAREWELL, "the TLS alert"));
        // Nothing but output is asked for: the bytes that failed must not be looked at again.
        while self.side.has_output() {
            let status = self.side.process(&mut self.incoming[..self.received]);
            let discard = status.discard;
            let Ok(ConnectionState::EncodeTlsData(data)) = status.state else { break };
            let encoded = self.outgoing.encode(data);
            self.discard(discard);
            if encoded.is_err() {
                break;
            }
        }
        if self.flush(deadline).is_err() || self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        // At most what one flight can hold: a peer that keeps sending does not hold this thread.
        for _ in 0..4 {
            self.received = 0;
            if !matches!(self.fill(deadline), Ok(1..)) {
                break;
            }
        }
        self.received = 0;
        self.incoming.fill(0);
    }

    fn flush(&mut self, deadline: Deadline) -> Result<(), Error> {
        let sent = self.outgoing.send(&self.socket, deadline);
        sent.map_err(|failure| self.unsent(failure, deadline))
    }

    fn unsent(&self, failure: Failure, deadline: Deadline) -> Error {
        match failure {
            Failure::Socket(error) => self.lost(&error),
            Failure::Tls(error) => super::describe(&self.peer, &error),
            Failure::Late => deadline.missed(),
        }
    }

    /// Waits for bytes from the peer; 0 when it has closed.
    fn fill(&mut self, deadline: Deadline) -> Result<usize, Error> {
        // The peer may wait for these before it says more.
        if !self.outgoing.is_empty() {
            self.flush(deadline)?;
        }
        loop {
            let left = deadline.remaining()?;
            match self.read_socket() {
                Ok(count) => return Ok(count),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => {
                        wait_to_read(&self.socket, left).map_err(|error| self.lost(&error))?;
                    }
                    _ => return Err(self.lost(&error)),
                },
            }
        }
    }

    fn read_socket(&mut self) -> std::io::Result<usize> {
        let room = &mut self.incoming[self.received..];
        if room.is_empty() {
            return Err(std::io::Error::other("a TLS message is longer than 32 KiB"));
        }
        let count = receive(&self.socket, room)?;
        self.received += count;
        Ok(count)
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        Error::Connection { peer: self.peer.clone(), reason: format!("lost: {error}") }
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Connection { peer: self.peer.clone(), reason: reason.to_owned() }
    }
}
