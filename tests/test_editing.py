"""editing.py, forms.py: an edit changes what was said, and nothing else."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotes.duplicati import documents
from remotes.duplicati.editing import (
    difference,
    new_form,
    replaced,
    unmasked,
    with_assignment,
    with_patch,
)
from remotes.duplicati.forms import body, completed, editable, new_body, short_days
from remotes.duplicati.masking import STARS, masked
from remotes.errors import ForeignServerError, RefusedError, UsageError
from tests.test_server import ANY_JSON


def document(**more):
    """A backup as today's server gives it, in clear, with a field that nobody knows yet."""
    return {
        "Schedule": {"ID": 1, "Tags": ["ID=1"], "Time": "2030-01-01T13:00:00Z", "Repeat": "1D",
                     "LastRun": "0001-01-01T00:00:00Z", "Rule": "AllowedWeekDays=Monday,Tuesday",
                     "AllowedDays": ["mon", "Monday", "tue", "Tuesday"]},
        "Backup": {
            "ID": "1", "ExternalID": None, "Name": "Home", "Description": "", "Tags": [],
            "TargetURL": "s3://bucket?auth-username=ann&auth-password=hunter22",
            "ConnectionStringID": -1, "DBPath": "/x.sqlite", "DBPathExists": True,
            "Sources": ["/home/ann/", "@/mail|imap://host?auth-password=sesame"],
            "Settings": [
                {"Filter": "", "Name": "passphrase", "Value": "pass phrase", "Argument": None},
                {"Filter": "x", "Name": "--send-mail-url", "Value": "", "Argument": {"Name": "y"}},
                {"Filter": "", "Name": "keep-versions", "Value": "5", "Argument": None},
                {"Filter": "", "Name": "--asynchronous.limit", "Value": "1", "Argument": None}],
            "Filters": [{"Order": 0, "Include": False, "Expression": "*.tmp"}],
            "Metadata": {"LastBackupDate": "20261122T042100Z"}, "IsTemporary": False,
            "AdditionalTargetURLs": [{"UrlKey": "a", "TargetUrl": "ftp://ann:first@host/",
                                      "Options": {"auth-password": "second"}}],
            "FieldOfTomorrow": {"a": [1, None]}},
        "DisplayNames": {"/home/ann/": "home"}, **more}


def as_sent(before):
    """What must be sent if nothing is edited: all but for the days, and labels of ours."""
    sent = copy.deepcopy({name: before[name] for name in ("Backup", "Schedule")})
    if sent["Schedule"]:
        sent["Schedule"]["AllowedDays"] = ["mon", "tue"]
    return sent


def edited_by(before, *assignments):
    form = editable(before)
    for path, value in assignments:
        form = with_assignment(form, path, value, documents.parse_yaml)
    return body(before, completed(form, editable(before)))


def test_an_edit_of_nothing_sends_what_was_there():
    """All fields, of tomorrow's too; the days in short names, each once."""
    assert as_sent(document()) == edited_by(document())
    without = document(Schedule=None)
    assert as_sent(without) == edited_by(without)


def test_a_form_has_what_can_be_edited_and_nothing_else():
    """Settings as a mapping; what only the server sets is left out."""
    form = editable(document())
    assert ["Name", "Description", "Tags", "TargetURL", "ConnectionStringID", "Sources",
            "Settings", "Filters", "AdditionalTargetURLs", "FieldOfTomorrow",
            "Schedule"] == list(form)
    assert {"passphrase": "pass phrase", "--send-mail-url": "", "keep-versions": "5",
            "--asynchronous.limit": "1"} == form["Settings"]
    assert {"Time": "2030-01-01T13:00:00Z", "Repeat": "1D",
            "AllowedDays": ["mon", "tue"]} == form["Schedule"]


