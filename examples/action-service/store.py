"""What was done and what was answered, by Idempotency-Key, in SQLite."""
import json
import logging
import os
import sqlite3
import threading

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, line TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS transfers (
    id TEXT PRIMARY KEY, execution_id TEXT NOT NULL,
    sender TEXT NOT NULL, receiver TEXT NOT NULL, amount INTEGER NOT NULL);
"""


class NothingDone(Exception):
    """The store cannot be written now. It is certain that nothing happened."""


class KeyReused(Exception):
    """The key belongs to another request."""


class Store:
    """One connection behind one lock: requests take turns, so a key is never looked up beside its own execution."""

    def __init__(self, directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        path = str(directory / "actions.db")
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
        # EXCLUSIVE: a second process on the same data is refused. FULL: what was answered survives a power cut.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(SCHEMA)
        self._outbox = Outbox(directory / "outbox.jsonl", self._db)
        self._outbox.follow()

    def once(self, key, request, effect):
        """The status and answer of this key, whether it was known, and if it was not, the effect with it.

        The effect and its key are one transaction, so there is never one without the other.
        """
        with self._lock:
            try:
                try:
                    self._db.execute("BEGIN IMMEDIATE")
                    known = self._known(key, request)
                    status, answer = known or effect(self._db, key)
                    if not known:
                        row = (key, request, status, json.dumps(answer))
                        self._db.execute("INSERT INTO answers (key, request, status, answer) VALUES (?, ?, ?, ?)", row)
                except sqlite3.Error as error:
                    raise NothingDone from error
                # When this fails, nobody knows; so the error is not NothingDone.
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            self._outbox.follow()
            return status, answer, bool(known)

    def find(self, key):
        """The answer of this key, or None."""
        with self._lock:
            row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row and json.loads(row[0])

    def _known(self, key, request):
        row = self._db.execute("SELECT request, status, answer FROM answers WHERE key = ?", (key,)).fetchone()
        if row and row[0] != request:
            raise KeyReused
        return row and (row[1], json.loads(row[2]))


class Outbox:
    """The file follows the table `outbox`. A file takes no part in a database's transaction, so a mail is a row first.

    What a crash or a full disk kept from the file comes with the next mail or the next start.
    """

    def __init__(self, path, db):
        self._path, self._db = path, db
        written = path.read_bytes() if path.exists() else b""
        self._lines = written.count(b"\n")
        # What stands behind the last whole line is written again.
        self._size = written.rfind(b"\n") + 1

    def follow(self):
        """Appends the rows that are not in the file yet."""
        rows = self._db.execute("SELECT line FROM outbox WHERE seq > ? ORDER BY seq", (self._lines,)).fetchall()
        if not rows:
            return
        text = "".join(line + "\n" for (line,) in rows).encode()
        try:
            with open(self._path, "ab") as file:
                file.truncate(self._size)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logging.error("the outbox file is behind: %s", error)
            return
        self._lines += len(rows)
        self._size += len(text)
