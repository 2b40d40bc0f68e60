"""A journal: a YAML stream that survives a kill at any byte, and is quick to read.

Each entry is one line, `--- {json}`, whole only with its newline, appended and synced
before the thing that it notes happens. Entries of the same key fold into one: a later
line's fields go over the earlier one's. A line with `"state": "removed"` ends its key.
A `body` (large: a kept result) stays in the file and is read when it is asked for.
In a checked journal each line ends with a checksum of itself, as its last field.

Guards: one writer at a time; that what was noted is there after any crash; a torn last
line is dropped; a line that cannot be read sets the file aside (under another name) and
what can be read goes on; a newer version is left alone. Leaves alone: what the states mean, and
locking: whoever appends holds the lock of his kind of run. Reading needs none.
"""

import contextlib
import json
import os
import re
import stat
import time

from remotes import files
from remotes.errors import DiskFullError, LockedError, SettingsError

VERSION = 1
_START = b"--- "
_FOLD_ABOVE_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
# What JSON leaves bare and YAML forbids or reads as a line's end.
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def format_line(fields, *, is_checked=False):
    """One entry as a line (bytes) that a JSON and a YAML reader read alike."""
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    line = _START + _NOT_YAML.sub(_escape, text).encode()
    return line[:-1] + _check(line[:-1]) if is_checked else line + b"\n"


def _check(start):
    """How a line ends that starts with these bytes: always of the same length."""
    import zlib

    return b', "check": "%08x"}\n' % zlib.crc32(start)


_CHECK_LENGTH = len(', "check": "01234567"}\n')


def _escape(found):
    # Half of a surrogate pair is no text: a YAML reader in C takes it in no form.
    code = 0xFFFD if "\ud800" <= found[0] <= "\udfff" else ord(found[0])
    return f"\\u{code:04x}"


def parse_line(line, *, is_checked=False):
    """The fields of a whole line (bytes with its newline); None if it is not one."""
    if not line.startswith(_START):
        return None
    start = line[:-_CHECK_LENGTH]
    if is_checked and line[len(start):] != _check(start):
        return None
    try:
        fields = json.loads(line[len(_START):])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    if is_checked:
        del fields["check"]
    return fields


class Entry:
    """What the journal holds of one key: `fields` (dict, without the body)."""

    __slots__ = ("fields", "body_place", "size", "lines", "_alive")

    def __init__(self):
        self.fields = {}
        self.body_place = None  # (offset, length) of the line that holds the body
        self.size = 0  # bytes of its lines, those that are dead left out
        self.lines = 0  # how many it has, dead ones included
        self._alive = []  # of each line that counts: (what no later line has said, its bytes)

    def count(self, names, length):
        """Counts one more line, with fields of these names (a set); a line of which later
        ones have said everything anew is dead.
        """
        self.lines += 1
        left = [(older - names, size) for older, size in self._alive]
        self._alive = [*(line for line in left if line[0]), (names, length)]
        self.size = sum(size for _, size in self._alive)


