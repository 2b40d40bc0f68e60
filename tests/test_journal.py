"""journal.py: what was noted is there, whatever ends the writer, and is quick to note."""

import contextlib
import json
import os
import resource

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from remotes import journal as journal_module
from remotes.errors import DiskFullError, SettingsError
from remotes.journal import Journal, format_line, parse_line
from tests.torn import in_child, killed_everywhere

KEY = ("server", "host", "command")


def key(number):
    return ("http://127.0.0.1:8900/", "46be9131-379c-41d3-899a-11950f12022f", number)


@contextlib.contextmanager
def opened(path, kind="commands", told=None, **more):
    """A journal for the length of a `with`; without `told`, nothing may be told."""
    lines = [] if told is None else told
    journal = Journal(str(path), kind, KEY, tell=lines.append, **more)
    try:
        yield journal
    finally:
        journal.close()
    assert told is not None or lines == []


def state(journal):
    """All that a journal holds: key -> (fields without the key's, body)."""
    return {name: ({field: value for field, value in entry.fields.items() if field not in KEY},
                   journal.body(name)) for name, entry in journal.entries.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "commands-journal.yml"


# -- lines ---------------------------------------------------------------------------------

def yaml_reads(number):
    """Whether YAML 1.1 takes the number as JSON writes it: 1e+22 is a text there."""
    return "e" not in repr(number) or "." in repr(number)


TEXT = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from(
    "\0\x07\x1b\x7f\x85\x9f\u2028\u2029\ufeff\ufffe\uffff\U0001f40d'\"\\:#-{}[]\t\r\n"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT
    | st.floats(allow_nan=False, allow_infinity=False).filter(yaml_reads),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=20), part,
                                                              max_size=4), max_leaves=8)
FIELDS = st.dictionaries(TEXT.filter(lambda name: len(name) < 50), VALUES, max_size=5)


@examples(max_examples=80)
@given(st.lists(FIELDS, min_size=1, max_size=3))
@example([{"a": "\ufeff\x85\u2028\U0001f40d"}])
@example([{"": "---", "yes": "no", "1": "2024-01-01", "~": "=", "<<": "x"}])
def test_json_and_yaml_readers_read_the_same(documents):
    """One line for each entry, ours or any YAML reader's, the one in C included."""
    lines = [format_line(fields) for fields in documents]
    assert [1] * len(lines) == [line.count(b"\n") for line in lines]
    assert documents == [parse_line(line) for line in lines]
    for loader in (yaml.SafeLoader, yaml.CSafeLoader):
        assert documents == list(yaml.load_all(b"".join(lines), loader))


def test_half_a_surrogate_pair_is_replaced():
    """Neither a server nor a YAML reader in C could take it."""
    line = format_line({"name": "a\ud800b"})
    assert [{"name": "a\ufffdb"}] * 2 == [parse_line(line), yaml.load(line, yaml.CSafeLoader)]


@given(st.binary(max_size=60))
@example(b"--- [1]\n")
@example(b"--- {\n")
@example(b"--- " + b"[" * 100_000 + b"\n")
def test_any_bytes_are_a_line_or_none(content):
    """What is no mapping is None, and no exception."""
    assert isinstance(parse_line(content), (dict, type(None)))


# -- what was noted is there ------------------------------------------------------------------

def test_changes_of_an_entry_fold_into_one(path):
    """Later fields go over earlier ones; the body stays in the file until it is asked for."""
    with opened(path) as journal:
        journal.note(key(1), state="started", name="a")
        journal.note(key(1), state="ended", body={"output": "x"})
        journal.note(key(2), state="started")
        journal.note(key(1), state="posting")
        before = state(journal)
    with opened(path) as journal:
        assert {key(1): ({"state": "posting", "name": "a"}, {"output": "x"}),
                key(2): ({"state": "started"}, None)} == state(journal) == before
        assert "body" not in journal.entries[key(1)].fields


def test_the_file_is_a_yaml_stream_with_its_kind_and_version(path):
    """As people and scripts find it."""
    with opened(path) as journal:
        journal.note(key(7), state="started")
        journal.remove(key(7))
    named = dict(zip(KEY, key(7)))
    assert [{"journal": "commands", "version": 1}, {**named, "state": "started"},
            {**named, "state": "removed"}] == list(yaml.safe_load_all(path.read_text()))


