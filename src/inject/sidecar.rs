//! The gate's container, and the one before it that writes the rules of redirect mode.

use serde_json::{Value, json};

use super::annotations::Wanted;
use super::app::App;
use super::pod::{self, CONTAINERS, INIT_CONTAINERS};
use super::settings::{Form, Kind, Mode};
use super::{GATE, REDIRECT, literal, restricted, volumes};

/// Its admin port's name.
const ADMIN_PORT: &str = "openexec-admin";
/// How long the gate may take to become ready: as long as a ledger takes to be checked.
const STARTUP_SECONDS: u32 = 600;

pub(super) fn add(pod: &mut Value, wanted: &Wanted, app: &App) {
    let mut gate = gate(wanted, app);
    match wanted.sidecar.sidecar {
        // Behind the app's own init containers: it is ready before the app starts, and they need nothing of it.
        Kind::Native => {
            gate["restartPolicy"] = "Always".into();
            pod::list_mut(pod, INIT_CONTAINERS).push(gate);
        }
        // Before the others, which start when its hook has ended.
        Kind::Container => {
            let wait = format!("--wait={STARTUP_SECONDS}");
            gate["lifecycle"] = json!({"postStart": {"exec": {"command": ["/usr/bin/openexec", "probe", wait]}}});
            pod::list_mut(pod, CONTAINERS).insert(0, gate);
        }
    }
    if super::is_redirected(wanted) {
        // Before anything of the app runs.
        pod::list_mut(pod, INIT_CONTAINERS).insert(0, redirect(wanted, app));
    }
}

fn gate(wanted: &Wanted, app: &App) -> Value {
    let sidecar = &wanted.sidecar;
    let admin = sidecar.ports.admin;
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": admin, "scheme": "HTTP"},
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    json!({
        "name": GATE,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.image_pull_policy,
        "args": ["serve"],
        "env": environment(wanted, app),
        // The port for requests stands where Services look for its name: in the app's container.
        "ports": [{"name": ADMIN_PORT, "containerPort": admin, "protocol": "TCP"}],
        "resources": sidecar.resources,
        "securityContext": restricted(sidecar.user),
        "startupProbe": probe("/readyz", 1, STARTUP_SECONDS),
        "readinessProbe": probe("/readyz", 5, 2),
        "livenessProbe": probe("/livez", 10, 6),
        "volumeMounts": volumes::mounts(wanted, app),
    })
}

fn environment(wanted: &Wanted, app: &App) -> Vec<Value> {
    let sidecar = &wanted.sidecar;
    let mut variables = Vec::new();
    let mut set = |name: &str, value: String| variables.push(json!({"name": name, "value": value}));
    let mode = match sidecar.mode {
        Mode::Demo => "demo",
        Mode::ClawShield => "clawshield",
    };
    set("OPENEXEC_MODE", mode.to_owned());
    set("OPENEXEC_LISTEN", format!("{}:{}", sidecar.listen_host, sidecar.ports.gate));
    set("OPENEXEC_ADMIN_LISTEN", format!("{}:{}", sidecar.listen_host, sidecar.ports.admin));
    set("OPENEXEC_LOG", literal(&sidecar.log_level));
    set("OPENEXEC_LOG_FORMAT", "json".to_owned());
    match (sidecar.mode, wanted.local_ledger) {
        (Mode::Demo, _) => set("OPENEXEC_DB_URL", "memory:".to_owned()),
        (Mode::ClawShield, true) => {
            set("OPENEXEC_DB_URL", format!("sqlite:///{}/openexec.db", volumes::DATA));
            set("OPENEXEC_LEDGER_FENCE", "always".to_owned());
        }
        (Mode::ClawShield, false) => {
            set("OPENEXEC_DB_URL_FILE", format!("{}/url", volumes::LEDGER));
            if sidecar.ledger_password {
                set("OPENEXEC_DB_PASSWORD_FILE", format!("{}/password", volumes::LEDGER));
            }
        }
    }
    if sidecar.config_map.is_some() {
        set("OPENEXEC_CONFIG", format!("{}/openexec.yaml", volumes::CONFIG));
    }
    if let (Mode::ClawShield, Some(tenant)) = (sidecar.mode, &sidecar.tenant) {
        set("CLAWSHIELD_TENANT_ID", literal(tenant));
        match sidecar.approval_form {
            Form::Ed25519 => set("CLAWSHIELD_PUBLIC_KEY_FILE", format!("{}/public-key.pem", volumes::KEYS)),
            Form::Hmac => set("CLAWSHIELD_SECRET_KEY_FILE", format!("{}/secret-key", volumes::KEYS)),
        }
    }
    if sidecar.admin_secret.is_some() {
        set("OPENEXEC_ADMIN_TOKEN_FILE", format!("{}/token", volumes::ADMIN));
    }
    if let Some(address) = app.address(wanted.has_tls) {
        set("OPENEXEC_UPSTREAM", literal(&address));
    }
    if let Some(probes) = app.probes() {
        set("OPENEXEC_APP_PROBES", probes);
    }
    variables.push(json!({"name": "OPENEXEC_POD_IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}));
    variables
}

/// As root, with the one capability that rules need, and gone before anything else runs.
fn redirect(wanted: &Wanted, app: &App) -> Value {
    let sidecar = &wanted.sidecar;
    let mut arguments = vec!["redirect".to_owned(), "--apply".to_owned()];
    if let Some(super::app::Place::Port(port)) = app.place {
        arguments.push(format!("--app-port={port}"));
    }
    arguments.push(format!("--gate-port={}", sidecar.ports.gate));
    arguments.push(format!("--admin-port={}", sidecar.ports.admin));
    arguments.extend(wanted.allowed_ports.iter().map(|port| format!("--allow-port={port}")));
    let mut context = restricted(0);
    context["runAsNonRoot"] = false.into();
    context["capabilities"]["add"] = json!(["NET_ADMIN"]);
    json!({
        "name": REDIRECT,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.image_pull_policy,
        "args": arguments,
        // It needs less, and the pod needs the gate's: a quota that asks for limits gets them, and a pod with equal requests and
        // limits stays one.
        "resources": sidecar.resources,
        "securityContext": context,
        "volumeMounts": [volumes::no_token_mount()],
    })
}
