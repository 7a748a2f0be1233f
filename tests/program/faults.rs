//! What Podop makes of a backend that misbehaves: one line per case, on real sockets. The key chooses what
//! the backend does; the reply is compared exactly, for Postfix and for Dovecot. After each case innocent
//! keys are asked for, on the same connections and on new ones, and get exactly their own values.

use crate::support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::http::{Backend, Script, Then, raw, response};
use support::podop::{Podop, ask, reply, request};
use support::tls::{self, Authority, Wants};

/// The expected replies to the client.
enum Told {
    /// This value.
    Value(&'static str),
    Miss,
    /// A fault of the backend: `TEMP` or `F`, and this cause.
    Fault(&'static str),
    /// The same, and `TIMEOUT` for Postfix.
    Timeout(&'static str),
    /// Something else for Postfix than for Dovecot.
    Each(&'static str, &'static str),
}
use Then::{Close, Cut, Hang, Keep, Reset};
use Told::{Each, Fault, Miss, Timeout, Value};

type Case = (&'static str, Script, Told);

const HEAD: &str = "sent an invalid response: malformed response head";
const LENGTH: &str = "sent an invalid response: bad Content-Length";
const CODING: &str = "sent an invalid response: bad Transfer-Encoding";
const CHUNK: &str = "sent an invalid response: malformed chunk";
const TRAILERS: &str = "sent an invalid response: malformed trailers";
const CUT: &str = "closed the connection within its answer";
const INTERIM: &str = "sent an invalid response: unexpected interim response";
const LONG_HEAD: &str = "sent an invalid response: response head is too long";
const LONG_BODY: &str = "sent an invalid response: response body is too long";
const NOT_JSON: &str = "answered 200 without JSON";
const NUL: &str = "TEMP alias: the value has a NUL, where mail servers cut it";
const NUL_FOR_DOVECOT: &str = "Falias: the value has a NUL, where mail servers cut it";
const CUT_NUMBER: &str = "answered 200 with a number that may be cut: it ended with the connection";
const CLOSED: &str = "closed the connection without an answer";
const RESET: &str = "broke the connection: connection reset";
const SILENT: &str = "did not answer in time";
const SLOW: &str = "did not complete its answer in time";

/// 200 with these fields and the body `"v"`.
fn fields(fields: &str) -> Script {
    raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n\"v\""), Keep)
}

/// 200 with a chunked body as it is written here.
fn chunked(body: &str) -> Script {
    raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), Keep)
}

/// A status line and head as they are written here, with a body `"v"` of known length.
fn head(head: &str) -> Script {
    raw(format!("{head}\r\nContent-Length: 3\r\n\r\n\"v\""), Keep)
}

fn json(body: impl AsRef<[u8]>) -> Script {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    raw([head.as_bytes(), body].concat(), Keep)
}

