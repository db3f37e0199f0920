//! Reaching a server through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6). TLS goes through it end to end.

use std::io::ErrorKind;
use std::net::TcpStream;

use crate::Error;
use crate::deadline::Deadline;
use crate::tls::socket;

/// Most bytes of the proxy's answer.
const LONGEST: usize = 8 * 1024;

/// Host and port of a proxy that lets KMIP through without a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Asks the proxy at the other end of `socket` for a way to `host`:`port`.
pub(crate) fn tunnel(
    socket: &TcpStream,
    host: &str,
    port: u16,
    peer: &str,
    deadline: Deadline,
) -> Result<(), Error> {
    // What would end a line of the request is no host.
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte)) {
        return Err(Error::InvalidArgument(format!("{host:?} is neither a host name nor an IP address")));
    }
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let failed = |reason: String| Error::Connection { peer: peer.to_owned(), reason };
    let lost = |error: std::io::Error| failed(format!("the proxy: {error}"));
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let mut unsent = request.as_bytes();
    while !unsent.is_empty() {
        let left = deadline.remaining()?;
        match socket::transmit(socket, unsent) {
            Ok(count) => unsent = &unsent[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket::wait_to_write(socket, left).map_err(lost)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(error)),
        }
    }
    let mut answer = Vec::new();
    // Byte by byte: what follows the answer is the server's.
    while !answer.ends_with(b"\r\n\r\n") {
        let left = deadline.remaining()?;
        let mut byte = [0];
        match socket::receive(socket, &mut byte) {
            Ok(0) => return Err(failed("the proxy closed without an answer".to_owned())),
            Ok(_) if answer.len() == LONGEST => {
                return Err(failed("the answer of the proxy has no end".to_owned()));
            }
            Ok(_) => answer.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket::wait_to_read(socket, left).map_err(lost)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(error)),
        }
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    match status {
        Some([b'2', b'0'..=b'9', b'0'..=b'9']) => Ok(()),
        _ => {
            let line: String =
                String::from_utf8_lossy(line).chars().take(100).flat_map(char::escape_debug).collect();
            Err(failed(format!("the proxy gives no way to {target}; it says \"{line}\"")))
        }
    }
}