CHANGES = [
    ("Name", "New: name", lambda sent: sent["Backup"].update(Name="New: name")),
    ("Backup.Description", "no", lambda sent: sent["Backup"].update(Description="no")),
    ("TargetURL", "file:///x", lambda sent: sent["Backup"].update(TargetURL="file:///x")),
    ("Settings.keep-versions", "7",
     lambda sent: sent["Backup"]["Settings"][2].update(Value="7")),
    ("Settings.--keep-versions", "7",
     lambda sent: sent["Backup"]["Settings"][2].update(Value="7")),
    ("Settings.--asynchronous.limit", "true",
     lambda sent: sent["Backup"]["Settings"][3].update(Value="true")),
    ("Settings.asynchronous.limit", "",
     lambda sent: sent["Backup"]["Settings"].pop(3)),
    ("Settings.passphrase", "null", lambda sent: sent["Backup"]["Settings"].pop(0)),
    ("Settings.--new.one", "1:30", lambda sent: sent["Backup"]["Settings"].append(
        {"Filter": "", "Name": "--new.one", "Value": "1:30", "Argument": None})),
    ("Schedule.Repeat", "2W", lambda sent: sent["Schedule"].update(Repeat="2W")),
    ("Schedule.Time", "2031-01-01T00:00:00Z",
     lambda sent: sent["Schedule"].update(Time="2031-01-01T00:00:00Z")),
    ("Schedule.AllowedDays", '["sun", "Monday", "sun"]', lambda sent: sent["Schedule"].update(
        AllowedDays=["sun", "mon"], Rule="AllowedWeekDays=Sunday,Monday")),
    ("Schedule.AllowedDays", "wed", lambda sent: sent["Schedule"].update(
        AllowedDays=["wed"], Rule="AllowedWeekDays=Wednesday")),
    ("Schedule.AllowedDays", "null", lambda sent: sent["Schedule"].update(
        AllowedDays=None, Rule="")),
    ("Schedule", "null", lambda sent: sent.update(Schedule=None)),
    ("Sources", '["/a/", "/b/"]', lambda sent: sent["Backup"].update(Sources=["/a/", "/b/"])),
    ("Sources.0", "/c/", lambda sent: sent["Backup"]["Sources"].__setitem__(0, "/c/")),
    ("Sources.2", "5", lambda sent: sent["Backup"]["Sources"].append("5")),
    ("Sources.0", "", lambda sent: sent["Backup"]["Sources"].pop(0)),
    ("Filters.0.Include", "true",
     lambda sent: sent["Backup"]["Filters"][0].update(Include=True)),
    ("Filters.1.Expression", "*.o", lambda sent: sent["Backup"]["Filters"].append(
        {"Expression": "*.o", "Order": 1, "Include": False})),
    ("Tags", "[x]", lambda sent: sent["Backup"].update(Tags=["x"])),
    ("AdditionalTargetURLs.0.Options.use-ssl", "true",
     lambda sent: sent["Backup"]["AdditionalTargetURLs"][0]["Options"].update(
         {"use-ssl": "true"})),
    ("ConnectionStringID", "4", lambda sent: sent["Backup"].update(ConnectionStringID=4)),
    ("FieldOfTomorrow.a.0", "2", lambda sent: sent["Backup"]["FieldOfTomorrow"]["a"].__setitem__(
        0, 2)),
]


@pytest.mark.parametrize("path, value, change", CHANGES,
                         ids=[f"{path}={value}" for path, value, _ in CHANGES])
def test_an_assignment_changes_its_place_alone(path, value, change):
    """--set PATH=VALUE: the body is what was there, but for that one place."""
    expected = as_sent(document())
    change(expected)
    assert json.dumps(expected) == json.dumps(edited_by(document(), (path, value)))


def test_a_schedule_can_be_made():
    """Where there was none: Time and Repeat are needed, all days is the default."""
    sent = edited_by(document(Schedule=None), ("Schedule.Time", "2030-01-01T13:00:00Z"),
                     ("Schedule.Repeat", "1D"))
    assert {"ID": -1, "Tags": [], "LastRun": "0001-01-01T00:00:00Z", "Rule": "",
            "AllowedDays": None, "Time": "2030-01-01T13:00:00Z",
            "Repeat": "1D"} == sent["Schedule"]


