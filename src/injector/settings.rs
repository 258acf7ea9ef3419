//! The injector's settings file: where it listens, who it is, and what sidecars are made of.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::certificates::Certificate;
use crate::config::{ConfigError, located, read_as, schema};
use crate::inject::settings::Sidecar;
use crate::listen::tls::{MinVersion, server_config};

/// The whole file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Where the API server asks.
    listen: Option<String>,
    #[serde(default)]
    admin: Admin,
    tls: Option<Tls>,
    sidecar: Sidecar,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    /// Where probes and Prometheus ask.
    listen: Option<String>,
}

/// Files in PEM; read again when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
}

/// What an injector needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the API server asks.
    pub listen: SocketAddr,
    /// Where probes and Prometheus ask.
    pub admin_listen: SocketAddr,
    /// Who it is.
    pub tls: Arc<ServerConfig>,
    /// When its certificate ends.
    pub certificate: Option<Certificate>,
    /// What sidecars are made of.
    pub sidecar: Sidecar,
}

impl Settings {
    /// Reads the file, and the certificate that it names.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (file, text) = read(path)?;
        let mut problems = problems(&file.sidecar);
        let mut address = |member: &str, typed: Option<String>, default: &str| {
            let parsed = typed.as_deref().unwrap_or(default).parse::<SocketAddr>();
            parsed
                .map_err(|_| problems.push(format!("{member} must be an IP address and a port, such as {default}")))
                .ok()
        };
        let listen = address("listen", file.listen, "0.0.0.0:8443");
        let admin_listen = address("admin.listen", file.admin.listen, "0.0.0.0:5001");
        let tls = match &file.tls {
            None => Err("tls is missing: the API server asks by HTTPS only".to_owned()),
            Some(Tls { certificate, key }) => {
                server_config(certificate, key, None, &[], MinVersion::Tls12).map_err(|error| format!("tls: {error}"))
            }
        };
        let tls = tls.map_err(|problem| problems.push(problem)).ok();
        match (listen, admin_listen, tls) {
            (Some(listen), Some(admin_listen), Some(tls)) if problems.is_empty() => {
                let chain = file.tls.as_ref().map(|tls| tls.certificate.as_path());
                let certificate = Certificate::read("injector", &listen.to_string(), chain, None);
                Ok(Settings { listen, admin_listen, tls, certificate, sidecar: file.sidecar })
            }
            _ => Err(located(problems, Some(path), &text)),
        }
    }

    /// What sidecars are made of, of the same file: its listeners and certificate are not looked at.
    ///
    /// # Errors
    /// Everything that is wrong with that.
    pub fn load_sidecar(path: &Path) -> Result<Sidecar, ConfigError> {
        let (file, text) = read(path)?;
        let problems = problems(&file.sidecar);
        if problems.is_empty() { Ok(file.sidecar) } else { Err(located(problems, Some(path), &text)) }
    }

    /// The files that it is read from. `None`: it cannot be read.
    pub fn files(path: &Path) -> Option<Vec<PathBuf>> {
        let named = read(path).ok()?.0.tls.map(|tls| [tls.certificate, tls.key]);
        Some([path.to_owned()].into_iter().chain(named.into_iter().flatten()).collect())
    }
}

/// As `openexec schema injector` prints it.
pub fn schema_text() -> String {
    schema::print::<File>("The settings of OpenExec's injector")
}

fn read(path: &Path) -> Result<(File, String), ConfigError> {
    match read_as(path)? {
        (Some(file), text) => Ok((file, text)),
        (None, _) => Err(ConfigError(vec![format!("{}: sidecar.image is missing", path.display())])),
    }
}

fn problems(sidecar: &Sidecar) -> Vec<String> {
    sidecar.problems().into_iter().map(|(member, problem)| format!("sidecar.{member} {problem}")).collect()
}
