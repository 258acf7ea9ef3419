//! `openexec inject`: what the admission webhook would do, to manifests.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{BAD_CONFIGURATION, USAGE, fail, input, printable};
use crate::inject::Namespace;
use crate::inject::manifest::inject_all;
use crate::inject::settings::Sidecar;
use crate::injector::settings::Settings;

/// A text filter.
#[derive(Args)]
pub(super) struct Inject {
    /// The manifests, YAML or JSON; `-` is standard input
    #[arg(short = 'f', long = "filename", default_value = "-", value_name = "FILE")]
    file: PathBuf,
    /// The injector's settings, of which `sidecar:` is used
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The gate's image, in the place of the settings'
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// As in an enforced namespace: no pod can opt out
    #[arg(long)]
    enforced: bool,
}

/// Manifests that cannot be injected.
const BAD_INPUT: u8 = 65;

impl Inject {
    pub(super) fn run(self) -> ExitCode {
        let sidecar = match sidecar(self.settings.as_deref(), self.image) {
            Ok(sidecar) => sidecar,
            Err((problem, code)) => return fail(problem, code),
        };
        let text = match input::read(&self.file).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => return fail(format!("{}: not UTF-8", self.file.display()), BAD_INPUT),
            Err(problem) => return fail(problem, 74),
        };
        let namespace = if self.enforced { Namespace::Enforced } else { Namespace::Enabled };
        match inject_all(&text, &sidecar, namespace) {
            Ok(manifests) => {
                for warning in manifests.warnings {
                    eprintln!("openexec: {}", printable(&warning));
                }
                use std::io::Write;
                match std::io::stdout().lock().write_all(manifests.text.as_bytes()) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => super::unprinted(&error),
                }
            }
            Err(error) => {
                let problem = error.to_string();
                let lines: Vec<_> = problem.lines().map(printable).collect();
                fail(lines.join("\nopenexec: "), BAD_INPUT)
            }
        }
    }
}

fn sidecar(settings: Option<&Path>, image: Option<String>) -> Result<Sidecar, (String, u8)> {
    let mut sidecar = match (settings, &image) {
        (Some(path), _) => Settings::load_sidecar(path).map_err(|error| (error.to_string(), BAD_CONFIGURATION))?,
        (None, Some(image)) => Sidecar::of(image),
        (None, None) => return Err(("--settings or --image must say which image the gate has".to_owned(), USAGE)),
    };
    if let Some(image) = image {
        sidecar.image = image;
    }
    match sidecar.problems().first() {
        None => Ok(sidecar),
        Some((member, problem)) => Err((format!("{member} {problem}"), USAGE)),
    }
}
