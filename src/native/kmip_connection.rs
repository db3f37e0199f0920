//! A KMIP client connection on a thread of its own: the event loop never waits for the network.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use napi::bindgen_prelude::{Buffer, ClassInstance, Object};
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_channel::client::{Answered, ClientConfig, Connection, Connector, Line, Response};
use vmseal_channel::{Proxy, pki};

use crate::fault::{Coded, caught, coded, panicked};
use crate::key::KeyHandle;
use crate::lifetime::{self, Lifetime};

/// An HTTP proxy that a KMS is reached through (CONNECT).
#[napi(object)]
pub struct KmipProxy {
    pub host: String,
    pub port: u16,
}

impl From<KmipProxy> for Proxy {
    fn from(KmipProxy { host, port }: KmipProxy) -> Proxy {
        Proxy { host, port }
    }
}

/// Where a KMS is and how to prove who we are.
#[napi(object)]
pub struct KmipConnectionOptions {
    pub host: String,
    pub port: u16,
    /// Default: none.
    pub proxy: Option<KmipProxy>,
    /// DNS name or IP address in the server's certificate; default: `host`.
    pub server_name: Option<String>,
    /// PEM, one or more.
    pub ca_certificates: String,
    /// PEM chain.
    pub certificate: String,
    /// PEM file; it is read natively.
    pub private_key_file: String,
    /// Default 5000.
    pub connect_timeout_ms: Option<u32>,
    /// Default 10000.
    pub request_timeout_ms: Option<u32>,
    /// Default 1 MiB.
    pub max_message_bytes: Option<u32>,
}

/// A response and the keys that were cut out of it.
#[napi(object, object_from_js = false)]
pub struct KmipExchange {
    pub message: Buffer,
    /// In order of appearance; each left an empty byte string in `message`.
    pub keys: Vec<KeyHandle>,
}

/// A KMIP client connection over mutual TLS. Requests go one after another; any failure closes it.
#[napi]
pub struct KmipConnection {
    line: Arc<Running>,
    server_certificate: String,
}

/// Opens connections to one KMS: certificates and key are read once, and TLS sessions are resumed.
#[napi]
pub struct KmipConnector {
    connector: Arc<Connector>,
}

#[napi]
impl KmipConnector {
    /// Checks the options and reads the private key; VMSEAL_CERTIFICATE_INVALID or VMSEAL_INVALID_ARGUMENT.
    #[napi(factory)]
    pub fn create(options: KmipConnectionOptions) -> Result<Self> {
        let connector = caught(|| Connector::new(config(options)).map_err(|error| translate(&error)))?;
        Ok(Self { connector: Arc::new(connector) })
    }

    /// Connects; rejects with VMSEAL_KMIP_CONNECTION, VMSEAL_KMIP_TLS or VMSEAL_KMIP_TIMEOUT.
    #[napi(ts_return_type = "Promise<KmipConnection>")]
    pub fn connect<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let connector = Arc::clone(&self.connector);
        KmipConnection::start(env, move || connector.connect())
    }
}

