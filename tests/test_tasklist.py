"""tasklist.py: what was noted of a task is there, whatever became of the process or the file."""

import contextlib
import json
import os
import random
import resource
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from remotes import journal as journal_module
from remotes import tasklist as tasklist_module
from remotes.errors import DiskFullError, SettingsError
from remotes.journal import Journal, format_line
from remotes.tasklist import TaskList
from tests.torn import in_child, killed_everywhere

SERVER = "http://127.0.0.1:8910/"
NOON = 1_750_000_000
HOUR = 3600
ENTRY = {"ID": 1, "Operation": "get", "Resources": [{"Type": "backup", "ID": 3}]}


class Clock:
    """A clock that stands at `now` (seconds since 1970)."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


@contextlib.contextmanager
def opened(path, clock=None, told=None, server=SERVER, **more):
    """A list for the length of a `with`; without `told`, nothing may be told."""
    lines = [] if told is None else told
    tasks = TaskList(str(path), server, tell=lines.append, clock=clock or Clock(), **more)
    try:
        yield tasks
    finally:
        tasks.close()
    assert told is not None or lines == []


def fetch(tasks, task_id, sha256="aa", **more):
    tasks.note(task_id, sync=False, state="fetched", task={**ENTRY, "ID": task_id},
               sha256=sha256, **more)


def do(tasks, task_id, answer="x"):
    """The whole life of a task."""
    fetch(tasks, task_id)
    tasks.note(task_id, sync=False, state="running")
    tasks.finish(task_id, "completed", answer, sync=False)
    tasks.sent(task_id)


def state(tasks):
    """All that is known of the server's tasks: ID -> (fields without the key's, result)."""
    found = {}
    for server, task_id in tasks._journal.entries:
        if server == SERVER:
            fields = tasks.fields(task_id)
            del fields["server"], fields["id"]
            found[task_id] = fields, tasks.result(task_id)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "task-list.yml"


@pytest.fixture
def folding(monkeypatch):
    """Folds happen all the time, and are written in several parts."""
    monkeypatch.setattr(journal_module, "_FOLD_ABOVE_BYTES", 400)
    monkeypatch.setattr(journal_module, "_CHUNK_BYTES", 500)


# -- the life of a task ------------------------------------------------------------------

def test_a_task_is_on_the_list_until_its_result_is_sent(path):
    """Each state with its time; the result is kept as it is sent, also by the next process."""
    clock = Clock()
    with opened(path, clock) as tasks:
        tasks.note(1, state="fetched", task=ENTRY, sha256="aa")
        clock.now += 1
        tasks.note(1, state="running", backup="3")
        assert None is tasks.result(1)
        clock.now += 1
        tasks.finish(1, "completed", {"some": [1]})
        expected = {"server": SERVER, "id": 1, "task": ENTRY, "sha256": "aa", "backup": "3",
                    "state": "done", "at": "2025-06-15T15:06:42+00:00"}
        assert ([1], expected) == (tasks.open(), tasks.fields(1))
    with opened(path, clock) as tasks:
        assert ([1], expected) == (tasks.open(), tasks.fields(1))
        assert {"ID": 1, "Status": "completed", "Data": {"some": [1]}} == tasks.result(1)
        tasks.sent(1)
        assert ([], "sent") == (tasks.open(), tasks.fields(1)["state"])
    with opened(path, clock) as tasks:
        assert ([], "sent") == (tasks.open(), tasks.fields(1)["state"])
        assert {"ID": 1, "Status": "completed", "Data": {"some": [1]}} == tasks.result(1)


def test_tasks_keep_their_order(path, folding):
    """As they came, whatever became of each since then, and after folds."""
    with opened(path) as tasks:
        for task_id in (3, "b", 1, "a", 2):
            fetch(tasks, task_id)
        for task_id in (2, 1, "a"):
            tasks.finish(task_id, "refused", {}, state="refused", sync=False)
        tasks.sent(1)
        fetch(tasks, 1, sha256="another")
        assert [3, "b", "a", 2, 1] == tasks.open()
    with opened(path) as tasks:
        assert [3, "b", "a", 2, 1] == tasks.open()


def test_a_change_is_on_the_disk_before_it_is_acted_on(path, monkeypatch):
    """Unless it is asked not to be yet; that a result was sent may be lost."""
    syncs, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (syncs.append(1), fsync(descriptor)))
    with opened(path) as tasks:
        for expected, change in (
                (1, lambda: tasks.note(1, state="fetched")),
                (0, lambda: tasks.note(1, sync=False, state="accepted")),
                (1, lambda: tasks.finish(1, "completed", {})),
                (0, lambda: tasks.finish(1, "completed", {}, sync=False)),
                (1, tasks.sync), (0, lambda: tasks.sent(1))):
            syncs.clear()
            change()
            assert expected == len(syncs)


def test_a_number_and_a_text_are_two_tasks(path):
    """And True is none, though Python takes it for 1."""
    with opened(path) as tasks:
        tasks.note(1, state="fetched", sha256="aa")
        tasks.note("1", state="accepted", sha256="bb")
        for task_id in (True, 1.0, None, [1]):
            assert (None, None, False) == (
                tasks.fields(task_id), tasks.result(task_id), tasks.former(task_id, "aa"))
            with pytest.raises(ValueError, match="is no ID"):
                tasks.note(task_id, state="running")
    with opened(path) as tasks:
        assert [(1, "fetched"), ("1", "accepted")] == [
            (task_id, tasks.fields(task_id)["state"]) for task_id in tasks.open()]


def test_another_servers_tasks_stay_apart(path):
    """They are not shown, and are there when that server is asked again."""
    other = "http://127.0.0.1:8911/"
    with opened(path, server=other) as tasks:
        fetch(tasks, 1)
    with opened(path) as tasks:
        assert ([], None, False) == (tasks.open(), tasks.fields(1), tasks.former(1, "aa"))
        do(tasks, 1)
    with opened(path, server=other) as tasks:
        assert ([1], "fetched") == (tasks.open(), tasks.fields(1)["state"])


def test_an_entry_without_an_id_is_new_once(path, monkeypatch):
    """By its content, for the next process, too; not for ever more of them."""
    monkeypatch.setattr(tasklist_module, "_UNUSABLE", 3)
    with opened(path) as tasks:
        assert [True, False, True] == [tasks.note_unusable(text) for text in ("aa", "aa", "bb")]
        assert [] == tasks.open()
    with opened(path) as tasks:
        assert [False] + [True] * 3 == [tasks.note_unusable(text) for text in ("bb", *"cde")]
        tasks.forget_old()
        assert [False] * 3 + [True] * 2 == [
            tasks.note_unusable(text) for text in (*"cde", "aa", "bb")]
        assert 0 == tasks.live_bytes


def test_the_file_is_a_private_yaml_stream(path, folding):
    """0600 under any umask, one document for each change, as a person or a script reads it."""
    former = os.umask(0)
    try:
        with opened(path) as tasks:
            tasks.note("caf\u00e9", state="fetched", task=ENTRY)
            assert 0o600 == path.stat().st_mode & 0o777
            header, change = yaml.safe_load_all(path.read_text())
            assert {"journal": "tasks", "version": 1, "check": header["check"]} == header
            assert {"server": SERVER, "id": "caf\u00e9", "state": "fetched", "task": ENTRY,
                    "at": "2025-06-15T15:06:40+00:00", "check": change["check"]} == change
            for _ in range(20):
                do(tasks, 1, answer="\u2028\x85\U0001f40d")
            assert (0o600, True) == (path.stat().st_mode & 0o777, path.stat().st_size < 2500)
            documents = list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
            assert {None, 1, "caf\u00e9"} == {document.get("id") for document in documents}
    finally:
        os.umask(former)


def test_a_reader_changes_nothing(path):
    """Not even where the file is damaged: it marks what is doubtful for itself."""
    with opened(path) as tasks:
        fetch(tasks, 1)
    content = path.read_bytes() + b"garbage\n--- {torn"
    path.write_bytes(content)
    with opened(path, Clock(0), for_reading=True) as tasks:
        assert (True, [1], True) == (tasks.was_damaged, tasks.open(), tasks.fields(1)["doubted"])
    assert (content, [path.name]) == (path.read_bytes(), os.listdir(path.parent))


@pytest.mark.parametrize("header", [{"journal": "commands", "version": 1},
                                    {"journal": "tasks", "version": 2}])
def test_a_file_of_another_kind_or_a_newer_version_is_left_alone(path, header):
    """78, and not a byte is changed."""
    content = format_line(header) + b"what only its program knows\n"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="left alone"):
        TaskList(str(path), SERVER, tell=print)
    assert (content, [path.name]) == (path.read_bytes(), os.listdir(path.parent))
    with opened(path.parent / "tasks.yml"):
        pass
    with pytest.raises(SettingsError, match="left alone"):
        Journal(str(path.parent / "tasks.yml"), "commands", ("server", "host", "command"))


def test_what_could_not_be_read_back_is_not_written(path):
    """A task too deep or too large to be one; NaN in a result."""
    deep = []
    for _ in range(900):
        deep = [deep]
    with opened(path) as tasks:
        tasks.note(1, state="fetched", sha256="aa", task={"ID": 1, "Deep": deep})
        tasks.finish(1, "completed", {"deep": deep})
        tasks.note(2, state="fetched", sha256="bb", task={"ID": 2, "Long": "x" * 300_000})
        tasks.finish(2, "completed", [float("nan"), float("-inf")])
    with opened(path) as tasks:
        assert [None, None] == [tasks.fields(task_id)["task"] for task_id in (1, 2)]
        assert [{"ID": 1, "Status": "completed",
                 "Data": {"Message": "the result is nested too deeply to be kept"}},
                {"ID": 2, "Status": "completed", "Data": ["NaN", "-Infinity"]}
                ] == [tasks.result(task_id) for task_id in (1, 2)]
    assert path.stat().st_size < 10_000


# -- what was sent is remembered -----------------------------------------------------------

@pytest.mark.parametrize("elapsed, sha256, expected", [
    (0, "aa", True), (12 * HOUR - 1, "aa", True), (12 * HOUR, "aa", False), (0, "bb", False),
    (0, None, False), (-90 * 24 * HOUR, "aa", True)])
def test_a_task_is_known_again_for_twelve_hours(path, elapsed, sha256, expected):
    """The same ID with the same content, and no longer; a clock that was set back hurts not."""
    clock = Clock()
    with opened(path, clock) as tasks:
        fetch(tasks, 1)
        assert not tasks.former(1, "aa")
        tasks.finish(1, "completed", "kept")
        tasks.sent(1)
    clock.now += elapsed
    with opened(path, clock) as tasks:
        assert expected == tasks.former(1, sha256)
        tasks.forget_old()
        assert expected == tasks.former(1, sha256)
        forgotten = elapsed >= 12 * HOUR
        assert (forgotten, forgotten) == (tasks.fields(1) is None, tasks.result(1) is None)


@pytest.mark.parametrize("reopens", [False, True])
def test_what_was_sent_in_the_future_was_sent_now(path, reopens):
    """A wrong year must not make the same task known until then."""
    clock = Clock(NOON + 5 * 365 * 24 * HOUR)
    with contextlib.ExitStack() as stack:
        tasks = stack.enter_context(opened(path, clock))
        do(tasks, 1)
        clock.now = NOON
        do(tasks, 2)
        for elapsed, expected in ((0, [True, True]), (11, [True, True]), (1, [False, False])):
            clock.now += elapsed * HOUR
            if reopens:
                stack.close()
                tasks = stack.enter_context(opened(path, clock))
            tasks.forget_old()
            assert expected == [tasks.former(number, "aa") for number in (1, 2)]
        assert {} == state(tasks)


@pytest.mark.parametrize("reopens", [False, True])
def test_what_was_sent_first_is_forgotten_first(path, reopens):
    """Not what came first; what is sent once more is remembered from then on."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        tasks = stack.enter_context(opened(path, clock))
        for number in (1, 2, 3):
            fetch(tasks, number)
            tasks.finish(number, "completed", "x")
        for elapsed, number in ((0, 3), (0, 2), (11, 1), (0, 3)):
            clock.now += elapsed * HOUR
            tasks.sent(number)
        if reopens:
            stack.close()
            tasks = stack.enter_context(opened(path, clock))
        clock.now += HOUR
        tasks.forget_old()
        assert [1, 3] == sorted(state(tasks))


