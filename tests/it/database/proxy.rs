//! A TCP proxy that knows where PostgreSQL's messages begin and end (protocol 3.0, "Frontend/Backend Protocol" of its
//! manual), and cuts connections where a test wants it: so that nobody hears of a commit, or a statement comes late.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use super::url;

/// Before a server without TLS. A request is a simple Query, or the messages up to a Sync. It matches a text if it *runs* a
/// statement that contains it: one that only prepares the statement does not, and one that runs what was prepared before
/// does. What is told to match happens to one request, the next that matches, unless it says otherwise.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards to 127.0.0.1:`port`.
    pub fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        shared.server.store(port, Ordering::SeqCst);
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Proxy { port: here, shared, accepting: Some(accepting) }
    }

    /// Of the database `openexec`, as the role `openexec`.
    pub fn url(&self) -> String {
        url(self.port, "openexec")
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections that are accepted from now on go there.
    pub fn forward_to(&self, port: u16) {
        self.shared.server.store(port, Ordering::SeqCst);
    }

    /// Requests that clients have sent so far.
    pub fn round_trips(&self) -> usize {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// What clients have run so far, a text for each round trip.
    pub fn statements(&self) -> Vec<String> {
        self.shared.statements.lock().unwrap().clone()
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The request is forwarded and answered, the answer is thrown away, and the connection is closed.
    pub fn cut_after(&self, matching: &str) {
        self.shared.rules.lock().unwrap().cut_after = Some(matching.to_owned());
    }

    /// The connection is closed, and the request is not forwarded.
    pub fn cut_before(&self, matching: &str) {
        self.shared.rules.lock().unwrap().cut_before = Some(matching.to_owned());
    }

    /// The request is forwarded when [`release`](Self::release) says so, also when the client has gone meanwhile.
    pub fn hold(&self, matching: &str) {
        self.shared.rules.lock().unwrap().hold = Some(matching.to_owned());
    }

    /// Requests that are held now.
    pub fn held(&self) -> usize {
        self.shared.rules.lock().unwrap().held
    }

    /// Forwards what is held. Nothing is held any more.
    pub fn release(&self) {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.hold = None;
        rules.releases += 1;
        self.shared.released.notify_all();
    }

    /// As [`cut_after`](Self::cut_after), for each `one_in`-th request that matches, until it is told 0.
    pub fn cut_each_after(&self, matching: &str, one_in: usize) {
        self.shared.rules.lock().unwrap().each =
            (one_in > 0).then(|| Each { matching: matching.to_owned(), one_in, seen: 0 });
    }

    /// Requests that were cut off so far, before or after.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Closes all connections now.
    pub fn cut_all(&self) {
        self.shared.close_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.release();
        self.shared.close_all();
    }
}

#[derive(Default)]
struct Shared {
    server: AtomicU16,
    stopping: AtomicBool,
    round_trips: AtomicUsize,
    statements: Mutex<Vec<String>>,
    connections: AtomicUsize,
    cuts: AtomicUsize,
    rules: Mutex<Rules>,
    released: Condvar,
    /// Both ends of each, by its number.
    open: Mutex<HashMap<usize, Vec<TcpStream>>>,
}

#[derive(Default)]
struct Rules {
    cut_before: Option<String>,
    cut_after: Option<String>,
    hold: Option<String>,
    each: Option<Each>,
    held: usize,
    releases: usize,
}

struct Each {
    matching: String,
    one_in: usize,
    seen: usize,
}

/// What becomes of a request.
enum Verdict {
    Forward,
    CutBefore,
    CutAfter,
    Hold,
}

/// What becomes of the answer to a request that was forwarded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Return,
    Cut,
}

impl Rules {
    fn judge(&mut self, statements: &[String]) -> Verdict {
        let matches = |text: &str| statements.iter().any(|statement| statement.contains(text));
        if self.cut_before.take_if(|text| matches(text)).is_some() {
            return Verdict::CutBefore;
        }
        if self.hold.take_if(|text| matches(text)).is_some() {
            return Verdict::Hold;
        }
        if self.cut_after.take_if(|text| matches(text)).is_some() {
            return Verdict::CutAfter;
        }
        if let Some(each) = self.each.as_mut().filter(|each| matches(&each.matching)) {
            each.seen += 1;
            if each.seen % each.one_in == 0 {
                return Verdict::CutAfter;
            }
        }
        Verdict::Forward
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            let number = self.connections.fetch_add(1, Ordering::SeqCst);
            let shared = self.clone();
            thread::spawn(move || {
                // Either side may go at any time.
                let _ = shared.serve(number, client);
                shared.close(number);
            });
        }
    }

    fn serve(self: &Arc<Self>, number: usize, client: TcpStream) -> io::Result<()> {
        self.register(number, &client)?;
        let mut from_client = BufReader::new(client.try_clone()?);
        let startup = read_startup(&mut from_client, &client)?;
        let server = TcpStream::connect(("127.0.0.1", self.server.load(Ordering::SeqCst)))?;
        self.register(number, &server)?;
        (&server).write_all(&startup)?;
        // The answer to the startup ends as that to a request does.
        let fates = Arc::new(Mutex::new(VecDeque::from([Fate::Return])));
        let answers = thread::spawn({
            let (shared, fates) = (self.clone(), fates.clone());
            let (server, client) = (server.try_clone()?, client.try_clone()?);
            move || {
                let _ = shared.answers(&server, &client, &fates);
                shared.close(number);
            }
        });
        if self.requests(number, &mut from_client, &server, &fates).is_ok() {
            // The server reads to the end, does what it was sent, and goes. What it answers is waited for.
            let _ = server.shutdown(Shutdown::Write);
        }
        let _ = answers.join();
        Ok(())
    }

    /// Ok when no more is to be forwarded, because the client has gone or its connection is to be cut.
    fn requests(
        &self,
        number: usize,
        from_client: &mut impl Read,
        mut server: &TcpStream,
        fates: &Mutex<VecDeque<Fate>>,
    ) -> io::Result<()> {
        let mut prepared: HashMap<Vec<u8>, String> = HashMap::new();
        let mut request = Vec::new();
        let mut statements = Vec::new();
        while let Some(message) = read_message(from_client)? {
            let mut strings = message[5..].split(|byte| *byte == 0);
            let mut string = || strings.next().unwrap_or_default();
            let complete = match message[0] {
                b'P' => {
                    let name = string().to_vec();
                    prepared.insert(name, String::from_utf8_lossy(string()).into_owned());
                    false
                }
                b'B' => {
                    let _portal = string();
                    statements.extend(prepared.get(string()).cloned());
                    false
                }
                b'Q' => {
                    statements.push(String::from_utf8_lossy(string()).into_owned());
                    true
                }
                b'S' => true,
                b'D' | b'E' | b'C' | b'F' => false,
                // A password, data of a COPY, the end, or a Flush: the server answers to what it has.
                _ => {
                    request.extend(message);
                    server.write_all(&std::mem::take(&mut request))?;
                    continue;
                }
            };
            request.extend(message);
            if !complete {
                continue;
            }
            self.round_trips.fetch_add(1, Ordering::SeqCst);
            self.statements.lock().unwrap().push(statements.join("; "));
            let verdict = self.rules.lock().unwrap().judge(&statements);
            let fate = match verdict {
                Verdict::CutBefore => {
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                    self.close(number);
                    return Ok(());
                }
                Verdict::Hold => {
                    self.wait_for_release();
                    Fate::Return
                }
                Verdict::CutAfter => Fate::Cut,
                Verdict::Forward => Fate::Return,
            };
            fates.lock().unwrap().push_back(fate);
            server.write_all(&std::mem::take(&mut request))?;
            if fate == Fate::Cut {
                return Ok(());
            }
            statements.clear();
        }
        Ok(())
    }

    fn answers(&self, server: &TcpStream, mut client: &TcpStream, fates: &Mutex<VecDeque<Fate>>) -> io::Result<()> {
        let mut from_server = BufReader::new(server);
        let mut answer = Vec::new();
        let mut listening = true;
        while let Some(message) = read_message(&mut from_server)? {
            let mut fates = fates.lock().unwrap();
            let cut = fates.front() == Some(&Fate::Cut);
            let complete = message[0] == b'Z';
            if complete {
                fates.pop_front();
            }
            drop(fates);
            if cut && complete {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if cut || !listening {
                continue;
            }
            answer.extend(message);
            if from_server.buffer().is_empty() {
                // A server whose answers nobody reads would be told so: it goes on as if somebody did.
                listening = client.write_all(&answer).is_ok();
                answer.clear();
            }
        }
        client.write_all(&answer)
    }

    fn wait_for_release(&self) {
        let mut rules = self.rules.lock().unwrap();
        let before = rules.releases;
        rules.held += 1;
        rules = self.released.wait_while(rules, |rules| rules.releases == before).unwrap();
        rules.held -= 1;
    }

    fn register(&self, number: usize, end: &TcpStream) -> io::Result<()> {
        end.set_nodelay(true)?;
        self.open.lock().unwrap().entry(number).or_default().push(end.try_clone()?);
        Ok(())
    }

    fn close(&self, number: usize) {
        shut(self.open.lock().unwrap().remove(&number));
    }

    fn close_all(&self) {
        shut(self.open.lock().unwrap().drain().map(|(_, ends)| ends));
    }
}

fn shut(connections: impl IntoIterator<Item = Vec<TcpStream>>) {
    for end in connections.into_iter().flatten() {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// The first message, which has no type. TLS and GSSAPI, which a client may ask for before, are refused.
fn read_startup(from_client: &mut impl Read, mut client: &TcpStream) -> io::Result<Vec<u8>> {
    const TLS: u32 = 80_877_103;
    const GSSAPI: u32 = 80_877_104;
    loop {
        let mut head = [0; 8];
        from_client.read_exact(&mut head)?;
        let [length, code] = [&head[..4], &head[4..]].map(|four| u32::from_be_bytes(four.try_into().unwrap()));
        if code == TLS || code == GSSAPI {
            client.write_all(b"N")?;
            continue;
        }
        let mut message = head.to_vec();
        read_rest(from_client, &mut message, (length as usize).saturating_sub(8))?;
        return Ok(message);
    }
}

/// Its type, its length without the type, and the rest. None at the end of the connection.
fn read_message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(head[1..].try_into().unwrap());
    let mut message = head.to_vec();
    read_rest(from, &mut message, (length as usize).saturating_sub(4))?;
    Ok(Some(message))
}

fn read_rest(from: &mut impl Read, message: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let start = message.len();
    message.resize(start + length, 0);
    from.read_exact(&mut message[start..])
}
