"""faults.py: a fault is told when it begins and when it ends, from run to run."""

import json

import pytest

from remotes.faults import Faults


@pytest.fixture
def path(tmp_path):
    return tmp_path / "faults.json"


def run(path, kind=None, action="commands_process", message="server away"):
    """One cron turn: whether its fault is told, or what is told at its good end."""
    faults = Faults(str(path), action)
    return faults.ends() if kind is None else faults.begins(kind, message)


def test_a_fault_that_goes_on_is_told_once(path):
    """However its message changes; another kind is another fault."""
    assert [True, False, False, True, True] == [
        run(path, "unreachable"), run(path, "unreachable"),
        run(path, "unreachable", message="another address"),
        run(path, "login_refused"), run(path, "unreachable")]


def test_its_end_is_told_once(path):
    """With what it was; a run that goes well after a good one says nothing."""
    run(path, "unreachable")
    told = run(path)
    assert told.startswith("the fault since 20") and told.endswith(" is over: server away")
    assert (None, True) == (run(path), run(path, "unreachable"))


def test_each_action_has_its_own_fault(path):
    """The end of one is not that of another."""
    run(path, "unreachable")
    assert (None, True) == (run(path, action="tasks_process"),
                            run(path, "unreachable", action="tasks_process"))
    assert {"commands_process", "tasks_process"} == set(json.loads(path.read_text()))


def test_the_file_is_private(path):
    """0600: a message can name addresses."""
    run(path, "unreachable")
    assert 0o600 == path.stat().st_mode & 0o777


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff", b'{"commands_process": 7}', b"[" * 100_000])
def test_a_damaged_file_costs_a_line_too_many(path, content):
    """And never a run."""
    path.write_bytes(content)
    assert run(path) is None
    path.write_bytes(content)
    assert [True, False] == [run(path, "unreachable"), run(path, "unreachable")]


def test_a_file_that_cannot_be_written_costs_lines_only(tmp_path):
    """Each fault is told each time."""
    path = tmp_path / "missing" / "faults.json"
    assert [True, True, None] == [run(path, "unreachable"), run(path, "unreachable"), run(path)]