def test_an_id_that_comes_again_with_other_content_is_a_new_task(path):
    """Nothing of the former one is left in it."""
    with opened(path) as tasks:
        fetch(tasks, 1, backup="3")
        tasks.finish(1, "completed", "former")
        tasks.sent(1)
        fetch(tasks, 1, sha256="bb")
        expected = ({"state": "fetched", "task": ENTRY, "sha256": "bb",
                     "at": "2025-06-15T15:06:40+00:00"}, None)
        assert ({1: expected}, [1], False) == (
            state(tasks), tasks.open(), tasks.former(1, "aa"))
    with opened(path) as tasks:
        assert {1: expected} == state(tasks)
        tasks.note(1, state="running")
        assert None is tasks.result(1)


@pytest.mark.parametrize("name, limit", [("_REMEMBERED", 10), ("_REMEMBERED_BYTES", 10_500)])
def test_the_oldest_are_forgotten_when_there_are_too_many(path, monkeypatch, name, limit):
    """By their number, or by the bytes of their results; what is on the list stays."""
    monkeypatch.setattr(tasklist_module, name, limit)
    with opened(path) as tasks:
        fetch(tasks, "on the list", more="x" * 10_000)
        for number in range(25):
            do(tasks, number, answer="x" * 700)
        assert 10_000 < tasks.live_bytes < 10_500
        tasks.forget_old()
        assert ["on the list", *range(15, 25)] == list(state(tasks))
        before = state(tasks)
    with opened(path) as tasks:
        tasks.forget_old()
        assert before == state(tasks)
        assert 10_000 < tasks.live_bytes < 10_500


