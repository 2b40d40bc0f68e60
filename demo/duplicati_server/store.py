"""What the demo Duplicati server keeps: jobs, schedules, settings, notifications, families of
tokens, its own log; and for each job a database of its own with its log and known versions.

Guards: that all of it outlives the end of the process, `kill -9` included: each change is saved
when its function returns. That a job's database is a file that can be missing, as a real one can.
Leaves alone: what the documents mean. Results of tasks are kept nowhere, as in reality.
"""
import json
import random
import sqlite3
import string
import threading
from contextlib import closing
from pathlib import Path

TABLES = """
CREATE TABLE IF NOT EXISTS backups (id INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS schedules (id INTEGER PRIMARY KEY AUTOINCREMENT,
    backup INTEGER UNIQUE NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS notifications (id INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS families (id TEXT PRIMARY KEY, counter INTEGER NOT NULL,
    refreshed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS errors (backup INTEGER NOT NULL, message TEXT NOT NULL,
    exception TEXT NOT NULL, time INTEGER NOT NULL);
"""
# notifications without AUTOINCREMENT: a real server, too, gives the number of one that was
# dismissed to the next.

JOB_TABLES = """
CREATE TABLE IF NOT EXISTS operations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY AUTOINCREMENT, operation INTEGER NOT NULL,
    time INTEGER NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS remote (id INTEGER PRIMARY KEY AUTOINCREMENT,
    operation INTEGER NOT NULL, time INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL,
    data TEXT);
CREATE TABLE IF NOT EXISTS versions (stamp TEXT PRIMARY KEY);
"""


class Store:
    """The server's database in `folder`, which is made if it is missing. Can be used from
    several threads. Raises OSError, sqlite3.Error."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.temporary: dict[str, dict] = {}  # jobs that are kept in memory only, by their GUID
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            folder / "Duplicati-server.sqlite", isolation_level=None, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        # Not synced: it has to outlive this process, not this machine.
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(TABLES)

    def close(self) -> None:
        """Close the database; nothing can be asked afterwards."""
        with self._lock:
            self._database.close()

    def rows(self, sql: str, *values) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock:
            return self._database.execute(sql, values).fetchall()

    def change(self, sql: str, *values) -> int:
        """Make one change, saved when this returns; the id of the new row."""
        with self._lock:
            return self._database.execute(sql, values).lastrowid

    def is_new(self) -> bool:
        """Whether this folder never had a server."""
        return self.setting("demo-made") is None

    # Jobs: the documents hold what belongs to a job itself; IDs are text.

    def backups(self) -> list[dict]:
        """All jobs but temporary ones, by ID."""
        return [json.loads(row["document"]) | {"ID": str(row["id"])}
                for row in self.rows("SELECT * FROM backups ORDER BY id")]

    def backup(self, key: str) -> dict | None:
        """A job, temporary ones included; None if there is none."""
        if key in self.temporary:
            return json.loads(json.dumps(self.temporary[key]))
        if not key.isdecimal():
            return None
        rows = self.rows("SELECT * FROM backups WHERE id = ?", int(key))
        return json.loads(rows[0]["document"]) | {"ID": key} if rows else None

    def add_backup(self, document: dict) -> str:
        """A new job; its ID. A database is not made yet, but has its place."""
        name = "".join(random.choices(string.ascii_uppercase, k=10)) + ".sqlite"
        document = document | {"DBPath": str(self.folder / name)}
        return str(self.change("INSERT INTO backups (document) VALUES (?)", json.dumps(document)))

    def save_backup(self, key: str, document: dict) -> None:
        """Replace the document of a job."""
        if key in self.temporary:
            self.temporary[key] = document
        else:
            self.change("UPDATE backups SET document = ? WHERE id = ?", json.dumps(document),
                        int(key))

    def delete_backup(self, key: str) -> None:
        """Forget a job and its schedule; its database, versions and notifications stay."""
        if self.temporary.pop(key, None):
            return
        self.change("DELETE FROM backups WHERE id = ?", int(key))
        self.change("DELETE FROM schedules WHERE backup = ?", int(key))

    def schedule(self, key: str) -> dict | None:
        """The schedule of a job with its ID, or None."""
        rows = self.rows("SELECT * FROM schedules WHERE backup = ?",
                         int(key)) if key.isdecimal() else []
        return json.loads(rows[0]["document"]) | {"ID": rows[0]["id"]} if rows else None

    def schedules(self) -> dict[str, dict]:
        """All schedules, by the ID of their job."""
        return {str(row["backup"]): json.loads(row["document"]) | {"ID": row["id"]}
                for row in self.rows("SELECT * FROM schedules ORDER BY backup")}

    def save_schedule(self, key: str, document: dict | None) -> None:
        """Set the schedule of a job, or take it away."""
        if document is None:
            self.change("DELETE FROM schedules WHERE backup = ?", int(key))
        elif self.schedule(key):
            self.change("UPDATE schedules SET document = ? WHERE backup = ?",
                        json.dumps(document), int(key))
        else:
            self.change("INSERT INTO schedules (backup, document) VALUES (?, ?)", int(key),
                        json.dumps(document))

    # Settings, notifications, the server's log.

    def settings(self) -> dict[str, str]:
        """All server settings that have a value."""
        return {row["name"]: row["value"] for row in self.rows("SELECT * FROM settings")}

    def setting(self, name: str) -> str | None:
        """One server setting."""
        rows = self.rows("SELECT value FROM settings WHERE name = ?", name)
        return rows[0]["value"] if rows else None

    def save_setting(self, name: str, value: str | None) -> None:
        """Set a server setting; None takes it away."""
        if value is None:
            self.change("DELETE FROM settings WHERE name = ?", name)
        else:
            self.change("REPLACE INTO settings VALUES (?, ?)", name, value)

    def notifications(self) -> list[dict]:
        """All notifications, oldest first."""
        return [{"ID": row["id"]} | json.loads(row["document"])
                for row in self.rows("SELECT * FROM notifications ORDER BY id")]

    def add_notification(self, document: dict) -> None:
        """A new notification."""
        self.change("INSERT INTO notifications (document) VALUES (?)", json.dumps(document))

    def forget_notification(self, number: int) -> None:
        """Dismiss one."""
        self.change("DELETE FROM notifications WHERE id = ?", number)

    def forget_notifications(self, key: str) -> bool:
        """Dismiss those of a job; whether there were any."""
        theirs = [one["ID"] for one in self.notifications() if one["BackupID"] == key]
        for number in theirs:
            self.forget_notification(number)
        return bool(theirs)

    def add_error(self, key: str | None, message: str, exception: str, time: int) -> None:
        """A row of the server's own log; `time` in Unix seconds."""
        number = int(key) if key and key.isdecimal() else -1
        self.change("INSERT INTO errors VALUES (?, ?, ?, ?)", number, message, exception, time)

    def errors(self, before: int | None, count: int) -> list[sqlite3.Row]:
        """Rows of the server's own log, newest first, older than `before` (Unix seconds)."""
        return self.rows("SELECT * FROM errors WHERE time < ? ORDER BY rowid DESC LIMIT ?",
                         2**62 if before is None else before, count)


