//! Who sends a request, where callers are configured: by a bearer token or a client certificate.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use openexec_protocol::refusal::{Code, Refusal};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

use super::tenant::{Limiter, TRACES};
use crate::config::{self, Rate};

/// Strangers who are told of in the log.
const STRANGERS: Rate = Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(10).expect("not 0") };

/// Everybody who may send requests. None: nobody is asked.
pub(super) struct Callers {
    strangers: Limiter,
    by_token: HashMap<[u8; 32], Arc<Caller>>,
    by_certificate: Vec<(String, Arc<Caller>)>,
}

/// Proof that somebody who is configured sent it. Only [`Callers::identify`] makes one.
pub struct Caller {
    name: Arc<str>,
    tenant: Option<Arc<str>>,
    /// For its denials that are no tenant's own.
    traces: Limiter,
    actions: Option<HashSet<String>>,
}

impl Callers {
    pub(super) fn new(callers: &[config::Caller]) -> Self {
        let strangers = Limiter::new(STRANGERS);
        let mut all = Callers { strangers, by_token: HashMap::new(), by_certificate: Vec::new() };
        for config in callers {
            let caller = Arc::new(Caller {
                name: config.name.as_str().into(),
                tenant: config.tenant.as_deref().map(Arc::from),
                traces: Limiter::new(TRACES),
                actions: config.actions.clone(),
            });
            all.by_token.extend(config.token_hashes.iter().map(|hash| (*hash, caller.clone())));
            all.by_certificate.extend(config.certificate_names.iter().map(|name| (name.clone(), caller.clone())));
        }
        all
    }

    pub(super) fn may_tell_of_a_stranger(&self) -> bool {
        self.strangers.takes_one()
    }

    fn are_asked(&self) -> bool {
        !self.by_token.is_empty() || !self.by_certificate.is_empty()
    }

    /// Who it is; `None` where nobody is asked. A token that is shown must be good, whatever certificate there is.
    pub(super) fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        if !self.are_asked() {
            return Ok(None);
        }
        let found = match (headers.contains_key(AUTHORIZATION), certificate) {
            (true, _) => bearer(headers).and_then(|token| self.by_token.get(&hash(token))),
            (false, Some(certificate)) => self.named_by(certificate),
            (false, None) => None,
        };
        found.cloned().map(Some).ok_or_else(|| {
            Refusal::new(
                Code::CallerUnauthenticated,
                "A bearer token or a client certificate of a known caller is needed",
            )
        })
    }

    /// The handshake has verified it already: the listener's authority vouches for its names. A name with a wildcard is
    /// nobody's, and neither is a certificate that names several callers.
    fn named_by(&self, certificate: &CertificateDer<'_>) -> Option<&Arc<Caller>> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let names: Vec<String> = certificate.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let mut found = self.by_certificate.iter().filter(|(name, _)| names.contains(name)).map(|(_, caller)| caller);
        let first = found.next()?;
        found.all(|other| Arc::ptr_eq(first, other)).then_some(first)
    }
}

impl Caller {
    /// The configuration's name for it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whose actions it may ask for; `None` in demo mode only.
    pub(super) fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }

    pub(super) fn is_of(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }

    pub(super) fn traces(&self) -> &Limiter {
        &self.traces
    }

    /// Whether it may ask for this action of this tenant.
    pub(super) fn may(&self, tenant: &str, action: &str) -> Result<(), Refusal> {
        if self.is_of(tenant) && self.actions.as_ref().is_none_or(|actions| actions.contains(action)) {
            return Ok(());
        }
        Err(Refusal::new(Code::CallerNotAllowed, "This caller may not ask for this action of this tenant"))
    }
}

/// The only one: of two nobody knows which counts.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (all.next()?.to_str().ok()?, all.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A token is random and long, so that its plain hash tells nothing, and finding the hash in a table does neither.
fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