# -- a file that is not as it was written -----------------------------------------------------

def write_a_list(path):
    """A list with tasks in each state; gives what each length of it that is whole holds."""
    states, ends = [{}], [0]
    with opened(path) as tasks:
        def changed():
            states.append(state(tasks))
            ends.append(path.stat().st_size)

        changed()
        for task_id in (1, "caf\u00e9", 2):
            fetch(tasks, task_id)
            changed()
        tasks.note("caf\u00e9", sync=False, state="accepted")
        changed()
        tasks.note(1, sync=False, state="running", since=5)
        changed()
        tasks.finish(1, "completed", {"output": "\U0001f40d*"}, sync=False)
        changed()
        tasks.sent(1)
        changed()
        tasks.finish(2, "refused", {"Message": "rule 2"}, state="refused", sync=False)
        changed()
    return states, ends


def test_a_list_cut_at_any_byte_holds_its_whole_lines(path, tmp_path):
    """It opens, nothing but the torn line is lost, nothing is doubted, and it goes on."""
    states, ends = write_a_list(path)
    content, cut_path = path.read_bytes(), tmp_path / "cut.yml"
    for length in range(len(content) + 1):
        cut_path.unlink(missing_ok=True)  # to write over a file is slow on some systems
        cut_path.write_bytes(content[:length])
        whole = max(place for place, end in enumerate(ends) if end <= length)
        with opened(cut_path) as tasks:
            assert (states[whole], False) == (state(tasks), tasks.was_damaged), length
            tasks.note(3, sync=False, state="accepted")
        if length % 10 == 0:
            with opened(cut_path, for_reading=True) as tasks:
                assert list(states[whole]) + [3] == list(state(tasks)), length