def test_a_journal_is_private_from_its_first_byte(path):
    """0600 under any umask, after a fold, too."""
    former = os.umask(0)
    try:
        with opened(path) as journal:
            assert 0o600 == path.stat().st_mode & 0o777
            note_and_settle(journal, 300)
            assert 0o600 == path.stat().st_mode & 0o777
    finally:
        os.umask(former)


KEYS = st.integers(1, 4).map(key)
OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("note"), KEYS, st.dictionaries(
        st.sampled_from(["state", "at", "body"]), st.integers(0, 9) | TEXT, min_size=1)),
    st.tuples(st.just("remove"), KEYS, st.none()),
    st.tuples(st.just("reopen"), st.none(), st.binary(max_size=30)),
), max_size=25)


@examples(max_examples=120)
@given(OPERATIONS)
def test_a_journal_is_a_mapping_that_survives(tmp_path_factory, operations):
    """Any operations, with reopening and torn last lines between them, give what the same
    operations do to a dict; folds happen all the time here."""
    path = tmp_path_factory.mktemp("model") / "journal.yml"
    model = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(journal_module, "_FOLD_ABOVE_BYTES", 400)
        journal = stack.enter_context(opened(path))
        for name, entry_key, more in operations:
            if name == "note" and more.get("state") != "removed":
                journal.note(entry_key, sync=False, **more)
                fields, body = model.get(entry_key, ({}, None))
                more = dict(more)
                body = more.pop("body", body)
                model[entry_key] = ({**fields, **more}, body)
            elif name == "remove" and entry_key in model:
                journal.remove(entry_key)
                del model[entry_key]
            elif name == "reopen":
                stack.close()
                with open(path, "ab") as stream:
                    stream.write(more.replace(b"\n", b""))
                journal = stack.enter_context(opened(path))
            assert model == state(journal)
            assert sum(entry.size for entry in journal.entries.values()) == journal.live_bytes


# -- whatever ends the writer --------------------------------------------------------------------

def test_a_journal_cut_at_any_byte_holds_its_whole_lines(tmp_path, path):
    """The state is that of the lines that are whole; then it goes on."""
    states, ends = [{}], [0]
    with opened(path) as journal:
        for change in ({"state": "started", "name": "caf\u00e9"}, {"state": "ended",
                       "body": {"output": "\U0001f40d"}}, {"state": "posting"}):
            for number in (1, 2):
                journal.note(key(number), **change)
                states.append(state(journal))
                ends.append(path.stat().st_size)
    content, cut_path = path.read_bytes(), tmp_path / "cut.yml"
    for length in range(len(content) + 1):
        cut_path.write_bytes(content[:length])
        whole = max(place for place, end in enumerate(ends) if end <= length)
        with opened(cut_path) as journal:
            assert states[whole] == state(journal), length
            journal.note(key(3), sync=False, state="next")
        with opened(cut_path, for_reading=True) as journal:
            assert {**states[whole], key(3): ({"state": "next"}, None)} == state(journal), length


CHANGES = [(1, {"state": "started", "name": "one"}), (1, {"state": "ended", "body": ["one"]}),
           (2, {"state": "started", "name": "two"}), (1, {"state": "posting"}), (1, None),
           (2, {"state": "ended", "body": ["two" * 30]}), (3, {"state": "started"}), (3, None),
           (4, {"state": "started"}), (4, None), (2, {"state": "posting"}), (2, None)]


def kill_a_writer_everywhere(path):
    """In a process of its own: see the test."""
    journal_module._FOLD_ABOVE_BYTES = 400
    states, model = [{}], {}
    for number, change in CHANGES:
        if change is None:
            model = {name: kept for name, kept in model.items() if name != key(number)}
        else:
            change = dict(change)
            fields, body = model.get(key(number), ({}, None))
            body = change.pop("body", body)
            model = {**model, key(number): ({**fields, **change}, body)}
        states.append(model)

    def begin():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def work(acknowledge):
        with opened(path) as journal:
            for number, change in CHANGES:
                if change is None:
                    journal.remove(key(number))
                else:
                    journal.note(key(number), **change)
                acknowledge()

    def check(acknowledged):
        for _ in range(2):
            with opened(path) as journal:
                found = state(journal)
            assert found in states[acknowledged:acknowledged + 2], (acknowledged, found)

    print(killed_everywhere(begin, work, check))


