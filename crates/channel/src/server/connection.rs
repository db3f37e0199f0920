//! The life of one connection, on its own thread.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::UnbufferedServerConnection;
use vmseal_secret::SecretKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::responder::{Outcome, Responder, Return, Terms};
use super::trust::ConnectionVerifier;
use super::{Closing, PeerIdentity, Request, Shared, guarded};
use crate::deadline::Deadline;
use crate::tls::{self, TlsStream};
use crate::ttlv::{self, HEADER, MessageKind};
use crate::{Error, PlainMessage, pki, stack};

/// In a box, since it goes from hand to hand.
pub(super) type Stream = Box<TlsStream<UnbufferedServerConnection>>;
/// A message and the keys that were cut out of it.
type Cut = (Vec<u8>, Vec<SecretKey>);

pub(super) fn serve(shared: &Arc<Shared>, id: u64, socket: TcpStream, address: SocketAddr, closing: Closing) {
    let connection = Connection { shared, id, address, closing };
    match stack::scrubbed(|| guarded(|| connection.run(socket))) {
        Some(Ok(())) => {}
        // What fails while we close the connection ourselves is no fault of the client's.
        Some(Err(_)) if connection.closing.is_set() => {}
        Some(Err(refusal)) => shared.reject(address, &refusal),
        None => shared.reject(address, "the server failed on this connection"),
    }
    shared.registry.remove(id, &*shared.handler);
}

struct Connection<'s> {
    shared: &'s Shared,
    id: u64,
    address: SocketAddr,
    closing: Closing,
}

impl Connection<'_> {
    /// Serves until either side ends the connection; the error is a text for the log.
    fn run(&self, socket: TcpStream) -> Result<(), String> {
        let (mut stream, peer) = self.let_in(socket)?;
        let text = |error: Error| error.to_string();
        let terms = Terms::of(&self.shared.config);
        let back = Return::new().map_err(|error| format!("the system has no room: {error}"))?;
        let (back, socket) = (Arc::new(back), stream.socket());
        let mut idle = terms.idle();
        while let Some((message, keys)) = self.receive_cleanly(&mut stream, idle).map_err(text)? {
            let request = Request {
                connection_id: self.id,
                peer: peer.clone(),
                address: self.address,
                message,
                keys,
                closing: self.closing.clone(),
            };
            let holds_more = stream.holds_more();
            let responder = Responder::new(stream, back.clone(), self.closing.clone(), terms);
            if guarded(|| self.shared.handler.handle(request, responder)).is_none() {
                return Err("the handler of the server failed".to_owned());
            }
            // The next request wakes this thread, not the answer to this one.
            if !holds_more {
                back.watch(&socket, &terms);
            }
            let outcome = back.take();
            if self.closing.is_set() {
                return Ok(());
            }
            (stream, idle) = match outcome {
                Outcome::Sent { stream, idle } => (stream, idle),
                Outcome::Unsent { mut stream, rest, deadline } => {
                    stack::scrubbed(|| stream.write_all(&rest, deadline)).map_err(text)?;
                    (stream, terms.idle())
                }
                Outcome::Refused(stream) => {
                    stream.close();
                    return Ok(());
                }
                Outcome::Failed(reason) => return Err(reason),
            };
        }
        stream.close();
        Ok(())
    }

    /// [`Connection::receive`], which leaves a clean stack before anything waits: for the handler, or for the next
    /// request.
    fn receive_cleanly(&self, stream: &mut Stream, idle: Deadline) -> Result<Option<Cut>, Error> {
        let receive = || {
            let arrived = self.receive(stream, idle);
            let is_clean = matches!(&arrived, Ok(Some((_, keys))) if keys.is_empty() && !stream.holds_more());
            (arrived, is_clean)
        };
        stack::scrubbed_unless(receive, |(_, is_clean)| *is_clean).0
    }

    /// The handshake, and who the client is.
    fn let_in(&self, socket: TcpStream) -> Result<(Stream, Arc<PeerIdentity>), String> {
        let config = &self.shared.config;
        let verifier = Arc::new(ConnectionVerifier::new(self.shared.trust(), &self.shared.provider));
        let named = |error: Error| match verifier.presented() {
            Some(certificate) => format!("{error} ({certificate})"),
            None => error.to_string(),
        };
        let mut tls = rustls::ServerConfig::builder_with_provider(self.shared.provider.clone())
            .with_protocol_versions(config.tls_versions.supported())
            .map_err(|error| named(tls::unusable(&error)))?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(self.shared.credentials.clone());
        tls.session_storage = self.shared.sessions.clone();
        let side =
            UnbufferedServerConnection::new(Arc::new(tls)).map_err(|error| named(tls::unusable(&error)))?;
        let deadline = Deadline::after(config.handshake_timeout, "the TLS handshake of the client");
        let stream =
            Box::new(TlsStream::handshake(side, socket, self.address.to_string(), deadline).map_err(named)?);

        let chain = stream.certificates().to_vec();
        let identity = Arc::new(identity(&chain).map_err(named)?);
        if !self.shared.registry.identify(self.id, identity.clone(), chain.clone()) {
            return Err("the server is closing this connection".to_owned());
        }
        // A resumed session shows no certificate, and trust may have changed since it was shown: only after this
        // connection can be found by its name is the answer final.
        let trusted = self.shared.trust().check(&chain, UnixTime::now());
        trusted.map_err(|error| named(tls::describe(&self.address.to_string(), &error)))?;
        Ok((stream, identity))
    }

    /// The next request; None when the client has nothing more to say.
    fn receive(&self, stream: &mut Stream, idle: Deadline) -> Result<Option<Cut>, Error> {
        let config = &self.shared.config;
        let mut header = [0; HEADER];
        match stream.read(&mut header[..1], idle) {
            Ok(0) | Err(Error::Timeout { .. }) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let whole = Deadline::after(config.request_timeout, "receiving the request");
        let start = Deadline::after(config.handshake_timeout, "receiving the request header");
        stream.read_exact(&mut header[1..], whole.or_sooner(start))?;
        let length = ttlv::message_length(&header, MessageKind::Request, &config.limits)?;
        let mut message = PlainMessage::zeroed(length);
        message[..HEADER].copy_from_slice(&header);
        stream.read_exact(&mut message[HEADER..], whole)?;
        ttlv::cut(message, &config.limits).map(Some)
    }
}

fn identity(chain: &[rustls::pki_types::CertificateDer<'static>]) -> Result<PeerIdentity, Error> {
    let unreadable = || Error::Certificate("the client's certificate cannot be read".to_owned());
    let own = chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(own).map_err(|_| unreadable())?;
    Ok(PeerIdentity {
        spki_sha256: pki::spki_hash(&certificate),
        subject_cn: pki::common_name(&certificate),
        certificate_der: own.to_vec(),
    })
}
