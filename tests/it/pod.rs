//! A pod's app, and who reaches it: the real gate and a real app in one network namespace, a client in another.

mod network;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use openexec::inject::{Namespace, Outcome, inject};
use serde_json::json;

use self::network::{
    CLIENT, CLIENT_6, CLIENT_LINK, Guarded, Network, POD, POD_6, POD_LINK, POD_SECOND, ask, inside, json as json_of,
    run, wait_for,
};
use crate::cli::text;
use crate::inject as inject_tests;
use crate::support::{Approval, Setup, approved};

const ALL_ADDRESSES: [&str; 4] = [POD, POD_SECOND, POD_6, POD_LINK];

/// A pod that serves, and a client outside.
struct Pod {
    network: Network,
    setup: Setup,
    gate: Option<Guarded>,
    _app: Guarded,
}

impl Pod {
    /// An app on these places, and a gate in front of the upstream.
    fn new(upstream: &str, places: &[&str]) -> Self {
        Pod::with_tables(upstream, places, None)
    }

    /// Before either starts, the init container runs.
    fn with_tables(upstream: &str, places: &[&str], tables: Option<&[&str]>) -> Self {
        Pod::on(Network::new(), upstream, places, tables)
    }

    fn on(network: Network, upstream: &str, places: &[&str], tables: Option<&[&str]>) -> Self {
        let setup = Setup::clawshield().with("OPENEXEC_LISTEN", "[::]:5000").with("OPENEXEC_ADMIN_LISTEN", "[::]:5001");
        let here = setup.directory.path().display().to_string();
        let setup = setup.with("OPENEXEC_UPSTREAM", &upstream.replace("HERE", &here));
        let setup = setup.with("OPENEXEC_POD_IPS", &format!("{POD},{POD_SECOND},{}", POD_6.trim_matches(['[', ']'])));
        let setup = setup.file("actions: {act: {upstream: app, path: /act}}\nbypass_check: {interval: 100ms}");
        if let Some(ports) = tables {
            run(&mut redirect(&network, ports));
        }
        let places: Vec<_> = places.iter().map(|place| place.replace("HERE", &here)).collect();
        let places: Vec<_> = places.iter().map(String::as_str).collect();
        let app = app(network.pod("python3"), &setup, "app.log", &places);
        let mut pod = Pod { network, setup, gate: None, _app: app };
        pod.start_gate();
        pod
    }

    fn start_gate(&mut self) {
        let config = self.setup.config_path().unwrap();
        let mut gate = self.network.pod(env!("CARGO_BIN_EXE_openexec"));
        gate.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(&self.setup.environment);
        gate.current_dir(self.setup.directory.path()).args(["serve", "--config"]).arg(config);
        self.gate = Some(Guarded(gate.stderr(Stdio::null()).spawn().unwrap()));
        wait_for("the gate", || self.readiness().is_some_and(|(_, why)| why != "bypass_unchecked\n"));
    }

    /// What a kubelet hears.
    fn readiness(&self) -> Option<(u16, String)> {
        self.outside_asks(&format!("http://{POD_6}:5001/readyz"))
    }

    #[track_caller]
    fn must_become_ready(&self) {
        wait_for("a gate that is ready", || self.readiness().is_some_and(|(status, _)| status == 200));
    }

    #[track_caller]
    fn must_find_a_bypass(&self) {
        let found = Some((503, "bypass_found\n".to_owned()));
        wait_for("a gate that finds the bypass", || self.readiness() == found);
    }

    fn kill_gate(&mut self) {
        self.gate = None;
    }

    fn outside_asks(&self, url: &str) -> Option<(u16, String)> {
        ask(self.network.client("curl"), url, None)
    }

