//! Waking a thread that waits for a socket.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{read, write};

pub(crate) struct Bell(OwnedFd);

/// What ended the wait; nothing of it when the time was over.
#[derive(Clone, Copy, Default)]
pub(crate) struct Heard {
    pub(crate) bell: bool,
    /// There is something to read, or the end.
    pub(crate) socket: bool,
}

impl Bell {
    pub(crate) fn new() -> std::io::Result<Bell> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Bell).map_err(Into::into)
    }

    pub(crate) fn ring(&self) {
        // It cannot be too full of rings to be heard.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits for the bell, or for the socket if there is one; for ever without `longest`. It may hear nothing early.
    pub(crate) fn wait(&self, socket: Option<&TcpStream>, longest: Option<Duration>) -> Heard {
        let watched = |socket| PollFd::new(socket, PollFlags::IN);
        let mut both = [
            PollFd::new(&self.0, PollFlags::IN),
            socket.map_or(PollFd::new(&self.0, PollFlags::empty()), watched),
        ];
        // A time that the system cannot count is as good as for ever.
        let longest: Option<Timespec> = longest.and_then(|longest| longest.try_into().ok());
        if poll(&mut both, longest.as_ref()).is_err() {
            return Heard::default();
        }
        let [bell, socket] = both.map(|watched| !watched.revents().is_empty());
        if bell {
            // Rings are not counted.
            let _ = read(&self.0, &mut [0u8; 8][..]);
        }
        Heard { bell, socket }
    }
}