def test_a_writer_killed_at_any_call_leaves_the_old_or_the_new(path):
    """After each kill the journal holds all that was acknowledged, and at most the change
    that was under way; folds included. Nothing is damaged."""
    assert int(in_child(kill_a_writer_everywhere, str(path))) > 100


# -- files that are not as they should be -------------------------------------------------

@pytest.mark.parametrize("damage", [
    b"garbage\n", b'--- {"no": "key"}\n', b"\0\0\0\n", b"--- []\n",
    b'--- {"server": [], "host": "h", "command": 1}\n'])
@pytest.mark.parametrize("place", [0, 2])
def test_a_damaged_line_sets_the_file_aside_and_the_rest_goes_on(path, place, damage):
    """The damaged file is kept as it was, told once, and every entry that can be read stays."""
    with opened(path) as journal:
        journal.note(key(1), state="started")
        journal.note(key(2), state="ended", body="kept")
        before = state(journal)
    lines = path.read_bytes().splitlines(True)
    lines.insert(place, damage)
    path.write_bytes(b"".join(lines))
    damaged, told = path.read_bytes(), []
    with opened(path, told=told) as journal:
        assert before == state(journal)
    [aside] = path.parent.glob("*.damaged-*")
    assert (1, damaged, 0o600) == (
        len(told), aside.read_bytes(), aside.stat().st_mode & 0o777)
    assert str(aside) in told[0] and "2 entries" in told[0]
    with opened(path) as journal:
        assert before == state(journal)


def test_a_reader_changes_nothing(path):
    """A torn, damaged file is read as far as it goes, and stays byte for byte."""
    with opened(path) as journal:
        journal.note(key(1), state="started")
    content = path.read_bytes() + b"garbage\n--- {torn"
    path.write_bytes(content)
    with opened(path, for_reading=True) as journal:
        assert [key(1)] == list(journal.entries)
    assert (content, [path.name]) == (path.read_bytes(), os.listdir(path.parent))


def test_a_reader_makes_no_file(path):
    """What is not there is empty."""
    with opened(path, for_reading=True) as journal:
        assert {} == journal.entries
    assert not path.exists()


@pytest.mark.parametrize("header", [{"journal": "commands", "version": 2}, {"journal": "tasks",
                         "version": 1}, {"journal": "commands", "version": "1"}])
@pytest.mark.parametrize("for_reading", [True, False])
def test_a_journal_of_another_kind_or_a_newer_version_is_left_alone(path, header, for_reading):
    """78, and not a byte is changed."""
    content = format_line(header) + b"what only its program knows\n--- torn"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="left alone") as caught:
        Journal(str(path), "commands", KEY, for_reading=for_reading)
    assert (78, content, [path.name]) == (
        caught.value.exit_code, path.read_bytes(), os.listdir(path.parent))


def test_a_missing_folder_is_named(path):
    """78, and the message says what is missing."""
    with pytest.raises(SettingsError, match="folder .*/missing does not exist"):
        Journal(str(path.parent / "missing" / "journal.yml"), "commands", KEY)


# -- a full disk -------------------------------------------------------------------------------

def limit_file_size(length):
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))


def fill_the_disk_while_noting(path):
    """In a process of its own: see the test."""
    with opened(path) as journal:
        journal.note(key(1), state="started")
        before, size = state(journal), os.path.getsize(path)
        for room in range(0, 120, 7):
            limit_file_size(size + room)
            with pytest.raises(DiskFullError):
                journal.note(key(1), state="ended", body="x" * 100)
            with pytest.raises(DiskFullError):
                journal.require_room(1000)
            assert (before, size) == (state(journal), os.path.getsize(path)), room
        limit_file_size(resource.RLIM_INFINITY)
        journal.require_room(1000)
        journal.note(key(2), state="started")
        after = state(journal)
    with opened(path) as journal:
        assert after == state(journal) == {**before, key(2): ({"state": "started"}, None)}


def test_on_a_full_disk_an_entry_stays_what_it_was(path):
    """75; no half line is left, and with room again the next one is whole."""
    in_child(fill_the_disk_while_noting, str(path))


