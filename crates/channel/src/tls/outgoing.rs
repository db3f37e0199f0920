//! TLS bytes on their way to the socket: handshake and ciphertext, never plaintext.

use std::io::ErrorKind;
use std::net::TcpStream;

use rustls::unbuffered::{EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, WriteTraffic};

use super::socket::{transmit, wait_to_write};
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

    pub(super) fn is_empty(&self) -> bool {
        self.sealed == 0
    }

    /// Sends everything taken so far. After a failure nothing is left of it: the connection is lost for sending.
    pub(super) fn send(&mut self, socket: &TcpStream, deadline: Deadline) -> Result<(), Failure> {
        while !self.is_empty() {
            let Ok(left) = deadline.remaining() else {
                self.sealed = 0;
                return Err(Failure::Late);
            };
            if !self.send_now(socket)? {
                wait_to_write(socket, left).map_err(Failure::Socket)?;
            }
        }
        Ok(())
    }

    /// Sends what the socket takes without waiting; false when something is left.
    pub(super) fn send_now(&mut self, socket: &TcpStream) -> Result<bool, Failure> {
        let all = std::mem::take(&mut self.sealed);
        let mut sent = 0;
        while sent < all {
            match transmit(socket, &self.bytes[sent..all]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.bytes.copy_within(sent..all, 0);
                    self.sealed = all - sent;
                    return Ok(false);
                }
                Err(error) => return Err(Failure::Socket(error)),
            }
        }
        Ok(true)
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
