//! The network of a pod and of a client outside: two network namespaces with a cable between.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::cli::text;
use crate::support::PATIENCE;

/// Of the pod: one of each kind, and a second one of the first.
pub const POD: &str = "10.77.0.2";
pub const POD_SECOND: &str = "10.77.0.3";
pub const POD_6: &str = "[fd77::2]";
/// As a client writes it: with the name of its own end of the cable.
pub const POD_LINK: &str = "[fe80::2%25client]";
/// Of the client.
pub const CLIENT: &str = "10.77.0.1";
pub const CLIENT_6: &str = "fd77::1";
pub const CLIENT_LINK: &str = "fe80::1";

/// Both namespaces end with whoever is in them, and those end with this, or with the thread that made it.
pub struct Network {
    pod: Guarded,
    client: Guarded,
}

/// A process that ends when this is dropped.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Network {
    pub fn new() -> Self {
        // Root has a namespace for the asking, others through a user namespace.
        let own = if is_root() { &["--net"][..] } else { &["--user", "--map-root-user", "--net"] };
        let client = hold(Command::new("unshare").args(own));
        let pod = hold(enter(&client).args(["unshare", "--net"]));
        let network = Network { pod, client };
        // Without detection of duplicates, which takes a second.
        run(network.client("sh").args([
            "-ec",
            &format!(
                "ip link add client type veth peer name eth0 netns {}
            ip link set client addrgenmode none up
            ip addr add {CLIENT}/24 dev client
            ip addr add {CLIENT_6}/64 dev client nodad
            ip addr add {CLIENT_LINK}/64 dev client nodad",
                network.pod.0.id()
            ),
        ]));
        run(network.pod("sh").args([
            "-ec",
            &format!(
                "ip link set lo up
            ip link set eth0 addrgenmode none up
            ip addr add {POD}/24 dev eth0
            ip addr add {POD_SECOND}/24 dev eth0
            ip addr add fd77::2/64 dev eth0 nodad
            ip addr add fe80::2/64 dev eth0 nodad",
            ),
        ]));
        network
    }

    /// A network behind the pod, at `10.88.0.2`, to which the pod forwards.
    pub fn behind(&self) -> Guarded {
        let behind = hold(enter(&self.pod).args(["unshare", "--net"]));
        run(self.pod("sh").args([
            "-ec",
            &format!(
                "ip link add behind type veth peer name eth0 netns {}
            ip link set behind up
            ip addr add 10.88.0.1/24 dev behind
            echo 1 > /proc/sys/net/ipv4/ip_forward",
                behind.0.id()
            ),
        ]));
        let script = "ip link set eth0 up\nip addr add 10.88.0.2/24 dev eth0\nip route add default via 10.88.0.1";
        run(inside(&behind, "sh").args(["-ec", script]));
        run(self.client("ip").args(["route", "add", "10.88.0.0/24", "via", POD]));
        behind
    }

    /// A program in the pod.
    pub fn pod(&self, program: &str) -> Command {
        inside(&self.pod, program)
    }

    /// A program outside.
    pub fn client(&self, program: &str) -> Command {
        inside(&self.client, program)
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A process that does nothing, in namespaces of its own.
fn hold(namespaces: &mut Command) -> Guarded {
    let held = namespaces.args(["setpriv", "--pdeathsig", "KILL", "sh", "-c", "echo; exec cat"]);
    let mut held = Guarded(held.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(held.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "\n", "no namespaces here");
    held
}

fn enter(held: &Guarded) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &held.0.id().to_string(), "--net"]);
    if !is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    command
}

pub fn inside(held: &Guarded, program: &str) -> Command {
    let mut command = enter(held);
    command.args(["setpriv", "--pdeathsig", "KILL", program]);
    command
}

/// Runs it to its end, which must be a good one.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    assert!(status.success(), "{command:?}: {status}: {}", text(&stderr));
    text(&stdout)
}

/// Asks until it is so.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// What curl hears, from where the command is; nothing if nobody answers.
pub fn ask(mut curl: Command, url: &str, body: Option<&str>) -> Option<(u16, String)> {
    // What is dropped is not answered; whoever is connected at all is given more time, on a machine with much to do.
    curl.args(["--silent", "--globoff", "--noproxy", "*", "--connect-timeout", "3", "--max-time", "20"]);
    curl.args(["--write-out", "\n%{http_code}", url]);
    if body.is_some() {
        curl.args(["--header", "Content-Type: application/json", "--data-binary", "@-"]);
    }
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(body.unwrap_or_default().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stdout);
    let (body, status) = said.rsplit_once('\n').unwrap();
    // 000: no answer.
    status.parse().ok().filter(|status| *status > 0).map(|status| (status, body.to_owned()))
}

pub fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}
