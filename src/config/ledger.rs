//! Which ledger: from `OPENEXEC_DB_URL` or the file's `ledger:`.

use std::path::PathBuf;

/// A checked ledger configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerConfig {
    /// `memory:`
    Memory {
        /// Bytes of rows before it is full.
        max_bytes: usize,
        /// See [`FencePolicy`].
        fence: FencePolicy,
    },
    /// `sqlite:///...`
    Sqlite(SqliteConfig),
}

/// Where the file is and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The file.
    pub path: PathBuf,
    /// Its anchor; beside it unless configured.
    pub anchor: PathBuf,
    /// Whether a file that is not there may be made.
    pub create: bool,
    /// When the fence is raised.
    pub fence: FencePolicy,
    /// Bytes for finished answers.
    pub cache_bytes: usize,
    /// Bytes that its file system must have free for new executions.
    pub min_free_bytes: u64,
}

/// When approvals of the past stop to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FencePolicy {
    /// When the anchor shows that the ledger was lost or rolled back.
    #[default]
    Auto,
    /// At every start: for volumes that die with the pod.
    Always,
}

/// What a database URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// Nothing durable.
    Memory,
    /// A file.
    Sqlite(PathBuf),
}

impl DatabaseUrl {
    /// Reads the URL as SQLAlchemy would: three slashes and a relative path, four and an absolute one; a driver's
    /// name behind a `+` is dropped.
    ///
    /// # Errors
    /// What is wrong with it. The URL is not repeated: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url == "memory:" {
            return Ok(DatabaseUrl::Memory);
        }
        let (scheme, rest) = url.split_once("://").ok_or("must be sqlite:///file, postgresql://... or memory:")?;
        match scheme.split('+').next() {
            Some("sqlite") => match rest.strip_prefix('/') {
                Some("") | Some(":memory:") => Err("names no file: write memory: for a ledger that is not durable"),
                Some(path) => Ok(DatabaseUrl::Sqlite(path.into())),
                None => Err("must have three slashes and a relative path, or four and an absolute one"),
            },
            Some("postgresql" | "postgres") => Err("names PostgreSQL, which this version cannot use yet"),
            _ => Err("must be sqlite:///file, postgresql://... or memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_sqlalchemy_does() {
        let sqlite = |path: &str| Ok(DatabaseUrl::Sqlite(path.into()));
        assert_eq!(DatabaseUrl::parse("memory:"), Ok(DatabaseUrl::Memory));
        assert_eq!(DatabaseUrl::parse("sqlite:///relative.db"), sqlite("relative.db"));
        assert_eq!(DatabaseUrl::parse("sqlite:////var/lib/absolute.db"), sqlite("/var/lib/absolute.db"));
        assert_eq!(DatabaseUrl::parse("sqlite+pysqlite:///a.db"), sqlite("a.db"));
        for wrong in [
            "",
            "a.db",
            "sqlite://a.db",
            "sqlite:///",
            "sqlite:///:memory:",
            "mysql://x",
            "postgresql+psycopg2://u:p@h/d",
        ] {
            let problem = DatabaseUrl::parse(wrong).unwrap_err();
            assert!(!problem.contains("u:p"), "{problem}");
        }
    }
}