def fill_the_disk_while_removing(path):
    """In a process of its own: see the test."""
    with opened(path) as journal:
        journal.note(key(1), state="started")
        journal.note(key(1), state="started")
        journal.note(key(2), state="started")
        limit_file_size(os.path.getsize(path))
        journal.remove(key(2))
        assert [key(1)] == list(journal.entries)
        limit_file_size(os.path.getsize(path))
        with pytest.raises(DiskFullError):
            journal.remove(key(1))
        assert [key(1)] == list(journal.entries)
    with opened(path, for_reading=True) as journal:
        assert [key(1)] == list(journal.entries)


def test_a_full_disk_does_not_keep_the_last_entry_from_being_settled(path):
    """Its only line is cut off, which needs no room; one with older lines stays, and says so."""
    in_child(fill_the_disk_while_removing, str(path))


def open_on_a_full_disk(path):
    """In a process of its own: see the test."""
    limit_file_size(10)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DiskFullError):
            Journal(path, "commands", KEY)
    assert (descriptors, 0) == (len(os.listdir("/proc/self/fd")), os.path.getsize(path))


def test_a_journal_that_cannot_be_begun_leaves_nothing_open(path):
    """A monitor tries it at each turn, for months."""
    in_child(open_on_a_full_disk, str(path))


# -- its size and its cost ------------------------------------------------------------------------

def note_and_settle(journal, count, first=1000):
    for number in range(first, first + count):
        journal.note(key(number), sync=False, state="started", name="x" * 100)
        journal.remove(key(number))


def test_what_is_mostly_dead_is_folded_and_keeps_its_bodies(path):
    """The file shrinks to what is alive, again and again; nothing of it is lost."""
    with opened(path) as journal:
        for number in range(10):
            journal.note(key(number), sync=False, state="ended", body=["body", number])
        alive = state(journal)
        note_and_settle(journal, 600)
        assert path.stat().st_size < 2 * journal_module._FOLD_ABOVE_BYTES
        assert alive == state(journal)
    with opened(path) as journal:
        assert alive == state(journal)


def test_what_is_alive_is_not_folded(path):
    """A fold would write all of it for nothing."""
    with opened(path) as journal:
        for number in range(100):
            journal.note(key(number), sync=False, state="ended", body="x" * 2000)
        inode = path.stat().st_ino
        journal.remove(key(0))
    with opened(path):
        assert inode == path.stat().st_ino


def test_retries_do_not_let_a_journal_grow(path):
    """An entry that changes its state for months takes no more room than after a day."""
    with opened(path) as journal:
        journal.note(key(1), sync=False, state="ended", body="x" * 10_000)
        size = journal.live_bytes
    for _ in range(50):
        with opened(path) as journal:
            for _ in range(30):
                journal.note(key(1), sync=False, state="posting", at=1.5)
                journal.note(key(1), sync=False, state="ended", failures=3)
            assert journal.live_bytes < size + 600
    with opened(path) as journal:
        assert path.stat().st_size < 2 * journal_module._FOLD_ABOVE_BYTES
        assert "x" * 10_000 == journal.body(key(1))


def test_the_cost_of_a_change_does_not_grow_with_the_journal(tmp_path, monkeypatch):
    """With 10,000 entries as many calls and bytes are written as with 10."""
    costs, write = [], os.write

    def counted(descriptor, content):
        costs[-1].append(len(content))
        return write(descriptor, content)

    for count in (10, 10_000):
        with opened(tmp_path / f"{count}.yml") as journal:
            for number in range(count):
                journal.note(key(number), sync=False, state="ended", body="x")
            costs.append([])
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", counted)
                note_and_settle(journal, 50, first=20_000)
    assert (costs[0], 100) == (costs[1], len(costs[1]))


def test_a_large_journal_is_read_line_by_line(path):
    """Bodies are not kept in memory: only their places are."""
    with opened(path) as journal:
        for number in range(20):
            journal.note(key(number), sync=False, state="ended", body="x" * 200_000)
    with opened(path, for_reading=True) as journal:
        assert len(json.dumps([entry.fields for entry in journal.entries.values()])) < 10_000
        assert ["x" * 200_000] * 20 == [journal.body(name) for name in journal.entries]
