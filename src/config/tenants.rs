//! Whom the gate acts for, and which keys approve for them.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use openexec_protocol::approval::{Form, HmacKey, Key, MOST_KEYS_TRIED, Material, PublicKey, Verifier, is_identifier};
use openexec_protocol::timestamp;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::env::{self, Environment};
use super::{Check, raw};

/// Shorter secrets can be guessed: as long as the hash, as RFC 2104, section 3, recommends.
const SHORTEST_SECRET: usize = 32;

/// Somebody with keys, nonces and limits of their own.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its name, and what its approvals are checked against.
    pub verifier: Verifier,
    /// Actions that may be executed for it; `None`: all that may be executed at all.
    pub allowed_actions: Option<HashSet<String>>,
    /// How many requests it may make.
    pub rate: Option<Rate>,
    /// Executions that may run at once for it: what is configured, or an equal share of what the others leave.
    pub in_flight: usize,
}

/// So many requests in a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// On average.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

/// Until [`Check::shares`]. Nobody means it.
const UNSAID: usize = 0;

impl Check {
    /// The file's, and the one that the environment names. `Err` names the variable without which there is none.
    pub(super) fn tenants(
        &mut self,
        environment: &impl Environment,
        file: BTreeMap<String, raw::Tenant>,
    ) -> Result<Vec<Tenant>, &'static str> {
        let named = self.tenant_of_environment(environment, file.is_empty());
        if let Ok(Some(tenant)) = &named
            && file.contains_key(&tenant.verifier.tenant_id)
        {
            self.problems.push(format!(
                "tenants.{} is the tenant of {} too",
                tenant.verifier.tenant_id,
                env::TENANT_ID
            ));
        }
        let mut tenants: Vec<Tenant> = file.into_iter().map(|(id, tenant)| self.tenant(id, tenant)).collect();
        tenants.extend(named?);
        Ok(tenants)
    }

    fn tenant_of_environment(
        &mut self,
        environment: &impl Environment,
        is_needed: bool,
    ) -> Result<Option<Tenant>, &'static str> {
        let mut secret = |name| {
            environment.secret(name).unwrap_or_else(|problem| {
                self.problems.push(problem);
                None
            })
        };
        let mut given = |name| secret(name).filter(|text: &String| !text.is_empty()).map(Zeroizing::new);
        let (key, public_key) = (given(env::SECRET_KEY), given(env::PUBLIC_KEY));
        let _unused_but_readable = secret(env::API_KEY);
        let mut keys = Vec::new();
        if let Some(key) = &key {
            if key.len() < SHORTEST_SECRET {
                self.warnings
                    .push(format!("{} is shorter than {SHORTEST_SECRET} bytes, which is weak", env::SECRET_KEY));
            }
            if is_pem(key.as_bytes()) {
                self.problems.push(format!("{} is a PEM text, and an HMAC key is none", env::SECRET_KEY));
            }
            keys.push(Key::always(Material::Hmac(HmacKey::new(key.as_bytes()))));
        }
        if let Some(text) = &public_key {
            match PublicKey::from_pem(text) {
                Ok(key) => keys.push(Key::always(Material::Ed25519(key))),
                Err(_) if text.contains("PRIVATE KEY") => self.problems.push(format!("{} {PRIVATE}", env::PUBLIC_KEY)),
                Err(error) => {
                    let file = "(a file is named by CLAWSHIELD_PUBLIC_KEY_FILE)";
                    self.problems.push(format!("{} holds {error} {file}", env::PUBLIC_KEY));
                }
            }
        }
        let tenant = environment.get(env::TENANT_ID).filter(|tenant| !tenant.is_empty());
        if let Some(tenant) = tenant.as_deref().filter(|tenant| !is_identifier(tenant)) {
            let length = tenant.len();
            self.problems.push(format!(
                "{} must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ - (it has {length} bytes)",
                env::TENANT_ID
            ));
        }
        let has_key = key.is_some() || public_key.is_some();
        match tenant {
            Some(tenant_id) if has_key => Ok(Some(Tenant {
                verifier: Verifier { tenant_id, keys },
                allowed_actions: None,
                rate: None,
                in_flight: UNSAID,
            })),
            None if !has_key && !is_needed => Ok(None),
            // The file's would be refused with it.
            _ if !is_needed => {
                let missing = if has_key {
                    env::TENANT_ID.to_owned()
                } else {
                    format!("{} or {}", env::PUBLIC_KEY, env::SECRET_KEY)
                };
                self.problems
                    .push(format!("the environment's tenant lacks {missing}; the file has tenants of its own"));
                Ok(None)
            }
            None if has_key => Err(env::TENANT_ID),
            _ => Err(env::SECRET_KEY),
        }
    }

    fn tenant(&mut self, id: String, file: raw::Tenant) -> Tenant {
        let at = format!("tenants.{id}");
        if !is_identifier(&id) {
            self.problems.push(format!("{at} must be named by 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -"));
        }
        if file.keys.is_empty() {
            self.problems.push(format!("{at}.keys must have at least one: nothing could be approved"));
        }
        let mut ids = HashSet::new();
        for (n, key) in file.keys.iter().enumerate().filter(|(_, key)| !ids.insert(&key.id)) {
            self.problems.push(format!("{at}.keys[{n}].id is another key's too: {}", key.id));
        }
        for form in [Form::Hmac, Form::Ed25519] {
            if file.keys.iter().filter(|key| Form::from(key.form) == form).count() > MOST_KEYS_TRIED {
                self.warnings.push(format!(
                    "{at}.keys has more than {MOST_KEYS_TRIED} keys of one form: an approval without a `kid` is tried \
                     with the {MOST_KEYS_TRIED} that are good for longest"
                ));
            }
        }
        let mut keys = Vec::new();
        let mut known = HashSet::new();
        for (n, key) in file.keys.into_iter().enumerate() {
            let at = format!("{at}.keys[{n}]");
            let Some((key, fingerprint)) = self.key(&at, key) else { continue };
            if !known.insert(fingerprint) {
                // The one that is good for longest would approve for both, and neither could be retired.
                self.problems.push(format!("{at}.file holds a key that is another one's too"));
            }
            keys.push(key);
        }
        let approves =
            |key: &Key| key.not_before.is_none_or(|begin| begin <= Utc::now()) && !key.is_retired(Utc::now());
        if !keys.is_empty() && !keys.iter().any(approves) {
            self.warnings
                .push(format!("{at} has no key that approves anything now: all are retired or have not begun"));
        }
        let allowed_actions = file.allowed_actions.map(HashSet::from_iter);
        if file.in_flight == Some(0) {
            self.problems.push(format!("{at}.in_flight must be at least 1"));
        }
        let rate = file.rate.and_then(|rate| self.rate(&at, &rate));
        Tenant {
            verifier: Verifier { tenant_id: id, keys },
            allowed_actions,
            rate,
            in_flight: file.in_flight.unwrap_or(UNSAID),
        }
    }

    fn rate(&mut self, at: &str, file: &raw::Rate) -> Option<Rate> {
        let rate = NonZeroU32::new(file.per_second)
            .zip(NonZeroU32::new(file.burst.unwrap_or(file.per_second)))
            .map(|(per_second, burst)| Rate { per_second, burst });
        if rate.is_none() {
            self.problems.push(format!("{at}.rate.per_second and burst must be at least 1"));
        }
        rate
    }

    fn key(&mut self, at: &str, file: raw::Key) -> Option<(Key, Fingerprint)> {
        if !is_identifier(&file.id) {
            self.problems.push(format!("{at}.id must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -"));
        }
        let not_before = self.moment(&format!("{at}.not_before"), file.not_before.as_deref());
        let not_after = self.moment(&format!("{at}.not_after"), file.not_after.as_deref());
        if let (Some(not_before), Some(not_after)) = (not_before, not_after)
            && not_after <= not_before
        {
            self.problems.push(format!("{at}.not_after must be later than its not_before"));
        }
        match material(&file.file, file.form.into()) {
            Ok((material, fingerprint)) => {
                Some((Key { id: Some(file.id), material, not_before, not_after }, fingerprint))
            }
            Err(problem) => {
                self.problems.push(format!("{at}.file: {}: {problem}", file.file.display()));
                None
            }
        }
    }

    fn moment(&mut self, at: &str, text: Option<&str>) -> Option<DateTime<Utc>> {
        let text = text?;
        // Without one it would be UTC, and whoever typed it may have meant another.
        let has_zone = text.ends_with('Z') || text.rfind(['+', '-']).is_some_and(|sign| sign > "2026-02-17".len());
        let moment = timestamp::parse(text).filter(|_| has_zone);
        if moment.is_none() {
            self.problems.push(format!("{at} must be a time with its zone, such as 2026-02-17T10:00:00Z"));
        }
        moment
    }

    /// Together they have no more than all may have, so that none can take what is another's.
    pub(super) fn shares(&mut self, tenants: &mut [Tenant], all: usize) {
        let said: usize = tenants.iter().map(|tenant| tenant.in_flight).fold(0, usize::saturating_add);
        let unsaid = tenants.iter().filter(|tenant| tenant.in_flight == UNSAID).count();
        let left = all.saturating_sub(said);
        if said > all || left < unsaid {
            self.problems.push(format!(
                "tenants.*.in_flight are {said} together, of limits.in_flight ({all}): too much, with {unsaid} tenants that \
                 have no number of their own and need one at least"
            ));
        }
        for tenant in tenants.iter_mut().filter(|tenant| tenant.in_flight == UNSAID) {
            tenant.in_flight = left / unsaid;
        }
    }

    /// How long an approval may live that says so itself.
    pub(super) fn max_lifetime(&mut self, file: &raw::Approval) -> Duration {
        let lifetime = file.max_lifetime.unwrap_or(super::LONGEST);
        self.time("approval.max_lifetime", lifetime, Duration::from_secs(1));
        lifetime
    }
}

const PRIVATE: &str = "holds a private key, which belongs to the approver alone: name the public one";

/// SHA-256 of what is secret or public in a key, to tell two apart.
type Fingerprint = [u8; 32];

fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN")
}

/// The key that the file holds. What it holds is repeated nowhere.
fn material(path: &Path, form: Form) -> Result<(Material, Fingerprint), String> {
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|error| error.to_string())?);
    match form {
        Form::Hmac if is_pem(&bytes) => Err("is a PEM text, and an HMAC key is none".to_owned()),
        Form::Hmac => {
            let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
            if secret.len() < SHORTEST_SECRET {
                return Err(format!("must have at least {SHORTEST_SECRET} bytes, or it can be guessed"));
            }
            Ok((Material::Hmac(HmacKey::new(secret)), Sha256::digest(secret).into()))
        }
        Form::Ed25519 if bytes.windows(11).any(|part| part == b"PRIVATE KEY") => Err(PRIVATE.to_owned()),
        Form::Ed25519 => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default();
            let key = PublicKey::from_pem(text).map_err(|error| format!("holds {error}"))?;
            let fingerprint = Sha256::digest(key.to_pem()).into();
            Ok((Material::Ed25519(key), fingerprint))
        }
    }
}
