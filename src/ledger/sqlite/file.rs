//! The file: whose it is, whether it may be used, and by whom it is used already.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::schema;
use crate::config::ledger::SqliteConfig;
use crate::ledger::Refused;
use crate::ledger::anchor::with_suffix;

/// Why a ledger file is not used. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the ledger {path} is in use by process {pid}: stop that one first, or name another file in OPENEXEC_DB_URL",
        path = path.display())]
    InUse {
        /// The ledger.
        path: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// It may not be made, and does not exist.
    #[error(
        "there is no ledger {0} and ledger.create is false: mount the volume that holds it, or set ledger.create \
        once if it is really new"
    )]
    Missing(PathBuf),
    /// The directory or the file cannot be written.
    #[error("the ledger {0} cannot be opened for writing: {1}")]
    NotWritable(PathBuf, io::Error),
    /// Locks and syncs mean nothing there.
    #[error(
        "the ledger {0} is on a network file system ({1}), where neither locks nor syncs can be relied on: put it on \
        a local disk, or use PostgreSQL"
    )]
    NetworkFileSystem(PathBuf, &'static str),
    /// No SQLite file, or a damaged one.
    #[error(
        "the ledger {0} is damaged or is no SQLite file: {1}. Restore it from a backup and raise the fence; do not \
        start with a new file, which has forgotten every approval that was used"
    )]
    Corrupt(PathBuf, String),
    /// A SQLite file of another program.
    #[error("{0} is the database of another program: name another file in OPENEXEC_DB_URL")]
    Foreign(PathBuf),
    /// A file of the 0.2.0 service.
    #[error(
        "{0} is the database of OpenExec 0.2.0: name another file in OPENEXEC_DB_URL; `openexec ledger import {0}` then \
        takes over its nonces and results"
    )]
    Legacy(PathBuf),
    /// Written by a newer version.
    #[error("the ledger {path} has schema version {found}, and this version knows {known}: use the version that wrote it",
        path = path.display(), known = schema::SCHEMA_VERSION)]
    Newer {
        /// The ledger.
        path: PathBuf,
        /// Its version.
        found: i32,
    },
    /// Ours, but without its identity.
    #[error(
        "the ledger's own ledger_id or fence is missing or unreadable: restore it from a backup and raise the fence"
    )]
    Incomplete,
    /// A library that is too old.
    #[error("SQLite {0} has a bug that can corrupt the ledger: build with 3.51.3 or later")]
    OldSqlite(&'static str),
    /// The anchor cannot be read or written.
    #[error("the ledger's anchor {0} cannot be used: {1}")]
    Anchor(PathBuf, io::Error),
    /// No thread for it.
    #[error("no thread could be started: {0}")]
    Thread(io::Error),
    /// A database of others.
    #[error(transparent)]
    Postgres(#[from] Refused),
    /// Anything else.
    #[error("the ledger cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl OpenError {
    /// The exit code, as sysexits.h has them.
    pub fn exit_code(&self) -> u8 {
        use OpenError as E;
        match self {
            E::InUse { .. } => 75,
            E::Missing(_) | E::NetworkFileSystem(..) | E::Foreign(_) | E::Legacy(_) | E::Newer { .. } => 78,
            E::Postgres(Refused::NotThere(_)) => 69,
            E::Postgres(_) => 78,
            _ => 74,
        }
    }
}

/// The exclusive lock on a side file; held as long as this lives, freed by the system when the process dies.
pub(super) struct Lock(#[allow(dead_code)] File);

/// Whether the ledger's file exists, which it must unless it may be made.
pub(super) fn exists(config: &SqliteConfig) -> Result<bool, OpenError> {
    let path = &config.path;
    let not_writable = |e| OpenError::NotWritable(path.clone(), e);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Some(name) = network_file_system(directory).map_err(not_writable)? {
        return Err(OpenError::NetworkFileSystem(path.clone(), name));
    }
    let exists = match fs::metadata(path) {
        Ok(file) => file.len() > 0,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(not_writable(e)),
    };
    if !exists && !config.create {
        return Err(OpenError::Missing(path.clone()));
    }
    Ok(exists)
}

/// Locks the ledger, and tells whether its file exists.
pub(super) fn take(config: &SqliteConfig) -> Result<(Lock, bool), OpenError> {
    let exists = exists(config)?;
    let path = &config.path;
    let not_writable = |e| OpenError::NotWritable(path.clone(), e);
    let lock_path = with_suffix(path, ".lock");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(OpenError::InUse { path: path.clone(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(e)) => return Err(not_writable(e)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(not_writable)?;
    if !exists {
        // Results are nobody else's. SQLite gives its side files the same mode.
        File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(not_writable)?;
    }
    Ok((Lock(file), exists))
}

/// The name of the network file system that the directory is on.
fn network_file_system(directory: &Path) -> io::Result<Option<&'static str>> {
    // linux/magic.h
    const NETWORK: [(u64, &str); 8] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x517b, "SMB"),
        (0x5346_414f, "AFS"),
        (0x00c3_6400, "Ceph"),
        (0x0102_1997, "9P"),
        (0x0bd0_0bd0, "Lustre"),
    ];
    let kind = rustix::fs::statfs(directory)?.f_type as u64;
    Ok(NETWORK.into_iter().find(|(magic, _)| *magic == kind).map(|(_, name)| name))
}

/// Opens the file for the writer.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| explain(path, e))?;
    configure(&connection).map_err(|e| explain(path, e))?;
    if connection.is_readonly("main")? {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        return Err(OpenError::NotWritable(path.to_owned(), denied));
    }
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 268435456;
         PRAGMA cache_size = -4096;
         PRAGMA trusted_schema = OFF;",
    )
}

