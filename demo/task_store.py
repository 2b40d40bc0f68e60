"""What a task server keeps, in SQLite: tasks, which state each is in, every result that came.

Guards: that what `post` has returned for is on the disk, synced, whatever becomes of the process
or the machine; that no other user of the machine can read it; that the first final result of a
task stays, and each further one is kept beside it; that a task that a host has fetched is not
changed under it. Leaves alone: whose token it is (task_server.py), where tasks come from
(task_files.py).

A task is known by its host and `key`, the JSON of its ID: 1 and "1" are two. Where an ID comes
again with other content, once its task has ended, it is a new task and the former stays.
"""
import contextlib
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timezone

STATES = NEW, ACCEPTED, REFUSED, COMPLETED, ERROR = (
    "new", "accepted", "refused", "completed", "error")
FINAL = REFUSED, COMPLETED, ERROR
# What became of a result: it gave the task its state; it came once more, word for word; it is
# another final one, too late; it says "accepted" of a task that has ended.
TAKEN, REPEATED, SECOND, LATE = "taken", "repeated", "second", "late"
MESSAGE_CHARACTERS = 300
DEEPEST = 100

# `listed`: it is in the task file now. `handed`: when a host first fetched it. `next`: what the
# file says of it meanwhile; it becomes a task of its own when this one has ended. `message`: the
# beginning of what its host says of its state.
TABLES = """
CREATE TABLE IF NOT EXISTS tasks (number INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL,
    key TEXT, document TEXT NOT NULL, state TEXT NOT NULL, listed INTEGER NOT NULL DEFAULT 1,
    place INTEGER NOT NULL, since TEXT NOT NULL, handed TEXT, next TEXT,
    message TEXT);
CREATE INDEX IF NOT EXISTS tasks_key ON tasks (host, key);
CREATE INDEX IF NOT EXISTS tasks_state ON tasks (host, state, listed);
CREATE TABLE IF NOT EXISTS posts (number INTEGER PRIMARY KEY AUTOINCREMENT, task INTEGER NOT NULL,
    host TEXT NOT NULL, document TEXT NOT NULL, became TEXT NOT NULL, time TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS posts_task ON posts (task, became);
CREATE INDEX IF NOT EXISTS posts_host ON posts (host);
"""
# What was repeated after the last one that was taken: of a task that has ended, its final result;
# that "accepted" came twice before is nothing to tell.
COUNT = """(SELECT count(*) FROM posts WHERE task = tasks.number AND became = '{became}'
    AND (became != 'repeated' OR tasks.state != 'accepted' AND number > (SELECT max(number)
        FROM posts AS other WHERE other.task = tasks.number AND became = 'taken'))) AS {became}"""
TASK = "SELECT *, " + ", ".join(
    COUNT.format(became=became) for became in (REPEATED, SECOND, LATE)) + " FROM tasks"


def task_key(entry: object) -> str | None:
    """The key of a task or a result: its ID as JSON; None if it has none that can be used."""
    found = entry.get("ID") if isinstance(entry, dict) else None
    is_usable = type(found) is int or isinstance(found, str) and found.strip()
    return json.dumps(found) if is_usable else None


def as_json(document: object) -> str:
    """A document in its own order; pure ASCII, so that SQLite takes it, whatever it holds.
    Raises TypeError, ValueError, RecursionError for what JSON does not have, and for what is
    nested so deeply that reading it again could fail."""
    level, layer = 0, [document]
    while layer := [child for parent in layer if isinstance(parent, (dict, list)) for child in (
            parent.values() if isinstance(parent, dict) else parent)]:
        level += 1
        if level > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return json.dumps(document, allow_nan=False)


def _is_same(kept: str, given: str) -> bool:
    """Whether two JSON texts say the same, in whatever order."""
    return kept == given or (json.dumps(json.loads(kept), sort_keys=True)
                             == json.dumps(json.loads(given), sort_keys=True))


def _message(result: dict) -> str | None:
    """What a result says in words; where it was refused or failed without, the rest of it."""
    data = result.get("Data")
    message = data.get("Message") if isinstance(data, dict) else None
    if not isinstance(message, str):
        if data is None or result["Status"] not in (REFUSED, ERROR):
            return None
        message = json.dumps(data)
    # SQLite takes no half of a pair of surrogates, and JSON can hold one.
    message = message.encode(errors="replace").decode()
    return message if len(message) <= MESSAGE_CHARACTERS else message[:MESSAGE_CHARACTERS] + "…"


