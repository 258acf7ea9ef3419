//! Mails by key, in SQLite.

use std::error::Error;
use std::path::Path;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;
use uuid::Uuid;

/// What is to be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mail {
    pub(crate) to: String,
    pub(crate) subject: String,
    #[serde(default)]
    pub(crate) text: String,
}

/// The table of mails.
pub(crate) struct Store {
    database: Mutex<Connection>,
}

impl Store {
    pub(crate) fn open(directory: &Path) -> Result<Self, Box<dyn Error>> {
        std::fs::create_dir_all(directory)?;
        let database = Connection::open(directory.join("mails.db"))?;
        // FULL: what was answered survives a power cut.
        database.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS mails (
                 key TEXT PRIMARY KEY,
                 message_id TEXT NOT NULL,
                 recipient TEXT NOT NULL,
                 subject TEXT NOT NULL,
                 text TEXT NOT NULL
             ) STRICT;",
        )?;
        Ok(Store { database: Mutex::new(database) })
    }

    /// The message id of the mail with this key, which is stored unless it was before. `None`: the key belongs to
    /// another mail.
    pub(crate) fn send_once(&self, key: &str, mail: &Mail) -> rusqlite::Result<Option<String>> {
        let database = self.database.lock();
        // The mail and its key are one row, and one statement is one transaction: there is never one without the other.
        database.execute(
            "INSERT INTO mails (key, message_id, recipient, subject, text) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (key) DO NOTHING",
            (key, Uuid::new_v4().to_string(), &mail.to, &mail.subject, &mail.text),
        )?;
        database
            .query_row(
                "SELECT message_id FROM mails WHERE key = ?1 AND recipient = ?2 AND subject = ?3 AND text = ?4",
                (key, &mail.to, &mail.subject, &mail.text),
                |row| row.get(0),
            )
            .optional()
    }

    /// The message id of the mail with this key.
    pub(crate) fn message_id(&self, key: &str) -> rusqlite::Result<Option<String>> {
        let database = self.database.lock();
        database.query_row("SELECT message_id FROM mails WHERE key = ?1", (key,), |row| row.get(0)).optional()
    }
}
