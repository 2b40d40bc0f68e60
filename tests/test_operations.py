"""operations.py: any JSON at all is a task of the protocol page's table, or refused in one line."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotes import operations
from remotes.actions.options import OPTIONS
from remotes.errors import ForeignServerError
from remotes.operations import OPERATIONS, Resource, examine

NOW = datetime(2026, 8, 22, 10, 3, tzinfo=timezone.utc)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=3), max_leaves=6)
BACKUP = "backup"
# The table of the protocol page: operation -> its resources' types, what it carries, manner.
TABLE = {
    "list": (["backups", "databases", "notifications", "serversettings", "systeminfo"], [],
             "reads"),
    "get": ([BACKUP, "notification"], [], "reads"),
    "describe": ([BACKUP, "notification"], [], "reads"),
    "logs": ([BACKUP], ["Lines", "Remote", "Level"], "reads"),
    "status": ([], [], "reads"),
    "versions": ([BACKUP], [], "reads"),
    "files": ([BACKUP], ["Time", "Path", "Filter"], "reads"),
    "run": ([BACKUP], [], "background"),
    "verify": ([BACKUP], [], "background"),
    "abort": (["task"], [], "changes"),
    "pause": ([], ["Duration"], "changes"),
    "resume": ([], [], "changes"),
    "compact": ([BACKUP], [], "background"),
    "vacuum": ([BACKUP], [], "background"),
    "repair": ([BACKUP], [], "background"),
    "edit": ([BACKUP], ["Changes"], "changes"),
    "create": ([], ["Config"], "changes"),
    "update": ([BACKUP], ["Config"], "changes"),
    "delete": ([BACKUP, "database", "notification"], [], "changes"),
    "export": ([BACKUP], ["Passwords"], "reads"),
    "restore": ([BACKUP], ["Time", "Paths", "RestorePath", "Overwrite"], "background"),
    "dismiss": (["notification"], [], "changes"),
}
# A value of each field, and what it becomes.
VALUES = {
    "Lines": (20, 20), "Remote": (True, True), "Level": ("Retry", "Retry"), "Time": ("3D", "3D"),
    "Path": ("/home/", ["/home/"]), "Filter": ("*.odt", "*.odt"), "Duration": (90, "90s"),
    "Changes": ({"Name": "new"}, {"Name": "new"}), "Config": ({"Backup": {}}, {"Backup": {}}),
    "Passwords": (False, False), "Paths": (["/a", "/b/"], ["/a", "/b/"]),
    "RestorePath": ("C:\\back", "C:\\back"), "Overwrite": (False, False),
}


def entry(operation, *, of_type=None, **more):
    """A whole task of that operation: one resource of its (first) type, what it must carry."""
    types, carried, _ = TABLE[operation]
    of_type = of_type or (types[0] if types else None)
    resources = [] if of_type is None else \
        [{"Type": of_type}] if operation == "list" else [{"Type": of_type, "ID": 3}]
    needed = {"edit": ["Changes"], "create": ["Config"], "update": ["Config"],
              "restore": ["RestorePath"]}.get(operation, [])
    return {"ID": 1, "Operation": operation, **({"Resources": resources} if resources else {}),
            **{name: VALUES[name][0] for name in needed}, **more}


def why(document):
    """Why an entry is refused."""
    task, reason = examine(document, NOW)
    assert task is None
    return reason


def task_of(document):
    task, reason = examine(document, NOW)
    assert reason is None
    return task


# -- any JSON at all -----------------------------------------------------------------------

NEAR_TASKS = st.sampled_from(sorted(TABLE)).flatmap(lambda name: st.builds(
    lambda whole, changed, dropped: {key: value for key, value in {**whole, **changed}.items()
                                     if key != dropped},
    st.sampled_from([entry(name)]),
    st.dictionaries(st.sampled_from(["ID", "Operation", "Resources", "Expires", *VALUES]),
                    ANY_JSON, max_size=2)
    | st.dictionaries(st.just("Resources"), st.lists(st.fixed_dictionaries(
        {"Type": st.just(BACKUP) | ANY_JSON}, optional={"ID": ANY_JSON}), max_size=3)),
    st.sampled_from(["", "ID", "Operation", "Resources"])))


@settings(max_examples=300)
@given(ANY_JSON | NEAR_TASKS)
@example({"ID": 1, "Operation": ["run"]})
@example({"ID": 1, "Operation": "r\nu\n"})
@example({"ID": 1, "Operation": "status", "x\u2028" * 5000: None})
@example(entry("pause", Duration="9" * 5000 + "s"))
@example(entry("pause", Duration=10**4000))
@example(entry("files", Time="9" * 5000 + "D"))
@example(entry("run", Expires="2026-08-22T10:03:00." + "9" * 5000 + "Z"))
def test_any_entry_is_a_task_or_refused_in_one_line(document):
    """Never an exception, never both; a task can be written down and is then the same."""
    task, reason = examine(document, NOW)
    assert (task is None) != (reason is None)
    if task is None:
        assert (1, True) == (len(reason.splitlines()), 0 < len(reason) < 300)
        return
    assert operations.task_id(document) == task.task_id
    assert operations.content_hash(document) == task.sha256
    assert operations.keepable(document) is document is task.document
    assert task == task_of(json.loads(json.dumps(document, allow_nan=False)))
    assert task.kind is OPERATIONS[document["Operation"]]


@given(ANY_JSON)
def test_any_answer_is_a_list_of_entries_or_of_no_such_server(document):
    """What is no list in one of the three forms is told, not guessed at."""
    try:
        entries = operations.tasks_of(document)
    except ForeignServerError as error:
        assert 1 == len(str(error).splitlines())
    else:
        assert isinstance(entries, list)


@pytest.mark.parametrize("document, entries", [
    ([], []), ([1, {"ID": 1}], [1, {"ID": 1}]), ({"Tasks": []}, []),
    ({"Tasks": [entry("run")], "ID": 7}, [entry("run")]), (entry("run"), [entry("run")]),
    ({"ID": 1}, [{"ID": 1}]), ({"Operation": "run"}, [{"Operation": "run"}]),
])
def test_the_three_forms_of_a_list_are_read(document, entries):
    """A list, a mapping with Tasks, one bare task."""
    assert entries == operations.tasks_of(document)


@pytest.mark.parametrize("document", [{}, {"tasks": []}, {"Tasks": {}}, {"Tasks": None}, None,
                                      "[]"])
def test_what_is_no_list_of_tasks_is_told(document):
    """Such an answer comes from another server than one of tasks."""
    with pytest.raises(ForeignServerError, match="no list of tasks"):
        operations.tasks_of(document)


@pytest.mark.parametrize("said, usable", [
    (0, True), (-1, True), (2**63, True), (2**63 + 1, False), (True, False), (1.0, False),
    (None, False), ("", False), ("x" * 200, True), ("x" * 201, False), ("../a b/ü", True),
    ("a\n", False), ("\x00", False), ("\x7f", False), ("\u2028", False), ("\ud800", False),
    (["1"], False),
])
def test_an_id_is_a_whole_number_or_a_short_text(said, usable):
    """What is none cannot be answered; no other ID is put in its place."""
    assert (said if usable else None) == operations.task_id({"ID": said})
    assert usable == (examine({"ID": said, "Operation": "status"}, NOW)[1] is None)


# -- content -------------------------------------------------------------------------------

def nested(levels, inner=0):
    """`inner` in so many lists."""
    for _ in range(levels):
        inner = [inner]
    return inner


def test_the_same_content_has_the_same_hash_in_any_order():
    """Names in another order are the same content; 1, "1" and true are three contents."""
    document = entry("edit", Changes={"b": 1, "a": [1, 2]})
    other = dict(reversed(entry("edit", Changes={"a": [1, 2], "b": 1}).items()))
    assert operations.content_hash(document) == operations.content_hash(other)
    hashes = {operations.content_hash({"ID": one}) for one in (1, "1", True, 1.0, None, 2)}
    assert 6 == len(hashes)


@pytest.mark.parametrize("changes, part", [
    ({"x": "y" * 262_144}, "too large"), ({"x": "ü" * 131_072}, "too large"),
    ({"x": float("inf")}, "number that JSON cannot write"),
    ({"x": [float("nan")]}, "number that JSON cannot write"),
    ({"\ud800": 1}, "half of a character"), ({"x": "\udfff"}, "half of a character"),
    ({"x": nested(63)}, "deeper than 64"), ({"x": nested(100_000)}, "deeper than 64"),
])
def test_what_cannot_be_kept_is_refused_and_kept_as_its_id(changes, part):
    """It has a hash all the same, and what is kept of it is refused, too."""
    document = entry("edit", Changes=changes)
    assert part in why(document)
    assert 64 == len(operations.content_hash(document))
    assert {"ID": 1} == operations.keepable(document)
    assert "no Operation" in why({"ID": 1})


def test_a_task_of_the_largest_size_and_depth_is_one():
    """256 KiB and 64 levels are still taken."""
    room = 262_144 - len(json.dumps(entry("edit", Changes={"x": ""})))
    for changes in ({"x": "y" * room}, {"x": nested(62)}):
        assert changes == task_of(entry("edit", Changes=changes)).fields["Changes"]


# -- the table of the protocol page --------------------------------------------------------

def test_the_operations_are_those_of_the_table():
    """Types, what is carried and the manner of each stand as on the page, in its order."""
    assert TABLE == {name: (list(kind.types), list(kind.fields), kind.manner)
                     for name, kind in OPERATIONS.items()}


@pytest.mark.parametrize("operation", TABLE)
def test_an_operation_takes_the_types_and_fields_of_its_row_and_no_others(operation):
    """Each alone is a task; a type or a name from another row is refused, with the name told."""
    types, carried, _ = TABLE[operation]
    for of_type in types:
        known = None if operation == "list" else 3 if of_type == "task" else "3"
        assert [Resource(of_type, known)] == \
            task_of(entry(operation, of_type=of_type)).resources
    for of_type in {one for types, *_ in TABLE.values() for one in types} - {*types}:
        reason = why(entry(operation, of_type=of_type))
        assert f'not "{of_type}"' in reason if types else "takes no Resources" in reason
    for name, (said, kept) in VALUES.items():
        document = entry(operation, **{name: said})
        if operation == "logs" and name == "Level":
            del document["Resources"]
        if name in carried:
            assert kept == task_of(document).fields[name]
        else:
            assert f'{operation} takes no "{name}"' in why(document)


def test_a_task_holds_what_it_carries_and_no_more():
    """What is not said is not there; without resources the list is empty."""
    assert {"RestorePath": "C:\\back"} == task_of(entry("restore")).fields
    task = task_of({"ID": "a", "Operation": "pause"})
    assert ("a", "pause", [], {}, None) == task[:5]


@pytest.mark.parametrize("document, part", [
    (1, "a mapping"), ({"ID": 1}, "no Operation"), ({"ID": 1, "Operation": 1}, "must be a text"),
    ({"ID": 1, "Operation": "rnu"}, 'no operation "rnu"; did you mean run?'),
    ({"ID": 1, "Operation": "Run"}, "did you mean run?"),
    ({"ID": 1, "Operation": "run", "Ressources": []},
     'run takes no "Ressources"; did you mean Resources?'),
    (entry("run", Resources=[{"Type": BACKUP, "Id": 3}]),
     'a resource takes no "Id"; did you mean ID?'),
    (entry("run", Resources=[{"Type": "backups", "ID": 3}]),
     'of Type backup, not "backups"; did you mean backup?'),
    (entry("run", Resources=[]), "run needs Resources"),
    (entry("run", Resources=None), "must be a list"), (entry("run", Resources=[3]), "a mapping"),
    (entry("run", Resources=[{"Type": BACKUP}]), "needs as ID"),
    (entry("list", Resources=[]), "list needs Resources"),
    (entry("list", Resources=[{"Type": "backups", "ID": 3}]), "without ID"),
    (entry("list", Resources=[{"Type": "backups"}] * 2), "named twice: backups"),
    (entry("logs", Level="Error"), "Level only without a backup"),
    ({"ID": 1, "Operation": "logs", "Remote": False}, "Remote only with a backup"),
    ({"ID": 1, "Operation": "edit", "Resources": [{"Type": BACKUP, "ID": 3}]},
     "edit needs Changes"),
    ({"ID": 1, "Operation": "create"}, "create needs Config"),
    ({**entry("restore"), "RestorePath": None}, "RestorePath must be"),
])
def test_a_wrong_form_is_refused_with_what_is_wanted(document, part):
    """The reason names what is wrong, and the nearest name that is right."""
    assert part in why(document)


@pytest.mark.parametrize("operation", ["edit", "update", "restore"])
def test_what_changes_one_backup_takes_one(operation):
    """A second resource is refused, not done in turn."""
    two = [{"Type": BACKUP, "ID": 3}, {"Type": BACKUP, "ID": 4}]
    assert "takes one resource, not 2" in why(entry(operation, Resources=two))
    assert 2 == len(task_of(entry("verify", Resources=two)).resources)


def test_no_more_than_100_resources_are_taken():
    """And none of them twice, however it is written."""
    listed = [{"Type": BACKUP, "ID": number} for number in range(101)]
    assert 100 == len(task_of(entry("run", Resources=listed[:100])).resources)
    assert "100 resources at most" in why(entry("run", Resources=listed))
    twice = [{"Type": BACKUP, "ID": 3}, {"Type": BACKUP, "ID": "03"}]
    assert 'twice: backup "3"' in why(entry("run", Resources=twice))
    assert [Resource("task", 1), Resource("task", "1")] == task_of(entry("abort", Resources=[
        {"Type": "task", "ID": 1}, {"Type": "task", "ID": "1"}])).resources


@pytest.mark.parametrize("of_type, said, known", [
    (BACKUP, 3, "3"), (BACKUP, "3", "3"), (BACKUP, "003", "3"), (BACKUP, "0" * 30, "0"),
    (BACKUP, "My docs", "My docs"), (BACKUP, "३", "३"), (BACKUP, -1, None), (BACKUP, True, None),
    (BACKUP, 3.0, None), (BACKUP, " ", None), (BACKUP, "a\nb", None), (BACKUP, "x" * 1001, None),
    ("notification", 5, "5"), ("notification", "05", "5"), ("notification", "all", None),
    ("notification", "३", None),
])
def test_a_thing_is_known_by_an_id_in_digits_or_by_a_name(of_type, said, known):
    """One ID has one form, so that no rule for it is passed by; notifications have no name."""
    task, _ = examine(entry("delete", Resources=[{"Type": of_type, "ID": said}]), NOW)
    assert known == (task and task.resources[0].id)


def test_all_notifications_at_once_are_never_dismissed():
    """The word that means all of them on a command line is refused in a task."""
    assert "whole number" in why(entry("dismiss", Resources=[{"Type": "notification",
                                                              "ID": "all"}]))


@pytest.mark.parametrize("operation, name, good, bad", [
    ("logs", "Lines", [1, 10_000], [0, 10_001, True, "20", 1.0, None]),
    ("logs", "Remote", [True, False], [1, "true", None]),
    ("export", "Passwords", [True, False], [0, "no", None]),
    ("restore", "Overwrite", [True, False], [1, "yes", None]),
    ("files", "Time", ["now", "3D", "2026-08-22", "2026-08-22T12:00:00+02:00"],
     ["yesterday", "", 3, None, "9999999999Y"]),
    ("files", "Path", [["/a"], ["/a", "b/"]], [[], "", ["/a", 1], [[]], {}, "a\0b", None]),
    ("files", "Filter", ["*.odt"], ["", " ", 1, ["*"], None]),
    ("pause", "Duration", ["24h", "1h30m", "90s"],
     ["24h1s", "0s", 0, 86_401, True, -1, 1.5, "soon", None, "1s" * 51]),
    ("edit", "Changes", [{"a": None}], [{}, [], "a", None]),
    ("create", "Config", [{"a": 1}], [{}, [["a", 1]], None]),
    ("restore", "Paths", [["/a"]], ["/a", [], [""], [None], None]),
    ("restore", "RestorePath", ["/a", "C:\\a", "d:/a", "\\\\host\\a"],
     ["", "a", "./a", "C:", "C:a", 1, None]),
])
def test_a_field_takes_the_values_of_its_kind_and_no_others(operation, name, good, bad):
    """A value of another kind is refused, not turned into one; the ends belong to it."""
    for said in good:
        assert said == task_of(entry(operation, **{name: said})).fields[name]
    for said in bad:
        assert f"{name} must be" in why(entry(operation, **{name: said})), said


def test_a_level_is_one_of_those_of_the_option():
    """The names that stand here are those of the action."""
    for level in OPTIONS["level"].kind:
        document = {"ID": 1, "Operation": "logs", "Level": level}
        assert level == task_of(document).fields["Level"]
    reason = why({"ID": 1, "Operation": "logs", "Level": "error"})
    assert f"one of {', '.join(OPTIONS['level'].kind)}" in reason


def test_a_duration_has_its_unit():
    """However it was said: who does the task meets one form."""
    for said, kept in (("90", "90s"), (86_400, "86400s"), (" 2h ", "2h")):
        assert kept == task_of(entry("pause", Duration=said)).fields["Duration"]


# -- expiry --------------------------------------------------------------------------------

def test_a_task_is_refused_once_its_moment_is_over():
    """At that moment it is still done; a moment later it is not, and the moment is told."""
    document = entry("run", Expires="2026-08-22T12:03:00+02:00")
    assert NOW == task_of(document).expires
    task, reason = examine(document, NOW + timedelta(seconds=1))
    assert (None, "it has expired (2026-08-22T10:03:00Z)") == (task, reason)


@pytest.mark.parametrize("said", [
    "2026-08-22T10:03:00Z", "2026-08-22 10:03:00.5Z", "20260822T100300Z", "2026-08-22T12:03+0200",
    "9999-12-31T23:59:59Z",
])
def test_an_expiry_is_iso_8601_with_an_offset(said):
    """Z, or hours and minutes, in the forms of servers."""
    assert task_of(entry("status", Expires=said)).expires >= NOW


@pytest.mark.parametrize("said", [
    "2026-08-22T10:03:00", "2027-08-22", "2027-08-22+02:00", "3D", "now", "", None, 1e12,
    2_000_000_000, "2027-02-30T00:00:00Z", "2027-08-22T10:03:00Z\n",
])
def test_an_expiry_that_can_be_read_in_two_ways_is_refused(said):
    """What has no offset means another moment on each host."""
    assert "Expires must be" in why(entry("status", Expires=said))
