//! When certificates that the configuration names end: for metrics and the status page, and nothing is decided by it.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::Check;
use crate::pem;

/// Certificates that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `listener`, `upstream`, `ledger` or `injector`.
    pub of: &'static str,
    /// Its address, or its configured name.
    pub name: String,
    /// When the first of them ends.
    pub not_after: DateTime<Utc>,
}

impl Certificate {
    /// Of a chain, and of authorities.
    pub fn read(of: &'static str, name: &str, chain: Option<&Path>, authorities: Option<&Path>) -> Option<Self> {
        pem::end(chain, authorities).map(|not_after| Certificate { of, name: name.to_owned(), not_after })
    }
}

impl Check {
    pub(super) fn certificate(
        &mut self,
        of: &'static str,
        name: &str,
        chain: Option<&Path>,
        authorities: Option<&Path>,
    ) {
        self.certificates.extend(Certificate::read(of, name, chain, authorities));
    }
}
