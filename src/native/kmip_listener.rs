//! The server side of KMIP: native connections, requests answered by JavaScript.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use napi::bindgen_prelude::{Buffer, ClassInstance, Function, Object};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Result, Status};
use napi_derive::napi;
use vmseal_channel::server::{ClientTrust, Handler, Reply, Request, Responder, Server, ServerConfig};

use crate::background;
use crate::fault::{caught, guard, invalid_argument};
use crate::key::KeyHandle;
use crate::lifetime::{self, Lifetime};
use crate::pki::hex;

/// How to serve.
#[napi(object)]
pub struct KmipListenerOptions {
    pub host: String,
    /// 0 lets the system choose.
    pub port: u16,
    /// PEM chain.
    pub certificate: String,
    /// PEM file; it is read natively.
    pub private_key_file: String,
    /// PEM list of CAs whose clients are let in.
    pub client_authorities: String,
    /// Hex SHA-256 of the public keys (SPKI) of single clients that are let in.
    pub pinned_clients: Vec<String>,
    /// Default 256.
    pub max_connections: Option<u32>,
    /// Default 1 MiB.
    pub max_message_bytes: Option<u32>,
    /// Default 300000.
    pub idle_timeout_ms: Option<u32>,
    /// Default 5000.
    pub handshake_timeout_ms: Option<u32>,
}

/// A request, its keys cut out. It must be answered with `reply` or `refuse`.
#[napi(object, object_from_js = false)]
pub struct KmipRequest {
    pub id: u32,
    pub connection_id: f64,
    /// Hex SHA-256 of the client's public key (SPKI): its identity.
    pub client_key_hash: String,
    /// Address and port of the client.
    pub remote_address: String,
    /// Common name in the client's certificate: a label only.
    pub common_name: Option<String>,
    pub message: Buffer,
    /// In order of appearance; each left an empty byte string in `message`.
    pub keys: Vec<KeyHandle>,
}

/// A client that was turned away, or put out for what it did.
#[napi(object, object_from_js = false)]
pub struct KmipRejection {
    /// Address and port of the client.
    pub remote_address: String,
    pub reason: String,
}

/// A KMIP server socket with mutual TLS.
#[napi]
pub struct KmipListener {
    server: Arc<Running>,
    desk: Arc<Desk>,
}

#[napi]
impl KmipListener {
    /// Binds and serves. The callbacks must not throw.
    #[napi(factory)]
    pub fn start(
        env: &Env,
        options: KmipListenerOptions,
        on_request: Function<KmipRequest, ()>,
        on_rejected: Option<Function<KmipRejection, ()>>,
    ) -> Result<Self> {
        let on_request = on_request.build_threadsafe_function().callee_handled::<false>().build()?;
        let on_rejected = on_rejected
            .map(|told| {
                told.build_threadsafe_function()
                    .callee_handled::<false>()
                    .max_queue_size::<MAX_REJECTIONS>()
                    .build()
            })
            .transpose()?;
        let desk = Arc::new(Desk {
            on_request: Mutex::new(Some(Arc::new(on_request))),
            on_rejected: Mutex::new(on_rejected),
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
        });
        let config = config(options)?;
        let handler: Arc<dyn Handler> = Arc::clone(&desk) as Arc<dyn Handler>;
        let server = Arc::new(Running(guard(|| Server::start(config, handler))?));
        lifetime::attach(env, &server)?;
        Ok(Self { server, desk })
    }

    /// The port it listens on.
    #[napi(getter)]
    pub fn port(&self) -> u16 {
        self.server.0.local_addr().port()
    }

    /// Answers a request; every empty key material in `message` takes the next key. The handles may be disposed then.
    #[napi]
    pub fn reply(&self, id: u32, message: &[u8], keys: Vec<ClassInstance<KeyHandle>>) -> Result<()> {
        let keys = keys.iter().map(|key| key.get()).collect::<Result<Vec<_>>>()?;
        caught(|| {
            if let Some(responder) = self.desk.take(id) {
                responder.send(&Reply { message: message.to_vec(), keys });
            }
            Ok(())
        })
    }

    /// Closes the connection of a request without an answer.
    #[napi]
    pub fn refuse(&self, id: u32) {
        drop(self.desk.take(id));
    }

