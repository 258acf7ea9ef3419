//! What was typed, then what it means: the file and the environment become one checked [`Config`] here, and nothing
//! behind this point sees either.

pub mod action;
mod callers;
pub mod certificates;
pub mod env;
mod forward;
pub mod ledger;
mod limits;
pub mod listener;
mod locate;
pub mod pod;
mod raw;
mod retention;
pub mod schema;
pub mod telemetry;
mod tenants;
pub mod upstream;

pub use callers::Caller;
pub use limits::Limits;
pub use raw::OnMismatch;
pub(crate) use raw::Time;
pub use retention::{HMAC_LIFETIME, Retention};
pub use tenants::{Rate, Tenant};

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use humantime_serde::re::humantime::format_duration;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;

use self::action::{ActionConfig, PassRule};
use self::certificates::Certificate;
use self::env::Environment;
use self::ledger::LedgerConfig;
use self::listener::{Listener, Place};
use self::locate::Lines;
use self::pod::{AppProbe, BypassCheck};
use self::telemetry::TracesConfig;
use self::upstream::UpstreamConfig;
use crate::admin::AdminTokens;

/// A configuration without a mistake that could be found without running it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who approves.
    pub mode: Mode,
    /// The main listeners.
    pub listen: Vec<Listener>,
    /// The admin listener.
    pub admin_listen: SocketAddr,
    /// Who may ask the admin listener for executions.
    pub admin_tokens: AdminTokens,
    /// Where executions are remembered.
    pub ledger: LedgerConfig,
    /// How far clocks may be apart.
    pub clock_skew: TimeDelta,
    /// How long an approval may live that says so itself.
    pub max_lifetime: TimeDelta,
    /// Who may send requests; empty: whoever reaches the listener.
    pub callers: Vec<Caller>,
    /// Retries and duplicates.
    pub replay: Replay,
    /// Actions that may be executed; `None`: every registered one.
    pub allowed_actions: Option<HashSet<String>>,
    /// Services behind the gate.
    pub upstreams: Vec<UpstreamConfig>,
    /// Actions that there are, by name.
    pub actions: BTreeMap<String, ActionConfig>,
    /// Requests that are let through as they are.
    pub passthrough: Vec<PassRule>,
    /// Ways past the gate that there must not be.
    pub bypass_check: BypassCheck,
    /// Probes of the service, by the path below `/probes/` that asks them.
    pub probes: BTreeMap<String, AppProbe>,
    /// Where traces go; `None`: nowhere.
    pub traces: Option<TracesConfig>,
    /// Bounds on everything that a client can make big or slow.
    pub limits: Limits,
    /// How long what was executed is remembered.
    pub retention: Retention,
    /// The stop.
    pub shutdown: Shutdown,
    /// The start.
    pub startup: Startup,
    /// What is shown with TLS, and whom it is believed from.
    pub certificates: Vec<Certificate>,
    /// What is allowed but worth a word in the log.
    pub warnings: Vec<String>,
}

/// Who approves.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Everything is approved.
    Demo {
        /// Asked for by name. If not, it is kept away from networks and from real ledgers.
        by_name: bool,
    },
    /// Nothing is executed without a signed approval.
    ClawShield {
        /// Whom it acts for. `Err` names the variable that is missing: the server then refuses everything.
        tenants: Result<Vec<Tenant>, &'static str>,
    },
}

impl Mode {
    /// The word in `/health`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Mode::Demo { .. } => "demo",
            Mode::ClawShield { .. } => "clawshield",
        }
    }
}

/// Retries and duplicates.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// What a known nonce with another payload gets.
    pub on_mismatch: OnMismatch,
    /// How long a duplicate waits for the one that runs.
    pub wait: Duration,
    /// How many wait for one.
    pub waiters: usize,
}

/// The stop.
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// Between "not ready" and the last accepted connection, for load balancers to notice.
    pub delay: Duration,
    /// For what is running, after that.
    pub timeout: Duration,
}

/// The start, where another process may serve already.
#[derive(Clone, Debug)]
pub struct Startup {
    /// The Unix socket at which a new process asks for the sockets of this one; `None`: none can.
    pub takeover_socket: Option<PathBuf>,
    /// How long a process that took the sockets holds requests until the old one has let go of the ledger.
    pub wait: Duration,
}

/// Everything that is wrong, at once.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads the file, if one is named, and the environment, which wins.
    ///
    /// # Errors
    /// Every problem that was found.
    pub fn load(path: Option<&Path>, environment: &impl Environment) -> Result<Self, ConfigError> {
        let (file, text) = match path {
            None => (raw::File::default(), String::new()),
            Some(path) => read(path)?,
        };
        let mut check = Check::default();
        let config = check.config(file, environment);
        match config {
            Some(mut config) if check.problems.is_empty() => {
                config.certificates = check.certificates;
                config.warnings = check.warnings;
                Ok(config)
            }
            _ => Err(located(check.problems, path, &text)),
        }
    }
}

