//! Requests that are asked and answered on threads that do not wait.

mod fixture;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fixture::*;
use vmseal_channel::Error;
use vmseal_channel::client::{Answered, ClientConfig, Connection, Line, Response};
use vmseal_channel::server::{Handler, Reply, Request, Responder, Server};
use vmseal_secret::SecretKey;

/// Passes requests on to whoever answers them, as the event loop of Node does.
struct PassedOn {
    requests: Mutex<Sender<(Request, Responder)>>,
    rejections: Mutex<Vec<String>>,
}

impl Handler for PassedOn {
    fn handle(&self, request: Request, responder: Responder) {
        self.requests.lock().unwrap().send((request, responder)).unwrap();
    }

    fn rejected(&self, _: std::net::SocketAddr, reason: &str) {
        self.rejections.lock().unwrap().push(reason.to_owned());
    }
}

struct Served {
    installation: Installation,
    server: Server,
    requests: Receiver<(Request, Responder)>,
    handler: Arc<PassedOn>,
}

fn serve(idle: Duration) -> Served {
    let installation = Installation::new();
    let (sender, requests) = channel();
    let handler = Arc::new(PassedOn { requests: Mutex::new(sender), rejections: Mutex::default() });
    let mut config = installation.server_config();
    config.idle_timeout = idle;
    config.request_timeout = Duration::from_millis(600);
    let server = Server::start(config, handler.clone()).unwrap();
    Served { installation, server, requests, handler }
}

impl Served {
    fn config(&self) -> ClientConfig {
        self.installation.client_config(self.server.local_addr())
    }

    fn next(&self) -> (Request, Responder) {
        self.requests.recv_timeout(Duration::from_secs(5)).unwrap()
    }
}

/// A line of its own thread.
fn line(config: &ClientConfig) -> Arc<Line> {
    let connection = Connection::open(config).unwrap();
    let line = Arc::new(Line::new().unwrap());
    let serving = line.clone();
    std::thread::spawn(move || serving.serve(connection));
    line
}

fn ask(line: &Line, message: &[u8], keys: Vec<Arc<SecretKey>>) -> Receiver<Answered> {
    let (answer, answered) = channel();
    line.ask(message, keys, Box::new(move |outcome| answer.send(outcome).unwrap()));
    answered
}

fn response(answered: &Receiver<Answered>) -> Response {
    match answered.recv_timeout(Duration::from_secs(5)).unwrap() {
        Answered::Response(response) => response,
        Answered::Failed(error) => panic!("{error}"),
        Answered::Closed => panic!("closed"),
        Answered::Panicked(_) => panic!("panicked"),
    }
}

fn failure(answered: &Receiver<Answered>) -> Error {
    match answered.recv_timeout(Duration::from_secs(5)).unwrap() {
        Answered::Failed(error) => error,
        _ => panic!("no failure"),
    }
}

fn echo(request: Request) -> Reply {
    let mut message = request.message;
    message[..3].copy_from_slice(&RESPONSE.to_be_bytes()[1..]);
    Reply { message, keys: request.keys.into_iter().map(Arc::new).collect() }
}

#[test]
fn answers_from_another_thread_arrive_in_turn() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    for round in 1..=50u8 {
        let asked = ask(&line, &message(REQUEST, &[raw_key(&[])]), vec![Arc::new(key(&[round; 32]))]);
        let (request, responder) = served.next();
        responder.send(&echo(request));
        assert!(holds(&response(&asked).keys[0], &[round; 32]));
    }
    assert!(!line.is_closed());
}

#[test]
fn requests_that_pile_up_are_sent_one_after_another() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let asked: Vec<_> = (1..=20u8)
        .map(|round| ask(&line, &message(REQUEST, &[raw_key(&[])]), vec![Arc::new(key(&[round; 16]))]))
        .collect();
    for (round, asked) in (1..).zip(&asked) {
        let (request, responder) = served.next();
        assert!(served.requests.try_recv().is_err(), "the next one waits for this answer");
        responder.send(&echo(request));
        assert!(holds(&response(asked).keys[0], &[round; 16]));
    }
}

#[test]
fn a_long_answer_to_a_client_that_is_slow_is_sent_whole() {
    let served = serve(Duration::from_secs(300));
    let mut connection = Connection::open(&served.config()).unwrap();
    let waiting = std::thread::spawn(move || connection.request(&query(), &NO_KEYS).unwrap().message);
    let (_, responder) = served.next();
    let long = message(RESPONSE, &[item(0x54_0001, BYTES, &vec![7; 1_000_000])]);
    responder.send(&Reply { message: long.clone(), keys: vec![] });
    assert!(waiting.join().unwrap() == long);
}

#[test]
fn a_long_request_is_sent_whole() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let long = message(REQUEST, &[item(0x54_0001, BYTES, &vec![7; 1_000_000])]);
    let asked = [ask(&line, &long, vec![]), ask(&line, &long, vec![])];
    for asked in asked {
        let (request, responder) = served.next();
        assert!(request.message == long);
        responder.send(&echo(request));
        assert_eq!(response(&asked).message.len(), long.len());
    }
}

