//! How a request is framed: one reading or none. Every case is raw bytes with the exact answer. Where a wrong parser
//! would find another request behind or inside of the case's own, there is one, and nobody ever executes it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::service::{Seen, Service, json as json_answer};
use crate::support::{Client, Server, Setup, request};

/// What comes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// A refusal, and the connection closes.
    Refused(u16, &'static str),
    /// A refusal, and the connection stays.
    Declined(u16, &'static str),
    /// Its own request is executed, and the connection stays.
    Executed,
    /// Its own request is executed, and the connection closes.
    ExecutedLast,
    /// 100, then as `Executed`.
    Continued,
    /// 200 without an execution, and the connection stays.
    Said,
    /// The same, and the connection closes.
    SaidLast,
    /// There is nobody to answer: it closes.
    Nothing,
}
use Outcome::{Continued, Declined, Executed, ExecutedLast, Nothing, Refused, Said, SaidLast};

const BAD: Outcome = Refused(400, "bad_http");
const LATE: Outcome = Refused(408, "request_timeout");

struct Case {
    name: &'static str,
    bytes: String,
    outcome: Outcome,
    /// The client ends its side behind the bytes.
    ends: bool,
}

/// The body of the request that the case is about.
fn own(name: &str) -> String {
    request("send", &json!({"do": name}), &format!("{name}, itself"))
}

/// A whole request that nobody sent as one.
fn hidden(name: &str) -> String {
    let body = hidden_body(name);
    let length = body.len();
    format!(
        "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn hidden_body(name: &str) -> String {
    request("send", &json!({"do": format!("{name}, hidden")}), &format!("{name}, hidden"))
}

const HEAD: &str = "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";

struct Table(Vec<Case>);

impl Table {
    fn raw(&mut self, name: &'static str, bytes: impl Into<String>, outcome: Outcome) {
        self.0.push(Case { name, bytes: bytes.into(), outcome, ends: false });
    }

    fn ended(&mut self, name: &'static str, bytes: impl Into<String>, outcome: Outcome) {
        self.0.push(Case { name, bytes: bytes.into(), outcome, ends: true });
    }

    /// `headers` and a body of which `LEN` is the length; a hidden request behind it, if nothing should stay.
    fn fields(&mut self, name: &'static str, headers: &str, outcome: Outcome) {
        let body = own(name);
        let headers = headers.replace("LEN", &body.len().to_string());
        let behind = if matches!(outcome, Executed | Continued) { String::new() } else { hidden(name) };
        self.raw(name, format!("{HEAD}{headers}\r\n{body}{behind}"), outcome);
    }

    /// `headers`, and a body that reads as no body at all, with a hidden request behind, if chunks are looked for.
    fn te(&mut self, name: &'static str, headers: &str, outcome: Outcome) {
        let body = format!("0\r\n\r\n{}", hidden(name));
        let headers = headers.replace("LEN", &body.len().to_string());
        self.raw(name, format!("{HEAD}{headers}\r\n{body}"), outcome);
    }

    /// A chunked body: `SIZE` and `BODY` stand for the own request, `HIDDEN` for another one. `a` and `b` are parts of
    /// a body.
    fn chunks(&mut self, name: &'static str, chunks: &str, outcome: Outcome) {
        let body = own(name);
        let size = format!("{:x}", body.len());
        let chunks = chunks.replace("SIZE", &size).replace("BODY", &body).replace("HIDDEN", &hidden(name));
        self.raw(name, format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}"), outcome);
    }

    fn line(&mut self, name: &'static str, line: &str, outcome: Outcome) {
        let body = own(name);
        let length = body.len();
        let fields = format!("Host: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        let behind = if outcome == BAD { hidden(name) } else { String::new() };
        self.raw(name, format!("{line}\r\n{fields}\r\n{body}{behind}"), outcome);
    }
}

fn lengths(t: &mut Table) {
    t.fields("one length", "Content-Length: LEN\r\n", Executed);
    t.fields("a length with blanks around", "Content-Length: \t LEN \t\r\n", Executed);
    t.fields("a length with leading zeros", "Content-Length: 0000000000000000000000LEN\r\n", Executed);
    t.fields("the same length twice", "Content-Length: LEN\r\nContent-Length: LEN\r\n", BAD);
    t.fields("two lengths", "Content-Length: LEN\r\nContent-Length: 0\r\n", BAD);
    t.fields("two lengths, the other first", "content-length: 0\r\nContent-length: LEN\r\n", BAD);
    t.fields("a list of one length", "Content-Length: LEN, LEN\r\n", BAD);
    t.fields("a list of two lengths", "Content-Length: LEN,0\r\n", BAD);
    t.fields("a length with a plus", "Content-Length: +LEN\r\n", BAD);
    t.fields("a length with a minus", "Content-Length: -LEN\r\n", BAD);
    t.fields("a length in hexadecimal", "Content-Length: 0xLEN\r\n", BAD);
    t.fields("a length with a point", "Content-Length: LEN.0\r\n", BAD);
    t.fields("a length with an exponent", "Content-Length: LENe0\r\n", BAD);
    t.fields("a length with a blank inside", "Content-Length: 0 LEN\r\n", BAD);
    t.fields("a length in quotes", "Content-Length: \"LEN\"\r\n", BAD);
    t.fields("an empty length", "Content-Length:\r\n", BAD);
    t.fields("a length in other digits", "Content-Length: \u{664}\r\n", BAD);
    t.fields("a length over 64 bits", "Content-Length: 18446744073709551616\r\n", BAD);
    t.fields("a length of 64 bits", "Content-Length: 18446744073709551615\r\n", BAD);
    t.fields("a length of 63 bits", "Content-Length: 9223372036854775807\r\n", Refused(413, "body_too_large"));
    t.fields("a blank before the colon of a length", "Content-Length : LEN\r\n", BAD);
    t.fields("a length with an underscore in its name", "Content-Length: LEN\r\nContent_Length: 0\r\n", BAD);
    t.raw("no length", format!("{HEAD}\r\n"), Declined(422, "invalid_request"));
    let name = "a length that is too short";
    t.raw(name, format!("{HEAD}Content-Length: 1\r\n\r\n{{\r\n{}", hidden(name)), Declined(422, "invalid_request"));
    let name = "a length that is too long";
    t.raw(name, format!("{HEAD}Content-Length: 5000\r\n\r\n{}", own(name)), LATE);
    let name = "a body that ends early";
    t.ended(name, format!("{HEAD}Content-Length: 5000\r\n\r\n{}", own(name)), BAD);
}

fn encodings(t: &mut Table) {
    t.te("both lengths", "Content-Length: LEN\r\nTransfer-Encoding: chunked\r\n", BAD);
    t.te("both lengths, the other first", "Transfer-Encoding: chunked\r\nContent-Length: LEN\r\n", BAD);
    t.te(
        "both lengths, one hidden in Connection",
        "Connection: Content-Length\r\nContent-Length: LEN\r\nTransfer-Encoding: chunked\r\n",
        BAD,
    );
    for (name, value) in [
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("gzip before chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        ("chunked before gzip", "Transfer-Encoding: chunked, gzip\r\n"),
        ("chunked twice in a list", "Transfer-Encoding: chunked, chunked\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked and identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("a longer word", "Transfer-Encoding: xchunked\r\n"),
        ("a shorter word", "Transfer-Encoding: chunke\r\n"),
        ("chunked with a parameter", "Transfer-Encoding: chunked;q=1\r\n"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        ("chunked behind a comma", "Transfer-Encoding: ,chunked\r\n"),
        ("no encoding", "Transfer-Encoding:\r\n"),
        ("a vertical tab before chunked", "Transfer-Encoding: \u{b}chunked\r\n"),
        ("a NUL behind chunked", "Transfer-Encoding: chunked\0\r\n"),
        ("a bare CR before chunked", "Transfer-Encoding: \rchunked\r\n"),
        ("a no-break space before chunked", "Transfer-Encoding: \u{a0}chunked\r\n"),
        ("a blank before the colon", "Transfer-Encoding : chunked\r\n"),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("a field in a folded line", "X: y\r\n Transfer-Encoding: chunked\r\n"),
        ("a folded encoding", "Transfer-Encoding:\r\n chunked\r\n"),
        ("an encoding behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n"),
        ("an encoding behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n"),
        ("an underscore in its name", "Transfer_Encoding: chunked\r\nContent-Length: LEN\r\n"),
    ] {
        t.te(name, value, BAD);
    }
    t.chunks("chunked in capitals", "SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN", ExecutedLast);
    let case = t.0.last_mut().unwrap();
    case.bytes = case.bytes.replace("chunked\r\n\r\n", "CHUNKED\r\n\r\n");
    let name = "chunked in HTTP/1.0";
    t.te(name, "Transfer-Encoding: chunked\r\n", BAD);
    let case = t.0.last_mut().unwrap();
    case.bytes = case.bytes.replacen("HTTP/1.1", "HTTP/1.0", 1);
}

fn chunks(t: &mut Table) {
    for (name, chunks) in [
        ("one chunk", "SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with leading zeros", "00000SIZE\r\nBODY\r\n0000\r\n\r\nHIDDEN"),
        ("an extension", "SIZE;a=b;c=\"d;e\"\r\nBODY\r\n0;f\r\n\r\nHIDDEN"),
        ("a trailer", "SIZE\r\nBODY\r\n0\r\nX-Checksum: 1\r\n\r\nHIDDEN"),
    ] {
        t.chunks(name, chunks, ExecutedLast);
    }
    let long = "x".repeat(17_000);
    for (name, chunks) in [
        ("a size that is none", "zz\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("an empty size", "\r\n\r\nHIDDEN"),
        ("an extension without a size", ";SIZE\r\n\r\nHIDDEN"),
        ("a size with a plus", "+SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with a minus", "-SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with a blank before", " SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with a blank behind", "SIZE \r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a blank before an extension", "SIZE ;x\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with 0x", "0xSIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with an underscore", "SIZE_0\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with an h", "SIZEh\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size of 64 bits", "ffffffffffffffff\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size over 64 bits", "100000000000000SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size with many zeros", "00000000000000000000SIZE\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size that ends with LF", "SIZE\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("a size that ends with CR", "SIZE\rBODY\r\n0\r\n\r\nHIDDEN"),
        ("a NUL behind a size", "SIZE\0\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("an extension with a bare LF", "SIZE;\n\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("an extension with a bare CR", "SIZE;\rx\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("an extension with a NUL", "SIZE;\0\r\nBODY\r\n0\r\n\r\nHIDDEN"),
        ("no end of line behind a chunk", "SIZE\r\nBODY0\r\n\r\nHIDDEN"),
        ("a bare LF behind a chunk", "SIZE\r\nBODY\n0\r\n\r\nHIDDEN"),
        ("a bare CR behind a chunk", "SIZE\r\nBODY\r0\r\n\r\nHIDDEN"),
        ("a chunk that is longer than its size", "SIZE\r\nBODYHIDDEN\r\n0\r\n\r\n"),
        ("a last chunk that ends with LF", "SIZE\r\nBODY\r\n0\n\nHIDDEN"),
        ("a bare LF for the last empty line", "SIZE\r\nBODY\r\n0\r\n\nHIDDEN"),
        ("a trailer that ends with LF", "SIZE\r\nBODY\r\n0\r\nX: y\n\r\nHIDDEN"),
        ("a trailer that is no field", "SIZE\r\nBODY\r\n0\r\nGET / HTTP/1.1\r\n\r\nHIDDEN"),
        ("a folded trailer", "SIZE\r\nBODY\r\n0\r\nX: y\r\n z\r\n\r\nHIDDEN"),
        ("a trailer with a NUL", "SIZE\r\nBODY\r\n0\r\nX: \0\r\n\r\nHIDDEN"),
        ("a length in a trailer", "SIZE\r\nBODY\r\n0\r\nContent-Length: 5\r\n\r\nHIDDEN"),
        ("an encoding in a trailer", "SIZE\r\nBODY\r\n0\r\nTransfer-Encoding: chunked\r\n\r\nHIDDEN"),
        ("a Host in a trailer", "SIZE\r\nBODY\r\n0\r\nHost: b\r\n\r\nHIDDEN"),
        ("an identity in a trailer", "SIZE\r\nBODY\r\n0\r\nOpenExec_Tenant: b\r\n\r\nHIDDEN"),
    ] {
        t.chunks(name, chunks, BAD);
    }
    t.chunks("a long extension", &format!("SIZE;{long}\r\nBODY\r\n0\r\n\r\nHIDDEN"), BAD);
    t.chunks("a long trailer", &format!("SIZE\r\nBODY\r\n0\r\nX: {long}\r\n\r\nHIDDEN"), BAD);
    t.chunks("no last chunk", "SIZE\r\nBODY\r\n", LATE);
    t.chunks("no end of trailers", "SIZE\r\nBODY\r\n0\r\nX: y\r\n", LATE);
    t.chunks("chunks that end early", "SIZE\r\nBODY\r\n0\r\n", BAD);
    t.0.last_mut().unwrap().ends = true;
}

fn lines(t: &mut Table) {
    t.line("a target in absolute form", "POST http://a/execute HTTP/1.1", Executed);
    t.line("a target for another host", "POST http://b/execute HTTP/1.1", BAD);
    t.line("a target of another scheme", "POST ftp://a/execute HTTP/1.1", BAD);
    t.line("a target with a user", "POST http://a@b/execute HTTP/1.1", BAD);
    t.line("a target with a fragment", "POST /execute#x HTTP/1.1", BAD);
    t.line("a target without a slash", "POST execute HTTP/1.1", BAD);
    t.line("a target in authority form", "POST a:80 HTTP/1.1", BAD);
    t.line("a star with another method", "POST * HTTP/1.1", BAD);
    t.line("a target with a bracket", "POST /execute< HTTP/1.1", BAD);
    t.line("a query with a bracket", "POST /execute?q=< HTTP/1.1", BAD);
    t.line("a target with a NUL", "POST /execute\0 HTTP/1.1", BAD);
    t.line("two blanks before the target", "POST  /execute HTTP/1.1", BAD);
    t.line("two blanks before the version", "POST /execute  HTTP/1.1", BAD);
    t.line("a blank behind the version", "POST /execute HTTP/1.1 ", BAD);
    t.line("a tab for a blank", "POST\t/execute HTTP/1.1", BAD);
    t.line("a bare CR in the line", "POST /execute\rHTTP/1.1", BAD);
    t.line("a blank before the method", " POST /execute HTTP/1.1", BAD);
    t.line("a bare LF before the method", "\nPOST /execute HTTP/1.1", BAD);
    t.line("a bare CR before the method", "\rPOST /execute HTTP/1.1", BAD);
    t.line("an empty line before the method", "\r\n\r\nPOST /execute HTTP/1.1", Executed);
    t.line("a method in small letters", "post /execute HTTP/1.1", Declined(405, "method_not_allowed"));
    t.line("a body that another path ignores", "POST /health HTTP/1.1", Declined(405, "method_not_allowed"));
    t.line("a body for no path", "POST /nowhere HTTP/1.1", Declined(404, "not_found"));
    t.line("HTTP/1.0", "POST /execute HTTP/1.0", ExecutedLast);
    t.line("HTTP/1.2", "POST /execute HTTP/1.2", BAD);
    t.line("HTTP/2.0", "POST /execute HTTP/2.0", BAD);
    t.line("http/1.1", "POST /execute http/1.1", BAD);
    t.line("no version", "POST /execute", BAD);
    t.line("CONNECT", "CONNECT a:80 HTTP/1.1", BAD);
    t.line("CONNECT with a path", "CONNECT /execute HTTP/1.1", BAD);
    t.raw("HTTP/0.9", "GET /\r\n", LATE);
    t.raw("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD);
    t.raw("a star for the server", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Declined(404, "not_found"));
    t.raw("a NUL and an end", "\0\r\n\r\n", BAD);
    t.raw("a TLS handshake", "\u{16}\u{3}\u{1}\r\n\r\n", BAD);
    t.raw("an unfinished header", "GET / HTTP/1.1\r\nHost: a\r\n", LATE);
    t.ended("a header that ends early", "GET / HTTP/1.1\r\nHost: a\r\n", Nothing);
    t.raw("nothing but empty lines", "\r\n".repeat(20_000), Refused(431, "headers_too_large"));
}

fn fields(t: &mut Table) {
    t.raw("no Host", "GET / HTTP/1.1\r\n\r\n", BAD);
    t.raw("no Host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", SaidLast);
    t.raw("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BAD);
    t.raw("an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", BAD);
    t.raw("a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", BAD);
    t.raw("a Host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", BAD);
    t.raw("a list of Hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", BAD);
    t.raw("lines that end with LF", "GET / HTTP/1.1\nHost: a\n\n", BAD);
    t.raw("a header that ends with LF", "GET / HTTP/1.1\r\nHost: a\r\n\n", BAD);
    t.raw("a field without a colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", BAD);
    t.raw("a field without a name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", BAD);
    t.raw("a folded first field", "GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n", BAD);
    t.raw("a folded field", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", BAD);
    t.raw("a NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", BAD);
    t.raw("a NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n", BAD);
    t.raw("a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", BAD);
    t.fields(
        "an upgrade to h2c",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: LEN\r\n",
        Executed,
    );
    t.fields("an upgrade to a websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nContent-Length: LEN\r\n", Executed);
    t.raw(
        "an upgrade without a body",
        "GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        Said,
    );
    t.fields("100-continue and the body at once", "Expect: 100-continue\r\nContent-Length: LEN\r\n", Continued);
    t.fields(
        "100-continue for too much",
        "Expect: 100-continue\r\nContent-Length: 1000000\r\n",
        Refused(413, "body_too_large"),
    );
    t.fields("another expectation", "Expect: 200-ok\r\nContent-Length: LEN\r\n", Executed);
    t.fields("an expectation twice", "Expect: x\r\nExpect: 100-continue\r\nContent-Length: LEN\r\n", Executed);
    t.fields("a length that Connection names", "Connection: Content-Length\r\nContent-Length: LEN\r\n", Executed);
    let name = "a body with GET";
    let body = hidden(name);
    let length = body.len();
    t.raw(name, format!("GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"), SaidLast);
    let name = "a chunked body with GET";
    let size = format!("{:x}", hidden(name).len());
    let chunks = format!("{size}\r\n{}\r\n0\r\n\r\n", hidden(name));
    t.raw(name, format!("GET /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), SaidLast);
    let name = "another type than JSON";
    let body = hidden(name);
    let length = body.len();
    let outcome = Declined(415, "unsupported_media_type");
    t.raw(name, format!("POST /execute HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"), outcome);
}

fn table() -> Vec<Case> {
    let mut table = Table(Vec::new());
    for part in [lengths, encodings, chunks, lines, fields] {
        part(&mut table);
    }
    table.0
}

/// `/execute` does actions of one service; `/upload` is let through to another.
fn start(actions: &Service, upload: &Service, limits: &str) -> Server {
    Setup::demo()
        .file(&format!(
            "upstreams: {{actions: {{addresses: [\"http://{}\"]}}, upload: {{addresses: [\"http://{}\"]}}}}
actions: {{send: {{upstream: actions, path: /send}}}}
passthrough: [{{upstream: upload, methods: [POST], path: /upload}}]
limits: {{{limits}}}",
            actions.address, upload.address
        ))
        .start()
}

fn service() -> Service {
    Service::start(|_, stream| json_answer(stream, "200 OK", "{}"))
}

/// Sends the bytes in pieces of this size, and gives the connection.
fn send(server: &Server, bytes: &[u8], cut: usize, ends: bool) -> Client {
    let mut client = server.client();
    for piece in bytes.chunks(cut) {
        // A server that has answered already may have closed its side.
        if client.stream.write_all(piece).is_err() {
            break;
        }
    }
    if ends {
        let _ = client.stream.shutdown(Shutdown::Write);
    }
    client
}

#[track_caller]
fn must_come(server: &Server, case: &Case, cut: usize) {
    let name = case.name;
    let mut client = send(server, case.bytes.as_bytes(), cut, case.ends);
    let mut answer = || client.read().unwrap_or_else(|| panic!("{name}: no answer"));
    let stays = match case.outcome {
        Refused(status, code) | Declined(status, code) => {
            let refusal = answer();
            let found = (refusal.status, refusal.json()["code"].as_str().map(str::to_owned));
            assert_eq!(found, (status, Some(code.to_owned())), "{name}, cut {cut}: {}", refusal.text());
            refusal.must_be(status, code, "");
            matches!(case.outcome, Declined(..))
        }
        Executed | ExecutedLast => {
            let executed = answer();
            assert_eq!(executed.status, 200, "{name}, cut {cut}: {}", executed.text());
            case.outcome == Executed
        }
        Continued => {
            assert_eq!((answer().status, answer().status), (100, 200), "{name}, cut {cut}");
            true
        }
        Said | SaidLast => {
            assert_eq!(answer().status, 200, "{name}, cut {cut}");
            case.outcome == Said
        }
        Nothing => false,
    };
    if has_another_behind(case) {
        assert_eq!(client.read().unwrap().status, 200, "{name}, cut {cut}");
    }
    // What a wrong parser found behind it would be answered first.
    if stays {
        assert_eq!(client.get("/health").json()["status"], "healthy", "{name}, cut {cut}");
    } else {
        client.must_be_closed();
    }
    server.must_be_well();
}

/// Runs each case in a few threads, since some of them wait.
fn each(cases: &[Case], run: impl Fn(&Case) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    run(case);
                }
            });
        }
    });
}

/// Behind its short body there is a request, in truth: it is executed.
fn has_another_behind(case: &Case) -> bool {
    case.name == "a length that is too short"
}

fn is_executed(case: &Case) -> bool {
    matches!(case.outcome, Executed | ExecutedLast | Continued)
}

#[test]
fn framing_has_one_reading_or_is_refused_however_the_bytes_arrive() {
    let cases = table();
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    let distinct: BTreeSet<_> = cases.iter().map(|case| (&case.bytes, case.ends)).collect();
    assert_eq!((names.len(), distinct.len()), (cases.len(), cases.len()), "each case is another one");
    assert!(cases.len() >= 80, "{}", cases.len());
    let (actions, upload) = (service(), service());
    let patient = start(&actions, &upload, "");
    let impatient = start(&actions, &upload, "header_time: 400ms, body_time: 400ms");
    each(&cases, |case| {
        let server = if case.outcome == LATE { &impatient } else { &patient };
        // The first cut that executes it decides; the others get the stored answer.
        for cut in [case.bytes.len(), 1, 7] {
            must_come(server, case, cut);
        }
    });
    for case in &cases {
        let is_behind = has_another_behind(case);
        for server in [&patient, &impatient] {
            let is_here = std::ptr::eq(server, &patient);
            let hidden = server.execute(&hidden_body(case.name));
            assert_eq!(hidden.header("openexec-replayed"), Some(if is_behind && is_here { "true" } else { "false" }));
            let own = server.execute(&own(case.name));
            let was_executed = is_executed(case) && is_here;
            assert_eq!(
                own.header("openexec-replayed"),
                Some(if was_executed { "true" } else { "false" }),
                "{}",
                case.name
            );
        }
    }
    // Twice for each: what was executed above was so on one of the two servers.
    let mut asked: Vec<String> = actions.seen().iter().map(Seen::asked).collect();
    asked.sort();
    let mut expected: Vec<_> =
        cases.iter().flat_map(|case| [case.name.to_owned(), format!("{}, hidden", case.name)]).collect();
    expected.extend(expected.clone());
    expected.sort();
    assert_eq!(asked, expected, "each request once on each server");
    assert_eq!(upload.seen().len(), 0);
}

/// What the chunks of a well-framed body hold.
fn without_chunks(mut chunks: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&chunks[end + 2..end + 2 + size]);
        chunks = &chunks[end + 2 + size + 2..];
    }
}

#[test]
fn a_service_sees_no_second_request_in_what_is_let_through() {
    // The same requests, on a path that is streamed to a service. What is too large for `/execute` is not too large here.
    let is_streamed =
        |case: &Case| case.bytes.starts_with("POST /execute HTTP/1.1\r\n") && !matches!(case.outcome, Refused(413, _));
    let cases: Vec<_> = table().into_iter().filter(is_streamed).collect();
    assert!(cases.len() >= 80, "{}", cases.len());
    let (actions, upload) = (service(), service());
    let patient = start(&actions, &upload, "");
    let impatient = start(&actions, &upload, "header_time: 400ms, body_time: 400ms");
    let path = |case: &Case| format!("/upload/{}", case.name.replace([' ', ',', ';'], "-"));
    each(&cases, |case| {
        let server = if case.outcome == LATE { &impatient } else { &patient };
        let bytes = case.bytes.replacen("/execute", &path(case), 1);
        // Byte by byte: no piece of a body is where a chunk is.
        let mut client = send(server, bytes.as_bytes(), 1, case.ends);
        let mut answer = client.read().unwrap_or_else(|| panic!("{}: no answer", case.name));
        if answer.status == 100 {
            answer = client.read().unwrap();
        }
        match case.outcome {
            Refused(status, code) => answer.must_be(status, code, ""),
            _ if case.name.contains("upgrade") => answer.must_be(400, "bad_http", "not upgraded"),
            _ => assert_eq!(answer.status, 200, "{}: {}", case.name, answer.text()),
        }
        if matches!(case.outcome, Refused(..) | ExecutedLast) {
            client.must_be_closed();
        }
        server.must_be_well();
    });
    let passes = |case: &&Case| !matches!(case.outcome, Refused(..)) && !case.name.contains("upgrade");
    let mut expected: Vec<_> =
        cases.iter().filter(passes).map(|case| format!("POST {} HTTP/1.1", path(case))).collect();
    expected.sort();
    let mut lines: Vec<_> = upload.seen().iter().map(|seen| seen.line.clone()).collect();
    lines.sort();
    assert_eq!(lines, expected, "each once, and nothing else");
    for case in &cases {
        if let Some(seen) = upload.seen().iter().find(|seen| seen.line.contains(&format!("{} ", path(case))))
            && is_executed(case)
        {
            let is_chunked = seen.header("transfer-encoding").is_some();
            assert!(is_chunked != seen.header("content-length").is_some(), "one framing: {:?}", seen.headers);
            let body = if is_chunked { without_chunks(&seen.body) } else { seen.body.clone() };
            assert_eq!(String::from_utf8(body).unwrap(), own(case.name), "whole");
        }
        let was_behind = has_another_behind(case);
        let hidden = patient.execute(&hidden_body(case.name));
        assert_eq!(
            hidden.header("openexec-replayed"),
            Some(if was_behind { "true" } else { "false" }),
            "{}",
            case.name
        );
    }
}