def expected_of(lines):
    """What whole lines say, by a reader of their own: ID -> fields, ID -> body."""
    fields, bodies = {}, {}
    for line in lines:
        document = yaml.load(line, yaml.CSafeLoader)
        if "id" in document:
            del document["check"], document["server"]
            task_id = document.pop("id")
            bodies[task_id] = document.pop("body", bodies.get(task_id))
            fields.setdefault(task_id, {}).update(document)
    for mapping in fields.values():
        mapping.setdefault("state", "fetched")
        if mapping["state"] in ("fetched", "accepted", "running"):
            mapping["doubted"] = True
    return {task_id: (fields[task_id], bodies[task_id]) for task_id in fields}


def flip_bits(path, bits):
    """Flips one bit after the other; checks what the list holds then."""
    write_a_list(path)
    content, folder = path.read_bytes(), path.parent
    lines = content.splitlines(True)
    owners = [number for number, line in enumerate(lines) for _ in line]
    expected = {}
    for bit in bits(len(content) * 8):
        place, told = bit // 8, []
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit % 8
        path.write_bytes(damaged)
        hit = {owners[place], owners[min(place + (content[place] == 10), len(content) - 1)]}
        whole = [line for number, line in enumerate(lines) if number not in hit]
        wanted = expected.setdefault(frozenset(hit), expected_of(whole))
        with opened(path, told=told) as tasks:
            assert (wanted, True, 1) == (state(tasks), tasks.was_damaged, len(told)), bit
        [aside] = folder.glob("*.damaged-*")
        assert damaged == aside.read_bytes()
        aside.unlink()
        with opened(path) as tasks:
            assert (wanted, False) == (state(tasks), tasks.was_damaged), bit


