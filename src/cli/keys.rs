//! `openexec keys`

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openexec_protocol::approval::{PrivateKey, PublicKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{USAGE, fail};

#[derive(clap::Subcommand)]
pub(super) enum Keys {
    /// Make a new key, in files that are new too
    ///
    /// Ed25519: PATH.pem is the approver's private key, with which `openexec mint --private-key` signs; PATH.pub.pem is for
    /// the server. HMAC: PATH.key is for both. What is secret is readable by its owner only. Nothing is overwritten. Exit
    /// code 0, or 2 if nothing was made.
    Generate {
        /// Where, without the ending
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// What it signs
        #[arg(long, value_enum, default_value = "ed25519")]
        form: Form,
    },
    /// Print the fingerprint of an Ed25519 key, private or public
    ///
    /// The same for both of a pair, and the one that the server has in its log: SHA-256 of the public key in DER. Exit code
    /// 0, or 2 if the file holds no such key.
    Fingerprint {
        /// A PEM file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a new token for a caller, in a file that is new too
    ///
    /// PATH.token holds it, readable by its owner only: it is the caller's. Printed is its SHA-256, for `token_sha256` in the
    /// server's configuration. Exit code 0, or 2 if nothing was made.
    Token {
        /// Where, without the ending
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// Whoever verifies cannot sign
    Ed25519,
    /// A shared secret: whoever verifies can sign too
    Hmac,
}

impl Keys {
    pub(super) fn run(self) -> ExitCode {
        let made = match self {
            Keys::Generate { path, form } => generate(&path, form)
                .map(|made| made.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n")),
            Keys::Fingerprint { file } => fingerprint(&file),
            Keys::Token { path } => token(&path),
        };
        match made {
            Ok(text) => {
                say!("{text}");
                ExitCode::SUCCESS
            }
            Err(problem) => fail(problem, USAGE),
        }
    }
}

fn random() -> Result<Zeroizing<[u8; 32]>, String> {
    let mut bytes = Zeroizing::new([0; 32]);
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut *bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(bytes)
}

fn fingerprint(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| format!("{}: {e}", path.display()))?;
    let key = PrivateKey::from_pem(&text).map(|key| key.public()).or_else(|_| PublicKey::from_pem(&text));
    key.map(|key| key.fingerprint()).map_err(|_| format!("{} holds no PEM text of an Ed25519 key", path.display()))
}

/// Gives what the server may know of it.
fn token(path: &Path) -> Result<String, String> {
    let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random()?));
    write(path, ".token", 0o600, token.as_bytes())?;
    Ok(hex::encode(Sha256::digest(token.as_bytes())))
}

fn generate(path: &Path, form: Form) -> Result<Vec<PathBuf>, String> {
    let seed = random()?;
    let secret = match form {
        Form::Ed25519 => write(path, ".pem", 0o600, PrivateKey::from_seed(&seed).to_pem().as_bytes())?,
        // As text: it can go into an environment variable.
        Form::Hmac => write(path, ".key", 0o600, Zeroizing::new(hex::encode(*seed) + "\n").as_bytes())?,
    };
    if form == Form::Hmac {
        return Ok(vec![secret]);
    }
    let public = PrivateKey::from_seed(&seed).public().to_pem();
    match write(path, ".pub.pem", 0o644, public.as_bytes()) {
        Ok(public) => Ok(vec![secret, public]),
        Err(problem) => {
            // Half of a pair is of no use, and would be in the way of the next try.
            let _ = std::fs::remove_file(&secret);
            Err(problem)
        }
    }
}

/// To the disk, in a file that was not there.
fn write(path: &Path, ending: &str, mode: u32, bytes: &[u8]) -> Result<PathBuf, String> {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    let path = PathBuf::from(name);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} exists already, and is not overwritten: nothing was made", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&path).map_err(failed)?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        let _ = std::fs::remove_file(&path);
        return Err(failed(error));
    }
    Ok(path)
}