#[napi]
impl KmipConnection {
    /// Connects; rejects with VMSEAL_KMIP_CONNECTION, VMSEAL_KMIP_TLS, VMSEAL_KMIP_TIMEOUT or VMSEAL_CERTIFICATE_INVALID.
    #[napi(ts_return_type = "Promise<KmipConnection>")]
    pub fn open<'env>(env: &'env Env, options: KmipConnectionOptions) -> Result<Object<'env>> {
        Self::start(env, || Connection::open(&config(options)))
    }

    /// Sends a request and waits for the response. Every empty key material in `message` takes the next key.
    #[napi(ts_return_type = "Promise<KmipExchange>")]
    pub fn request<'env>(
        &self,
        env: &'env Env,
        message: &[u8],
        keys: Vec<ClassInstance<KeyHandle>>,
    ) -> Result<Object<'env>> {
        let keys = keys.iter().map(|key| key.get()).collect::<Result<Vec<_>>>()?;
        let (deferred, promise) = env.create_deferred::<KmipExchange, _>()?;
        let answer = Box::new(move |answered| match outcome(answered) {
            Ok(Response { message, keys }) => deferred.resolve(move |_| {
                Ok(KmipExchange {
                    message: message.into(),
                    keys: keys.into_iter().map(KeyHandle::new).collect(),
                })
            }),
            Err(error) => deferred.reject(error),
        });
        self.line.0.ask(message, keys, answer);
        Ok(promise)
    }

    /// True once the connection is closed, by us or after a failure.
    #[napi(getter)]
    pub fn closed(&self) -> bool {
        self.line.0.is_closed()
    }

    /// The server's certificate, PEM.
    #[napi(getter)]
    pub fn server_certificate(&self) -> &str {
        &self.server_certificate
    }

    /// Closes after the requests that are under way. Idempotent.
    #[napi]
    pub fn close(&self) {
        self.line.0.close();
    }
}

impl KmipConnection {
    fn start<'env>(
        env: &'env Env,
        open: impl FnOnce() -> std::result::Result<Connection, vmseal_channel::Error> + Send + 'static,
    ) -> Result<Object<'env>> {
        let line = Line::new().map_err(|error| coded("VMSEAL_IO", format!("no way to a thread: {error}")))?;
        let line = Arc::new(Running(line));
        lifetime::attach(env, &line)?;
        let (deferred, promise) = env.create_deferred::<KmipConnection, _>()?;
        let serving = Arc::clone(&line);
        thread::Builder::new()
            .name("vmseal-kmip".to_owned())
            .spawn(move || match caught(|| open().map_err(|error| translate(&error))) {
                Ok(connection) => {
                    let server_certificate = pki::to_pem(connection.peer_certificate_der());
                    let handle = KmipConnection { line: Arc::clone(&serving), server_certificate };
                    deferred.resolve(move |_| Ok(handle));
                    serving.0.serve(connection);
                }
                Err(error) => deferred.reject(error),
            })
            .map_err(|error| coded("VMSEAL_IO", format!("cannot start a thread: {error}")))?;
        Ok(promise)
    }
}

struct Running(Line);

impl Lifetime for Running {
    /// The thread ends by itself after at most one request; it settles promises of an environment that is gone
    /// without effect, so nobody waits for it.
    fn end(&self) {
        self.0.close();
    }
}

fn outcome(answered: Answered) -> Result<Response> {
    match answered {
        Answered::Response(response) => Ok(response),
        Answered::Failed(error) => Err(translate(&error)),
        Answered::Closed => Err(coded("VMSEAL_KMIP_CONNECTION", "the connection to the KMS is closed")),
        Answered::Panicked(panic) => Err(panicked(&*panic)),
    }
}

fn config(options: KmipConnectionOptions) -> ClientConfig {
    let KmipConnectionOptions { host, port, ca_certificates, certificate, private_key_file, .. } = options;
    let mut config = ClientConfig::new(host, port, ca_certificates, certificate, private_key_file);
    config.proxy = options.proxy.map(Proxy::from);
    config.server_name = options.server_name;
    if let Some(time) = options.connect_timeout_ms {
        config.connect_timeout = Duration::from_millis(time.into());
    }
    if let Some(time) = options.request_timeout_ms {
        config.request_timeout = Duration::from_millis(time.into());
    }
    if let Some(bytes) = options.max_message_bytes {
        config.limits.max_message = bytes as usize;
    }
    config
}

/// A third part of the reason says that nothing was sent, so that the request may be repeated.
fn translate(error: &vmseal_channel::Error) -> napi::Error {
    let mark = if error.nothing_was_sent() { "\0not sent" } else { "" };
    coded(Coded::code(error), format!("{error}{mark}"))
}