def test_a_flipped_bit_costs_its_line_and_marks_what_is_doubtful(path):
    """It opens, is told, what is whole is there; a task that may have been begun is marked."""
    flip_bits(path, lambda count: [*random.Random(5).sample(range(count - 8), 90),
                                   *range(count - 8, count)])


@pytest.mark.soak
def test_any_flipped_bit_costs_its_line_and_marks_what_is_doubtful(path):
    """As above, all of them."""
    flip_bits(path, range)


@pytest.mark.parametrize("lost, expected", [("done", "running"), ("refused", "fetched")])
def test_a_result_that_was_damaged_leaves_what_came_before(path, lost, expected):
    """A refused task must not look as if it had been allowed to run."""
    with opened(path) as tasks:
        fetch(tasks, 1)
        tasks.finish(1, "error", "its result", state=lost)
        tasks.note(1, state=lost, failures=1)
    path.write_bytes(path.read_bytes().replace(b"its result", b"its\0result"))
    with opened(path, told=[]) as tasks:
        fields = tasks.fields(1)
        assert (expected, True, None) == (
            fields["state"], fields.get("doubted", False), tasks.result(1))


def test_a_task_that_was_sent_is_known_again_though_its_first_line_was_damaged(path):
    """Else it would be done twice."""
    with opened(path) as tasks:
        do(tasks, 1)
    path.write_bytes(path.read_bytes().replace(b'"Type"', b'"Tape"'))
    with opened(path, told=[]) as tasks:
        assert (True, False) == (tasks.former(1, "aa"), tasks.former(1, "bb"))


# -- whatever ends the writer ------------------------------------------------------------------