class JobDatabase:
    """The database of one job: its log, what was said to the target, the versions it knows."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.is_file()

    def make(self) -> None:
        """Make it, if it is not there."""
        self._do(lambda database: None)

    def delete(self) -> None:
        """Remove it, if it is there."""
        self.path.unlink(missing_ok=True)

    def _do(self, work):
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA synchronous=OFF")
            database.executescript(JOB_TABLES)
            return work(database)

    def _rows(self, sql: str, *values) -> list[sqlite3.Row]:
        if not self.exists:
            return []
        return self._do(lambda database: database.execute(sql, values).fetchall())

    def begin(self, name: str) -> int:
        """Note that an operation begins; its number."""
        return self._do(lambda database: database.execute(
            "INSERT INTO operations (name) VALUES (?)", (name,)).lastrowid)

    def add_result(self, operation: int, time: int, message: str) -> None:
        """Note how an operation ended; `time` in Unix seconds, `message` in JSON."""
        self._do(lambda database: database.execute(
            "INSERT INTO log (operation, time, message) VALUES (?, ?, ?)",
            (operation, time, message)))

    def add_remote(self, operation: int, time: int, name: str, path: str, data: str) -> None:
        """Note one exchange with the target."""
        self._do(lambda database: database.execute(
            "INSERT INTO remote (operation, time, name, path, data) VALUES (?, ?, ?, ?, ?)",
            (operation, time, name, path, data)))

    def log(self, before: int | None, count: int) -> list[sqlite3.Row]:
        """Results, newest first, with IDs below `before`."""
        return self._rows("SELECT * FROM log WHERE id < ? ORDER BY id DESC LIMIT ?",
                          2**62 if before is None else before, count)

    def remote(self, before: int | None, count: int) -> list[sqlite3.Row]:
        """Exchanges with the target, likewise."""
        return self._rows("SELECT * FROM remote WHERE id < ? ORDER BY id DESC LIMIT ?",
                          2**62 if before is None else before, count)

    def versions(self) -> set[str]:
        """The stamps of the versions that are known here."""
        return {row["stamp"] for row in self._rows("SELECT stamp FROM versions")}

    def know(self, stamps: set[str]) -> None:
        """Know these versions, and no other."""
        def work(database):
            database.execute("DELETE FROM versions")
            database.executemany("INSERT INTO versions VALUES (?)", [(one,) for one in stamps])
        self._do(work)