    /// What it did for whom, of one kind of line.
    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.setup.directory.path().join("app.log")).unwrap();
        log.lines().filter(|line| *line != "ready").map(str::to_owned).collect()
    }

    /// Who asked the app anything, and is not in the pod.
    fn strangers(&self) -> Vec<String> {
        let outside = |line: &String| [CLIENT, CLIENT_6, CLIENT_LINK].iter().any(|client| line.contains(client));
        self.log().into_iter().filter(outside).collect()
    }

    /// An approved action, from outside, is executed once, and the app is asked once.
    #[track_caller]
    fn must_execute_at(&self, place: &str) {
        let asked = || self.log().iter().filter(|line| line.ends_with("POST /act")).count();
        let before = asked();
        let nonce = uuid::Uuid::new_v4().to_string();
        let approval = Approval { approval_id: &nonce, ..Approval::default() };
        let body = approved("act", &json!({"n": 1}), &nonce, &approval);
        let url = format!("http://{place}/execute");
        let answer = ask(self.network.client("curl"), &url, Some(&body));
        let (status, answer) = answer.unwrap_or_else(|| panic!("nobody answers at {url}"));
        assert_eq!((status, &json_of(&answer)["result"]), (200, &json!({"done": true})), "{answer}");
        assert_eq!(asked(), before + 1);
    }

    /// Whatever is sent to this port from outside, nobody answers and the app hears nothing of it.
    #[track_caller]
    fn must_be_out_of_reach(&self, port: u16) {
        for address in ALL_ADDRESSES {
            let before = self.log();
            let answer = self.outside_asks(&format!("http://{address}:{port}/act"));
            self.send_datagrams(address, port);
            assert_eq!((answer, self.log()), (None, before), "{address}");
            self.must_execute_at(&format!("{address}:5000"));
            assert_eq!(self.strangers(), [""; 0]);
        }
    }

    /// Whatever is sent to the app's port from outside, the gate is who answers.
    #[track_caller]
    fn must_lead_to_the_gate(&self, port: u16) {
        for address in ALL_ADDRESSES {
            let before = self.log();
            let (status, answer) = self.outside_asks(&format!("http://{address}:{port}/act")).expect("an answer");
            self.send_datagrams(address, port);
            assert_eq!((status, &json_of(&answer)["code"]), (404, &json!("not_found")), "{address}");
            assert_eq!(self.log(), before, "{address}");
            // A Service whose targetPort is the app's number.
            self.must_execute_at(&format!("{address}:{port}"));
            assert_eq!(self.strangers(), [""; 0]);
        }
    }

    /// A small one, and one in fragments.
    fn send_datagrams(&self, address: &str, port: u16) {
        let host = address.trim_matches(['[', ']']).replace("%25", "%");
        let script = "import socket, sys\n\
            where = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0]\n\
            for size in [10, 4000]:\n    \
                socket.socket(where[0], where[1]).sendto(bytes(size), where[4])";
        run(self.network.client("python3").args(["-c", script, &host, &port.to_string()]));
    }
}

/// An app that serves at these places, and writes its log there.
fn app(mut python: Command, setup: &Setup, log: &str, places: &[&str]) -> Guarded {
    let log = setup.directory.path().join(log);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pod/app.py");
    let app = Guarded(python.arg(script).arg(&log).args(places).spawn().unwrap());
    wait_for("an app", || std::fs::read_to_string(&log).is_ok_and(|log| log.ends_with("ready\n")));
    app
}

/// As the init container runs it: root without any right but one, with a root that cannot be written.
fn redirect(network: &Network, ports: &[&str]) -> Command {
    let mut command = network.pod("unshare");
    command.args(["--mount", "sh", "-ec", "mount -o remount,bind,ro /\nexec \"$@\"", "sh"]);
    command.args(["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs"]);
    command.args([env!("CARGO_BIN_EXE_openexec"), "redirect", "--apply"]).args(ports);
    command
}

const REDIRECT: &[&str] = &["--app-port=8080", "--gate-port=5000", "--admin-port=5001"];