CHANGES = [
    lambda tasks: fetch(tasks, 1),
    lambda tasks: tasks.note(1, state="accepted"),
    lambda tasks: fetch(tasks, 2),
    lambda tasks: tasks.note(1, sync=False, state="running", since=1),
    lambda tasks: tasks.finish(2, "refused", "x" * 60, state="refused", sync=False),
    lambda tasks: tasks.finish(1, "completed", "result"),
    lambda tasks: tasks.sent(2),
    lambda tasks: tasks.sent(1),
    lambda tasks: fetch(tasks, 2, sha256="bb"),
    *[lambda tasks: tasks.note(2, sync=False, state="running")] * 5,
]


def kill_a_writer_everywhere(path):
    """In a process of its own: see the test."""
    journal_module._FOLD_ABOVE_BYTES = 400
    states = [{}]

    def begin():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def work(acknowledge):
        with opened(path) as tasks:
            for change in CHANGES:
                change(tasks)
                acknowledge()

    begin()
    with opened(path) as tasks:
        for change in CHANGES:
            change(tasks)
            states.append(state(tasks))
    assert os.path.getsize(path) < 1500  # it was folded
    # A new task under a former one's ID takes two lines: killed between them, neither is known.
    allowed = [[*states[place:place + 2]] for place in range(len(CHANGES) + 1)]
    allowed[8].append({key: kept for key, kept in states[8].items() if key != 2})

    def check(acknowledged):
        for _ in range(2):
            with opened(path) as tasks:
                found = state(tasks)
            assert found in allowed[acknowledged], (acknowledged, found)

    print(killed_everywhere(begin, work, check))


def test_a_writer_killed_at_any_call_leaves_the_old_or_the_new(path):
    """The list holds all that was acknowledged, and at most the change under way."""
    assert int(in_child(kill_a_writer_everywhere, str(path))) > 80


def kill_whoever_opens_a_damaged_list(path):
    """In a process of its own: see the test."""
    with opened(path) as tasks:
        fetch(tasks, 1)
        tasks.note(1, state="accepted")
        fetch(tasks, 2)
    with open(path, "r+b") as stream:
        content = stream.read().replace(b'"ID": 2', b'"ID": 3')

    def begin():
        os.unlink(path)
        with open(path, "wb") as stream:
            stream.write(content)

    def work(acknowledge):
        with opened(path, told=[]):
            acknowledge()

    def check(acknowledged):
        with opened(path, told=[]) as tasks:
            assert ([1], True) == (tasks.open(), tasks.fields(1)["doubted"])

    print(killed_everywhere(begin, work, check))


def test_a_kill_does_not_take_the_doubt_away(path):
    """The marks come with the whole file, not after it: at each kill one or both are there."""
    assert int(in_child(kill_whoever_opens_a_damaged_list, str(path))) > 20


# -- a full disk -------------------------------------------------------------------------------

def limit_file_size(length):
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))


def fill_the_disk(path):
    """In a process of its own: see the test."""
    with opened(path) as tasks:
        fetch(tasks, 1)
        tasks.note(1, state="running")
        do(tasks, "former")
        before, size = state(tasks), os.path.getsize(path)
        for room in range(0, 140, 9):
            limit_file_size(size + room)
            for change in (lambda: tasks.note(1, state="done", text="x" * 140),
                           lambda: tasks.finish(1, "completed", "x" * 140),
                           lambda: fetch(tasks, 2), lambda: tasks.require_room(1000)):
                with pytest.raises(DiskFullError):
                    change()
            assert (before, size, [1]) == (state(tasks), os.path.getsize(path), tasks.open()), room
        limit_file_size(resource.RLIM_INFINITY)
        tasks.require_room(1000)
        tasks.finish(1, "completed", "result")
        after = state(tasks)
    with opened(path) as tasks:
        assert after == state(tasks)


def test_on_a_full_disk_a_task_stays_what_it_was(path):
    """75; no half line is left, and with room again the next one is whole."""
    in_child(fill_the_disk, str(path))