#[test]
fn a_responder_that_is_dropped_closes_the_connection() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let asked = ask(&line, &query(), vec![]);
    drop(served.next());
    assert!(!failure(&asked).nothing_was_sent());
    assert!(eventually(|| served.server.connections() == 0 && line.is_closed()));
    assert!(matches!(ask(&line, &query(), vec![]).recv().unwrap(), Answered::Closed));
    assert!(served.handler.rejections.lock().unwrap().is_empty());
}

#[test]
fn an_answer_that_is_none_closes_the_connection_and_says_so() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let asked = ask(&line, &query(), vec![]);
    let (_, responder) = served.next();
    responder.send(&Reply { message: message(RESPONSE, &[raw_key(&[])]), keys: vec![] });
    failure(&asked);
    assert!(eventually(|| served.server.connections() == 0));
    assert!(served.handler.rejections.lock().unwrap()[0].contains("room for 1 keys but 0"));
}

#[test]
fn a_client_that_leaves_while_it_is_worked_for_ends_its_connection() {
    let served = serve(Duration::from_secs(300));
    let connecting = line(&ClientConfig { request_timeout: Duration::from_millis(200), ..served.config() });
    let asked = ask(&connecting, &query(), vec![]);
    let (request, responder) = served.next();
    assert!(matches!(failure(&asked), Error::Timeout { .. }));
    responder.send(&echo(request));
    assert!(eventually(|| served.server.connections() == 0));
}

#[test]
fn the_server_stops_while_somebody_else_has_its_requests() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let asked = ask(&line, &query(), vec![]);
    let (request, responder) = served.next();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| served.server.stop());
        assert!(eventually(|| request.closing.is_set()));
        responder.send(&echo(request));
        assert_eq!(stopping.join().unwrap(), 0);
    });
    failure(&asked);
}

#[test]
fn silence_is_counted_from_the_answer_on() {
    let served = serve(Duration::from_millis(400));
    let line = line(&served.config());
    let asked = ask(&line, &query(), vec![]);
    let (request, responder) = served.next();
    // The client is not silent as long as it waits.
    std::thread::sleep(Duration::from_millis(600));
    responder.send(&echo(request));
    response(&asked);
    assert_eq!(served.server.connections(), 1);
    assert!(eventually(|| served.server.connections() == 0));
    let error = failure(&ask(&line, &query(), vec![]));
    assert!(error.nothing_was_sent(), "{error}");
    assert!(eventually(|| line.is_closed()));
}

#[test]
fn a_deadline_is_kept_also_after_a_long_rest() {
    let served = serve(Duration::from_secs(300));
    let line = line(&ClientConfig { request_timeout: Duration::from_millis(150), ..served.config() });
    let asked = ask(&line, &query(), vec![]);
    let (request, responder) = served.next();
    responder.send(&echo(request));
    response(&asked);
    // Its thread has gone to sleep.
    std::thread::sleep(Duration::from_millis(400));
    let start = Instant::now();
    let asked = ask(&line, &query(), vec![]);
    assert!(matches!(failure(&asked), Error::Timeout { .. }));
    assert!(start.elapsed() >= Duration::from_millis(140));
}

#[test]
fn a_message_that_is_refused_before_it_is_sent_leaves_the_line_open() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let error = failure(&ask(&line, &message(REQUEST, &[raw_key(&[])]), vec![]));
    assert!(error.nothing_was_sent(), "{error}");
    let asked = ask(&line, &query(), vec![]);
    let (request, responder) = served.next();
    responder.send(&echo(request));
    response(&asked);
}

#[test]
fn closing_a_line_waits_for_what_is_under_way() {
    let served = serve(Duration::from_secs(300));
    let line = line(&served.config());
    let asked = [ask(&line, &query(), vec![]), ask(&line, &query(), vec![])];
    line.close();
    assert!(matches!(ask(&line, &query(), vec![]).recv().unwrap(), Answered::Closed));
    for asked in asked {
        let (request, responder) = served.next();
        responder.send(&echo(request));
        response(&asked);
    }
    assert!(eventually(|| served.server.connections() == 0));
}

#[test]
fn connections_are_answered_in_any_order() {
    let served = serve(Duration::from_secs(300));
    let lines: Vec<_> = (0..3).map(|_| line(&served.config())).collect();
    let asked: Vec<_> = lines.iter().map(|line| ask(line, &query(), vec![])).collect();
    let mut waiting: Vec<_> = (0..3).map(|_| served.next()).collect();
    let connections: HashSet<_> = waiting.iter().map(|(request, _)| request.connection_id).collect();
    assert_eq!(connections.len(), 3);
    waiting.reverse();
    for (request, responder) in waiting {
        responder.send(&echo(request));
    }
    asked.iter().for_each(|asked| drop(response(asked)));
}
