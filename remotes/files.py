"""Files that hold state: private from their first byte, whole or not there, locked.

Guards: 0600, write beside / sync / replace, append / sync, advisory locks, and the
translation of OSError. What only one system has stands here behind one function
with a branch for the others. Leaves alone: what is in the files.
"""

import contextlib
import errno
import json
import os
import time

from remotes.errors import DiskFullError, LockedError, SettingsError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What a file is called until it is whole: a name that nobody else gives.
BESIDE = ".remotes-new"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def told(what, path):
    """Translates an OSError into an error of ours that names what was done to `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"cannot {what} {path}: no room left ({reason}); free some and try again"
            ) from error
        if error.errno == errno.ENOENT and not os.path.isdir(os.path.dirname(path) or "."):
            reason = f"its folder {os.path.dirname(path)} does not exist"
        raise SettingsError(f"cannot {what} {path}: {reason}") from error


def write_all(descriptor, content):
    """Writes every byte of `content` (bytes); a short write is followed by the rest."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view):]


def require_writable(path, needed_bytes):
    """An error of ours unless `needed_bytes` can be written beside `path` now."""
    with told("write", path):
        os.unlink(write_beside(path, bytes(needed_bytes)))


def sync_folder(path):
    """Makes a rename or a new name in the folder of `path` survive a power cut."""
    if os.name == "nt":
        return  # Windows cannot open a folder; its rename is journaled
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_beside(path, content):
    """Writes `content` (bytes) to a 0600 file beside `path`, synced; gives its name.

    The name is always the same, so that what a killed run left is written over by
    the next one. The caller holds the lock that belongs to `path`.
    """
    beside = path + BESIDE
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    descriptor = os.open(beside, _NEW_FILE_FLAGS | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    finally:
        os.close(descriptor)
    return beside


def replace(path, content):
    """Replaces the file `path` by `content` (bytes): the old one or the new one, never less."""
    with told("write", path):
        os.replace(write_beside(path, content), path)
        sync_folder(path)


def rename_to_new(beside, path):
    """Gives the file `beside` the name `path` too; FileExistsError where a file is.

    Where there are no hard links (FAT, some network drives) the file moves there, and
    only a look before keeps an existing one.
    """
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.replace(beside, path)


def forget_beside(path):
    """Removes the second name of the file `path` that a run left which was killed while linking.

    The caller holds the lock that belongs to `path`.
    """
    with contextlib.suppress(OSError):
        if os.path.samefile(path, path + BESIDE):
            os.unlink(path + BESIDE)


def copy(path, to):
    """Copies the file `path` to the file `to`, whole or not at all, 0600."""
    with open(path, "rb") as stream:
        content = stream.read()
    os.replace(write_beside(to, content), to)


def read_secret(path, what):
    """What the file `path` holds (text), without a line end at its end.

    `what` it is ("password"), for errors: SettingsError.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            secret = stream.read(1 << 16).removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"cannot read the {what} file {path}: {reason}") from error
    if not secret.strip():
        raise SettingsError(f"the {what} file {path} is empty")
    return secret


def is_open_to_others(path):
    """Whether others than the owner can read or write `path` (POSIX modes only)."""
    return os.name == "posix" and bool(os.stat(path).st_mode & 0o077)


def describe_process():
    """This process as a lock names it: {"process": PID, "since": ISO time}."""
    return {"process": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


class Lock:
    """An advisory lock on the file `path`, gone with the process that holds it.

    The file stays and names its last holder. It is never removed: a lock on a file
    that another process has unlinked would guard nothing.
    """

    def __init__(self, path):
        self.path = path
        self._descriptor = None

    def acquire(self, wait_seconds=0.0, purpose="run"):
        """Takes the lock within `wait_seconds`; else LockedError, with the holder's name."""
        with told("lock", self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + wait_seconds
        pause = 0.002
        while not try_lock(descriptor):
            if time.monotonic() >= until:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise LockedError(f"another {purpose} holds {self.path}: {holder}")
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(pause * 2, 0.2)
        self._descriptor = descriptor
        # Whom to name is a courtesy: a full disk must not keep anyone from a lock.
        with contextlib.suppress(OSError):
            name = json.dumps(describe_process()).encode()
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, name)
            # Over the former one: to cut off and write anew can wait for the disk.
            if os.fstat(descriptor).st_size > len(name):
                os.ftruncate(descriptor, len(name))

    def release(self):
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextlib.contextmanager
    def held(self, wait_seconds=0.0, purpose="run"):
        """The lock for the length of a `with`."""
        self.acquire(wait_seconds, purpose)
        try:
            yield self
        finally:
            self.release()


def try_lock(descriptor):
    """Locks an open file, if nobody else has it locked; whether it did."""
    if fcntl is None:
        import msvcrt

        try:
            # Far behind the holder's name, which must stay readable for others.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _holder(descriptor):
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, 4096))
        return f"process {holder['process']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not given its name"