class Journal:
    """The journal of one kind ("commands", "tasks") in the file `path`.

    `key_names` are the fields that make an entry's key, a tuple in that order.
    `tell` is called with one line when something had to be set aside; `on_damage` before that
    with each Entry that could be read: what it changes in the fields is kept with them.
    Opened `for_reading`, it changes nothing on the disk. `was_damaged`: whether the file was.
    """

    def __init__(self, path, kind, key_names, *, tell=lambda line: None, for_reading=False,
                 is_checked=False, on_damage=lambda entry: None):
        self.path = path
        self.kind = kind
        self.key_names = key_names
        self._tell = tell
        self._is_checked = is_checked
        self._on_damage = on_damage
        self._descriptor = None
        self.was_damaged = False
        self.entries = {}
        self._name_sets = {}  # one object for all lines with the same names
        self.live_bytes = 0  # bytes of entries that are not settled, dead lines left out
        self._end = 0  # where the next line goes
        self._last = None  # (key, offset) of the last line
        self._fold_above = _FOLD_ABOVE_BYTES
        if for_reading:
            self._read()
        else:
            self._open()

    # -- reading ---------------------------------------------------------------

    def _read(self):
        """Folds the file's lines into the entries; gives how many cannot be read."""
        unreadable = 0
        with files.told("read", self.path), contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise SettingsError(f"{self.path} is no file; it is left alone")
            with open(self.path, "rb") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        # Torn: it was never whole, so nothing came of it. But if all of it is
                        # there, it was whole, and its newline is what was damaged.
                        if self._is_checked and self._parse(line[:-1] + b"\n") is not None:
                            unreadable += 1
                        break
                    fields = self._parse(line)
                    if fields is None and self._end == 0:
                        self._check_other_header(line)
                    if fields is None or not self._take(fields, self._end, len(line)):
                        unreadable += 1
                    self._end += len(line)
        if unreadable:
            self.was_damaged = True
            for entry in self.entries.values():
                self._on_damage(entry)
        return unreadable

    def _format(self, fields):
        return format_line(fields, is_checked=self._is_checked)

    def _parse(self, line):
        return parse_line(line, is_checked=self._is_checked)

    def _take(self, fields, offset, length):
        """Folds one line into the entries; False if it is not an entry."""
        if offset == 0 and "journal" in fields:
            self._check_header(fields)
            return True
        if not all(name in fields for name in self.key_names):
            return False
        key = tuple(fields[name] for name in self.key_names)
        if not all(isinstance(part, (str, int)) for part in key):
            return False
        self._last = (key, offset)
        if fields.get("state") == "removed":
            gone = self.entries.pop(key, None)
            self.live_bytes -= gone.size if gone else 0
            return True
        entry = self.entries.setdefault(key, Entry())
        self.live_bytes -= entry.size
        names = frozenset(fields)
        entry.count(self._name_sets.setdefault(names, names), length)
        self.live_bytes += entry.size
        if "body" in fields:
            del fields["body"]
            entry.body_place = (offset, length)
        entry.fields.update(fields)
        return True

    def _check_other_header(self, line):
        """A first line without a checksum may be that of another kind or version."""
        fields = parse_line(line)
        if fields is not None and "journal" in fields and "check" not in fields:
            self._check_header(fields)

    def _check_header(self, fields):
        if fields["journal"] != self.kind or not isinstance(fields.get("version"), int):
            raise SettingsError(f"{self.path} is no journal of {self.kind}; it is left alone")
        if fields["version"] > VERSION:
            raise SettingsError(
                f"{self.path} has version {fields['version']}, and this program knows {VERSION}:"
                " it was written by a newer one, and is left alone"
            )

    def _set_aside(self, unreadable):
        """Keeps the damaged file under another name; what could be read goes on."""
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        with files.told("set aside", self.path):
            files.copy(self.path, aside)
        self._write_anew()
        self._tell(
            f"{self.path} is damaged ({unreadable} lines cannot be read): it is kept as {aside};"
            f" {len(self.entries)} entries were saved, what the others held is not known"
        )

    def _forget(self):
        self.entries, self._end, self._last, self.live_bytes = {}, 0, None, 0
        self._fold_above = _FOLD_ABOVE_BYTES

    def body(self, key):
        """The body of an entry, or None if it has none."""
        entry = self.entries[key]
        if entry.body_place is None:
            return None
        with files.told("read", self.path), open(self.path, "rb") as stream:
            return self._read_body(stream, entry)

    def _read_body(self, stream, entry):
        offset, length = entry.body_place
        stream.seek(offset)
        fields = self._parse(stream.read(length)) or {}
        return fields.get("body")

    # -- writing ---------------------------------------------------------------

    def _open(self):
        """Opens for appending; drops a torn last line; folds what is mostly dead."""
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            with files.told("open", self.path):
                self._descriptor = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600
                )
                # The run has a lock, but somebody may have removed its file.
                if not files.try_lock(self._descriptor) or not os.path.samestat(
                        os.fstat(self._descriptor), os.stat(self.path)):
                    raise LockedError(f"another run writes {self.path}")
            unreadable = self._read()
            if unreadable:
                self._set_aside(unreadable)
                self._reopen()
                on_failure.pop_all()
                return
            with files.told("open", self.path):
                if os.fstat(self._descriptor).st_size > self._end:
                    os.ftruncate(self._descriptor, self._end)
            if self._end == 0:
                self._write(self._header(), sync=True)
                with files.told("sync", self.path):
                    files.sync_folder(self.path)
            self.fold_if_mostly_dead()
            on_failure.pop_all()

    def _reopen(self):
        """Goes on with the file that was put in the place of the one that is open."""
        self.close()
        self._forget()
        self._open()

    def _write(self, line, *, sync):
        with files.told("write", self.path):
            try:
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
                files.write_all(self._descriptor, line)
                if sync:
                    os.fsync(self._descriptor)
            except OSError:
                # Half a line is no line; without this the next one would be glued to it.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                raise
        self._end += len(line)

    def note(self, key, *, sync=True, **fields):
        """Appends a change of the entry `key` (tuple); synced when this returns.

        With `sync=False` it survives the end of this process, but not a power cut.
        Errors: DiskFullError, SettingsError; then the entry is what it was.
        """
        fields = {**dict(zip(self.key_names, key)), **fields}
        line = self._format(fields)
        offset = self._end
        self._write(line, sync=sync)
        self._take(fields, offset, len(line))

    def sync(self):
        """Makes all that was noted so far survive a power cut."""
        with files.told("sync", self.path):
            os.fsync(self._descriptor)

    def remove(self, key):
        """Notes that `key` is settled. A full disk does not keep it from that.

        If the line finds no room, and the entry stands at the very end, its line is
        cut off instead: that needs none.
        """
        try:
            self.note(key, state="removed")
        except DiskFullError:
            last_key, offset = self._last or (None, 0)
            if last_key != key or self.entries[key].lines != 1:
                raise
            with files.told("write", self.path):
                os.ftruncate(self._descriptor, offset)
                os.fsync(self._descriptor)
            self._end, self._last = offset, None
            self.live_bytes -= self.entries.pop(key).size
        self.fold_if_mostly_dead()

    def require_room(self, needed_bytes):
        """DiskFullError unless `needed_bytes` more can be written, as far as can be known."""
        with files.told("look at the disk of", self.path):
            if hasattr(os, "statvfs"):
                disk = os.fstatvfs(self._descriptor)
                free = disk.f_bavail * disk.f_frsize
                if free < needed_bytes:
                    raise DiskFullError(
                        f"only {free:,} bytes are free for {self.path}, and a result may take"
                        f" {needed_bytes:,}: nothing is run; free some and try again"
                    )
        limit = _file_size_limit()
        if limit is not None and self._end + needed_bytes > limit:
            raise DiskFullError(
                f"{self.path} may not grow beyond {limit:,} bytes (RLIMIT_FSIZE), and a result may"
                f" take {needed_bytes:,}: nothing is run; raise the limit and try again"
            )

    def fold_if_mostly_dead(self):
        """Writes the journal anew if more than half of it is settled; whether it did.

        Costs are spread: a fold comes only after as many bytes of changes as it writes.
        """
        if self._end <= self._fold_above or self.live_bytes * 2 > self._end:
            return False
        return self.fold()

    def fold(self):
        """Writes the journal anew, without what is settled; whether that found room."""
        try:
            self._write_anew()
        except (DiskFullError, SettingsError):
            # The long journal still serves. The next change must not pay for a try again.
            self._fold_above = self._end + max(_FOLD_ABOVE_BYTES, self.live_bytes)
            return False
        self._reopen()
        return True

    def _write_anew(self):
        """Puts a file in the place of this one in which each entry is one line."""
        with files.told("write", self.path):
            beside = files.write_beside(self.path, self._header())
            try:
                with open(self.path, "rb") as stream:
                    self._append_entries(beside, stream)
                os.replace(beside, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise
            files.sync_folder(self.path)

    def _append_entries(self, beside, stream):
        """Never more of them in memory than a chunk: kept results may be large and many."""
        descriptor = os.open(beside, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        try:
            chunk = bytearray()
            for entry in self.entries.values():
                has_body = entry.body_place is not None
                body = {"body": self._read_body(stream, entry)} if has_body else {}
                chunk += self._format({**entry.fields, **body})
                if len(chunk) >= _CHUNK_BYTES:
                    files.write_all(descriptor, chunk)
                    chunk = bytearray()
            files.write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _header(self):
        return self._format({"journal": self.kind, "version": VERSION})

    def close(self):
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _file_size_limit():
    """The most bytes that this process may write into one file, or None."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