@pytest.mark.parametrize("path, value, words", [
    ("Nmae", "x", "did you mean Name"), ("name", "x", "did you mean Name"),
    ("Setings.x", "x", "did you mean Settings"), ("ID", "3", "cannot be edited"),
    ("Metadata.x", "3", "cannot be edited"), ("DBPath", "/x", "cannot be edited"),
    ("Name", " ", "must not be empty"), ("Sources", "{a: b}", "must be a list"),
    ("Sources", "[5]", "list of texts"), ("Sources.9", "x", "there is no place 9"),
    ("Sources.x", "x", "there is no place x"), ("Sources", "[", "not valid YAML"),
    ("Settings", "5", "must be a mapping"), ("Settings", "{a: [1]}", "Settings.a must be a text"),
    ("Schedule.Repaet", "1D", "did you mean Repeat"), ("Schedule", "{Repeat: 1D}", "needs Time"),
    ("Schedule.AllowedDays", "[monday, someday]", "someday is no weekday"),
    ("Schedule.AllowedDays", "5", "5 is no weekday"), ("Filters", "[x]", "Expression"),
    ("Name.x", "y", "there is no place Name.x"), ("", "x", "no "),
    ("ConnectionStringID", "true", "a whole number"),
])
def test_what_cannot_be_is_refused_with_a_hint(path, value, words):
    """Unknown names with the nearest; kinds that do not belong there."""
    with pytest.raises(UsageError, match=words):
        edited_by(document(), (path, value))


def test_a_merge_patch_changes_what_it_names():
    """RFC 7396: null removes, a list replaces; settings are found with and without `--`."""
    patch = {"Description": "x", "Sources": ["/b/"], "FieldOfTomorrow": None, "Tags": None,
             "Settings": {"--keep-versions": 9, "passphrase": None, "--flag": True},
             "Schedule": {"Repeat": "3D"}}
    before = document()
    sent = body(before, completed(with_patch(editable(before), patch), editable(before)))
    expected = as_sent(before)
    expected["Backup"].update(Description="x", Sources=["/b/"], Tags=[], FieldOfTomorrow=None)
    expected["Schedule"]["Repeat"] = "3D"
    settings = expected["Backup"]["Settings"]
    settings[2]["Value"] = "9"
    settings.append({"Filter": "", "Name": "--flag", "Value": "true", "Argument": None})
    settings.pop(0)
    assert expected == sent


def test_a_patch_may_be_a_document_of_the_web_interface():
    """With Backup and Schedule, and settings as a list, which is then the whole list."""
    before = document()
    patch = {"Backup": {"ID": "9", "Name": "B", "Settings": [{"Name": "a", "Value": "b"}]},
             "Schedule": None}
    sent = body(before, completed(with_patch(editable(before), patch), editable(before)))
    assert None is sent["Schedule"]
    assert ("1", "B") == (sent["Backup"]["ID"], sent["Backup"]["Name"])
    assert [("a", "b")] == [(item["Name"], item["Value"]) for item in sent["Backup"]["Settings"]]


def test_what_comes_back_from_an_editor_keeps_its_secrets():
    """Masked, written as YAML, changed beside the secrets, read: only the change is sent."""
    before = document()
    text = documents.yaml_text(masked(editable(before)))
    assert not any(word in text for word in ("hunter22", "pass phrase", "sesame", "first",
                                             "second"))
    text = text.replace("keep-versions: '5'", "keep-versions: 6")
    edited = replaced(editable(before), documents.parse(text.encode(), "the text"))
    expected = as_sent(before)
    expected["Backup"]["Settings"][2]["Value"] = "6"
    assert expected == body(before, completed(edited, editable(before)))


def test_what_an_editor_leaves_out_stays_but_for_settings():
    """A schedule whose lines are gone is not dropped; a setting whose line is gone is."""
    before = document()
    form = editable(before)
    edited = replaced(form, {"Name": "X", "Schedule": {"Repeat": "1W"},
                             "Settings": {"passphrase": STARS}})
    sent = body(before, completed(edited, form))
    assert ["passphrase"] == [item["Name"] for item in sent["Backup"]["Settings"]]
    assert "pass phrase" == sent["Backup"]["Settings"][0]["Value"]
    assert {**as_sent(before)["Schedule"], "Repeat": "1W"} == sent["Schedule"]
    assert as_sent(before)["Backup"]["Sources"] == sent["Backup"]["Sources"]


def test_stars_that_stand_for_nothing_are_refused():
    """They would become the passphrase."""
    before = document()
    with pytest.raises(RefusedError, match="Settings.--other-password holds stars"):
        edited_by(before, ("Settings.--other-password", STARS))
    with pytest.raises(RefusedError, match="TargetURL holds stars"):
        edited_by(before, ("TargetURL", f"s3://b?other-token={STARS}"))


