//! Who may send requests at all: for gateways that strangers can reach.

use std::collections::{BTreeMap, HashMap, HashSet};

use openexec_protocol::approval::is_identifier;
use rustls::pki_types::ServerName;

use super::listener::Listener;
use super::{Check, Mode, raw};

/// Somebody who may send requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What logs and the ledger call it.
    pub name: String,
    /// SHA-256 of its tokens.
    pub token_hashes: Vec<[u8; 32]>,
    /// DNS names of its client certificate, in lower case.
    pub certificate_names: Vec<String>,
    /// Whose actions it may ask for; `None` in demo mode only.
    pub tenant: Option<String>,
    /// Which of them; `None`: all.
    pub actions: Option<HashSet<String>>,
}

impl Check {
    pub(super) fn callers(
        &mut self,
        file: BTreeMap<String, raw::Caller>,
        mode: Option<&Mode>,
        listen: &[Listener],
    ) -> Vec<Caller> {
        let asks_for_certificates = listen.iter().any(|listener| listener.asks_for_certificates);
        let mut owners: HashMap<String, String> = HashMap::new();
        let mut callers = Vec::new();
        for (name, caller) in file {
            let at = format!("callers.{name}");
            if !is_identifier(&name) {
                self.problem(format!("{at} must be named by 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -"));
            }
            if caller.token_sha256.is_empty() && caller.certificate_names.is_empty() {
                self.problem(format!("{at} needs token_sha256 or certificate_names: it could not show who it is"));
            }
            for shown in caller.token_sha256.iter().chain(&caller.certificate_names) {
                // Not repeated: it may be the token itself.
                if let Some(owner) = owners.insert(shown.to_ascii_lowercase(), name.clone()) {
                    self.problem(format!("{at} cannot be told from callers.{owner}: both show the same"));
                }
            }
            if !caller.certificate_names.is_empty() && !asks_for_certificates {
                self.problem(format!(
                    "{at}.certificate_names need a listener with tls.client_ca, which vouches for them"
                ));
            }
            self.caller_tenant(&at, caller.tenant.as_deref(), mode);
            callers.push(Caller {
                token_hashes: self.token_hashes(&at, &caller.token_sha256),
                certificate_names: self.certificate_names(&at, &caller.certificate_names),
                tenant: caller.tenant,
                actions: caller.actions.map(HashSet::from_iter),
                name,
            });
        }
        callers
    }

    fn caller_tenant(&mut self, at: &str, tenant: Option<&str>, mode: Option<&Mode>) {
        match (mode, tenant) {
            (Some(Mode::Demo { .. }), Some(_)) => {
                self.problem(format!("{at}.tenant has a meaning in ClawShield mode only"));
            }
            (Some(Mode::ClawShield { .. }), None) => {
                self.problem(format!("{at}.tenant must say whose actions it may ask for"))
            }
            (Some(Mode::ClawShield { tenants: Ok(tenants) }), Some(tenant))
                if !tenants.iter().any(|known| known.verifier.tenant_id == tenant) =>
            {
                self.problem(format!("{at}.tenant is none of the configured ones: {tenant}"));
            }
            _ => {}
        }
    }

    fn token_hashes(&mut self, at: &str, typed: &[String]) -> Vec<[u8; 32]> {
        let mut hashes = Vec::new();
        for (n, text) in typed.iter().enumerate() {
            let mut hash = [0; 32];
            match hex::decode_to_slice(text, &mut hash) {
                Ok(()) => hashes.push(hash),
                // Not repeated: it may be the token itself.
                Err(_) => {
                    self.problem(format!("{at}.token_sha256[{n}] must be 64 hex digits: see openexec keys token"))
                }
            }
        }
        hashes
    }

    fn certificate_names(&mut self, at: &str, typed: &[String]) -> Vec<String> {
        for (n, text) in typed.iter().enumerate() {
            if !matches!(ServerName::try_from(text.as_str()), Ok(ServerName::DnsName(_))) {
                self.problem(format!("{at}.certificate_names[{n}] is no DNS name: {text}"));
            }
        }
        typed.iter().map(|name| name.to_ascii_lowercase()).collect()
    }
}
