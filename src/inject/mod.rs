//! A pod as somebody wrote it becomes a pod whose app is reached through the gate only. The same function stands behind
//! `openexec inject` and behind the admission webhook.
//!
//! Done twice it is the same as done once: what an earlier pass changed is taken back first ([`status`]), so that the
//! API server may ask again after somebody else has changed the pod.

pub mod annotations;
mod app;
pub mod manifest;
mod pod;
pub mod settings;
mod sidecar;
mod status;
mod volumes;

use serde_json::{Value, json};

use self::annotations::Wanted;
use self::app::App;
use self::settings::{Kind, Mode, Sidecar, Traffic};
use self::status::Status;

/// The gate's container.
pub const GATE: &str = "openexec";
/// What writes the kernel's rules before it.
pub const REDIRECT: &str = "openexec-redirect";
/// Before the name of each volume that belongs to the gate.
const VOLUMES: &str = "openexec-";

/// What the pod's namespace wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Pods may opt out.
    Enabled,
    /// None may.
    Enforced,
}

/// What became of a pod.
#[derive(Debug)]
pub enum Outcome {
    /// It has the gate.
    Injected(Box<Injected>),
    /// It is left as it is.
    Skipped(Skip),
}

/// A pod with a gate.
#[derive(Debug)]
pub struct Injected {
    /// All of it.
    pub pod: Value,
    /// What whoever wrote it should know: one line each.
    pub warnings: Vec<String>,
    /// Who approves there.
    pub mode: Mode,
    /// Whether its ledger dies with it, so that a retry at another pod is executed again.
    pub local_ledger: bool,
}

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Its label says so.
    OptedOut,
    /// It is a kubelet's picture of a pod that runs already.
    MirrorPod,
}

impl Skip {
    /// All of them.
    pub const ALL: [Skip; 2] = [Skip::OptedOut, Skip::MirrorPod];

    /// In metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::OptedOut => "opted_out",
            Skip::MirrorPod => "mirror_pod",
        }
    }
}

/// Why a pod cannot have a gate, and must not run without one.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not the JSON of a pod.
    #[error("this is no pod: {0}")]
    NotAPod(&'static str),
    /// Annotations that mean nothing.
    #[error("{}", .0.join("; "))]
    Annotations(Vec<String>),
    /// Where the app is cannot be told.
    #[error("{0}")]
    Port(String),
    /// A ledger of the pod's own would let a retry at another pod execute again.
    #[error(
        "ClawShield mode needs the ledger that all replicas share: name its Secret in config.openexec.dev/ledger-secret, or say \
         openexec.dev/ledger: local if a retry at another pod may be executed again"
    )]
    NoSharedLedger,
    /// Demo mode approves everything.
    #[error("demo mode approves everything, and this namespace is enforced")]
    DemoEnforced,
    /// The gate would listen on the node.
    #[error("hostNetwork: the gate cannot stand before a pod that has no network of its own")]
    HostNetwork,
    /// Names that are the gate's own.
    #[error("{0} is a name that belongs to the gate")]
    ReservedName(String),
    /// The pod would never end.
    #[error("a pod that ends by itself needs the native sidecar: config.openexec.dev/sidecar: native")]
    NeedsNative,
}

impl Refused {
    /// In metrics and logs.
    pub const REASONS: [&str; 8] = [
        "not_a_pod",
        "annotations",
        "port",
        "no_shared_ledger",
        "demo_enforced",
        "host_network",
        "reserved_name",
        "needs_native",
    ];

    /// In metrics and logs.
    pub fn reason(&self) -> &'static str {
        let index = match self {
            Refused::NotAPod(_) => 0,
            Refused::Annotations(_) => 1,
            Refused::Port(_) => 2,
            Refused::NoSharedLedger => 3,
            Refused::DemoEnforced => 4,
            Refused::HostNetwork => 5,
            Refused::ReservedName(_) => 6,
            Refused::NeedsNative => 7,
        };
        Refused::REASONS[index]
    }
}

/// Gives a pod its gate: `pod` is the whole object, or the template of one.
///
/// # Errors
/// See [`Refused`]: each says what to do.
pub fn inject(pod: &Value, settings: &Sidecar, namespace: Namespace) -> Result<Outcome, Refused> {
    if annotations::is_mirror(pod) {
        return Ok(Outcome::Skipped(Skip::MirrorPod));
    }
    let opts_out = annotations::opts_out(pod);
    if opts_out && namespace == Namespace::Enabled {
        return Ok(Outcome::Skipped(Skip::OptedOut));
    }
    let mut pod = status::original(pod)?;
    let wanted = Wanted::by(&pod, settings)?;
    must_be_possible(&pod, &wanted, namespace)?;
    let mut warnings = Vec::new();
    if opts_out {
        warnings.push(format!("{}: disabled does nothing here: this namespace is enforced", annotations::INJECT));
    }
    let mut app = App::find(&pod, &wanted)?;
    let mut status = Status::new(&wanted);
    app.go_behind_the_gate(&mut pod, &wanted, &mut status, &mut warnings);
    sidecar::add(&mut pod, &wanted, &app);
    volumes::add(&mut pod, &wanted, &app);
    status.write(&mut pod);
    warn(&wanted, &mut warnings);
    let (mode, local_ledger) = (wanted.sidecar.mode, wanted.local_ledger);
    Ok(Outcome::Injected(Box::new(Injected { pod, warnings, mode, local_ledger })))
}

fn must_be_possible(pod: &Value, wanted: &Wanted, namespace: Namespace) -> Result<(), Refused> {
    let (spec, sidecar) = (&pod["spec"], &wanted.sidecar);
    if spec["hostNetwork"] == true {
        return Err(Refused::HostNetwork);
    }
    if sidecar.mode == Mode::Demo && namespace == Namespace::Enforced {
        return Err(Refused::DemoEnforced);
    }
    if sidecar.mode == Mode::ClawShield && sidecar.ledger_secret.is_none() && !wanted.local_ledger {
        return Err(Refused::NoSharedLedger);
    }
    let ends = matches!(spec["restartPolicy"].as_str(), Some("Never" | "OnFailure"));
    if sidecar.sidecar == Kind::Container && ends {
        return Err(Refused::NeedsNative);
    }
    Ok(())
}

fn warn(wanted: &Wanted, warnings: &mut Vec<String>) {
    if wanted.sidecar.mode == Mode::Demo {
        warnings.push("demo mode: every request is approved".to_owned());
    } else if wanted.local_ledger {
        warnings.push(format!("{}: local: a retry at another pod is executed again", annotations::LEDGER));
    }
}

/// A text for a container's environment, in which Kubernetes replaces `$(NAME)`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// What every container of ours may do: nothing beside what it is for.
fn restricted(user: u32) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": user,
        "runAsNonRoot": true,
        "runAsUser": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Whether the pod's rules for the kernel are needed.
fn is_redirected(wanted: &Wanted) -> bool {
    wanted.sidecar.traffic == Traffic::Redirect
}