fn redirect(status: u16, location: &str) -> Script {
    raw(format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"), Keep)
}

fn then(mut script: Script, then: Then) -> Script {
    script.then = then;
    script
}

fn drip(mut script: Script) -> Script {
    script.drips = true;
    script
}

fn plus(mut script: Script, bytes: &[u8]) -> Script {
    script.bytes.extend_from_slice(bytes);
    script
}

fn framing_by_length() -> Vec<Case> {
    vec![
        ("length", fields("Content-Length: 3"), Value("v")),
        ("length, name in lower case", fields("content-length:3"), Value("v")),
        ("length with zeros in front", fields("Content-Length: 003"), Value("v")),
        ("length with spaces around", fields("Content-Length: \t 3 \t"), Value("v")),
        ("length twice, the same", fields("Content-Length: 3\r\nContent-Length: 3"), Value("v")),
        ("length twice, another", fields("Content-Length: 3\r\nContent-Length: 4"), Fault(LENGTH)),
        ("length as a list", fields("Content-Length: 3, 3"), Fault(LENGTH)),
        ("length empty", fields("Content-Length:"), Fault(LENGTH)),
        ("length negative", fields("Content-Length: -3"), Fault(LENGTH)),
        ("length with a plus", fields("Content-Length: +3"), Fault(LENGTH)),
        ("length hexadecimal", fields("Content-Length: 0x3"), Fault(LENGTH)),
        ("length with letters", fields("Content-Length: 3x"), Fault(LENGTH)),
        ("length with a fraction", fields("Content-Length: 3.0"), Fault(LENGTH)),
        ("length beyond 64 bits", fields("Content-Length: 18446744073709551619"), Fault(LENGTH)),
        ("length beyond the limit", fields("Content-Length: 4194305"), Fault(LONG_BODY)),
        ("length too small", fields("Content-Length: 2"), Fault(NOT_JSON)),
        ("length too large, then closed", then(fields("Content-Length: 4"), Close), Fault(CUT)),
        ("length too large, then silent", fields("Content-Length: 4"), Timeout(SLOW)),
        ("length zero", raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Keep), Fault(NOT_JSON)),
        ("length and chunked", fields("Content-Length: 3\r\nTransfer-Encoding: chunked"), Fault(LENGTH)),
        ("chunked and length", fields("Transfer-Encoding: chunked\r\nContent-Length: 3"), Fault(LENGTH)),
    ]
}

