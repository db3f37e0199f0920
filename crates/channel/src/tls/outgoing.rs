//! TLS bytes on their way to the socket: handshake and ciphertext, never plaintext.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use rustls::unbuffered::{EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, WriteTraffic};

use crate::deadline::Deadline;

pub(super) enum Failure {
    Socket(std::io::Error),
    Tls(rustls::Error),
    Late,
}

pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sealed: usize,
}

impl Outgoing {
    pub(super) fn with_room(room: usize) -> Outgoing {
        Outgoing { bytes: vec![0; room], sealed: 0 }
    }

    /// Takes a handshake record.
    pub(super) fn encode<D>(&mut self, mut data: EncodeTlsData<'_, D>) -> Result<(), Failure> {
        self.seal(|room| match data.encode(room) {
            Ok(written) => Ok(Ok(written)),
            Err(EncodeError::InsufficientSize(size)) => Err(size),
            Err(EncodeError::AlreadyEncoded) => Ok(Ok(0)),
        })
    }

    /// Takes application data, encrypted.
    pub(super) fn encrypt<D>(
        &mut self,
        ready: &mut WriteTraffic<'_, D>,
        plain: &[u8],
    ) -> Result<(), Failure> {
        self.seal(|room| written(ready.encrypt(plain, room)))
    }

    /// Takes the alert that ends the connection in order.
    pub(super) fn say_goodbye<D>(&mut self, ready: &mut WriteTraffic<'_, D>) -> Result<(), Failure> {
        self.seal(|room| written(ready.queue_close_notify(room)))
    }

    /// Sends everything taken so far.
    pub(super) fn send(&mut self, socket: &mut TcpStream, deadline: Deadline) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < self.sealed {
            let left = deadline.remaining().map_err(|_| Failure::Late)?;
            socket.set_write_timeout(Some(left)).map_err(Failure::Socket)?;
            match socket.write(&self.bytes[sent..self.sealed]) {
                Ok(0) => return Err(Failure::Socket(ErrorKind::WriteZero.into())),
                Ok(count) => sent += count,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Failure::Late),
                    _ => return Err(Failure::Socket(error)),
                },
            }
        }
        self.sealed = 0;
        Ok(())
    }

    /// Lets `write` append; the room grows to what it asks for.
    fn seal(&mut self, mut write: impl FnMut(&mut [u8]) -> Written) -> Result<(), Failure> {
        loop {
            match write(&mut self.bytes[self.sealed..]) {
                Ok(Ok(count)) => {
                    self.sealed += count;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(Failure::Tls(error)),
                Err(InsufficientSizeError { required_size }) => {
                    self.bytes.resize(self.sealed + required_size, 0);
                }
            }
        }
    }
}

type Written = Result<Result<usize, rustls::Error>, InsufficientSizeError>;

fn written(result: Result<usize, EncryptError>) -> Written {
    match result {
        Ok(count) => Ok(Ok(count)),
        Err(EncryptError::InsufficientSize(size)) => Err(size),
        Err(EncryptError::EncryptExhausted) => Ok(Err(rustls::Error::EncryptError)),
    }
}
