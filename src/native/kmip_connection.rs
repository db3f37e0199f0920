//! A KMIP client connection on a thread of its own: the event loop never waits for the network.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use napi::bindgen_prelude::{Buffer, ClassInstance, Object};
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_channel::client::{ClientConfig, Connection, Connector, Response};
use vmseal_channel::pki;
use vmseal_secret::SecretKey;

use crate::fault::{Coded, caught, coded};
use crate::key::KeyHandle;
use crate::lifetime::{self, Lifetime};

/// Where a KMS is and how to prove who we are.
#[napi(object)]
pub struct KmipConnectionOptions {
    pub host: String,
    pub port: u16,
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
    line: Arc<Line>,
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
        let answer = Box::new(move |outcome: Result<Response>| match outcome {
            Ok(Response { message, keys }) => deferred.resolve(move |_| {
                Ok(KmipExchange {
                    message: message.into(),
                    keys: keys.into_iter().map(KeyHandle::new).collect(),
                })
            }),
            Err(error) => deferred.reject(error),
        });
        self.line.order(Order { message: message.to_vec(), keys, answer });
        Ok(promise)
    }

    /// True once the connection is closed, by us or after a failure.
    #[napi(getter)]
    pub fn closed(&self) -> bool {
        self.line.closed.load(Ordering::SeqCst)
    }

    /// The server's certificate, PEM.
    #[napi(getter)]
    pub fn server_certificate(&self) -> &str {
        &self.server_certificate
    }

    /// Closes after the requests that are under way. Idempotent.
    #[napi]
    pub fn close(&self) {
        self.line.close();
    }
}

impl KmipConnection {
    fn start<'env>(
        env: &'env Env,
        open: impl FnOnce() -> std::result::Result<Connection, vmseal_channel::Error> + Send + 'static,
    ) -> Result<Object<'env>> {
        let (orders, inbox) = channel();
        let line = Arc::new(Line { orders: Mutex::new(Some(orders)), closed: AtomicBool::new(false) });
        lifetime::attach(env, &line)?;
        let (deferred, promise) = env.create_deferred::<KmipConnection, _>()?;
        let serving = Arc::clone(&line);
        thread::Builder::new()
            .name("vmseal-kmip".to_owned())
            .spawn(move || {
                match caught(|| open().map_err(|error| translate(&error))) {
                    Ok(connection) => {
                        let server_certificate = pki::to_pem(connection.peer_certificate_der());
                        let handle = KmipConnection { line: Arc::clone(&serving), server_certificate };
                        deferred.resolve(move |_| Ok(handle));
                        serve(&serving, connection, &inbox);
                    }
                    Err(error) => deferred.reject(error),
                }
                serving.close();
            })
            .map_err(|error| coded("VMSEAL_IO", format!("cannot start a thread: {error}")))?;
        Ok(promise)
    }
}

struct Order {
    message: Vec<u8>,
    keys: Vec<Arc<SecretKey>>,
    answer: Box<dyn FnOnce(Result<Response>) + Send>,
}

/// The way to the connection's thread.
struct Line {
    orders: Mutex<Option<Sender<Order>>>,
    closed: AtomicBool,
}

impl Line {
    fn order(&self, order: Order) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let unsent = match orders.as_ref() {
            Some(orders) => orders.send(order).err().map(|error| error.0),
            None => Some(order),
        };
        if let Some(order) = unsent {
            (order.answer)(Err(coded("VMSEAL_KMIP_CONNECTION", "the connection to the KMS is closed")));
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Lifetime for Line {
    /// The thread ends by itself after at most one request; it settles promises of an environment that is gone
    /// without effect, so nobody waits for it.
    fn end(&self) {
        self.close();
    }
}

fn serve(line: &Line, mut connection: Connection, inbox: &Receiver<Order>) {
    for Order { message, keys, answer } in inbox {
        let outcome = caught(|| connection.request(&message, &keys).map_err(|error| translate(&error)));
        if !connection.is_open() {
            line.close();
        }
        answer(outcome);
    }
    connection.close();
}

fn config(options: KmipConnectionOptions) -> ClientConfig {
    let KmipConnectionOptions { host, port, ca_certificates, certificate, private_key_file, .. } = options;
    let mut config = ClientConfig::new(host, port, ca_certificates, certificate, private_key_file);
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
