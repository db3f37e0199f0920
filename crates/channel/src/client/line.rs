//! A connection that is asked from any thread, which need not wait: requests are sent where they are made as far as the
//! socket takes them at once, and a thread that waits for the answers is woken by them alone.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmseal_secret::SecretKey;

use super::{Connection, Pending, Response};
use crate::Error;
use crate::bell::{Bell, Heard};

/// Takes what became of a request, on the thread of the line or on the one that asked.
pub type Answer = Box<dyn FnOnce(Answered) + Send>;

/// What became of a request.
pub enum Answered {
    /// Its response.
    Response(Response),
    /// It failed like [`Connection::request`].
    Failed(Error),
    /// The line was closed already.
    Closed,
    /// A fault of ours; the line is closed.
    Panicked(Box<dyn Any + Send>),
}

/// The requests of one connection, answered in turn.
pub struct Line {
    place: Mutex<Place>,
    bell: Bell,
}

struct Place {
    state: State,
    /// What could not be sent at once.
    orders: VecDeque<Order>,
    closed: bool,
    /// The thread watches no clock: it has to be woken when one starts.
    asleep: bool,
}

enum State {
    /// Its thread has the connection, or there is none yet.
    Busy,
    Idle(Connection),
    Asked(Connection, Pending, Answer),
}

struct Order {
    message: Vec<u8>,
    keys: Vec<Arc<SecretKey>>,
    answer: Answer,
}

/// What the thread does next, with the connection in hand.
enum Work {
    Finish(Connection, Pending, Answer),
    Start(Connection, Order),
    Close(Connection),
    /// What arrived is nothing that was asked for.
    Ignore,
    Wait,
}

impl Line {
    /// Nothing can be asked before [`Line::serve`] has the connection.
    pub fn new() -> std::io::Result<Line> {
        let place = Place { state: State::Busy, orders: VecDeque::new(), closed: false, asleep: false };
        Ok(Line { place: Mutex::new(place), bell: Bell::new()? })
    }

    /// Asks what [`Connection::request`] asks. Does not wait.
    pub fn ask(&self, message: &[u8], keys: Vec<Arc<SecretKey>>, answer: Answer) {
        let mut place = self.place();
        if place.closed {
            drop(place);
            return answer(Answered::Closed);
        }
        if place.orders.is_empty()
            && let State::Idle(connection) = &mut place.state
        {
            match catch_unwind(AssertUnwindSafe(|| connection.begin(message, &keys))) {
                Ok(Ok(Some(pending))) => {
                    let wake = place.asleep || !pending.is_sent();
                    if let State::Idle(connection) = std::mem::replace(&mut place.state, State::Busy) {
                        place.state = State::Asked(connection, pending, answer);
                    }
                    drop(place);
                    if wake {
                        self.bell.ring();
                    }
                    return;
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    place.closed |= !connection.is_open();
                    drop(place);
                    self.bell.ring();
                    return answer(Answered::Failed(error));
                }
                Err(panic) => {
                    place.closed = true;
                    drop(place);
                    self.bell.ring();
                    return answer(Answered::Panicked(panic));
                }
            }
        }
        place.orders.push_back(Order { message: message.to_vec(), keys, answer });
        drop(place);
        self.bell.ring();
    }

    /// True once nothing can be asked any more.
    pub fn is_closed(&self) -> bool {
        self.place().closed
    }

    /// Closes the connection after the requests that are under way.
    pub fn close(&self) {
        self.place().closed = true;
        self.bell.ring();
    }

    /// Waits for answers and gives them on, until the line is closed or the connection is lost.
    pub fn serve(&self, connection: Connection) {
        let socket = connection.socket();
        // Watching the clock for as long as a request may take is soon enough for one that is sent meanwhile.
        let request_timeout = connection.request_timeout;
        self.place().state = State::Idle(connection);
        // What nobody asked for would be heard again and again: whoever asks next finds out what it is.
        let mut listens = true;
        loop {
            let longest = match &*self.place() {
                Place { asleep: true, .. } => None,
                Place { state: State::Asked(_, pending, _), .. } => Some(pending.left().unwrap_or_default()),
                _ => Some(request_timeout),
            };
            let heard = self.bell.wait(socket.as_deref().filter(|_| listens), longest);
            match self.next(heard) {
                Work::Wait => {}
                Work::Finish(connection, pending, answer) => {
                    listens = true;
                    self.work(connection, answer, |connection| connection.finish(pending));
                }
                Work::Start(connection, Order { message, keys, answer }) => {
                    listens = true;
                    self.work(connection, answer, |connection| connection.request(&message, &keys));
                }
                Work::Ignore => listens = false,
                Work::Close(mut connection) => return connection.close(),
            }
        }
    }

    fn next(&self, heard: Heard) -> Work {
        let mut place = self.place();
        match std::mem::replace(&mut place.state, State::Busy) {
            State::Asked(connection, pending, answer) => {
                if heard.socket || !pending.is_sent() || pending.left().is_none() {
                    return Work::Finish(connection, pending, answer);
                }
                place.asleep = false;
                place.state = State::Asked(connection, pending, answer);
            }
            State::Idle(connection) => {
                if let Some(order) = place.orders.pop_front() {
                    return Work::Start(connection, order);
                }
                if place.closed {
                    return Work::Close(connection);
                }
                place.asleep = !heard.bell;
                place.state = State::Idle(connection);
                if heard.socket {
                    return Work::Ignore;
                }
            }
            State::Busy => {}
        }
        Work::Wait
    }

    /// Does one request, and those that have been waiting for it to be done.
    fn work(
        &self,
        mut connection: Connection,
        answer: Answer,
        work: impl FnOnce(&mut Connection) -> Result<Response, Error>,
    ) {
        let answered = match catch_unwind(AssertUnwindSafe(|| work(&mut connection))) {
            Ok(Ok(response)) => Answered::Response(response),
            Ok(Err(error)) => Answered::Failed(error),
            Err(panic) => Answered::Panicked(panic),
        };
        let mut place = self.place();
        place.closed |= !connection.is_open();
        place.asleep = false;
        place.state = State::Idle(connection);
        let is_waited_for = place.closed || !place.orders.is_empty();
        drop(place);
        if is_waited_for {
            self.bell.ring();
        }
        // Whoever hears of it finds the connection ready for the next request.
        answer(answered);
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