impl Config {
    /// What another configuration must have in common with this one to take its place while the server runs.
    pub fn fixed(&self) -> [(&'static str, String); 6] {
        [
            ("mode", self.mode.as_str().to_owned()),
            ("listen", self.listen.iter().map(Listener::to_string).collect::<Vec<_>>().join(", ")),
            ("admin.listen", self.admin_listen.to_string()),
            ("ledger", format!("{:?}", self.ledger)),
            ("startup.takeover_socket", format!("{:?}", self.startup.takeover_socket)),
            ("telemetry", self.traces.as_ref().map_or_else(String::new, TracesConfig::fixed)),
        ]
    }
}

/// The files that a configuration is read from: the file itself, secrets, and what it names. `None`: it cannot be read.
pub fn files(path: Option<&Path>, environment: &impl Environment) -> Option<Vec<PathBuf>> {
    let named = match path {
        Some(path) => read(path).ok()?.0.files(),
        None => Vec::new(),
    };
    let secrets = env::SECRETS.iter().filter_map(|name| environment.get(&format!("{name}_FILE"))).map(PathBuf::from);
    Some(path.map(Path::to_owned).into_iter().chain(secrets).chain(named).collect())
}

/// Where commands find the admin listener when no variable says so. Of the file nothing else is looked at: the rest is
/// the server's, whose files and secrets may be closed to whoever asks it.
///
/// # Errors
/// The file cannot be read, is no YAML, or has no address there.
pub fn admin_listen(path: Option<&Path>) -> Result<SocketAddr, ConfigError> {
    let problem = |path: &Path, what: &dyn Display| ConfigError(vec![format!("{}: {what}", path.display())]);
    let typed = match path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| problem(path, &e))?;
            let file: serde_json::Value =
                serde_saphyr::from_str(&text).map_err(|e| problem(path, &e.without_snippet()))?;
            file.pointer("/admin/listen").cloned().map(|typed| (path, typed))
        }
    };
    match typed {
        None => Ok(ADMIN_LISTEN.parse().expect("the default is an address")),
        Some((path, typed)) => typed
            .as_str()
            .and_then(|typed| typed.parse().ok())
            .ok_or_else(|| problem(path, &"admin.listen must be an IP address and a port, such as 127.0.0.1:5001")),
    }
}

/// The file, and its text.
fn read(path: &Path) -> Result<(raw::File, String), ConfigError> {
    read_as(path).map(|(file, text)| (file.unwrap_or_default(), text))
}

/// A file of YAML with these members and no others, and its text; `None`: it is empty.
///
/// # Errors
/// It cannot be read, is no YAML, or has other members, each with its line.
pub(crate) fn read_as<T: DeserializeOwned + JsonSchema>(path: &Path) -> Result<(Option<T>, String), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError(vec![format!("{}: {e}", path.display())]))?;
    // Without the piece of the file around it, which the log need not have.
    let no_yaml = |e: serde_saphyr::Error| {
        let line = e.location().map_or(0, |location| location.line());
        ConfigError(vec![format!("{}:{line}: {}", path.display(), e.without_snippet())])
    };
    let value: serde_json::Value = serde_saphyr::from_str(&text).map_err(no_yaml)?;
    if value.is_null() {
        return Ok((None, text));
    }
    // The types stop at the first member that does not fit; the schema, which is made from them, shows all.
    let misfits = schema::misfits::<T>(&value);
    if !misfits.is_empty() {
        return Err(located(misfits, Some(path), &text));
    }
    Ok((Some(serde_saphyr::from_str(&text).map_err(no_yaml)?), text))
}

/// Puts the file and the line before each problem with a member of it.
pub(crate) fn located(problems: Vec<String>, path: Option<&Path>, text: &str) -> ConfigError {
    let Some(path) = path else { return ConfigError(problems) };
    let lines = Lines::of(text);
    let locate = |problem: String| match lines.find(&problem) {
        Some(line) => format!("{}:{line}: {problem}", path.display()),
        None => problem,
    };
    ConfigError(problems.into_iter().map(locate).collect())
}

