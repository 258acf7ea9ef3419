//! The anchor: a small file beside the ledger that remembers how far the ledger had got.
//!
//! A ledger that was lost or rolled back forgets which approvals were used. It cannot notice that itself, but the
//! anchor can: it is ahead, or belongs to another ledger. So it is worth most on another volume.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How far a ledger had got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Whose anchor it is.
    pub ledger_id: String,
    /// The newest row.
    pub last_seq: i64,
    /// When it was written.
    pub time: DateTime<Utc>,
}

impl Anchor {
    /// Reads the file, `None` where there is none.
    ///
    /// # Errors
    /// A file that cannot be read. One that is no anchor counts as damaged: [`io::ErrorKind::InvalidData`].
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the file in one step that survives power loss: written beside, synced, renamed, directory synced.
    ///
    /// # Errors
    /// Any of these steps; the old file is then still there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let beside = with_suffix(path, ".new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::from)?)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

/// A path with more at its end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