def fill_the_disk_before_it_is_sent(path):
    """In a process of its own: see the test."""
    clock = Clock()
    with opened(path, clock) as tasks:
        for task_id in (1, 2, 3):
            fetch(tasks, task_id)
            tasks.finish(task_id, "completed", "result")
        tasks.sent(1)
        limit_file_size(os.path.getsize(path))
        tasks.sent(2)
        clock.now -= 24 * HOUR
        tasks.sent(3)
        tasks.forget_old()
        assert ([], [True] * 3) == (
            tasks.open(), [tasks.former(task_id, "aa") for task_id in (1, 2, 3)])
        with opened(path, clock, for_reading=True) as kept:
            assert [2, 3] == kept.open()
        limit_file_size(resource.RLIM_INFINITY)
        tasks.note(4, state="fetched", sha256="bb")
        after = state(tasks)
        assert {"2025-06-14T15:06:40+00:00"} == {fields["at"] for fields, _ in after.values()}
    with opened(path, clock) as tasks:
        assert ([4], after) == (tasks.open(), state(tasks))


def test_a_full_disk_does_not_keep_a_task_on_the_list(path):
    """It is off at once, is written when there is room, and else would be sent once more."""
    in_child(fill_the_disk_before_it_is_sent, str(path))


def test_a_fold_that_cannot_be_made_keeps_nothing_from_being_noted(path, folding, monkeypatch):
    """And is not tried at each change: it would cost more the longer the list is."""
    (path.parent / f"{path.name}.remotes-new").mkdir()
    tries, unlink = [], os.unlink
    monkeypatch.setattr(os, "unlink", lambda name: (tries.append(name), unlink(name)))
    with opened(path) as tasks:
        fetch(tasks, 2, text="x" * 5000)
        for _ in range(300):
            do(tasks, 1)
        before = state(tasks)
        assert 0 < len(tries) < 60
        (path.parent / f"{path.name}.remotes-new").rmdir()
        for _ in range(90):
            do(tasks, 1)
        assert (before, True) == (state(tasks), path.stat().st_size < 15_000)


# -- its size and its cost ------------------------------------------------------------------------

def memory_of(part, seen):
    """Bytes of an object and all that it holds."""
    if id(part) in seen or isinstance(part, type) or callable(part):
        return 0
    seen.add(id(part))
    inner = []
    if isinstance(part, dict):
        inner = [*part, *part.values()]
    elif isinstance(part, (list, tuple, set, frozenset)):
        inner = part
    else:
        inner = [getattr(part, name) for name in (*getattr(part, "__dict__", ()),
                                                  *getattr(part, "__slots__", ()))]
    return sys.getsizeof(part) + sum(memory_of(one, seen) for one in inner)


def test_two_weeks_of_polls_leave_file_and_memory_bounded(path):
    """Polls each ten minutes, one task each, restarts: the last day is as the third one was."""
    clock, sizes, memory = Clock(), [], []
    for day in range(14):
        with opened(path, clock) as tasks:
            for turn in range(144):
                clock.now += 600
                task_id = day * 144 + turn
                do(tasks, task_id, answer="x" * 300)
                tasks.note_unusable("only one")
                tasks.forget_old()
                assert [] == tasks.open()
            assert 0 == tasks.live_bytes
            sizes.append(path.stat().st_size)
            memory.append(memory_of(tasks, set()))
            assert 72 == len(state(tasks))
    assert max(sizes[2:]) < 2.5 * journal_module._FOLD_ABOVE_BYTES
    assert max(memory[2:]) < 1.2 * memory[2]


def test_a_change_costs_the_same_however_many_tasks_there_are(tmp_path, monkeypatch):
    """Folds included: no more bytes are written for each of 4,000 tasks than of 400."""
    written, write = [0], os.write

    def counted(descriptor, content):
        written[0] += len(content)
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", counted)
    costs = []
    for count in (400, 4000):
        written[0] = 0
        with opened(tmp_path / f"{count}.yml") as tasks:
            for number in range(count):
                fetch(tasks, number)
            for number in range(count):
                tasks.note(number, sync=False, state="running")
                tasks.finish(number, "completed", "x" * 100, sync=False)
            for number in range(count):
                tasks.sent(number)
            tasks.forget_old()
        costs.append(written[0] / count)
    assert costs[1] < 1.3 * costs[0]