/// The admin listener's address, unless something else is said.
const ADMIN_LISTEN: &str = "127.0.0.1:5001";
/// Longer than anything that is meant.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Collects problems, so that all are listed at once.
#[derive(Default)]
struct Check {
    certificates: Vec<Certificate>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Check {
    fn config(&mut self, mut file: raw::File, environment: &impl Environment) -> Option<Config> {
        for name in env::ALL {
            if environment.get(name).is_some_and(|value| value.contains('\u{fffd}')) {
                self.problems.push(format!("{name} is not UTF-8"));
            }
        }
        self.log(environment);
        let times = [
            ("approval.clock_skew", file.approval.clock_skew),
            ("replay.wait", file.replay.wait),
            ("shutdown.delay", file.shutdown.delay),
            ("shutdown.timeout", file.shutdown.timeout),
            ("startup.wait", file.startup.wait),
        ];
        for (member, time) in times {
            self.time(member, time.unwrap_or_default(), Duration::ZERO);
        }
        let mut mode = self.mode(&mut file, environment);
        // The image's own can be emptied by whoever runs it, and not taken away.
        let listen = self.listeners(environment.get(env::LISTEN).filter(|text| !text.is_empty()), file.listen);
        let admin = self.address(environment, env::ADMIN_LISTEN, "admin.listen", file.admin.listen, ADMIN_LISTEN);
        let ledger = self.ledger(environment, file.ledger);
        let admin_tokens = self.admin_tokens(environment);
        let limits = self.limits(file.limits);
        if let Some(Mode::ClawShield { tenants: Ok(tenants) }) = &mut mode {
            self.shares(tenants, limits.in_flight);
        }
        if file.callers.as_ref().is_some_and(BTreeMap::is_empty) {
            self.problems.push("callers names nobody: leave it out, and nobody is asked who it is".to_owned());
        }
        let callers = self.callers(file.callers.unwrap_or_default(), mode.as_ref(), &listen);
        let is_strict = matches!(mode, Some(Mode::ClawShield { .. })) || !callers.is_empty();
        let on_mismatch = self.on_mismatch(file.replay.on_mismatch, is_strict);
        let allowed_actions = environment
            .get(env::ALLOWED_ACTIONS)
            .map(|list| list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
            .or(file.allowed_actions.map(HashSet::from_iter));
        if file.startup.takeover_socket.as_ref().is_some_and(|path| !path.is_absolute()) {
            self.problems.push("startup.takeover_socket must be a whole path".to_owned());
        }
        self.app(environment, &mut file.upstreams);
        let upstreams = self.upstreams(file.upstreams);
        let actions = self.actions(file.actions, &upstreams);
        self.room_for_answers(&limits, &actions);
        self.leases(ledger.as_ref(), &actions);
        let passthrough = self.passthrough(file.passthrough, &upstreams, &actions);
        let bypass_check = self.bypass(environment, file.bypass_check, &upstreams);
        let probes = self.probes(environment, file.probes);
        self.allowed("the allow-list", allowed_actions.as_ref(), &actions);
        if let Some(Mode::ClawShield { tenants: Ok(tenants) }) = &mode {
            for Tenant { verifier, allowed_actions, .. } in tenants {
                let list = format!("tenants.{}.allowed_actions", verifier.tenant_id);
                self.allowed(&list, allowed_actions.as_ref(), &actions);
            }
        }
        for caller in &callers {
            self.allowed(&format!("callers.{}.actions", caller.name), caller.actions.as_ref(), &actions);
        }
        let traces = self.traces(environment, file.telemetry.traces);
        let clock_skew = file.approval.clock_skew.unwrap_or(Duration::from_secs(30));
        let max_lifetime = self.max_lifetime(&file.approval);
        let in_memory = matches!(ledger, Some(LedgerConfig::Memory { .. }));
        let retention = self.retention(file.retention, max_lifetime, clock_skew, in_memory);
        let (mode, admin_listen, ledger) = (mode?, admin?, ledger?);
        if let Mode::Demo { by_name: false } = mode {
            self.accidental_demo(&listen, environment);
        }
        let is_admin = |listener: &Listener| listener.place == Place::Tcp(admin_listen);
        if admin_listen.port() != 0 && listen.iter().any(is_admin) {
            self.problems.push(format!("{} and {} are both {admin_listen}", env::LISTEN, env::ADMIN_LISTEN));
        }
        Some(Config {
            mode,
            listen,
            admin_listen,
            admin_tokens,
            ledger,
            clock_skew: delta(clock_skew),
            max_lifetime: delta(max_lifetime),
            callers,
            replay: Replay {
                on_mismatch,
                wait: file.replay.wait.unwrap_or(Duration::from_secs(10)),
                waiters: file.replay.waiters.unwrap_or(64),
            },
            allowed_actions,
            upstreams,
            actions,
            passthrough,
            bypass_check,
            probes,
            traces,
            limits,
            retention,
            shutdown: Shutdown {
                delay: file.shutdown.delay.unwrap_or(Duration::ZERO),
                timeout: file.shutdown.timeout.unwrap_or(Duration::from_secs(30)),
            },
            startup: Startup {
                takeover_socket: file.startup.takeover_socket,
                wait: file.startup.wait.unwrap_or(Duration::from_secs(60)),
            },
            certificates: Vec::new(),
            warnings: Vec::new(),
        })
    }

    fn mode(&mut self, file: &mut raw::File, environment: &impl Environment) -> Option<Mode> {
        let (name, source) = match environment.get(env::MODE) {
            Some(name) => (Some(name), env::MODE),
            None => (file.mode.clone(), "mode"),
        };
        if name.as_deref() != Some("clawshield") && !file.tenants.is_empty() {
            self.problems.push(
                "tenants have a meaning in ClawShield mode only: set mode: clawshield, or OPENEXEC_MODE".to_owned(),
            );
        }
        match name.as_deref() {
            None => Some(Mode::Demo { by_name: false }),
            Some("demo") => Some(Mode::Demo { by_name: true }),
            Some("clawshield") => {
                Some(Mode::ClawShield { tenants: self.tenants(environment, std::mem::take(&mut file.tenants)) })
            }
            Some(_) => {
                self.problems.push(format!("{source} must be `demo` or `clawshield`"));
                None
            }
        }
    }

    fn admin_tokens(&mut self, environment: &impl Environment) -> AdminTokens {
        let mut token = |name: &str| match environment.secret(name) {
            Ok(token) => {
                let token = token.filter(|token| !token.is_empty());
                if token.as_ref().is_some_and(|t| t.len() < 16 || !t.bytes().all(|b| b.is_ascii_graphic())) {
                    self.problems.push(format!("{name} must have at least 16 characters, visible ASCII only"));
                }
                token.map(SecretString::from)
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        };
        let tokens = AdminTokens { operator: token(env::ADMIN_TOKEN), reader: token(env::ADMIN_READ_TOKEN) };
        let texts = [&tokens.operator, &tokens.reader].map(|token| token.as_ref().map(|t| t.expose_secret()));
        if texts[0].is_some() && texts[0] == texts[1] {
            self.problems.push(format!("{} and {} must differ", env::ADMIN_TOKEN, env::ADMIN_READ_TOKEN));
        }
        tokens
    }

    fn address(
        &mut self,
        environment: &impl Environment,
        variable: &str,
        member: &str,
        typed: Option<String>,
        default: &str,
    ) -> Option<SocketAddr> {
        let (text, source) = match (environment.get(variable), typed) {
            (Some(text), _) => (text, variable),
            (None, Some(text)) => (text, member),
            (None, None) => (default.to_owned(), member),
        };
        text.parse()
            .map_err(|_| self.problems.push(format!("{source} must be an IP address and a port, such as {default}")))
            .ok()
    }

    fn time(&mut self, member: &str, time: Duration, least: Duration) {
        if time < least || time > LONGEST {
            let (least, most) = (format_duration(least), format_duration(LONGEST));
            self.problems.push(format!("{member} must be between {least} and {most}"));
        }
    }

    fn log(&mut self, environment: &impl Environment) {
        if environment.get(env::LOG_FORMAT).is_some_and(|format| !matches!(format.as_str(), "text" | "json")) {
            self.problems.push(format!("{} must be `text` or `json`", env::LOG_FORMAT));
        }
        if environment.get(env::LOG).is_some_and(|filter| EnvFilter::try_new(filter).is_err()) {
            self.problems.push(format!("{} must be a filter, such as `info` or `warn,openexec=debug`", env::LOG));
        }
    }

    /// `original` gives the answer of another request: to whoever asks, where callers may ask for some actions only.
    fn on_mismatch(&mut self, typed: Option<OnMismatch>, is_strict: bool) -> OnMismatch {
        if is_strict && typed == Some(OnMismatch::Original) {
            self.problems.push("replay.on_mismatch may be `original` in demo mode only, without callers".to_owned());
        }
        typed.unwrap_or(if is_strict { OnMismatch::Reject } else { OnMismatch::Original })
    }

    /// Demo mode approves everything, so nobody must get it by forgetting a variable.
    fn accidental_demo(&mut self, listen: &[Listener], environment: &impl Environment) {
        for Listener { place, .. } in listen {
            if !matches!(place, Place::Tcp(address) if !address.ip().is_loopback()) {
                continue;
            }
            self.problems.push(format!(
                "demo mode approves everything, and {place} can be reached by others: set {}=clawshield, or \
                 {}=demo if that is what you want",
                env::MODE,
                env::MODE
            ));
        }
        for name in [env::SECRET_KEY, env::PUBLIC_KEY, env::API_KEY] {
            let file = format!("{name}_FILE");
            if let Some(name) = [name, &file].into_iter().find(|name| environment.get(name).is_some()) {
                self.problems.push(format!(
                    "{name} is set but {} is not, and demo mode ignores approvals: set {}=clawshield, or \
                     {}=demo if that is what you want",
                    env::MODE,
                    env::MODE,
                    env::MODE
                ));
            }
        }
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