def test_two_settings_of_one_name_are_both_kept():
    """They differ in their filter; each can be seen, masked, and changed."""
    before = document()
    before["Backup"]["Settings"].insert(
        1, {"Filter": "y", "Name": "passphrase", "Value": "other", "Argument": None})
    assert as_sent(before) == edited_by(before)
    assert STARS == masked(editable(before))["Settings"]["passphrase (2)"]
    sent = edited_by(before, ("Settings.passphrase (2)", "z"))
    assert ["pass phrase", "z"] == [item["Value"] for item in sent["Backup"]["Settings"][:2]]


@pytest.mark.parametrize("settings", [5, "x", [5], {"a": "b"}])
def test_a_document_that_is_no_backups_is_an_error_of_ours(settings):
    """Any JSON at all from a server is never a traceback."""
    before = document()
    before["Backup"]["Settings"] = settings
    with pytest.raises(ForeignServerError):
        editable(before)


def test_weekdays_are_short_and_stand_once():
    """Long ones, twice over, of any case; what is no day stays for the server to judge."""
    assert ["mon", "tue"] == short_days(["mon", "Monday", "tue", "Tuesday"])
    assert ["sat", "sun"] == short_days(["SATURDAY", "sunday", "Sat"])
    assert ["someday"] == short_days(["someday"])
    assert None is short_days(None)


# -- differences -------------------------------------------------------------------------------

def shown(before, *assignments):
    form = editable(before)
    for path, value in assignments:
        form = with_assignment(form, path, value, documents.parse_yaml)
    lines = difference(editable(before), completed(form, editable(before)))
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_a_difference_shows_what_changes_and_no_secret():
    """Unified diff of masked YAML; a secret that changes is said to."""
    assert [] == shown(document())
    assert ["-Name: Home", "+Name: B"] == shown(document(), ("Name", "B"))
    assert [f"-  passphrase: '{STARS}'", f"+  passphrase: '{STARS} (changed)'"] == shown(
        document(), ("Settings.passphrase", "new"))
    assert [f"-TargetURL: s3://bucket?auth-username=ann&auth-password={STARS}",
            f"+TargetURL: s3://bucket?auth-username=bob&auth-password={STARS} (changed)"] == shown(
        document(), ("TargetURL", "s3://bucket?auth-username=bob&auth-password=new"))
    assert [f"-- '@/mail|imap://host?auth-password={STARS}'",
            f"+- '@/mail|imap://host?auth-password={STARS} (changed)'"] == shown(
        document(), ("Sources.1", "@/mail|imap://host?auth-password=new"))
    assert [f"+  --new-password: '{STARS}'"] == shown(document(), ("Settings.--new-password", "n"))


def test_the_order_of_names_in_a_mapping_is_no_difference():
    """At any depth; that of a list is one."""
    form = editable(document())

    def turned(value):
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert [] == difference(form, turned(form))
    changed = turned(form)
    changed["Filters"][0]["Expression"] = "*.o"
    changed["Settings"]["passphrase"] = "new"
    lines = [line for line in difference(form, changed) if line[:1] in "+-"][2:]
    assert [f"-  passphrase: '{STARS}'", f"+  passphrase: '{STARS} (changed)'",
            "-  Expression: '*.tmp'", "+  Expression: '*.o'"] == lines
    assert difference({"Sources": ["a", "b"]}, {"Sources": ["b", "a"]})


def test_a_new_secret_where_the_server_had_masked_the_old_one_is_shown_as_changed():
    """Servers from 2.3.0 on."""
    hidden = masked(document())
    assert [f"-  passphrase: '{STARS}'", f"+  passphrase: '{STARS} (changed)'"] == shown(
        hidden, ("Settings.passphrase", "new"))
    assert [] == shown(hidden, ("Settings.passphrase", STARS))


def test_hidden_secrets_are_looked_up_only_where_something_was_edited():
    """A URL that the server writes anew where it hides a part of it is no change."""
    export, hidden = editable(document()), masked(editable(document()))
    export["TargetURL"] = "s3://bucket?auth-username=a%6En&auth-password=hunter22"
    edited = {**hidden, "Settings": {**hidden["Settings"], "passphrase": "pass phrase"}}
    form = unmasked(hidden, edited, export)
    assert ("pass phrase", hidden["TargetURL"], hidden["Sources"]) == (
        form["Settings"]["passphrase"], form["TargetURL"], form["Sources"])
    assert [] == difference(form, edited)


words = st.text("ab*?@|:=&/\"' \n", max_size=12)


