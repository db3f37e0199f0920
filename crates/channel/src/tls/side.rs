//! What the client's and the server's end of a TLS connection have in common in the library.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::UnbufferedStatus;

pub(crate) trait Side {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn handshaking(&self) -> bool;
    fn has_output(&self) -> bool;
    fn certificates(&self) -> Option<&[CertificateDer<'static>]>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn handshaking(&self) -> bool {
        self.is_handshaking()
    }

    fn has_output(&self) -> bool {
        self.wants_write()
    }

    fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.peer_certificates()
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn handshaking(&self) -> bool {
        self.is_handshaking()
    }

    fn has_output(&self) -> bool {
        self.wants_write()
    }

    fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.peer_certificates()
    }
}
