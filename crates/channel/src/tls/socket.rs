//! A socket that is never waited in, only for: whoever has it may be a thread that must not block.

use std::io::{Error, ErrorKind, Result};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What has arrived; [`ErrorKind::WouldBlock`] when that is nothing, 0 when the peer has closed.
pub(crate) fn receive(socket: &TcpStream, room: &mut [u8]) -> Result<usize> {
    let (count, _) = recv(socket, room, RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// True when nothing has arrived, not even the end.
pub(super) fn is_quiet(socket: &TcpStream) -> bool {
    matches!(recv(socket, &mut [0u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK), Err(Errno::AGAIN))
}

/// Takes what there is room for; [`ErrorKind::WouldBlock`] when there is none.
pub(crate) fn transmit(socket: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
        0 => Err(ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

/// Waits until there is something to read, or the end.
pub(crate) fn wait_to_read(socket: &TcpStream, longest: Duration) -> Result<()> {
    wait(&mut [PollFd::new(socket, PollFlags::IN)], longest)
}

/// Waits until there is room to write.
pub(crate) fn wait_to_write(socket: &TcpStream, longest: Duration) -> Result<()> {
    wait(&mut [PollFd::new(socket, PollFlags::OUT)], longest)
}

/// May return early: who waits looks at the socket again, and at the clock.
fn wait(watched: &mut [PollFd<'_>], longest: Duration) -> Result<()> {
    // A time that the system cannot count is as good as a year.
    let year = Timespec { tv_sec: 31_536_000, tv_nsec: 0 };
    match poll(watched, Some(&longest.try_into().unwrap_or(year))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Error::from(error)),
    }
}
