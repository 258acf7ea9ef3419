//! A copy of the ledger, made while it is in use.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Snapshot;
use crate::config::ledger::SqliteConfig;
use crate::ledger::anchor::with_suffix;
use crate::ledger::care::CareError;
use crate::ledger::sqlite::file;

/// Compact and synced; the copy is read to see whether it is whole. See [`care::backup`](crate::ledger::care::backup).
pub(in crate::ledger) fn backup(config: &SqliteConfig, to: &Path) -> Result<u64, CareError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |error| CareError::File(path, error)
    };
    if fs::symlink_metadata(to).is_ok() {
        return Err(of(to)(ErrorKind::AlreadyExists.into()));
    }
    let Snapshot { connection, .. } = Snapshot::of(config)?;
    // VACUUM has a transaction of its own.
    connection.execute_batch("COMMIT")?;
    let new = with_suffix(to, ".new");
    // Made here, since results are nobody else's; SQLite takes a file that is empty.
    File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(of(&new))?;
    let copied = copy(&connection, &new, to);
    if copied.is_err() {
        let _ = fs::remove_file(&new);
    }
    copied
}

fn copy(connection: &rusqlite::Connection, new: &Path, to: &Path) -> Result<u64, CareError> {
    let failed = |error: io::Error| CareError::File(to.to_owned(), error);
    let name = new.to_str().ok_or_else(|| failed(io::Error::new(ErrorKind::InvalidInput, "its name is not UTF-8")))?;
    connection.execute("VACUUM INTO ?1", [name])?;
    file::quick_check(&file::connect_reader(new)?)?;
    let copy = File::open(new).map_err(failed)?;
    copy.sync_all().map_err(failed)?;
    fs::rename(new, to).map_err(failed)?;
    let directory = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(copy.metadata().map_err(failed)?.len())
}