/// The tables of these tests are those of real pods.
#[test]
fn the_injected_init_container_is_what_is_tried_here() {
    let annotations = json!({"config.openexec.dev/traffic": "redirect"});
    let Outcome::Injected(injected) =
        inject(&inject_tests::pod(&annotations), &inject_tests::settings(), Namespace::Enforced).unwrap()
    else {
        panic!("it is skipped")
    };
    let init = &injected.pod["spec"]["initContainers"][0];
    assert_eq!(
        (&init["name"], &init["args"]),
        (&json!("openexec-redirect"), &json!([&["redirect", "--apply"], REDIRECT].concat()))
    );
    let rights = &init["securityContext"];
    assert_eq!(rights["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    assert_eq!(
        [&rights["runAsUser"], &rights["readOnlyRootFilesystem"], &rights["allowPrivilegeEscalation"]],
        [&json!(0), &json!(true), &json!(false)]
    );
}

/// The control of all that follows: without anything in between the client gets through, by every way that is tried below.
#[test]
fn an_app_on_every_address_is_reached_past_the_gate() {
    let pod = Pod::new("http://127.0.0.1:8080", &["tcp:[::]:8080", "udp:[::]:8080", "tcp:[::]:9090"]);
    for (port, address) in [8080, 9090].into_iter().flat_map(|port| ALL_ADDRESSES.map(|address| (port, address))) {
        let answer = pod.outside_asks(&format!("http://{address}:{port}/act"));
        assert_eq!(answer, Some((200, r#"{"done": true}"#.to_owned())), "{address}:{port}");
    }
    assert_eq!(pod.strangers().iter().filter(|line| line.ends_with("GET /act")).count(), 8);
    for address in ALL_ADDRESSES {
        pod.send_datagrams(address, 8080);
    }
    let datagrams = || pod.strangers().iter().filter(|line| line.starts_with("udp 8080")).count();
    wait_for("both datagrams, at each address", || datagrams() == 8);
    // The gate says so, and does its work all the same.
    pod.must_find_a_bypass();
    pod.must_execute_at(&format!("{POD}:5000"));
}

#[test]
fn an_app_on_loopback_is_reached_through_the_gate_only() {
    let on_loopback = ["tcp:127.0.0.1:8080", "tcp:[::1]:8080", "udp:127.0.0.1:8080", "tcp:127.0.0.1:9090"];
    let pod = Pod::new("http://127.0.0.1:8080", &on_loopback);
    pod.must_be_out_of_reach(8080);
    pod.must_be_out_of_reach(9090);
    pod.must_become_ready();
}

#[test]
fn an_app_on_a_unix_socket_is_reached_through_the_gate_only() {
    let pod = Pod::new("unix:HERE/app.sock", &["unix:HERE/app.sock"]);
    pod.must_be_out_of_reach(8080);
    assert!(pod.log().iter().all(|line| line.starts_with("unix ")), "{:?}", pod.log());
}

/// A neighbour may write any address into a packet.
#[test]
fn a_packet_for_loopback_that_comes_from_outside_is_not_for_the_app() {
    let pod = Pod::new("http://127.0.0.1:8080", &["tcp:127.0.0.1:8080"]);
    // Its own loopback is down, so 127.0.0.1 is an address like any other.
    run(pod.network.client("sh").args([
        "-ec",
        &format!(
            "echo 1 > /proc/sys/net/ipv4/conf/client/route_localnet\nip route add 127.0.0.0/8 via {POD} src {CLIENT}"
        ),
    ]));
    let attack = || pod.outside_asks("http://127.0.0.1:8080/act");
    let before = pod.log();
    assert_eq!((attack(), pod.log()), (None, before));
    pod.must_execute_at(&format!("{POD}:5000"));
    assert_eq!(pod.strangers(), [""; 0]);
    // A pod that takes such packets is reached, so this was one; a pod in redirect mode is not, even then.
    run(pod.network.pod("sh").args(["-ec", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"]));
    assert_eq!(attack().map(|(status, _)| status), Some(200));
    run(&mut redirect(&pod.network, REDIRECT));
    let before = pod.strangers();
    assert_ne!(attack().map(|(status, _)| status), Some(200));
    assert_eq!(pod.strangers(), before);
    pod.must_execute_at(&format!("{POD}:8080"));
}

#[test]
fn the_tables_lead_every_way_to_the_app_to_the_gate() {
    for [tcp, udp, other] in [
        ["tcp:0.0.0.0:8080", "udp:0.0.0.0:8080", "tcp:0.0.0.0:9090"],
        ["tcp:[::]:8080", "udp:[::]:8080", "tcp:[::]:9090"],
    ] {
        let pod = Pod::with_tables("http://127.0.0.1:8080", &[tcp, udp, other], Some(REDIRECT));
        // Neighbours are found with the tables in force, too.
        for command in [pod.network.client("ip"), pod.network.pod("ip")] {
            run({ command }.args(["neigh", "flush", "all"]));
        }
        pod.must_lead_to_the_gate(8080);
        pod.must_be_out_of_reach(9090);
        pod.must_become_ready();
    }
}

#[test]
fn a_port_that_is_allowed_is_reached_and_no_other() {
    let ports = [REDIRECT, &["--allow-port=9090"]].concat();
    let places = ["tcp:[::]:8080", "tcp:[::]:9090", "tcp:[::]:9091"];
    let pod = Pod::with_tables("http://127.0.0.1:8080", &places, Some(&ports));
    for address in ALL_ADDRESSES {
        assert!(pod.outside_asks(&format!("http://{address}:9090/")).is_some(), "{address}");
        assert!(pod.outside_asks(&format!("http://{address}:9091/")).is_none(), "{address}");
    }
    let strangers = pod.strangers();
    assert!(strangers.iter().all(|line| line.starts_with("tcp 9090 ")) && strangers.len() == 8, "{strangers:?}");
    pod.must_execute_at(&format!("{POD_6}:8080"));
}

#[test]
fn from_inside_loopback_is_the_app_and_the_pods_own_addresses_are_the_gate() {
    let pod = Pod::with_tables("http://127.0.0.1:8080", &["tcp:[::]:8080"], Some(REDIRECT));
    let asked = |address: &str| ask(pod.network.pod("curl"), &format!("http://{address}:8080/act"), None).unwrap().0;
    // The gate knows no such path.
    for address in [POD, POD_SECOND, POD_6] {
        assert_eq!(asked(address), 404, "{address}");
    }
    for address in ["127.0.0.1", "127.0.0.2", "[::1]"] {
        assert_eq!(asked(address), 200, "{address}");
    }
    pod.must_execute_at(&format!("{POD}:8080"));
}

/// A network inside of the pod, such as a container engine makes.
#[test]
fn nothing_is_forwarded_through_a_pod_with_tables() {
    let pod = Pod::new("http://127.0.0.1:8080", &["tcp:127.0.0.1:8080"]);
    let behind = pod.network.behind();
    let _nested = app(inside(&behind, "python3"), &pod.setup, "nested.log", &["tcp:0.0.0.0:8081"]);
    let asked = || pod.outside_asks("http://10.88.0.2:8081/act").map(|(status, _)| status);
    assert_eq!(asked(), Some(200));
    run(&mut redirect(&pod.network, REDIRECT));
    assert_eq!(asked(), None);
    pod.must_execute_at(&format!("{POD}:8080"));
}

/// As a service mesh has: new connections go to its proxy, and its table was there first.
#[test]
fn where_others_lead_connections_elsewhere_the_tables_come_first() {
    let network = Network::new();
    let mesh = "table inet mesh {
        chain prerouting { type nat hook prerouting priority -100; tcp dport != { 5000, 5001, 15006 } redirect to :15006; }
    }";
    run(network.pod("nft").arg(mesh));
    let places = ["tcp:[::]:8080", "tcp:[::]:15006"];
    let pod = Pod::on(network, "http://127.0.0.1:8080", &places, Some(REDIRECT));
    for address in ALL_ADDRESSES {
        for port in [15006, 9090] {
            assert_eq!(pod.outside_asks(&format!("http://{address}:{port}/act")), None, "{address}:{port}");
        }
        pod.must_execute_at(&format!("{address}:8080"));
    }
    assert_eq!(pod.strangers(), [""; 0]);
    // Without our tables the proxy has it.
    run(pod.network.pod("nft").args(["delete table inet openexec"]));
    assert_eq!(pod.outside_asks(&format!("http://{POD}:8080/act")).map(|(status, _)| status), Some(200));
    assert!(pod.strangers().iter().all(|line| line.starts_with("tcp 15006 ")), "{:?}", pod.strangers());
}

/// By IPv6 nobody is reached: the gate does not listen there, and the tables lead nowhere else.
#[test]
fn behind_a_gate_on_ipv4_the_app_is_not_reached_over_ipv6() {
    let mut pod = Pod::with_tables("http://127.0.0.1:8080", &["tcp:[::]:8080"], Some(REDIRECT));
    pod.kill_gate();
    pod.setup.environment.insert("OPENEXEC_LISTEN", "0.0.0.0:5000".to_owned());
    pod.start_gate();
    let before = pod.log();
    for address in [POD_6, POD_LINK] {
        assert_eq!(pod.outside_asks(&format!("http://{address}:8080/act")), None, "{address}");
    }
    assert_eq!(pod.log(), before);
    for address in [POD, POD_SECOND] {
        pod.must_execute_at(&format!("{address}:8080"));
    }
    pod.must_become_ready();
}

/// Answers to what the pod asks come in.
#[test]
fn the_tables_do_not_keep_a_pod_from_asking_others() {
    let pod = Pod::with_tables("http://127.0.0.1:8080", &["tcp:0.0.0.0:8080"], Some(REDIRECT));
    let _other = app(pod.network.client("python3"), &pod.setup, "other.log", &["tcp:[::]:8080", "udp:[::]:5353"]);
    // Also at the same port as the app's.
    for address in [CLIENT.to_owned(), format!("[{CLIENT_6}]")] {
        let answer = ask(pod.network.pod("curl"), &format!("http://{address}:8080/"), None);
        assert_eq!(answer.map(|(status, _)| status), Some(200), "{address}");
    }
    let script = "import socket, sys\n\
        asks = socket.socket(type=socket.SOCK_DGRAM)\n\
        asks.settimeout(10)\n\
        asks.sendto(b'?', (sys.argv[1], 5353))\n\
        print(asks.recv(9))";
    assert_eq!(run(pod.network.pod("python3").args(["-c", script, CLIENT])), "b'done'\n");
    pod.must_execute_at(&format!("{POD}:8080"));
}

#[test]
fn while_the_gate_is_away_nobody_reaches_the_app() {
    let mut pod = Pod::with_tables("http://127.0.0.1:8080", &["tcp:[::]:8080"], Some(REDIRECT));
    pod.must_execute_at(&format!("{POD}:8080"));
    pod.kill_gate();
    let before = pod.log();
    for address in ALL_ADDRESSES {
        assert_eq!(pod.outside_asks(&format!("http://{address}:8080/act")), None, "{address}");
    }
    assert_eq!(pod.log(), before);
    pod.start_gate();
    // After a kill its ledger is checked first.
    pod.must_become_ready();
    pod.must_execute_at(&format!("{POD}:8080"));
}

#[test]
fn a_gate_notices_that_the_tables_are_gone() {
    let pod = Pod::with_tables("http://127.0.0.1:8080", &["tcp:[::]:8080"], Some(REDIRECT));
    pod.must_become_ready();
    run(pod.network.pod("nft").args(["delete table inet openexec"]));
    pod.must_find_a_bypass();
    run(&mut redirect(&pod.network, REDIRECT));
    pod.must_become_ready();
    pod.must_execute_at(&format!("{POD}:8080"));
}

#[test]
fn tables_that_are_applied_twice_are_there_once() {
    let network = Network::new();
    let list = || run(network.pod("nft").args(["--stateless", "list", "ruleset"]));
    run(&mut redirect(&network, REDIRECT));
    let once = list();
    assert_eq!(once.matches("table inet openexec {").count(), 1, "{once}");
    run(&mut redirect(&network, REDIRECT));
    assert_eq!(list(), once);
    // Others' tables are not ours to change.
    run(network.pod("nft").args(["add table inet mesh"]));
    run(&mut redirect(&network, &[REDIRECT, &["--allow-port=15006"]].concat()));
    let changed = list();
    assert!(changed.contains("15006") && changed.contains("table inet mesh"), "{changed}");
}

/// The pod does not start: it ends with an error, and changes nothing.
#[test]
fn tables_that_cannot_be_applied_are_an_error() {
    let network = Network::new();
    let setup = Setup::clawshield();
    let nft = setup.directory.path().join("nft");
    let here = format!("PATH={}:/usr/bin:/bin", setup.directory.path().display());
    let program = [env!("CARGO_BIN_EXE_openexec"), "redirect", "--apply"];
    let must_fail = |mut command: Command, code: i32, said: &str| {
        let output = command.args(program).args(REDIRECT).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), stderr.contains(said)), (Some(code), true), "{stderr}");
        assert_eq!(run(network.pod("nft").args(["list", "ruleset"])), "", "{said}");
    };

    let mut command = network.pod("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    must_fail(command, 77, "needs the capability NET_ADMIN (nft: ");

    let mut command = network.pod("unshare");
    let hide = "for folder in /usr/sbin /sbin; do mount -t tmpfs none $folder; done\nexec \"$@\"";
    command.args(["--mount", "sh", "-ec", hide, "sh", "env", "PATH=/nonexistent"]);
    must_fail(command, 69, "there is no nft");

    // A kernel without nf_tables says this, and one that takes everything and does nothing says nothing.
    let with = |script: &str| {
        std::fs::write(&nft, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = network.pod("env");
        command.arg(&here);
        command
    };
    must_fail(with("echo 'netlink: Error: Operation not supported' >&2; exit 1"), 71, "the kernel does not take");
    must_fail(with("true"), 71, "and it is not");
    must_fail(with("echo '{\"nftables\": []}'"), 71, "there is no chain from_outside");

    run(&mut redirect(&network, REDIRECT));
    assert!(run(network.pod("nft").args(["list", "ruleset"])).contains("redirect to :5000"));
}

#[test]
fn tables_are_printed_as_they_are_applied() {
    let setup = Setup::clawshield();
    let printed = run(setup.command(&["redirect"]).args(REDIRECT));
    let network = Network::new();
    let file = setup.directory.path().join("tables.nft");
    std::fs::write(&file, printed).unwrap();
    run(network.pod("nft").arg("-f").arg(file));
    let list = || run(network.pod("nft").args(["--stateless", "list", "ruleset"]));
    let printed = list();
    run(&mut redirect(&network, REDIRECT));
    assert_eq!(list(), printed);
    let refused = setup.command(&["redirect", "--app-port=5000"]).output().unwrap();
    assert_eq!((refused.status.code(), text(&refused.stderr).contains("the app's port is 5000")), (Some(2), true));
}
