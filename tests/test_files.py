"""files.py: private, whole or not there, locked by one."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from remotes import files
from remotes.errors import DiskFullError, LockedError, SettingsError
from tests.conftest import PROJECT
from tests.torn import in_child, killed_everywhere

HOLDER = """
import sys
from remotes.files import Lock
lock = Lock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read(1)
lock.release()
print("released", flush=True)
sys.stdin.read(1)
"""


@pytest.fixture
def any_umask():
    former = os.umask(0)
    yield
    os.umask(former)


def mode(path):
    return os.stat(path).st_mode & 0o777


# -- writing -------------------------------------------------------------------------------

def test_a_replaced_file_is_new_and_private(tmp_path, any_umask):
    """0600 under any umask, whatever the mode of the one before; nothing lies beside it."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o666)
    files.replace(str(path), b"new")
    assert (b"new", 0o600, ["file"]) == (path.read_bytes(), mode(path), os.listdir(tmp_path))


def test_what_lies_beside_from_a_killed_run_is_written_over(tmp_path):
    """A leftover, even one that others can read, is not in the way."""
    beside = tmp_path / ("file" + files.BESIDE)
    beside.write_text("left")
    beside.chmod(0o666)
    files.replace(str(tmp_path / "file"), b"new")
    assert (["file"], 0o600) == (os.listdir(tmp_path), mode(tmp_path / "file"))


def test_a_copy_is_private(tmp_path, any_umask):
    """As private as what is written, not as what is copied."""
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "a").chmod(0o644)
    files.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (b"content", 0o600) == ((tmp_path / "b").read_bytes(), mode(tmp_path / "b"))


def test_an_open_file_is_told_from_a_private_one(tmp_path):
    """Any bit for group or others opens it."""
    path = tmp_path / "file"
    path.touch()
    opened = []
    for bits in (0o600, 0o400, 0o640, 0o602, 0o700):
        path.chmod(bits)
        opened.append(files.is_open_to_others(path))
    assert [False, False, True, True, False] == opened


def test_short_writes_are_followed_by_the_rest():
    """A pipe takes as much as it has room for."""
    reading, writing = os.pipe()
    content = os.urandom(300_000)
    writer = threading.Thread(target=lambda: (files.write_all(writing, content),
                                              os.close(writing)))
    writer.start()
    with open(reading, "rb") as stream:
        arrived = stream.read()
    writer.join()
    assert content == arrived


def kill_a_replace_everywhere(path):
    """In a process of its own: see the test."""
    old, new = b"old" * 1000, b"new" * 2000

    def check(acknowledged):
        content = Path(path).read_bytes()
        assert content in ((new,) if acknowledged else (old, new))
        files.replace(path, b"again")
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]

    print(killed_everywhere(
        lambda: files.replace(path, old),
        lambda acknowledge: (files.replace(path, new), acknowledge()), check))


def test_a_replace_killed_at_any_call_leaves_the_old_or_the_new(tmp_path):
    """Never less, and the next one works."""
    assert int(in_child(kill_a_replace_everywhere, str(tmp_path / "file"))) > 15


def replace_on_a_full_disk(path):
    """In a process of its own: see the test."""
    files.replace(path, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    with pytest.raises(DiskFullError, match="no room left"):
        files.replace(path, b"new" * 1000)
    assert (b"old", ["file"]) == (Path(path).read_bytes(), os.listdir(os.path.dirname(path)))


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    """75, and told as what it is."""
    in_child(replace_on_a_full_disk, str(tmp_path / "file"))


@pytest.mark.parametrize("path, told", [
    ("missing/file", "its folder .*/missing does not exist"),
    (".", "cannot write .*: "),
])
def test_what_cannot_be_written_is_named(tmp_path, path, told):
    """The path, what was done, and why: 78."""
    with pytest.raises(SettingsError, match=told) as caught:
        files.replace(str(tmp_path / path), b"")
    assert 78 == caught.value.exit_code


# -- locks ---------------------------------------------------------------------------------

@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.lock")


@contextlib.contextmanager
def holder(path):
    """Another process that holds the lock; a letter on its stdin makes it let go."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=PROJECT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert "held\n" == process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_is_held_by_one_and_names_its_holder(path):
    """11; the message has the other's process and since when. Once let go, it can be taken."""
    with holder(path) as other:
        with pytest.raises(LockedError, match=f"another run .*: process {other.pid}, since 20"):
            files.Lock(path).acquire()
        other.stdin.write("x")
        other.stdin.flush()
        assert "released\n" == other.stdout.readline()
        with files.Lock(path).held():
            assert os.getpid() == json.loads(Path(path).read_text())["process"]


def test_a_lock_is_gone_with_a_killed_holder(path):
    """Nothing has to be cleaned up."""
    with holder(path) as other:
        other.kill()
        other.wait()
        with files.Lock(path).held():
            pass


def test_a_lock_can_be_waited_for(path):
    """It is taken as soon as the other lets go, long before the wait is over."""
    with holder(path) as other:
        waiting = threading.Thread(target=lambda: other.communicate("xx"))
        waiting.start()
        with files.Lock(path).held(wait_seconds=30):
            pass
        waiting.join()


def test_a_wait_for_a_lock_ends(path):
    """With the same error as without a wait."""
    with holder(path), pytest.raises(LockedError):
        files.Lock(path).acquire(wait_seconds=0.05)


def test_a_lock_in_the_same_process_counts_too(path):
    """Two locks on one file are two holders."""
    with files.Lock(path).held(), pytest.raises(LockedError):
        files.Lock(path).acquire()


def test_the_file_of_a_lock_stays_and_is_private(path, any_umask):
    """It is never removed: a lock on an unlinked file would guard nothing."""
    descriptors = len(os.listdir("/proc/self/fd"))
    with files.Lock(path).held():
        inode = os.stat(path).st_ino
    with files.Lock(path).held():
        assert (inode, 0o600) == (os.stat(path).st_ino, mode(path))
    assert descriptors == len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("former", ["", "{", "x" * 1000])
def test_the_name_of_a_holder_replaces_the_former_one(path, former):
    """A shorter or a longer one, whole."""
    Path(path).write_text(former)
    with files.Lock(path).held():
        assert os.getpid() == json.loads(Path(path).read_text())["process"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"process": 1}'])
def test_a_holder_without_a_name_holds_all_the_same(path, content):
    """Whatever stands in the file."""
    with files.Lock(path).held():
        Path(path).write_bytes(content)
        with pytest.raises(LockedError, match="has not given its name"):
            files.Lock(path).acquire()


def test_a_lock_in_a_missing_folder_is_named(tmp_path):
    """78."""
    with pytest.raises(SettingsError, match="missing does not exist"):
        files.Lock(str(tmp_path / "missing" / "lock")).acquire()


def lock_on_a_full_disk(path):
    """In a process of its own: see the test."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with files.Lock(path).held(), pytest.raises(LockedError):
        files.Lock(path).acquire()


def test_a_full_disk_keeps_nobody_from_a_lock(path):
    """Whom to name is a courtesy."""
    in_child(lock_on_a_full_disk, path)