@given(st.dictionaries(words, words, max_size=4), st.lists(words, max_size=4), words)
def test_any_texts_survive_the_editor(settings, sources, name):
    """Form -> masked YAML -> form: nothing changes, and nothing is shown to change."""
    before = document()
    before["Backup"].update(Name=f"N{name}", Sources=sources, Settings=[
        {"Filter": "", "Name": key, "Value": value} for key, value in settings.items()])
    form = editable(before)
    text = documents.yaml_text(masked(form))
    edited = completed(replaced(form, documents.parse(text.encode(), "text")), form)
    assert form == edited
    assert [] == difference(form, edited)
    assert as_sent(before) == body(before, edited)


@given(st.dictionaries(st.sampled_from(list(document()["Backup"])), ANY_JSON, max_size=4),
       st.one_of(st.dictionaries(st.sampled_from(list(document()["Schedule"])), ANY_JSON),
                 ANY_JSON))
def test_any_document_of_a_server_is_edited_or_an_error_of_ours(fields, schedule):
    """Whatever it holds, what is not edited goes back as it came; never a traceback."""
    before = document(Schedule=schedule)
    before["Backup"].update(fields)
    try:
        form = editable(before)
    except ForeignServerError:
        return
    assert form == completed(replaced(form, masked(form)), form)
    edited = with_assignment(form, "Description", "edited", documents.parse_yaml)
    sent = body(before, completed(edited, form))
    assert {**before["Backup"], "Description": "edited"} == sent["Backup"]
    if isinstance(schedule, dict) and schedule:
        assert {**schedule, "AllowedDays": None} == {**sent["Schedule"], "AllowedDays": None}
    assert difference(form, completed(edited, form)) or form["Description"] == "edited"


# -- new backups -------------------------------------------------------------------------------

def test_an_export_becomes_the_body_of_a_new_backup():
    """No ID, no database path; metadata only if wanted; days in short names."""
    export = {"CreatedByVersion": "2.4", **document()}
    sent = new_body(completed(new_form(export), {}), {"a": "b"})
    expected = as_sent(document())
    for name in ("ID", "ExternalID", "DBPathExists", "IsTemporary"):
        del expected["Backup"][name]
    expected["Backup"].update(DBPath=None, Metadata={"a": "b"})
    assert "Argument" in expected["Backup"]["Settings"][1]
    expected["Backup"]["Settings"] = [
        {"Filter": "", "Name": item["Name"], "Value": item["Value"], "Argument": None}
        for item in expected["Backup"]["Settings"] if item["Value"]]
    expected["Schedule"].update(ID=-1, Tags=[])
    assert expected == sent


def test_a_form_becomes_the_body_of_a_new_backup():
    """What a person writes by hand: a name, a target, sources and settings."""
    sent = new_body(completed(new_form({
        "Name": "A", "TargetURL": "file:///x", "Sources": ["/a/"],
        "Settings": {"--no-encryption": True, "keep-versions": 5}}), {}))
    assert {"Schedule": None, "Backup": {
        "Description": "", "Tags": [], "Filters": [], "Name": "A", "TargetURL": "file:///x",
        "Sources": ["/a/"], "DBPath": None, "Metadata": {}, "Settings": [
            {"Filter": "", "Name": "--no-encryption", "Value": "true", "Argument": None},
            {"Filter": "", "Name": "keep-versions", "Value": "5", "Argument": None}]}} == sent


@pytest.mark.parametrize("wrong, words", [
    ({"Name": "A"}, "TargetURL must not be empty"), ([], "mapping"), ("x", "mapping"),
    ({"Nmae": "A", "TargetURL": "x"}, "did you mean Name"),
    ({"Backup": {"Name": "A", "TargetUrl": "x"}}, "did you mean TargetURL"),
    ({"Name": "A", "TargetURL": "x", "Settings": [5]}, "a mapping of names"),
    ({"Name": 5, "TargetURL": "x"}, "Name must be a text"),
])
def test_a_document_that_is_no_backup_makes_none(wrong, words):
    """A hint instead."""
    with pytest.raises(UsageError, match=words):
        completed(new_form(wrong), {})


def test_a_new_backup_cannot_have_stars_for_secrets():
    """A file that was written from what a server shows."""
    with pytest.raises(RefusedError, match="Settings.passphrase"):
        completed(new_form({"Name": "A", "TargetURL": "x", "Settings": {"passphrase": STARS}}), {})
