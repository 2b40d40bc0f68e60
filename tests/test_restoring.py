"""restoring.py and the actions on versions: what is asked of a server, and what lands on the disk.

The demo server, as each release, backs real files up and restores them; the client runs as
a process of its own.
"""

import json
import re
from datetime import datetime, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remotes.duplicati import restoring
from remotes.duplicati.browsing import Entry, Version
from remotes.errors import UsageError

VERSION = Version(0, datetime(2026, 11, 22, tzinfo=timezone.utc), True, 5, None, 99,
                  "2026-11-22T01:00:00+01:00")
# What a path of a Unix system can hold.
NAMES = st.text(st.characters(blacklist_characters="/\0\n", blacklist_categories=("Cs",)),
                min_size=1, max_size=12)


def test_a_file_is_meant_literally_and_a_folder_with_all_in_it():
    """`@path`, and the folder as a regular expression: what the recorded restores sent."""
    assert "@/home/ann/a.txt" == restoring.expression(Entry("/home/ann/a.txt", 1, False))
    assert "[/home/ann/docs/.*]" == restoring.expression(Entry("/home/ann/docs/", None, True))
    assert "@/a*[x]?.txt" == restoring.expression(Entry("/a*[x]?.txt", 1, False))
    assert r"[C:\\Users\\Ann \(old\)\\.*]" == \
        restoring.expression(Entry("C:\\Users\\Ann (old)\\", None, True))


@given(NAMES, NAMES)
@example("a", "a.b")
@example("(x", "+")
@example("résumé [x].txt", "y")
def test_a_folders_expression_matches_what_is_in_it_and_nothing_beside_it(folder, other):
    """Whatever signs its name is made of."""
    path = f"/{folder}/"
    found = restoring.expression(Entry(path, None, True))
    assert found.startswith("[") and found.endswith(".*]")
    pattern = re.compile(found[1:-1])
    assert pattern.fullmatch(path) and pattern.fullmatch(f"{path}{other}/deep")
    assert not pattern.fullmatch(f"/x{path}{other}")
    assert bool(pattern.fullmatch(f"/{other}/y")) == (f"/{other}/".startswith(path))


SELECTION = restoring.Selection(VERSION, ["@/a ü"])


def test_each_value_is_sent_to_servers_with_tokens():
    """A default of the server's own never decides: it differs between releases."""
    assert {"document": {
        "paths": ["@/a ü"], "time": "2026-11-22T01:00:00+01:00", "restore_path": "/r",
        "overwrite": False, "permissions": False, "skip_metadata": False, "passphrase": None,
    }} == restoring.restore_question(SELECTION, "/r", is_legacy=False)


def test_the_old_generation_gets_a_form():
    """JSON is ignored there, and everything goes back to where it came from, 200."""
    assert {"form": {
        "paths": json.dumps(["@/a ü"]), "time": "2026-11-22T01:00:00+01:00",
        "restore-path": "/r", "overwrite": "false", "permissions": "false",
        "skip-metadata": "true", "passphrase": "geheim",
    }} == restoring.restore_question(SELECTION, "/r", is_legacy=True, skip_metadata=True,
                                     passphrase="geheim")


@pytest.mark.parametrize("is_legacy", [True, False])
@given(restore_path=st.none() | st.sampled_from(["/r", "D:\\r"]), overwrite=st.booleans())
def test_only_what_was_asked_for_goes_to_the_original_place_or_overwrites(is_legacy, restore_path,
                                                                          overwrite):
    """No path is sent if, and only if, it goes in place; overwrite is always said."""
    question = restoring.restore_question(SELECTION, restore_path, is_legacy=is_legacy,
                                          overwrite=overwrite)
    (values,) = question.values()
    assert ("form" in question) == is_legacy
    name = "restore-path" if is_legacy else "restore_path"
    assert restore_path == values.get(name)
    spelled = {True: "true", False: "false"} if is_legacy else {True: True, False: False}
    assert spelled[overwrite] == values["overwrite"]


@pytest.mark.parametrize("typed", ["/restore", "/", "C:\\restore", "c:/restore", "\\\\nas\\share"])
def test_an_absolute_folder_of_any_system_is_taken(typed):
    """As it was typed: it is the server's."""
    assert typed == restoring.checked_folder(typed)


@pytest.mark.parametrize("typed", ["restore", "./r", "../r", "~/r", "@s3://bucket", "C:r", "",
                                   "%T%"])
def test_a_relative_folder_is_a_usage_error(typed):
    """It would be relative to wherever the server was started."""
    with pytest.raises(UsageError):
        restoring.checked_folder(typed)


