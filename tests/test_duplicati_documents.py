"""duplicati/documents.py: JSON and YAML of people, and names of files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotes.duplicati import documents
from remotes.errors import UsageError

TEXTS = ["no", "yes", "on", "2030-01-01T00:00:00Z", "2030-01-01", "1:30", "05", "0x1F", "0o7",
         "1_000", "1e5", "1.0e5", ".5", "~", "null", "true", "TRUE", "", "=", "<<", "- x", "#",
         "&a", "*a", "!x", "a: b", "x #y", "'", '"', "two\nlines\n", "tab\t", " x ",
         "\u2028\x85\ud800"]
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False,
                                                                 allow_infinity=False),
              st.text(), st.sampled_from(TEXTS)),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.text(), inner, max_size=3)), max_leaves=8)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_stays_a_text(text):
    """Written and read; a setting `no` or `1:30` is never anything else."""
    assert {"a": text} == documents.parse(documents.yaml_text({"a": text}).encode(), "x")


@given(json_values)
def test_any_json_survives_yaml(value):
    """yaml_text, then parse; a text alone may look like JSON, so it is put into a list."""
    assert [value] == documents.parse(documents.yaml_text([value]).encode(), "x")


@given(json_values)
def test_any_json_survives_json(value):
    """json_text, then parse."""
    text = documents.json_text([value]).encode("utf-8", "surrogatepass")
    if "\\ud" not in json.dumps(value):
        assert [value] == documents.parse(text, "x")


def test_yaml_by_hand_has_the_values_of_json():
    """Words and dates are texts; numbers, true, false and null are not."""
    assert {"a": "no", "b": 5, "c": "05", "d": None, "e": [True, "x"], "f": "2030-01-01", "g": 1.5,
            "5": "1:30"} == documents.parse(
        b"a: no\nb: 5\nc: 05\nd:\ne: [true, x]\nf: 2030-01-01\ng: 1.5\n5: 1:30\n", "x")


def test_a_byte_order_mark_is_read_over():
    """Editors of Windows write one."""
    assert {"a": 1} == documents.parse(b'\xef\xbb\xbf{"a": 1}', "x")


@pytest.mark.parametrize("content, words", [
    (b"a: [", "line 1, column 5"), (b"a: &x 1\nb: *x", "line 2, column 4: aliases"),
    (b"a: 1\na: 2", "a stands there twice"), (b'{"a": 1, "a": 2}', "twice"),
    (b"\xff", "no text in UTF-8"), (b"a: !!python/object:x 1", "constructor"),
    (b"? [a]\n: 1", "a name must be a text"), (b"a: !!int x", "not valid YAML"),
    (b"a\n b: c: d", "not valid YAML"), (b"[" * 5000, "F is"), (b"\x00", "not valid YAML"),
])
def test_what_is_wrong_in_a_file_is_told_with_its_place(content, words):
    """An error of ours, one line, with the file's name."""
    with pytest.raises(UsageError, match="F is") as found:
        documents.parse(content, "F")
    assert words in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("name, safe", [
    ("Home", "Home"), ("../../etc/passwd", "_.._etc_passwd"), ("..", "_"), ("", "_"), (".x", "x"),
    ("a/b:c", "a_b_c"), ("CON", "_CON"), ("com1.txt", "_com1.txt"), ("x\x1b[31m\n", "x_[31m_"),
    ("end. ", "end"), ("ä" * 200, "ä" * 75), ("a\u202eb", "a_b"), ("Über", "Über"),
])
def test_a_file_name_leads_nowhere_else(name, safe):
    """No separators, control characters, leading dots, devices; no longer than systems take."""
    assert safe == documents.safe_file_name(name)
