"""audit.py: a line for each thing done, bounded, and never in the way of a run."""

import json
import os
import re
import resource

from remotes import audit
from remotes.audit import Audit
from tests.torn import in_child


def lines(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_each_note_is_a_line(tmp_path):
    """JSON with the moment in UTC and the fields as they were given; 0600 under any umask."""
    path = tmp_path / "audit.jsonl"
    former = os.umask(0)
    try:
        log = Audit(str(path))
        log.note(kind="command", id=7, name="caf\u00e9\n\u2028")
        log.note(id=8)
    finally:
        os.umask(former)
    first, second = lines(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("at"))
    assert ({"kind": "command", "id": 7, "name": "caf\u00e9\n\u2028"}, 8, 0o600) == (
        first, second["id"], path.stat().st_mode & 0o777)


def test_text_that_is_no_utf8_is_noted_all_the_same(tmp_path):
    """Half a surrogate pair in a name."""
    Audit(str(tmp_path / "audit.jsonl")).note(name="a\ud800")
    assert "a?" == lines(tmp_path / "audit.jsonl")[0]["name"]


def test_a_long_log_is_rotated_and_one_old_one_is_kept(tmp_path, monkeypatch):
    """Never more than two files, the newest lines in them, none torn."""
    monkeypatch.setattr(audit, "ROTATE_BYTES", 1000)
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    log = Audit(str(path))
    for number in range(100):
        log.note(id=number)
        assert not path.exists() or path.stat().st_size < 1000
    kept = [line["id"] for line in lines(old) + (lines(path) if path.exists() else [])]
    assert list(range(kept[0], 100)) == kept
    assert old.stat().st_size >= 1000
    assert {"audit.jsonl", "audit.jsonl.1"} >= set(os.listdir(tmp_path))


def test_a_log_that_cannot_be_written_is_told_once_until_it_can(tmp_path):
    """And nothing is raised."""
    folder, told = tmp_path / "later", []
    log = Audit(str(folder / "audit.jsonl"), tell=told.append)
    log.note(id=1)
    log.note(id=2)
    assert [f"cannot write {folder / 'audit.jsonl'}: No such file or directory; the run goes on"
            ] == told
    folder.mkdir()
    log.note(id=3)
    folder.joinpath("audit.jsonl").unlink()
    folder.rmdir()
    log.note(id=4)
    assert 2 == len(told)


def note_on_a_full_disk(path):
    """In a process of its own: see the test."""
    told = []
    log = Audit(path, tell=told.append)
    log.note(id=1)
    size = os.path.getsize(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    log.note(id=2)
    log.note(id=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    log.note(id=4)
    print(len(told), size)


def test_a_full_disk_does_not_end_a_run(tmp_path):
    """It is told once, and lines are written again when there is room."""
    path = tmp_path / "audit.jsonl"
    assert "1" == in_child(note_on_a_full_disk, str(path)).split()[0]
    assert [1, 4] == [line["id"] for line in lines(path)]


def note_where_half_a_line_has_room(path):
    """In a process of its own: see the test."""
    log = Audit(path)
    log.note(id=1)
    room = os.path.getsize(path) + 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    log.note(id=2)
    log.note(id=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    log.note(id=4)


def test_half_a_line_does_not_spoil_the_next_one(tmp_path):
    """A line that found no room is not there; the one after it is whole."""
    path = tmp_path / "audit.jsonl"
    in_child(note_where_half_a_line_has_room, str(path))
    assert [1, 4] == [line["id"] for line in lines(path)]