def test_what_came_back_is_read_from_recorded_results(recorded_results):
    """Files, bytes, folders, and what did not come back, of each release's result."""
    assert {"2.0.6.3", "2.0.8.1", "2.1.0.5", "2.3.0.4", "1.0.0.0"} == {
        result["Version"].split()[0] for result in recorded_results}
    for result in recorded_results:
        found = restoring.came_back(result)
        assert found["files"] == result["RestoredFiles"] > 0
        assert found["bytes"] == result["SizeOfRestoredFiles"]
        assert [] == found["not_restored"]


@pytest.fixture(scope="module")
def recorded_results():
    from tests.conftest import RECORDINGS

    found = []
    for path in sorted(RECORDINGS.glob("duplicati*/*.json")):
        for exchange in json.loads(path.read_text(encoding="utf-8"))["exchanges"]:
            if exchange["name"] in ("log after a restore", "log after a slow restore"):
                results = [json.loads(row["Message"]) for row in exchange["response"]["json"]
                           if isinstance(row["Message"], str)
                           and '"MainOperation":"Restore"' in row["Message"]
                           and row["Message"].endswith("}")]
                found += results[:1]
    return found


@given(st.dictionaries(st.sampled_from(["RestoredFiles", "BrokenLocalFiles", "Errors", "Warnings"]),
                       st.none() | st.integers() | st.text() | st.lists(st.none() | st.text())))
def test_any_result_is_read(result):
    """Keys may be missing, or hold what nobody expects."""
    assert isinstance(restoring.came_back(result)["not_restored"], list)


EXPORT = {"CreatedByVersion": "2.3.0.4", "Schedule": None, "Backup": {
    "ID": "1", "Name": "Home", "TargetURL": "file:///backup?auth-password=secret", "Settings": [
        {"Filter": "", "Name": "encryption-module", "Value": "aes", "Argument": None},
        {"Filter": "", "Name": "passphrase", "Value": "of the export", "Argument": None},
        {"Filter": "", "Name": "--dbpath", "Value": "/elsewhere.sqlite", "Argument": None}]}}


def exported(changes=(), target=None, passphrase=None):
    """The settings of the document made from EXPORT with other values of settings."""
    rows = [{**row, "Value": dict(changes).get(row["Name"], row["Value"])}
            for row in EXPORT["Backup"]["Settings"]]
    rows = [row for row in rows if row["Value"] is not None]
    backup = {**EXPORT["Backup"], "Settings": rows}
    backup["TargetURL"] = target or backup["TargetURL"]
    document = restoring.exported_document({"Backup": backup}, passphrase)
    assert backup["TargetURL"] == document["Backup"]["TargetURL"]
    return {row["Name"]: row["Value"] for row in document["Backup"]["Settings"]}


def test_an_export_gives_target_and_settings():
    """But not the database's path, which is of another host; a passphrase of the file's stays."""
    assert {"encryption-module": "aes", "passphrase": "of the export"} == exported()
    assert "typed" == exported(passphrase="typed")["passphrase"]
    assert "typed" == exported({"passphrase": None}, passphrase="typed")["passphrase"]
    assert "typed" == exported({"passphrase": "*" * 15}, passphrase="typed")["passphrase"]


@pytest.mark.parametrize("changes", [{"passphrase": None}, {"passphrase": "*" * 15},
                                     {"passphrase": ""}])
def test_an_encrypted_export_without_its_passphrase_is_a_usage_error(changes):
    """Before anything is asked of a server."""
    with pytest.raises(UsageError, match="passphrase_file"):
        exported(changes)


@pytest.mark.parametrize("export", [
    None, [], {}, {"Backup": None}, {"Backup": {"TargetURL": None}}, {"Backup": {"TargetURL": 3}},
    {"Backup": {"TargetURL": "file:///x", "Settings": "no"}},
    {"Backup": {"TargetURL": "file:///x", "Settings": [None]}},
    {"Backup": {"TargetURL": "file:///x?auth-password=***************", "Settings": []}},
])
def test_what_is_no_export_is_a_usage_error(export):
    """Any JSON at all; also a target whose password is masked."""
    with pytest.raises(UsageError):
        restoring.exported_document(export)


def test_a_bare_target_is_encrypted_if_there_is_a_passphrase():
    """And said to be unencrypted if there is none."""
    settings = restoring.temporary_document("file:///t")["Backup"]["Settings"]
    assert [{"Name": "--no-encryption", "Value": "true"}] == settings
    document = restoring.temporary_document("file:///t", "geheim")
    assert {"Name": "passphrase", "Value": "geheim"} in document["Backup"]["Settings"]
    assert document["Schedule"] is None