    /// Replaces the trusted clients; connections of those no longer trusted are closed.
    #[napi]
    pub fn set_trust(&self, client_authorities: String, pinned_clients: Vec<String>) -> Result<()> {
        let trust = trust(client_authorities, &pinned_clients)?;
        guard(|| self.server.0.set_trust(&trust))
    }

    /// Closes the open connections of one client.
    #[napi]
    pub fn disconnect(&self, client_key_hash: String) -> Result<()> {
        self.server.0.disconnect(&key_hash(&client_key_hash)?);
        Ok(())
    }

    /// Stops serving: closes every connection and ends their threads.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn stop<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (server, desk) = (Arc::clone(&self.server), Arc::clone(&self.desk));
        background::promise(env, move || {
            server.end();
            // Lets the event loop end.
            drop(desk.on_request.lock().unwrap_or_else(PoisonError::into_inner).take());
            drop(desk.on_rejected.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        })
    }
}

struct Running(Server);

impl Lifetime for Running {
    fn end(&self) {
        self.0.stop();
    }
}

type OnRequest = ThreadsafeFunction<KmipRequest, (), KmipRequest, Status, false>;
type OnRejected = ThreadsafeFunction<KmipRejection, (), KmipRejection, Status, false, false, MAX_REJECTIONS>;

/// Rejections that may wait for JavaScript; a flood beyond that is not reported one by one.
const MAX_REJECTIONS: usize = 1024;

/// The requests that JavaScript works on.
struct Desk {
    on_request: Mutex<Option<Arc<OnRequest>>>,
    on_rejected: Mutex<Option<OnRejected>>,
    waiting: Mutex<HashMap<u32, Waiting>>,
    next: AtomicU32,
}

struct Waiting {
    connection_id: u64,
    responder: Responder,
}

impl Desk {
    /// None for a connection that was closed meanwhile: it needs no answer.
    fn take(&self, id: u32) -> Option<Responder> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        waiting.map(|waiting| waiting.responder)
    }
}

impl Handler for Desk {
    fn handle(&self, request: Request, responder: Responder) {
        let on_request = self.on_request.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(on_request) = on_request else { return };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { connection_id: request.connection_id, responder };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, waiting);
        if request.closing.is_set() {
            drop(self.take(id));
            return;
        }
        let request = KmipRequest {
            id,
            connection_id: request.connection_id as f64,
            client_key_hash: hex(&request.peer.spki_sha256),
            remote_address: request.address.to_string(),
            common_name: request.peer.subject_cn.clone(),
            message: request.message.into(),
            keys: request.keys.into_iter().map(KeyHandle::new).collect(),
        };
        if on_request.call(request, ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
            drop(self.take(id));
        }
    }

    fn closed(&self, connection_id: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, request| request.connection_id != connection_id);
    }

    fn rejected(&self, address: SocketAddr, reason: &str) {
        let on_rejected = self.on_rejected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_rejected) = on_rejected.as_ref() {
            let told = KmipRejection { remote_address: address.to_string(), reason: reason.to_owned() };
            on_rejected.call(told, ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

fn config(options: KmipListenerOptions) -> Result<ServerConfig> {
    let mut config = ServerConfig::new(options.certificate, options.private_key_file);
    config.host = options.host;
    config.port = options.port;
    config.trust = trust(options.client_authorities, &options.pinned_clients)?;
    if let Some(connections) = options.max_connections {
        config.max_connections = connections as usize;
    }
    if let Some(bytes) = options.max_message_bytes {
        config.limits.max_message = bytes as usize;
    }
    if let Some(time) = options.idle_timeout_ms {
        config.idle_timeout = Duration::from_millis(time.into());
    }
    if let Some(time) = options.handshake_timeout_ms {
        config.handshake_timeout = Duration::from_millis(time.into());
    }
    Ok(config)
}

fn trust(authorities: String, pinned: &[String]) -> Result<ClientTrust> {
    let mut trust = ClientTrust::default();
    if !authorities.trim().is_empty() {
        trust.authorities_pem.push(authorities);
    }
    trust.pinned = pinned.iter().map(|hash| key_hash(hash)).collect::<Result<_>>()?;
    Ok(trust)
}

fn key_hash(text: &str) -> Result<[u8; 32]> {
    let refused = || invalid_argument("a client key hash is 64 hexadecimal digits");
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(refused());
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| refused())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| refused())?;
    }
    Ok(hash)
}