fn framing_by_chunks() -> Vec<Case> {
    let coding = |value: &str| fields(&format!("Transfer-Encoding: {value}"));
    let long_line = format!("3;{}\r\n\"v\"\r\n0\r\n\r\n", "x".repeat(2000));
    let long_trailers = format!("3\r\n\"v\"\r\n0\r\nA: {}\r\n\r\n", "x".repeat(17_000));
    vec![
        ("chunked", chunked("3\r\n\"v\"\r\n0\r\n\r\n"), Value("v")),
        ("chunks of one byte", chunked("1\r\n\"\r\n1\r\nv\r\n1\r\n\"\r\n0\r\n\r\n"), Value("v")),
        ("chunk with an extension", chunked("3;a=b;c=\"d\"\r\n\"v\"\r\n0;e\r\n\r\n"), Value("v")),
        ("chunk size before a space", chunked("3 \r\n\"v\"\r\n0\r\n\r\n"), Value("v")),
        ("chunk extension after spaces", chunked("3 \t;a\r\n\"v\"\r\n0\r\n\r\n"), Value("v")),
        ("chunk size with zeros in front", chunked("0003\r\n\"v\"\r\n000\r\n\r\n"), Value("v")),
        ("chunk size in capitals", chunked("A\r\n\"abcdefgh\"\r\n0\r\n\r\n"), Value("abcdefgh")),
        ("trailers", chunked("3\r\n\"v\"\r\n0\r\nA: b\r\nC:\r\n\r\n"), Value("v")),
        ("a length among the trailers", chunked("3\r\n\"v\"\r\n0\r\nContent-Length: 9\r\n\r\n"), Value("v")),
        (
            "coding in capitals",
            raw("HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n3\r\n\"v\"\r\n0\r\n\r\n", Keep),
            Value("v"),
        ),
        ("coding gzip and chunked", coding("gzip, chunked"), Fault(CODING)),
        ("coding chunked twice in a list", coding("chunked, chunked"), Fault(CODING)),
        ("coding chunked twice", coding("chunked\r\nTransfer-Encoding: chunked"), Fault(CODING)),
        ("coding identity", coding("identity"), Fault(CODING)),
        ("coding that only looks chunked", coding("xchunked"), Fault(CODING)),
        ("coding chunked with a parameter", coding("chunked;q=1"), Fault(CODING)),
        ("coding empty", coding(""), Fault(CODING)),
        (
            "chunked in HTTP/1.0",
            raw("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\"v\"\r\n0\r\n\r\n", Keep),
            Fault(CODING),
        ),
        ("chunk size empty", chunked("\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size no number", chunked("g\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size negative", chunked("-3\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size with a plus", chunked("+3\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size with 0x", chunked("0x3\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size after a space", chunked(" 3\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size with an underscore", chunked("0_3\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size beyond 64 bits", chunked("10000000000000003\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size beyond the limit", chunked("400001\r\n\"v\"\r\n0\r\n\r\n"), Fault(LONG_BODY)),
        ("chunk size too small", chunked("2\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk size too large", chunked("4\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk lines that end with LF", chunked("3\n\"v\"\n0\n\n"), Fault(CHUNK)),
        ("chunk extension with a bare CR", chunked("3;a\rb\r\n\"v\"\r\n0\r\n\r\n"), Fault(CHUNK)),
        ("chunk line without end", chunked(&long_line), Fault(CHUNK)),
        ("no last chunk, closed", then(chunked("3\r\n\"v\"\r\n"), Close), Fault(CUT)),
        ("no last chunk, silent", chunked("3\r\n\"v\"\r\n"), Timeout(SLOW)),
        ("no end after the last chunk, closed", then(chunked("3\r\n\"v\"\r\n0\r\n"), Close), Fault(CUT)),
        ("closed within a chunk", then(chunked("3\r\n\"v"), Close), Fault(CUT)),
        ("reset within a chunk", then(chunked("3\r\n\"v"), Reset), Fault(RESET)),
        ("trailer folded", chunked("3\r\n\"v\"\r\n0\r\nA: b\r\n c\r\n\r\n"), Fault(TRAILERS)),
        ("trailer without a colon", chunked("3\r\n\"v\"\r\n0\r\nA\r\n\r\n"), Fault(TRAILERS)),
        ("trailer with a bare CR", chunked("3\r\n\"v\"\r\n0\r\nA: b\rc\r\n\r\n"), Fault(TRAILERS)),
        ("trailers too long", chunked(&long_trailers), Fault(TRAILERS)),
    ]
}

fn heads() -> Vec<Case> {
    let many = "A: b\r\n".repeat(126);
    let too_many = "A: b\r\n".repeat(128);
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(60_000));
    let too_long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(66_000));
    vec![
        ("no reason phrase", head("HTTP/1.1 200"), Value("v")),
        ("an odd reason phrase", head("HTTP/1.1 200 \"404 Not Found\" caf\u{e9}"), Value("v")),
        ("lines that end with LF", raw("HTTP/1.1 200 OK\nContent-Length: 3\n\n\"v\"", Keep), Value("v")),
        ("128 fields", head(&format!("HTTP/1.1 200 OK\r\n{many}B: c")), Value("v")),
        (
            "129 fields",
            head(&format!("HTTP/1.1 200 OK\r\n{}", too_many.trim_end())),
            Fault("sent an invalid response: response has too many fields"),
        ),
        ("a long field", head(&long), Value("v")),
        ("a head beyond the limit", head(&too_long), Fault(LONG_HEAD)),
        ("two digits", head("HTTP/1.1 20 OK"), Fault(HEAD)),
        ("four digits", head("HTTP/1.1 2000 OK"), Fault(HEAD)),
        ("a letter among the digits", head("HTTP/1.1 2O0 OK"), Fault(HEAD)),
        ("a sign before the digits", head("HTTP/1.1 +20 OK"), Fault(HEAD)),
        ("two spaces before the status", head("HTTP/1.1  200 OK"), Fault(HEAD)),
        ("another version", head("HTTP/1.2 200 OK"), Fault(HEAD)),
        ("HTTP/2", head("HTTP/2 200 OK"), Fault(HEAD)),
        ("lower case", head("http/1.1 200 OK"), Fault(HEAD)),
        ("HTTP/0.9", then(raw("\"v\"", Keep), Close), Fault(HEAD)),
        ("an empty line in front", head("\r\nHTTP/1.1 200 OK"), Fault(HEAD)),
        ("a space in front", head(" HTTP/1.1 200 OK"), Fault(HEAD)),
        ("another protocol", raw("220 mx ESMTP\r\n", Keep), Fault(HEAD)),
        ("a field folded", head("HTTP/1.1 200 OK\r\nA: b\r\n c"), Fault(HEAD)),
        ("a space before the colon", head("HTTP/1.1 200 OK\r\nA : b"), Fault(HEAD)),
        ("no colon", head("HTTP/1.1 200 OK\r\nA"), Fault(HEAD)),
        ("no name", head("HTTP/1.1 200 OK\r\n: b"), Fault(HEAD)),
        ("a bare CR in a field", head("HTTP/1.1 200 OK\r\nA: b\rc"), Fault(HEAD)),
        ("a NUL in a field", head("HTTP/1.1 200 OK\r\nA: b\0c"), Fault(HEAD)),
        ("a control in the reason", head("HTTP/1.1 200 O\x01K"), Fault(HEAD)),
    ]
}

fn statuses() -> Vec<Case> {
    let with = |status: u16| response(status, "\"v\"");
    vec![
        ("201", with(201), Fault("answered 201")),
        ("202", with(202), Fault("answered 202")),
        ("203", with(203), Fault("answered 203")),
        ("204", raw("HTTP/1.1 204 No Content\r\n\r\n", Keep), Fault("answered 204")),
        (
            "204 with a length it does not have",
            raw("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", Keep),
            Fault("answered 204"),
        ),
        ("205", with(205), Fault("answered 205")),
        ("206", with(206), Fault("answered 206")),
        ("300", with(300), Fault("answered 300")),
        ("304", raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Keep), Fault("answered 304")),
        ("305", with(305), Fault("answered 305")),
        ("400", with(400), Fault("answered 400")),
        ("401", with(401), Miss),
        ("403", with(403), Miss),
        ("404", with(404), Miss),
        ("404 that is called OK", raw("HTTP/1.1 404 OK\r\nContent-Length: 3\r\n\r\n\"v\"", Keep), Miss),
        ("404 without a body", raw("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Keep), Miss),
        (
            "404 with half its body",
            then(raw("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnull", Keep), Close),
            Fault(CUT),
        ),
        (
            "404 with half its body, reset",
            then(raw("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnull", Keep), Reset),
            Fault(RESET),
        ),
        (
            "404 with half its body, silent",
            raw("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnull", Keep),
            Timeout(SLOW),
        ),
        ("410", with(410), Miss),
        ("451", with(451), Miss),
        ("418", with(418), Miss),
        ("499", with(499), Fault("answered 499")),
        ("423", with(423), Fault("answered 423")),
        ("408", with(408), Fault("answered 408")),
        ("421", with(421), Fault("answered 421")),
        ("425", with(425), Fault("answered 425")),
        ("429", with(429), Fault("answered 429")),
        ("500", with(500), Fault("answered 500")),
        ("502", with(502), Fault("answered 502")),
        ("503", with(503), Fault("answered 503")),
        ("504", with(504), Fault("answered 504")),
        ("599", with(599), Fault("answered 599")),
        ("600", with(600), Fault("answered 600")),
        ("999", with(999), Fault("answered 999")),
        ("a status below 100", raw("HTTP/1.1 020 OK\r\nContent-Length: 3\r\n\r\n\"v\"", Keep), Fault("answered 20")),
    ]
}

fn bodies() -> Vec<Case> {
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    let broken = "[".repeat(5_000);
    let deep_text: &'static str = String::leak(format!("O{deep}"));
    let long: &'static str = String::leak("x".repeat(99_998));
    let dovecot_long: &'static str = String::leak(format!("O{long}"));
    vec![
        ("a string with escapes", json(r#""\"\u00e9\\\/""#), Value("\"\u{e9}\\/")),
        ("a byte order mark", json("\u{feff}\"v\""), Value("v")),
        ("spaces around", json(" \r\n\t\"v\" \n"), Value("v")),
        ("a number", json("1e400"), Value("1e400")),
        ("a long number", json("123456789012345678901234567890.10"), Value("123456789012345678901234567890.10")),
        ("null", json("null"), Miss),
        ("an empty array", json("[]"), Each("NOTFOUND ", "O[]")),
        ("an array", json("[\"a\", \"b\"]"), Each("OK a,b", "O[\"a\",\"b\"]")),
        (
            "an object",
            json("{\"a\" : null}"),
            Each("TEMP alias: the value is an object: select= names a part of it", "O{\"a\":null}"),
        ),
        ("false", json("false"), Each("NOTFOUND ", "Ofalse")),
        (
            "null in an array",
            json("[\"a\", null]"),
            Each("TEMP alias: the value is an array with null in it", "O[\"a\",null]"),
        ),
        (
            "half a surrogate pair in an array",
            json(r#"["a", "\udce9"]"#),
            Each("TEMP alias: the value has text that cannot be decoded", r#"O["a","\udce9"]"#),
        ),
        ("an empty string", json("\"\""), Value("")),
        (
            "deep",
            json(&deep),
            Each("TEMP alias: the value is an array of arrays or objects: select= names a part of it", deep_text),
        ),
        ("deep and broken", json(&broken), Fault(NOT_JSON)),
        ("nothing", json(""), Fault(NOT_JSON)),
        ("a web page", json("<html>404 Not Found</html>"), Fault(NOT_JSON)),
        ("bare text", json("v"), Fault(NOT_JSON)),
        ("single quotes", json("'v'"), Fault(NOT_JSON)),
        ("half a string", json("\"v"), Fault(NOT_JSON)),
        ("half an object", json("{\"a\": 1"), Fault(NOT_JSON)),
        ("two documents", json("\"v\" \"w\""), Fault(NOT_JSON)),
        ("a comma too many", json("[1,]"), Fault(NOT_JSON)),
        ("NaN", json("NaN"), Fault(NOT_JSON)),
        ("nul", json("nul"), Fault(NOT_JSON)),
        ("Latin-1", json(b"\"caf\xe9\""), Fault(NOT_JSON)),
        ("Latin-1 in an array", json(b"[\"caf\xe9\"]"), Fault(NOT_JSON)),
        ("half a surrogate pair", json(r#""\ud800""#), Fault(NOT_JSON)),
        ("a newline in a string", json("\"a\nb\""), Fault(NOT_JSON)),
        ("compressed", json(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"), Fault(NOT_JSON)),
        ("a NUL", json(r#""a\u0000b""#), Each(NUL, NUL_FOR_DOVECOT)),
        (
            "too long for Postfix",
            json(format!("\"{long}\"")),
            Each("TEMP alias: the value is longer than Postfix takes (100000 bytes)", dovecot_long),
        ),
        (
            "a body of unknown length beyond the limit",
            then(raw(format!("HTTP/1.1 200 OK\r\n\r\n\"{}\"", "x".repeat(4 << 20)), Keep), Close),
            Fault(LONG_BODY),
        ),
    ]
}

fn connections() -> Vec<Case> {
    let v = || fields("Content-Length: 3");
    let miss = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let last = || raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n\"v\"", Close);
    vec![
        ("connection: close", last(), Value("v")),
        ("connection: close that stays open", then(last(), Keep), Value("v")),
        ("closed without a word after the answer", then(v(), Close), Value("v")),
        ("reset after the answer", then(v(), Reset), Value("v")),
        ("HTTP/1.0 with a length", raw("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n\"v\"", Close), Value("v")),
        ("HTTP/1.0 until the end", raw("HTTP/1.0 200 OK\r\n\r\n\"v\"", Close), Value("v")),
        (
            "HTTP/1.0 kept alive",
            raw("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n\"v\"", Keep),
            Value("v"),
        ),
        ("until the end", raw("HTTP/1.1 200 OK\r\n\r\n\"v\"", Close), Value("v")),
        ("until the end, which does not come", raw("HTTP/1.1 200 OK\r\n\r\n\"v\"", Hang), Timeout(SLOW)),
        ("until a reset", raw("HTTP/1.1 200 OK\r\n\r\n\"v\"", Reset), Fault(RESET)),
        ("a number until the end", raw("HTTP/1.1 200 OK\r\n\r\n123", Close), Fault(CUT_NUMBER)),
        ("a miss until the end", raw("HTTP/1.1 404 Not Found\r\n\r\nnull", Close), Miss),
        ("a miss until a reset", raw("HTTP/1.1 404 Not Found\r\n\r\nnull", Reset), Fault(RESET)),
        ("surplus: a byte", plus(v(), b"x"), Value("v")),
        ("surplus: an empty line", plus(v(), b"\r\n"), Value("v")),
        ("surplus: a miss", plus(v(), miss), Value("v")),
        (
            "surplus: the value of another key",
            plus(v(), b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n\"theirs\""),
            Value("v"),
        ),
        (
            "surplus after a miss",
            plus(raw(&miss[..], Keep), b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n\"theirs\""),
            Miss,
        ),
        ("surplus after chunks", plus(chunked("3\r\n\"v\"\r\n0\r\n\r\n"), miss), Value("v")),
        ("surplus after 204", plus(raw("HTTP/1.1 204 No Content\r\n\r\n", Keep), miss), Fault("answered 204")),
        (
            "surplus: 408 and closed",
            then(plus(v(), b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"), Close),
            Value("v"),
        ),
        ("100 first", plus(raw("HTTP/1.1 100 Continue\r\n\r\n", Keep), &v().bytes), Value("v")),
        (
            "103 three times",
            plus(raw("HTTP/1.1 103 Early\r\nLink: </>\r\n\r\n".repeat(3), Keep), &v().bytes),
            Value("v"),
        ),
        ("102 and closed", raw("HTTP/1.1 102 Processing\r\n\r\n", Close), Fault(CUT)),
        ("100 and silent", raw("HTTP/1.1 100 Continue\r\n\r\n", Hang), Timeout(SILENT)),
        ("101", raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Keep), Fault(INTERIM)),
        ("interim responses without end", raw("HTTP/1.1 100 Continue\r\n\r\n".repeat(200), Keep), Fault(INTERIM)),
        ("no answer, closed", raw("", Close), Fault(CLOSED)),
        ("no answer, reset", raw("", Reset), Fault(RESET)),
        ("no answer", raw("", Hang), Timeout(SILENT)),
        ("silent within the head", raw("HTTP/1.1 200 OK\r\nContent-", Hang), Timeout(SILENT)),
        ("silent within the body", raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"", Hang), Timeout(SLOW)),
        ("byte by byte", drip(v()), Value("v")),
        ("chunks byte by byte", drip(chunked("3\r\n\"v\"\r\n0\r\nA: b\r\n\r\n")), Value("v")),
        ("a miss byte by byte", drip(raw(&miss[..], Keep)), Miss),
        ("redirect on the same origin", redirect(308, "/innocent-there"), Value("own innocent-there")),
        ("redirect to a miss", redirect(301, "/none"), Miss),
        ("redirect in a circle", redirect(302, "?again"), Fault("answered 302 too often")),
        (
            "redirect to another host",
            redirect(307, "http://192.0.2.1/innocent"),
            Fault("answered 307 to another origin"),
        ),
        ("redirect to https elsewhere", redirect(301, "https://192.0.2.1/a"), Fault("answered 301 to another origin")),
        (
            "redirect with userinfo",
            redirect(303, "http://127.0.0.1@192.0.2.1/innocent"),
            Fault("answered 303 to another origin"),
        ),
        ("redirect without a location", response(302, ""), Fault("answered 302 without a usable location")),
        ("redirect with spaces", redirect(302, "/a b"), Fault("answered 302 without a usable location")),
    ]
}

/// What only TLS can detect: a stream that another party has cut off.
fn cut_off() -> Vec<Case> {
    let end = "closed without close_notify";
    let v = || fields("Content-Length: 3");
    let open = |body: &str| raw(format!("HTTP/1.1 200 OK\r\n\r\n{body}"), Cut);
    vec![
        ("until the end, cut off", open("\"v\""), Fault(end)),
        ("HTTP/1.0 until the end, cut off", raw("HTTP/1.0 200 OK\r\n\r\n\"v\"", Cut), Fault(end)),
        ("a list until the end, cut off", open("[\"a\"]"), Fault(end)),
        ("a miss until the end, cut off", raw("HTTP/1.1 404 Not Found\r\n\r\nnull", Cut), Fault(end)),
        ("an empty body until the end, cut off", raw("HTTP/1.1 404 Not Found\r\n\r\n", Cut), Fault(end)),
        ("a length, cut off behind it", then(v(), Cut), Value("v")),
        ("a length, cut off within it", then(fields("Content-Length: 4"), Cut), Fault(CUT)),
        ("chunks, cut off behind them", then(chunked("3\r\n\"v\"\r\n0\r\n\r\n"), Cut), Value("v")),
        ("chunks, cut off before the last", then(chunked("3\r\n\"v\"\r\n"), Cut), Fault(CUT)),
        ("no answer, cut off", raw("", Cut), Fault(CLOSED)),
    ]
}

#[test]
fn every_case_is_answered_as_stated() {
    run_all(&Setting { tls: false, args: &[] });
}

#[test]
fn every_case_is_the_same_with_pipelining() {
    run_all(&Setting { tls: false, args: &["--option", "alias:pipeline=16"] });
}

#[test]
#[cfg(feature = "tls")]
fn every_case_is_the_same_over_tls() {
    run_all(&Setting { tls: true, args: &[] });
}

#[test]
#[cfg(feature = "tls")]
fn every_case_is_the_same_with_pipelining_over_tls() {
    run_all(&Setting { tls: true, args: &["--option", "alias:pipeline=16"] });
}

/// In what the cases differ from run to run.
struct Setting {
    tls: bool,
    args: &'static [&'static str],
}

/// What a run needs for it: how a server secures its connections, and the arguments.
#[derive(Clone)]
struct Means {
    config: Option<Arc<rustls::ServerConfig>>,
    args: Vec<String>,
}

fn run_all(setting: &Setting) {
    let groups = [framing_by_length(), framing_by_chunks(), heads(), statuses(), bodies(), connections()];
    let cut_off = if setting.tls { cut_off() } else { Vec::new() };
    let cases: Arc<Vec<Case>> = Arc::new(groups.into_iter().flatten().chain(cut_off).collect());
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let authority = Authority::new();
    let config = || Arc::new(tls::server(&authority.issue(&["127.0.0.1"]), &tls::BOTH, Wants::Nothing));
    let mut means = Means { config: None, args: setting.args.iter().map(|arg| (*arg).to_owned()).collect() };
    if setting.tls {
        means.config = Some(config());
        means.args.extend(["--option".to_owned(), authority.option()]);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (cases, next, means) = (cases.clone(), next.clone(), means.clone());
            std::thread::spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    run(case, &means);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn run((name, script, expected): &Case, Means { config, args }: &Means) {
    let answer = script.clone();
    let backend = Backend::start_with(config.clone(), move |request| match request.target.trim_start_matches('/') {
        key if key.starts_with("innocent") => response(200, &format!("\"own {key}\"")),
        "none" => response(404, "null"),
        _ => answer.clone(),
    });
    let url = backend.url("/§");
    let table = ["--name", "alias", "--type", "url", "--param", &url, "--timeout", "0.6"];
    let table = table.iter().copied().chain(args.iter().map(String::as_str));
    let podop = Podop::start(&table.collect::<Vec<_>>());
    let (postfix, dovecot) = match expected {
        Value(text) => (format!("OK {text}"), format!("O{text}")),
        Miss => ("NOTFOUND ".to_owned(), "N".to_owned()),
        Fault(cause) => {
            let reason = format!("alias: {} {cause}", backend.label());
            (format!("TEMP {reason}"), format!("F{reason}"))
        }
        Timeout(cause) => {
            let reason = format!("alias: {} {cause}", backend.label());
            (format!("TIMEOUT {reason}"), format!("F{reason}"))
        }
        Each(postfix, dovecot) => ((*postfix).to_owned(), (*dovecot).to_owned()),
    };
    let mut clients = (podop.connect(), dict(&podop));
    // The first time on a new connection to the backend, the second time on a used one.
    for round in 0..2 {
        let got = ask(&mut clients.0, "alias", b"case");
        assert_eq!(String::from_utf8_lossy(&got), postfix, "case '{name}', Postfix, round {round}");
        innocents(&podop, &mut clients, name);
        assert_eq!(look_up(&mut clients.1, "case"), dovecot, "case '{name}', Dovecot, round {round}");
        innocents(&podop, &mut clients, name);
    }
    // With several requests in flight, a response out of turn is taken for the next one; no client can detect that.
    if args.iter().any(|arg| arg.contains("pipeline")) && !name.starts_with("surplus") {
        let keys = ["innocent-before", "case", "innocent-behind", "innocent-last"];
        let requests: Vec<u8> = keys.iter().flat_map(|key| request("alias", key.as_bytes())).collect();
        clients.0.write_all(&requests).unwrap();
        let replies = keys.map(|_| String::from_utf8_lossy(&reply(&mut clients.0)).into_owned());
        assert_eq!(replies[0], "OK own innocent-before", "case '{name}'");
        let is_fault = |reply: &str| reply.starts_with("TEMP ") || reply.starts_with("TIMEOUT ");
        // What is missing of a body is taken from the next answer, which a miss survives and a value does not.
        let cut =
            matches!(expected, Timeout(SLOW)) && (is_fault(&replies[1]) || script.bytes.starts_with(b"HTTP/1.1 404"));
        assert!(cut || replies[1] == postfix, "case '{name}', between others: {}", replies[1]);
        for (key, reply) in keys.iter().zip(&replies).skip(2) {
            assert!(is_fault(reply) || *reply == format!("OK own {key}"), "case '{name}': {key} got {reply}");
        }
        innocents(&podop, &mut clients, name);
    }
}

/// The same and new clients get exactly what is theirs.
fn innocents(podop: &Podop, clients: &mut (UnixStream, BufReader<UnixStream>), name: &str) {
    let mut new = (podop.connect(), dict(podop));
    for (at, (postfix, dovecot)) in [(&mut clients.0, &mut clients.1), (&mut new.0, &mut new.1)].into_iter().enumerate()
    {
        let got = ask(postfix, "alias", format!("innocent{at}").as_bytes());
        assert_eq!(String::from_utf8_lossy(&got), format!("OK own innocent{at}"), "after case '{name}'");
        assert_eq!(look_up(dovecot, &format!("innocent-{at}")), format!("Oown innocent-{at}"), "after case '{name}'");
    }
}

fn dict(podop: &Podop) -> BufReader<UnixStream> {
    let mut stream = podop.connect();
    stream.write_all(b"H4\t0\t0\t\talias\n").unwrap();
    BufReader::new(stream)
}

fn look_up(stream: &mut BufReader<UnixStream>, key: &str) -> String {
    stream.get_mut().write_all(format!("Lshared/{key}\t\n").as_bytes()).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line.trim_end_matches('\n').to_owned()
}