def _keep_private(database: str) -> None:
    """Make the file of a database, if it is missing, so that only its owner can read it, and take
    from others what they may do with one that is there. Raises OSError.

    Tasks and results are nobody else's. What SQLite puts beside the file has the same rights.
    """
    if os.name != "posix" or database in (":memory:", ""):
        return
    path = os.path.realpath(database)  # where SQLite puts what goes beside it
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass  # to open and close it would end the locks of another Store of this process
    else:
        try:
            os.fchmod(descriptor, 0o600)  # a umask can have taken rights from the owner, too
        finally:
            os.close(descriptor)
    for name in (path, *(path + ending for ending in ("-wal", "-shm", "-journal"))):
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(name).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                os.chmod(name, mode & 0o700)


class Store:
    """The database; can be used from several threads. `clock` gives an aware datetime.
    All methods raise sqlite3.Error, and then nothing has changed."""

    def __init__(self, database: str = ":memory:", clock: Callable[[], datetime] | None = None):
        """`database`: a file, made if it is missing, which others cannot read. Raises OSError,
        too."""
        self._clock = clock or (lambda: datetime.now(timezone.utc))
        self._lock = threading.Lock()
        _keep_private(database)
        # Without isolation a transaction begins where it says BEGIN, and nowhere else.
        self._database = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")  # a 200 must outlive a power cut, too
        self._database.executescript(TABLES)

    def close(self) -> None:
        """Close the database; nothing can be asked afterwards."""
        with self._lock:
            self._database.close()

    def rows(self, sql: str, *values) -> list[sqlite3.Row]:
        """What a SELECT finds."""
        with self._lock:
            return self._database.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when this ends, or nothing is changed."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def now(self) -> str:
        """The time as it is kept."""
        return self._clock().astimezone(timezone.utc).isoformat(timespec="milliseconds")

    def add(self, host: str, entry: object) -> None:
        """One more task, even if there is one with its ID already."""
        with self._change() as database:
            place = database.execute("SELECT coalesce(max(place), 0) + 1 FROM tasks"
                                     " WHERE host = ?", (host,)).fetchone()[0]
            self._insert(database, host, task_key(entry), as_json(entry), place)

    def _insert(self, database: sqlite3.Connection, host: str, key: str | None, document: str,
                place: int) -> None:
        database.execute("UPDATE tasks SET listed = 0, next = NULL WHERE host = ? AND key = ?",
                         (host, key))
        database.execute("INSERT INTO tasks (host, key, document, state, place, since)"
                         " VALUES (?, ?, ?, ?, ?, ?)", (host, key, document, NEW, place,
                                                        self.now()))

    def replace(self, tasks_of: dict[str, list], held: Collection[str] = ()) -> None:
        """These are the tasks from now on, by host, in this order; what hosts did stays.

        Each needs an ID of its own. A host that is not named keeps nothing to be done, unless it is
        `held`: then all of it stays.
        """
        with self._change() as database:
            for (host,) in database.execute("SELECT DISTINCT host FROM tasks WHERE listed"):
                if host not in tasks_of and host not in held:
                    self._replace_host(database, host, [])
            for host, entries in tasks_of.items():
                self._replace_host(database, host, entries)

    def _replace_host(self, database: sqlite3.Connection, host: str, entries: list) -> None:
        # The newest row of each key is the one that counts.
        known = {row["key"]: row for row in database.execute(
            "SELECT * FROM tasks WHERE host = ? ORDER BY number", (host,)).fetchall()}
        for place, entry in enumerate(entries, 1):
            key, document = task_key(entry), as_json(entry)
            row = known.pop(key, None)
            if row is None:
                self._insert(database, host, key, document, place)
            elif _is_same(row["document"], document):
                if (1, None, place) != (row["listed"], row["next"], row["place"]):
                    database.execute("UPDATE tasks SET listed = 1, next = NULL, place = ?"
                                     " WHERE number = ?", (place, row["number"]))
            elif row["state"] in FINAL:
                self._insert(database, host, key, document, place)
            else:
                column = "next" if row["handed"] or row["state"] != NEW else "document"
                database.execute(f"UPDATE tasks SET listed = 1, place = ?, {column} = ?"
                                 " WHERE number = ?", (place, document, row["number"]))
        for row in known.values():
            if row["state"] == NEW and not row["handed"]:
                database.execute("DELETE FROM tasks WHERE number = ?", (row["number"],))
            elif row["listed"]:
                database.execute("UPDATE tasks SET listed = 0, next = NULL WHERE number = ?",
                                 (row["number"],))

    def has_new(self, host: str) -> bool:
        """Whether a task of this host was neither accepted nor refused nor ended."""
        return bool(self.rows("SELECT 1 FROM tasks WHERE host = ? AND state = ? AND listed"
                              " LIMIT 1", host, NEW))

    def hand_out(self, host: str, most: int = -1) -> list:
        """Those tasks, in their order, at most so many (-1: all); from now on they are fetched."""
        with self._change() as database:
            found = database.execute(
                "SELECT number, document, handed FROM tasks WHERE host = ? AND state = ?"
                " AND listed ORDER BY place, number LIMIT ?", (host, NEW, most)).fetchall()
            database.executemany("UPDATE tasks SET handed = ? WHERE number = ?", [
                (self.now(), row["number"]) for row in found if not row["handed"]])
        return [json.loads(row["document"]) for row in found]

    def post(self, host: str, result: dict) -> str | None:
        """Keep a result, its form being right; what became of it, on the disk by then. None:
        no task of this host has its ID."""
        with self._change() as database:
            rows = database.execute(
                "SELECT * FROM tasks WHERE host = ? AND key = ? ORDER BY number DESC LIMIT 2",
                (host, task_key(result))).fetchall()
            if not rows:
                return None
            # A task that nobody has fetched cannot have a result; its predecessor can.
            row = rows[0] if rows[0]["handed"] or len(rows) == 1 else rows[1]
            became = self._judge(database, row, result)
            now, status = self.now(), result["Status"]
            database.execute(
                "INSERT INTO posts (task, host, document, became, time) VALUES (?, ?, ?, ?, ?)",
                (row["number"], host, as_json(result), became, now))
            if became == TAKEN:
                database.execute(
                    "UPDATE tasks SET state = ?, since = ?, message = ? WHERE number = ?",
                    (status, now, _message(result), row["number"]))
                if status in FINAL and row["next"]:
                    self._insert(database, host, row["key"], row["next"], row["place"])
        return became

    def _judge(self, database: sqlite3.Connection, row: sqlite3.Row, result: dict) -> str:
        if row["state"] not in FINAL:
            return REPEATED if row["state"] == result["Status"] else TAKEN
        if result["Status"] not in FINAL:
            return LATE
        first = database.execute(
            "SELECT document FROM posts WHERE task = ? AND became = ? ORDER BY number DESC"
            " LIMIT 1", (row["number"], TAKEN)).fetchone()
        return REPEATED if _is_same(first["document"], as_json(result)) else SECOND

    def posts(self, host: str) -> list[dict]:
        """Every result of a host, in the order in which they came."""
        return [json.loads(row["document"]) for row in self.rows(
            "SELECT document FROM posts WHERE host = ? ORDER BY number", host)]

    def state(self, host: str, identifier: object) -> str | None:
        """The state of the newest task with this ID; None if there is none."""
        found = self.rows("SELECT state FROM tasks WHERE host = ? AND key = ?"
                          " ORDER BY number DESC LIMIT 1", host, task_key({"ID": identifier}))
        return found[0]["state"] if found else None

    # For the page.

    def counts(self) -> list[sqlite3.Row]:
        """host, state, count."""
        return self.rows("SELECT host, state, count(*) AS count FROM tasks GROUP BY host, state"
                         " ORDER BY host")

    def overview(self, host: str = "", state: str = "", after: int = 0,
                 most: int = 100) -> list[sqlite3.Row]:
        """Tasks, the latest change first, of a host and in a state ("": of all); how many results
        came beside those that count: repeated (final ones), second, late."""
        return self.rows(f"{TASK} WHERE (? = '' OR host = ?) AND (? = '' OR state = ?)"
                         " ORDER BY since DESC, number DESC LIMIT ? OFFSET ?",
                         host, host, state, state, most, after)

    def task(self, number: int) -> sqlite3.Row | None:
        """One of them, by its number here."""
        found = self.rows(f"{TASK} WHERE number = ?", number)
        return found[0] if found else None

    def results(self, number: int) -> list[sqlite3.Row]:
        """All results of a task, in the order in which they came: document, became, time."""
        return self.rows("SELECT * FROM posts WHERE task = ? ORDER BY number", number)
