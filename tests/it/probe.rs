//! `openexec probe`: what a container's health check sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use crate::support::{Setup, free};

/// With nothing from the test's own environment.
fn probe(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
    let output = command.env_clear().envs(environment.iter().copied()).arg("probe").args(arguments).output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn at(admin: SocketAddr, arguments: &[&str]) -> (Option<i32>, String) {
    probe(arguments, &[("OPENEXEC_ADMIN_LISTEN", &admin.to_string())])
}

#[test]
fn a_server_that_is_ready_is_said_to_be() {
    let server = Setup::demo().start();
    assert_eq!(at(server.admin, &[]), (Some(0), String::new()));
    assert_eq!(at(server.admin, &["--live"]), (Some(0), String::new()));
    // As a container listens.
    let anywhere = Setup::demo().with("OPENEXEC_ADMIN_LISTEN", "0.0.0.0:0").start();
    assert!(anywhere.admin.ip().is_unspecified());
    assert_eq!(at(anywhere.admin, &[]), (Some(0), String::new()));
}

#[test]
fn a_server_that_is_not_ready_is_asked_why() {
    let server = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY").start();
    assert_eq!(at(server.admin, &[]), (Some(1), "openexec: not ready: not_configured\n".to_owned()));
    assert_eq!(at(server.admin, &["--live"]), (Some(0), String::new()));
}

#[test]
fn the_address_comes_from_the_variable_or_else_from_the_file() {
    let server = Setup::demo().start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("openexec.yaml");
    let path = path.to_str().unwrap();
    // What else the file names is the server's matter: whoever asks may not even be able to read it.
    let rest = "mode: clawshield\nupstreams: {a: {addresses: [\"https://a\"], tls: {ca: /nowhere.pem}}}\n";
    let write = |listen: &str| std::fs::write(path, format!("admin: {{listen: {listen}}}\n{rest}")).unwrap();
    write(&format!("\"{}\"", server.admin));
    assert_eq!(probe(&["--config", path], &[]), (Some(0), String::new()));
    assert_eq!(probe(&[], &[("OPENEXEC_CONFIG", path)]), (Some(0), String::new()));
    let nobody = free();
    let (code, said) = probe(&["--config", path], &[("OPENEXEC_ADMIN_LISTEN", &nobody)]);
    assert_eq!((code, said.contains(&nobody)), (Some(69), true), "{said}");
    for listen in ["everywhere", "5", "[", "~"] {
        write(listen);
        let (code, said) = probe(&["--config", path], &[]);
        assert_eq!((code, said.contains("openexec.yaml: ")), (Some(78), true), "{listen}: {said}");
    }
    let (code, said) = probe(&["--config", "/nowhere.yaml"], &[]);
    assert_eq!((code, said.contains("/nowhere.yaml: ")), (Some(78), true), "{said}");
    assert_eq!(at(server.admin, &["--config", path]), (Some(0), String::new()));
}

#[test]
fn nobody_there_is_69_and_a_misuse_is_2() {
    let (code, said) = at(free().parse().unwrap(), &[]);
    assert_eq!((code, said.contains("cannot be asked")), (Some(69), true), "{said}");
    for (arguments, environment) in [
        (&["--timeout", "0"][..], &[][..]),
        (&["--timeout", "soon"], &[]),
        (&["--admin", "everywhere"], &[]),
        (&["now"], &[]),
        (&[], &[("OPENEXEC_ADMIN_LISTEN", "everywhere")]),
    ] {
        assert_eq!(probe(arguments, environment).0, Some(2), "{arguments:?}");
    }
}

/// Whoever took the port: what comes back is printed as text, and not waited for beyond the time.
#[test]
fn somebody_else_there_is_not_taken_for_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |bytes: &'static str| {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        // Until the other side has seen it.
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let asked = |bytes: &'static str| {
        std::thread::scope(|scope| {
            scope.spawn(|| answer(bytes));
            at(address, &["--timeout", "1"])
        })
    };
    let (code, said) = asked("HTTP/1.1 503 No\r\nContent-Length: 7\r\n\r\nbad\u{1b}[m\n");
    assert_eq!((code, said.as_str()), (Some(1), "openexec: not ready: bad\\u{1b}[m\n"));
    let (code, said) = asked("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((code, said.contains("/readyz answers 404")), (Some(1), true), "{said}");
    for silent in ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"] {
        let (code, said) = asked(silent);
        assert_eq!((code, said.contains("no answer in time")), (Some(69), true), "{said}");
    }
    let (code, said) = asked("SSH-2.0-nothing\r\n");
    assert_eq!((code, said.contains("cannot be asked")), (Some(69), true), "{said}");
    let server = Setup::demo().start();
    assert_eq!(at(server.admin, &[]), (Some(0), String::new()));
}
