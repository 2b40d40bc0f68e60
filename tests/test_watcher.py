"""watcher.py: what is kept of a flood, what becomes of a value, and what a process leaves."""

import enum
import json
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from remotes import watcher
from remotes.runner import compose_output, cut
from tests.processes import eventually, is_alive

NUMBERS = st.one_of(st.integers(), st.floats(), st.decimals(), st.fractions(), st.complex_numbers())
TEXTS = st.one_of(st.text(st.characters(exclude_categories=())), st.binary(),
                  st.binary().map(bytearray))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.dates(), st.datetimes(),
                   st.times(), st.timedeltas(), st.uuids(), st.sets(st.integers() | st.text()),
                   st.frozensets(st.binary()))
NAMES = st.one_of(st.none(), st.booleans(), st.integers(), st.dates(), st.binary(), st.text(
    st.characters(exclude_categories=())))
VALUES = st.recursive(LEAVES, lambda part: st.one_of(
    st.lists(part), st.tuples(part, part), st.dictionaries(NAMES, part)), max_leaves=20)


# -- values -------------------------------------------------------------------------------

def assert_is_clean(value):
    """Nothing in a value (as JSON gives it) that the server's database refuses."""
    if isinstance(value, str):
        value.encode()
        assert "\0" not in value
    elif isinstance(value, dict):
        for name, part in value.items():
            assert_is_clean(name)
            assert_is_clean(part)
    elif isinstance(value, list):
        for part in value:
            assert_is_clean(part)
    elif isinstance(value, float):
        assert value - value == 0


@examples(max_examples=200)
@given(VALUES)
@example(float("nan"))
@example([None, {"\0": "\ud800"}])
def test_any_value_becomes_a_list_that_the_server_takes(value):
    """JSON of a list, ASCII, no null at its top, no NUL, no lone surrogate, no NaN."""
    text = watcher.result_text(value)
    result = json.loads(text)
    assert (list, True, False) == (type(result), text.isascii(), None in result)
    assert len(result) == (len(value) if isinstance(value, list) else 1)
    assert_is_clean(result)


JSON_VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
              st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))),
    lambda part: st.lists(part) | st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")), part),
    max_leaves=20)


@examples(max_examples=50)
@given(st.lists(JSON_VALUES))
def test_what_json_can_hold_stays_as_it_is(value):
    """Nothing is changed that need not be."""
    assert value == json.loads(watcher.result_text(value))


class Rude:
    def __str__(self):
        raise RuntimeError("no")


class Grade(enum.IntEnum):
    GOOD = 1


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value, expected", [
    ([Rude(), 1], ["<Rude: RuntimeError>", 1]),
    ([{"a": [Rude()]}, 1], ["<dict: RuntimeError>", 1]),
    ([{Rude(): 1}], ["<dict: RuntimeError>"]),
    ([10**5000], ["<int: ValueError>"]),
    ([Grade.GOOD], [1]),
    (Grade, ["<enum 'Grade'>"]),
    ({"a": None}, [{"a": None}]),
    ({(1, 2)}, [[[1, 2]]]),
    (memoryview(b"abc"), ["abc"]),
])
def test_odd_values_become_something(value, expected):
    """A `__str__` that raises spoils its own place only."""
    assert expected == json.loads(watcher.result_text(value))


def test_sets_that_cannot_be_sorted_are_lists_all_the_same():
    """In some order."""
    assert {2, "b"} == set(json.loads(watcher.result_text([{2, "b"}]))[0])


def test_containers_within_themselves_and_very_deep_ones_end():
    """Lists, dicts; 50,000 levels."""
    ring, loop = [], {}
    ring.append(ring)
    loop["self"] = [loop]
    assert [["[...]"], [{"self": ["[...]"]}]] == [
        json.loads(watcher.result_text(value)) for value in (ring, loop)]
    assert "[...]" in watcher.result_text(nested(50_000))


def test_one_value_at_two_places_is_no_ring():
    """Only an ancestor is left out."""
    part = ["a"]
    assert [["a"], ["a"], {"b": ["a"]}] == json.loads(
        watcher.result_text([part, part, {"b": part}]))


# -- what is kept of a flood -----------------------------------------------------------------

@given(st.lists(st.binary(max_size=40)), st.integers(0, 50))
@example([b"a"], 0)
def test_a_capture_keeps_both_ends(chunks, limit):
    """The first `limit` bytes, the last of the rest, and how many there were."""
    capture = watcher.Capture(limit)
    for chunk in chunks:
        capture.take(chunk)
    whole = b"".join(chunks)
    head, tail = capture.parts()
    assert (len(whole), whole[:limit]) == (capture.total, head)
    assert whole[limit:][-limit:] == tail if limit else tail == b""


def test_a_capture_is_bounded():
    """64 MiB in pieces of any size: never more than both ends and some chunks are held."""
    capture = watcher.Capture(1000)
    for _ in range(64):
        capture.take(b"x" * (1 << 20))
        assert len(capture._head) + len(capture._tail) <= 3 << 20
    assert (1000, 1000) == tuple(map(len, capture.parts()))


def captured(content, limit):
    capture = watcher.Capture(limit)
    capture.take(content)
    return (*capture.parts(), capture.total)


def without_told(text):
    """(text without the line that tells what is missing, the number in it)."""
    first, _, rest = text.partition(" bytes are missing here: ")
    first, _, number = first.rpartition("[")
    return first, rest.partition("]\n")[2], int(number.replace(",", ""))


@examples(max_examples=200)
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode), st.integers(0, 150),
       st.integers(0, 150))
