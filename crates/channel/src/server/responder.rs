//! The answer to a request, from whatever thread has it. It is written on that thread as far as the socket takes it at
//! once: waking the thread of the connection for each answer costs more than encrypting and sending it.

use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::connection::Stream;
use super::{Closing, Reply, ServerConfig, guarded};
use crate::bell::Bell;
use crate::deadline::Deadline;
use crate::ttlv::{self, HEADER, Limits, MessageKind};
use crate::{Error, PlainMessage, stack};

/// Answers one request. Dropped without an answer it closes the connection.
pub struct Responder {
    /// Taken to answer.
    stream: Option<Stream>,
    back: Arc<Return>,
    closing: Closing,
    terms: Terms,
}

/// What an answer may take.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    limits: Limits,
    request_timeout: Duration,
    idle_timeout: Duration,
}

impl Terms {
    pub(super) fn of(config: &ServerConfig) -> Terms {
        Terms {
            limits: config.limits,
            request_timeout: config.request_timeout,
            idle_timeout: config.idle_timeout,
        }
    }

    /// When the next request must have begun.
    pub(super) fn idle(&self) -> Deadline {
        Deadline::after(self.idle_timeout, "the next request")
    }
}

impl Responder {
    pub(super) fn new(stream: Stream, back: Arc<Return>, closing: Closing, terms: Terms) -> Responder {
        Responder { stream: Some(stream), back, closing, terms }
    }

    /// Sends the answer, without waiting for the client. A reply that is not a well-formed response with the right
    /// number of keys closes the connection.
    pub fn send(mut self, reply: &Reply) {
        let Some(stream) = self.stream.take() else { return };
        if self.closing.is_set() {
            return self.back.put(Outcome::Refused(stream));
        }
        let answer = || guarded(|| answer(stream, reply, self.terms));
        // A message without keys leaves nothing behind.
        let outcome = stack::scrubbed_unless(answer, |_| reply.keys.is_empty());
        self.back.put(
            outcome.unwrap_or_else(|| Outcome::Failed("the server failed on this connection".to_owned())),
        );
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.back.put(Outcome::Refused(stream));
        }
    }
}

fn answer(mut stream: Stream, reply: &Reply, terms: Terms) -> Outcome {
    let deadline = Deadline::after(terms.request_timeout, "sending the response");
    let whole = match whole(reply, &terms.limits) {
        Ok(whole) => whole,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    // What came along with the request has to be looked at first, and may be a request of its own.
    if stream.holds_more() {
        return Outcome::Unsent { stream, rest: whole, deadline };
    }
    let rest = match stream.write_now(&whole) {
        Ok(None) => None,
        Ok(Some(rest)) => {
            let mut kept = PlainMessage::with_capacity(rest.len());
            kept.append(rest);
            Some(kept)
        }
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match rest {
        None => Outcome::Sent { stream, idle: terms.idle() },
        Some(rest) => Outcome::Unsent { stream, rest, deadline },
    }
}

fn whole(reply: &Reply, limits: &Limits) -> Result<PlainMessage, Error> {
    if let Some(header) = reply.message.first_chunk::<HEADER>() {
        ttlv::message_length(header, MessageKind::Response, limits)?;
    }
    ttlv::splice(&reply.message, &reply.keys, limits)
}

/// What became of an answer.
pub(super) enum Outcome {
    Sent {
        stream: Stream,
        idle: Deadline,
    },
    /// The rest is for the thread of the connection, which may wait.
    Unsent {
        stream: Stream,
        rest: PlainMessage,
        deadline: Deadline,
    },
    /// The connection is to be closed in order.
    Refused(Stream),
    /// A text for the log.
    Failed(String),
}

/// Where the stream of a connection comes back to its thread, which meanwhile waits for the next request.
pub(super) struct Return {
    place: Mutex<Place>,
    filled: Condvar,
    /// Rung when the thread is needed before the client says something.
    bell: Bell,
}

#[derive(Default)]
struct Place {
    outcome: Option<Outcome>,
    is_awaited: bool,
}

impl Return {
    pub(super) fn new() -> std::io::Result<Return> {
        Ok(Return { place: Mutex::default(), filled: Condvar::new(), bell: Bell::new()? })
    }

    fn put(&self, outcome: Outcome) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let is_needed = !matches!(outcome, Outcome::Sent { .. });
        place.outcome = Some(outcome);
        let is_awaited = place.is_awaited;
        drop(place);
        if is_awaited {
            self.filled.notify_one();
        } else if is_needed {
            self.bell.ring();
        }
    }

    /// Waits for the client, for the bell, or for as long as a connection may be silent.
    pub(super) fn watch(&self, socket: &TcpStream, terms: &Terms) {
        // Whatever was heard, the thread looks after the answer next.
        self.bell.wait(Some(socket), Some(terms.idle_timeout));
    }

    /// Waits for the answer.
    pub(super) fn take(&self) -> Outcome {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = place.outcome.take() {
                place.is_awaited = false;
                return outcome;
            }
            place.is_awaited = true;
            place = self.filled.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