/// Opens the file for a reader.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// Says what SQLite's error means for whoever starts the server.
fn explain(path: &Path, error: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, NotADatabase, PermissionDenied, ReadOnly};
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => OpenError::Corrupt(path, error.to_string()),
        Some(ReadOnly | PermissionDenied | CannotOpen) => OpenError::NotWritable(path, io::Error::other(error)),
        _ => OpenError::Sqlite(error),
    }
}

/// Whether the file is a ledger; `false`: it holds nothing yet. Refuses what is not ours, and says whose it is.
pub(super) fn recognise(path: &Path) -> Result<bool, OpenError> {
    let connection = connect_reader(path).map_err(|e| explain(path, e))?;
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
    let is_empty = connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0));
    if is_empty.map_err(|e| explain(path, e))? {
        return Ok(false);
    }
    if pragma("application_id")? != schema::APPLICATION_ID {
        return Err(if legacy_table(&connection)?.is_some() {
            OpenError::Legacy(path.to_owned())
        } else {
            OpenError::Foreign(path.to_owned())
        });
    }
    match pragma("user_version")? {
        1..=schema::SCHEMA_VERSION => Ok(true),
        found => Err(OpenError::Newer { path: path.to_owned(), found }),
    }
}

/// The 0.2.0 service kept one table with these columns.
pub(super) fn legacy_table(connection: &Connection) -> Result<Option<String>, OpenError> {
    let found = connection.query_row(
        "SELECT t.name FROM sqlite_schema AS t
         WHERE t.type = 'table' AND 6 = (
             SELECT count(*) FROM pragma_table_info(t.name)
             WHERE name IN ('id', 'action', 'payload', 'result', 'nonce', 'approved'))",
        [],
        |row| row.get(0),
    );
    Ok(found.optional()?)
}

/// Reads the whole file after an unclean stop.
pub(super) fn quick_check(connection: &Connection) -> Result<(), OpenError> {
    let path = || connection.path().map(PathBuf::from).unwrap_or_default();
    let finding: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|e| explain(&path(), e))?;
    if finding == "ok" { Ok(()) } else { Err(OpenError::Corrupt(path(), finding)) }
}