@example("\u2603".encode() * 30, 31, 31)
def test_what_is_cut_is_within_the_limit(content, kept, limit):
    """At most `limit` bytes of UTF-8 (the line, and a line's end before it, left out)."""
    text = cut(*captured(content, kept), limit)
    assert "\0" not in text
    if " bytes are missing here: " in text:
        first, last, _ = without_told(text)
        assert len(first.encode()) + len(last.encode()) <= limit + 1
    else:
        assert len(text.encode()) <= limit
        assert content.decode("utf-8", "replace").replace("\0", "\ufffd") == text


@given(st.text(st.characters(max_codepoint=127, exclude_characters="\0[")), st.integers(0, 60))
def test_what_is_missing_is_counted(content, limit):
    """Of ASCII every byte is either there or counted, and both ends are its own."""
    text = cut(*captured(content.encode(), limit), limit)
    if text == content:
        return
    first, last, missing = without_told(text)
    first = first if content.startswith(first) else first.removesuffix("\n")
    assert content.startswith(first) and content.endswith(last)
    assert len(content) - missing in (len(first) + len(last), len(first) + len(last) - 1)


@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(0, 200))
def test_an_output_is_composed_within_the_limit(output, errors, limit):
    """Output and stderr share it; stderr cannot push the output out. Notes come on top."""
    text = compose_output(captured(output, limit), captured(errors, limit), "[note]\n", limit)
    lines = 2 * 90 + len("\n[stderr]\n") + len("\n[note]\n")
    assert len(text.encode()) <= limit + lines
    assert ("\0" in text, True) == (False, text.endswith("[note]\n"))
    assert ("[stderr]\n" in text) == (bool(errors) or "[stderr]\n" in output.decode("latin-1"))


# -- what passes between the two ---------------------------------------------------------------

@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=()))))
def test_a_message_arrives_as_it_was(message):
    """Whatever text is in it, lone surrogates included."""
    reading, writing = os.pipe()
    os.write(writing, watcher.pack_message(message))
    os.close(writing)
    arrived = watcher.read_message(reading)
    os.close(reading)
    assert message == arrived


def test_half_a_message_is_an_end():
    """EOFError at any length, as with no message at all."""
    content = watcher.pack_message({"a": 1})
    for length in range(len(content)):
        reading, writing = os.pipe()
        os.write(writing, content[:length])
        os.close(writing)
        with pytest.raises(EOFError):
            watcher.read_message(reading)
        os.close(reading)


def test_more_than_a_pipe_holds_is_written_and_read_whole():
    """Short writes and short reads are followed by the rest."""
    reading, writing = os.pipe()
    content = os.urandom(1 << 20)
    writer = threading.Thread(target=watcher.write_exactly, args=(writing, content))
    writer.start()
    arrived = watcher.read_exactly(reading, len(content))
    writer.join()
    os.close(reading)
    os.close(writing)
    assert content == arrived


def test_a_report_that_was_not_finished_was_never_made():
    """The state is written last; without it there is no ending and no result."""
    report = watcher.Report(100)
    assert (None, "[]") == report.read()
    report.write({"how": "completed"}, "[1]")
    assert ({"how": "completed"}, "[1]") == report.read()
    report._memory[0] = 0
    assert (None, "[]") == report.read()
    report.close()


# -- the process itself ---------------------------------------------------------------------

def start_watcher():
    return subprocess.Popen([sys.executable, watcher.__file__], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, bufsize=0)


def request(source, timeout=60):
    return watcher.pack_message({
        "source": source, "settings": {}, "variables": {}, "file_name": "c", "timeout": timeout,
        "output_limit": 1000, "result_limit": 1000})


def test_a_watcher_without_a_client_ends():
    """The end of its pipe is the end of it, with 0."""
    with start_watcher() as process:
        process.stdin.close()
        assert 0 == process.wait(30)


def test_signals_of_a_terminal_do_not_end_a_watcher():
    """The client decides: Ctrl-C and a closed terminal reach it, too."""
    with start_watcher() as process:
        process.stdin.write(request("import os, signal\nfor number in (1, 2, 15):\n"
                                    "    os.kill(os.getppid(), number)\nprint('alive')"))
        reply = watcher.read_message(process.stdout.fileno())
        head = watcher.read_exactly(process.stdout.fileno(), reply["streams"][0][0])
        process.stdin.close()
        assert (b"alive\n", 0) == (head, process.wait(30))


def test_a_word_that_comes_too_late_is_not_taken_for_a_command():
    """The next command is served as ever."""
    with start_watcher() as process:
        process.stdin.write(watcher.pack_message({"seconds": 1.0}) + request("print('next')"))
        reply = watcher.read_message(process.stdout.fileno())
        process.stdin.close()
        assert (0, {"how": "completed"}) == (reply["status"], reply["ending"])
        process.stdout.read()


def test_a_watcher_retires_when_something_was_left_running():
    """So that it is never taken for a part of a later command."""
    with start_watcher() as process:
        process.stdin.write(request(
            "import subprocess\n__RESULT__ = [subprocess.Popen(['sleep', '600']).pid]"))
        reply = watcher.read_message(process.stdout.fileno())
        left = json.loads(reply["result"])[0]
        assert (True, True, 0) == (reply["retires"], is_alive(left), process.wait(30))
        os.kill(left, 9)
    eventually(lambda: not is_alive(left), "the end of what was left")


def test_orphans_of_a_command_are_reaped_while_it_runs():
    """A command that starts thousands of short daemons leaves no zombies behind."""
    source = ("import os\nfor _ in range(100):\n    if os.fork() == 0:\n"
              "        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.wait()\n")
    with start_watcher() as process:
        process.stdin.write(request(source))
        reply = watcher.read_message(process.stdout.fileno())
        process.stdin.close()
        assert ({"how": "completed"}, 0) == (reply["ending"], process.wait(30))
        process.stdout.read()
