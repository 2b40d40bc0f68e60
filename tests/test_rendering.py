"""rendering.py: answers for scripts stay what they are, and harm no terminal."""

import io
import json
import sys
import time

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from remotes.rendering import event_line, render

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT,
                      lambda part: st.lists(part) | st.dictionaries(TEXT, part), max_leaves=10)
DOCUMENTS = st.dictionaries(TEXT, VALUES)
HARMFUL = {chr(code) for code in (*range(0x20), *range(0x7f, 0xa0))} - {"\n"}
ATTACK = {"name": "a\x1b[2J\x07\x9b\x00\x7f\r\u2028b", "rows": [{"output": "x\x1b]0;y\x07\nz"}]}


@examples(max_examples=50)
@given(DOCUMENTS)
@example(ATTACK)
def test_json_and_events_read_back_as_they_were(document):
    """Whatever is in them; an event is one line."""
    assert document == json.loads(render(document, "json")) == json.loads(event_line(document))
    assert 1 == len(event_line(document).splitlines())


@examples(max_examples=40)
@given(DOCUMENTS)
@example({"a": "\x85 \u2028", "\x85": "\U0001f40d"})
def test_yaml_reads_back_as_it_was(document):
    """Whatever is in it."""
    assert document == yaml.load(render(document, "yaml"), yaml.CSafeLoader)


@examples(max_examples=40)
@given(DOCUMENTS)
@example(ATTACK)
def test_no_control_character_reaches_a_terminal(document):
    """In any form; only line ends are left."""
    for form in ("json", "yaml", "table"):
        assert set() == HARMFUL & set(render(document, form)), form
    assert set() == (HARMFUL | {"\n"}) & set(event_line(document))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_any_form_can_be_written_to_any_output(form, encoding):
    """Half a surrogate pair and emoji, on terminals of UTF-8 and of ASCII."""
    document = {"name": "\U0001f40d \ud800 caf\u00e9", "rows": [{"\u2603": "\u2603"}]}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with pytest.MonkeyPatch.context() as patch, stream:
        patch.setattr(sys, "stdout", stream)
        text = render(document, form)
        stream.write(text)
        stream.flush()
        assert text.encode(encoding) == stream.buffer.getvalue()


def test_an_event_is_compact():
    """For logs: no spaces between its parts."""
    assert '{"event":"command","id":7,"why":""}' == event_line(
        {"event": "command", "id": 7, "why": ""})


def test_values_that_json_does_not_know_become_text():
    """An answer never ends in a traceback."""
    assert '{"a":"1+2j"}' in event_line({"a": 1 + 2j}).replace("(", "").replace(")", "")


def test_a_table_has_single_values_and_then_each_list():
    """Columns in the order of their first appearance, empty cells where a row lacks one."""
    text = render({"status": "OK", "commands": [
        {"id": 7, "name": "first"}, {"id": 23, "output": "two\nlines"}]}, "table")
    assert ["status  OK", "", "commands", "id  name   output", "7   first", "23         two⏎lines"
            ] == text.splitlines()


def test_a_mapping_in_a_table_is_two_columns():
    """Also one within rows that hold nothing else; settings by their names, sizes readable."""
    backup = {"ID": "1", "Settings": [{"Name": "keep", "Value": 5, "Filter": ""}], "Tags": [],
              "Metadata": {"target_bytes": 2048}}
    text = render({"session": {"kind": "refresh", "until": None}, "status": "OK",
                   "backups": [{"Backup": backup, "Schedule": None}]}, "table")
    assert ["status  OK", "", "session", "kind   refresh", "until", "", "backups",
            "Backup.ID                     1", "Backup.Settings.keep          5",
            "Backup.Tags", "Backup.Metadata.target_bytes  2.0 KiB", "Schedule"
            ] == text.splitlines()


def test_long_cells_are_cut():
    """At 60 characters, visibly; at 500 where a value has its line for itself."""
    text = render({"a": "x" * 1000, "rows": [{"b": "y" * 1000}]}, "table")
    assert "x" * 499 + "…" == text.splitlines()[0].split()[-1]
    assert "y" * 59 + "…" == text.split()[-1]


def test_columns_with_nothing_in_them_are_left_out():
    """And lists of texts are texts, yes and no are words."""
    text = render({"rows": [{"a": 1, "b": None, "c": []}, {"a": 2, "b": "", "d": ["x", "y"],
                                                           "e": False}]}, "table")
    assert ["rows", "a  d     e", "1", "2  x; y  no"] == text.splitlines()


@pytest.mark.parametrize("columns, expected", [(200, 1), (40, 2)])
def test_a_narrow_terminal_gets_a_block_for_each_row(monkeypatch, columns, expected):
    """Where the columns have no room beside each other; nothing is broken up letter by letter."""
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    rows = [{"name": "a name of some length", "where": "a place of some length",
             "number": 4711, "when": "2026-08-22T10:03:00Z"}] * 2
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", Terminal())
    text = render({"rows": rows}, "table")
    assert 2 == text.count("a name of some length") and expected == text.count("number")


@pytest.mark.parametrize("size, expected", [
    (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
    (5 * 1024**3, "5.0 GiB"), (1024**6, "1024.0 PiB"), (-1, "-1"), (True, "yes"), ("x", "x"),
])
def test_sizes_in_a_table_are_for_people(size, expected):
    """What is called bytes, and only that; what is no size stays as it is."""
    assert expected in render({"target_bytes": size, "n": 7}, "table")
    assert "1536" in render({"number": 1536}, "table")


def test_times_in_a_table_are_those_of_this_machine(monkeypatch):
    """A moment in UTC as a clock on the wall shows it; what only looks like one stays."""
    monkeypatch.setenv("TZ", "UTC-02:00")
    time.tzset()
    try:
        assert "2026-08-22 12:03:00" in render({"at": "2026-08-22T10:03:00.123Z"}, "table")
        assert "2026-13-41T10:03:00Z" in render({"at": "2026-13-41T10:03:00Z"}, "table")
        assert '"2026-08-22T10:03:00Z"' in render({"at": "2026-08-22T10:03:00Z"}, "json")
    finally:
        monkeypatch.undo()
        time.tzset()
