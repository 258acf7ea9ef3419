//! What makes a good pod a bad one, and which rule says so.

use serde_json::{Value, json};

use super::pods::{IMAGE, app, gate, list, named, redirect, remove};

pub type Change = fn(&mut Value);

pub const ONE: &str = "exactly one sidecar";
pub const IMAGES: &str = "the sidecar's image must be";
pub const PROGRAM: &str = "its image's own program";
pub const MODE: &str = "OPENEXEC_MODE once";
pub const VARIABLES: &str = "no variables but";
pub const FILES: &str = "nothing is mounted into the sidecar";
pub const RIGHTS: &str = "the sidecar's securityContext";
pub const READY: &str = "and is asked whether it is ready";
pub const HOST: &str = "no hostNetwork, hostPID or hostIPC";
pub const PROCESSES: &str = "no shareProcessNamespace";
pub const PRIVILEGED: &str = "or be privileged: app";
pub const HOST_PORT: &str = "no hostPort";
pub const HOST_PATH: &str = "no hostPath";
pub const SYSCTLS: &str = "no sysctls";
pub const REDIRECT: &str = "openexec-redirect is the injected one";
pub const EPHEMERAL: &str = "no ephemeral containers";

/// Of the injected pod, and which rule it is that denies what becomes of it.
pub const BAD: &[(&str, &str, Change)] = &[
    ("no sidecar", ONE, |pod| drop(list(pod, "initContainers").pop())),
    ("no init containers at all", ONE, |pod| drop(remove(&mut pod["spec"], "initContainers"))),
    ("no sidecar, opted out", ONE, |pod| {
        list(pod, "initContainers").pop();
        pod["metadata"]["labels"]["openexec.dev/inject"] = json!("disabled");
    }),
    ("a name that looks like it", ONE, |pod| gate(pod)["name"] = json!("openexec-")),
    ("an init container that ends", ONE, |pod| drop(remove(gate(pod), "restartPolicy"))),
    ("an init container that is not started again", ONE, |pod| gate(pod)["restartPolicy"] = json!("OnFailure")),
    ("two, one of them a container", ONE, |pod| {
        let second = gate(pod).clone();
        list(pod, "containers").push(second);
    }),
    ("two alike", ONE, |pod| {
        let second = gate(pod).clone();
        list(pod, "initContainers").push(second);
    }),
    ("another image", IMAGES, |pod| gate(pod)["image"] = json!("registry.example/mine@sha256:22")),
    ("the image by tag", IMAGES, |pod| gate(pod)["image"] = json!("registry.example/openexec:0.3.0")),
    ("the image by tag and digest", IMAGES, |pod| {
        gate(pod)["image"] = json!(IMAGE.replace("openexec@", "openexec:0.3.0@"));
    }),
    ("the digest in capitals", IMAGES, |pod| gate(pod)["image"] = json!(IMAGE.replace("sha256", "SHA256"))),
    ("a longer digest", IMAGES, |pod| gate(pod)["image"] = json!(format!("{IMAGE}1"))),
    ("no image", IMAGES, |pod| drop(remove(gate(pod), "image"))),
    ("a command", PROGRAM, |pod| gate(pod)["command"] = json!(["/usr/bin/openexec"])),
    ("no arguments", PROGRAM, |pod| drop(remove(gate(pod), "args"))),
    ("other arguments", PROGRAM, |pod| gate(pod)["args"] = json!(["probe"])),
    ("more arguments", PROGRAM, |pod| gate(pod)["args"] = json!(["serve", "--config", "/tmp/mine.yaml"])),
    ("a hook", PROGRAM, |pod| {
        gate(pod)["lifecycle"] = json!({"postStart": {"exec": {"command": ["/usr/bin/openexec", "ledger", "prune"]}}});
    }),
    ("a hook at the end", PROGRAM, |pod| {
        let probe = json!({"exec": {"command": ["/usr/bin/openexec", "probe"]}});
        gate(pod)["lifecycle"] = json!({"postStart": probe, "preStop": probe});
    }),
    ("a probe that runs something", PROGRAM, |pod| {
        gate(pod)["livenessProbe"] = json!({"exec": {"command": ["/usr/sbin/nft", "list", "ruleset"]}});
    }),
    ("demo mode", MODE, |pod| gate(pod)["env"][0]["value"] = json!("demo")),
    ("the mode in other letters", MODE, |pod| gate(pod)["env"][0]["value"] = json!("ClawShield")),
    ("the mode from another variable", MODE, |pod| gate(pod)["env"][0]["value"] = json!("$(OPENEXEC_LISTEN)")),
    ("the mode from elsewhere", MODE, |pod| {
        gate(pod)["env"][0] =
            json!({"name": "OPENEXEC_MODE", "valueFrom": {"configMapKeyRef": {"name": "mine", "key": "mode"}}});
    }),
    ("the mode twice", MODE, |pod| {
        gate(pod)["env"].as_array_mut().unwrap().push(json!({"name": "OPENEXEC_MODE", "value": "demo"}));
    }),
    ("the mode twice, the same", MODE, |pod| {
        gate(pod)["env"].as_array_mut().unwrap().push(json!({"name": "OPENEXEC_MODE", "value": "clawshield"}));
    }),
    ("no mode", MODE, |pod| drop(gate(pod)["env"].as_array_mut().unwrap().remove(0))),
    ("no variables", MODE, |pod| drop(remove(gate(pod), "env"))),
    ("variables from elsewhere", VARIABLES, |pod| {
        gate(pod)["envFrom"] = json!([{"configMapRef": {"name": "mine"}}]);
    }),
    ("a library in front", VARIABLES, |pod| {
        let variable = json!({"name": "LD_PRELOAD", "value": "/etc/openexec/config/mine.so"});
        gate(pod)["env"].as_array_mut().unwrap().push(variable);
    }),
    ("another program in its place", FILES, |pod| {
        let mount = json!({"name": "openexec-config", "mountPath": "/usr/bin/openexec", "subPath": "mine"});
        gate(pod)["volumeMounts"].as_array_mut().unwrap().push(mount);
    }),
    ("a way out of a folder", FILES, |pod| {
        gate(pod)["volumeMounts"][0]["mountPath"] = json!("/etc/openexec/config/../../../usr/bin");
    }),
    ("a device", FILES, |pod| gate(pod)["volumeDevices"] = json!([{"name": "disk", "devicePath": "/dev/sda"}])),
    ("a privileged sidecar", RIGHTS, |pod| gate(pod)["securityContext"]["privileged"] = json!(true)),
    ("a sidecar with capabilities", RIGHTS, |pod| {
        gate(pod)["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
    }),
    ("a sidecar that keeps capabilities", RIGHTS, |pod| {
        gate(pod)["securityContext"]["capabilities"]["drop"] = json!(["NET_RAW"]);
    }),
    ("a sidecar that may escalate", RIGHTS, |pod| {
        remove(&mut gate(pod)["securityContext"], "allowPrivilegeEscalation");
    }),
    ("a sidecar with a root to write", RIGHTS, |pod| {
        gate(pod)["securityContext"]["readOnlyRootFilesystem"] = json!(false);
    }),
    ("a sidecar of the app's user", RIGHTS, |pod| gate(pod)["securityContext"]["runAsUser"] = json!(1000)),
    ("a sidecar without seccomp", RIGHTS, |pod| {
        gate(pod)["securityContext"]["seccompProfile"]["type"] = json!("Unconfined");
    }),
    ("a sidecar without any of this", RIGHTS, |pod| drop(remove(gate(pod), "securityContext"))),
    ("a sidecar that nobody asks", READY, |pod| drop(remove(gate(pod), "readinessProbe"))),
    ("a sidecar that is asked something else", READY, |pod| {
        gate(pod)["readinessProbe"]["httpGet"]["path"] = json!("/livez");
    }),
    ("a sidecar that does not know the pod's addresses", READY, |pod| {
        gate(pod)["env"].as_array_mut().unwrap().retain(|variable| variable["name"] != "OPENEXEC_POD_IPS");
    }),
    ("a sidecar with other addresses", READY, |pod| {
        gate(pod)["env"][2] = json!({"name": "OPENEXEC_POD_IPS", "value": "203.0.113.1"});
    }),
    ("a sidecar with the node's address", READY, |pod| {
        gate(pod)["env"][2]["valueFrom"]["fieldRef"]["fieldPath"] = json!("status.hostIP");
    }),
    ("the node's network", HOST, |pod| pod["spec"]["hostNetwork"] = json!(true)),
    ("the node's processes", HOST, |pod| pod["spec"]["hostPID"] = json!(true)),
    ("the node's queues", HOST, |pod| pod["spec"]["hostIPC"] = json!(true)),
    ("processes of all containers", PROCESSES, |pod| pod["spec"]["shareProcessNamespace"] = json!(true)),
    ("a privileged app", PRIVILEGED, |pod| app(pod)["securityContext"]["privileged"] = json!(true)),
    ("an app that changes the network", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
    }),
    ("an app with raw sockets", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["CHOWN", "NET_RAW"]);
    }),
    ("an app that looks into processes", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["SYS_PTRACE"]);
    }),
    ("an app that is nearly root", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]);
    }),
    ("an app with all capabilities", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["ALL"]);
    }),
    ("a capability as the kernel spells it", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["CAP_NET_ADMIN"]);
    }),
    ("a capability in small letters", PRIVILEGED, |pod| {
        app(pod)["securityContext"]["capabilities"]["add"] = json!(["net_admin"]);
    }),
    ("an init container that changes the network", "or be privileged: migrate", |pod| {
        named(pod, "migrate")["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    }),
    ("the app at the node's port", HOST_PORT, |pod| app(pod)["ports"][0]["hostPort"] = json!(8080)),
    ("the node's files", HOST_PATH, |pod| {
        list(pod, "volumes").push(json!({"name": "run", "hostPath": {"path": "/run/containerd"}}));
    }),
    ("packets for loopback from outside", SYSCTLS, |pod| {
        pod["spec"]["securityContext"]["sysctls"] = json!([{"name": "net.ipv4.conf.all.route_localnet", "value": "1"}]);
    }),
    ("the same, as a path", SYSCTLS, |pod| {
        pod["spec"]["securityContext"]["sysctls"] = json!([{"name": "net/ipv4/conf/all/route_localnet", "value": "1"}]);
    }),
    ("an ephemeral container", EPHEMERAL, |pod| {
        pod["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "image": "busybox"}]);
    }),
];

/// Of the injected pod in redirect mode. All of these are denied by the rule on its init container.
pub const BAD_REDIRECTED: &[(&str, Change)] = &[
    ("as a container", |pod| {
        let redirect = list(pod, "initContainers").remove(0);
        list(pod, "containers").push(redirect);
    }),
    ("twice", |pod| {
        let second = redirect(pod).clone();
        list(pod, "containers").push(second);
    }),
    ("after another", |pod| list(pod, "initContainers").swap(0, 1)),
    ("that goes on", |pod| redirect(pod)["restartPolicy"] = json!("Always")),
    ("of another image", |pod| redirect(pod)["image"] = json!("registry.example/mine:1")),
    ("with a command", |pod| redirect(pod)["command"] = json!(["/bin/sh"])),
    ("with no arguments", |pod| drop(remove(redirect(pod), "args"))),
    ("that prints only", |pod| redirect(pod)["args"].as_array_mut().unwrap().retain(|arg| arg != "--apply")),
    ("that does something else", |pod| redirect(pod)["args"][0] = json!("serve")),
    ("with one more argument", |pod| redirect(pod)["args"].as_array_mut().unwrap().push(json!("--help"))),
    ("that leads away from another port", |pod| redirect(pod)["args"][2] = json!("--app-port=8081")),
    ("with a port twice", |pod| {
        redirect(pod)["args"].as_array_mut().unwrap().push(json!("--app-port=8081"));
    }),
    ("with two arguments in one", |pod| redirect(pod)["args"][5] = json!("--allow-port=1\n--allow-port=8080")),
    ("with variables", |pod| redirect(pod)["env"] = json!([{"name": "PATH", "value": "/mine"}])),
    ("with variables from elsewhere", |pod| {
        redirect(pod)["envFrom"] = json!([{"configMapRef": {"name": "mine"}}]);
    }),
    ("with another nft", |pod| redirect(pod)["volumeMounts"][0]["mountPath"] = json!("/usr/sbin")),
    ("that is privileged", |pod| redirect(pod)["securityContext"]["privileged"] = json!(true)),
    ("with more capabilities", |pod| {
        redirect(pod)["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN", "SYS_ADMIN"]);
    }),
    ("that keeps capabilities", |pod| drop(remove(&mut redirect(pod)["securityContext"]["capabilities"], "drop"))),
    ("without seccomp", |pod| drop(remove(&mut redirect(pod)["securityContext"], "seccompProfile"))),
    ("with a hook", |pod| redirect(pod)["lifecycle"] = json!({"postStart": {"exec": {"command": ["x"]}}})),
    ("without the sidecar's upstream", |pod| gate(pod)["env"][3]["value"] = json!("unix:/run/openexec/app.sock")),
];