# -- any order of all of it ---------------------------------------------------------------------

IDS = st.sampled_from([1, 2, "1", "a/../b"])
OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("fetch"), IDS, st.sampled_from(["aa", "bb"])),
    st.tuples(st.just("note"), IDS, st.sampled_from(["accepted", "running"])),
    st.tuples(st.just("finish"), IDS, st.sampled_from(["done", "refused"])),
    st.tuples(st.just("sent"), IDS, st.none()),
    st.tuples(st.just("pass"), st.none(), st.sampled_from([1, 5 * HOUR, -3 * HOUR, 13 * HOUR])),
    st.tuples(st.just("reopen"), st.none(), st.binary(max_size=20)),
), max_size=30)


class Model:
    """What a list should hold, as plain mappings."""

    def __init__(self):
        self.open, self.sent = {}, {}  # ID -> [sha256, state, result]; ID -> (sha256, at)

    def follow(self, name, task_id, value, now):
        if name == "fetch":
            self.sent.pop(task_id, None)
            self.open[task_id] = [value, "fetched"]
        elif name in ("note", "finish"):
            self.open[task_id][1] = value
        elif name == "sent":
            self.sent[task_id] = (self.open.pop(task_id)[0], now)
        self.sent = {key: (sha256, min(at, now)) for key, (sha256, at) in self.sent.items()
                     if now - at < 12 * HOUR}


@examples(max_examples=80)
@given(OPERATIONS)
def test_a_list_is_what_was_done_to_it(tmp_path_factory, operations):
    """Any changes, with restarts, torn lines, folds and jumps of the clock between them."""
    path, clock, model = tmp_path_factory.mktemp("model") / "list.yml", Clock(), Model()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(journal_module, "_FOLD_ABOVE_BYTES", 400)
        patch.setattr(journal_module, "_CHUNK_BYTES", 500)
        tasks = stack.enter_context(opened(path, clock))
        for name, task_id, value in operations:
            if name in ("note", "finish", "sent") and task_id not in model.open:
                continue
            if name == "fetch" and task_id in model.open:
                continue
            if name == "fetch":
                fetch(tasks, task_id, sha256=value)
            elif name == "note":
                tasks.note(task_id, sync=False, state=value)
            elif name == "finish":
                tasks.finish(task_id, "completed", value, state=value, sync=False)
            elif name == "sent":
                tasks.sent(task_id)
            elif name == "pass":
                clock.now += value
            else:
                stack.close()
                with open(path, "ab") as stream:
                    stream.write(value.replace(b"\n", b""))
                tasks = stack.enter_context(opened(path, clock))
            tasks.forget_old()
            model.follow(name, task_id, value, clock.now)
            assert list(model.open) == tasks.open()
            assert {key: row[1] for key, row in model.open.items()} == {
                key: tasks.fields(key)["state"] for key in tasks.open()}
            for key in (1, 2, "1", "a/../b"):
                assert [model.sent.get(key, ("", 0))[0] == sha256 for sha256 in ("aa", "bb")] == [
                    tasks.former(key, sha256) for sha256 in ("aa", "bb")]
            entries = tasks._journal.entries
            assert tasks.live_bytes == sum(
                entry.size for entry in entries.values() if entry.fields["state"] != "sent")
            for key, row in model.open.items():
                assert (tasks.result(key) or {}).get("Data") == (
                    row[1] if row[1] in ("done", "refused") else None)


def test_two_processes_do_not_write_at_once(path):
    """The second one is told so, and changes nothing."""
    with opened(path) as tasks:
        fetch(tasks, 1)
        with pytest.raises(Exception, match="another run writes"):
            TaskList(str(path), SERVER, tell=print)
    assert 2 == len([json.loads(line[4:]) for line in path.read_text().splitlines()])
