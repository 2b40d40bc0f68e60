"""restoring.py and the actions on versions: what is asked of a server, and what lands on the disk.

The demo server, as each release, backs real files up and restores them.
"""

import json
import os
import re
import signal
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from demo.duplicati import Duplicati, make_server
from remotes.duplicati import restoring
from remotes.duplicati.browsing import Entry, Version
from remotes.errors import UsageError
from tests.conftest import RECORDINGS, Host

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


# -- with servers of each release, and files on the disk -----------------------------------

RELEASES = ("2.0.8.1", "2.1.0.5", "2.3.0.4", "today")
PASSWORD = "password-of-the-tests"
PASSPHRASE = "passphrase of the tests"
FILES = {"a.txt": "first\n", "docs/report.txt": "report\n" * 20,
         "docs/résumé [x].txt": "cv\n", "photos/1.jpg": 3000}
PLAIN = {"--no-encryption": "true"}


def content_of(folder):
    """Every file below a folder: its path from there -> its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


class Place:
    """A demo server, and a host that is logged in there. `state` is the server's own."""

    def __init__(self, folder, release, settings):
        site = {"jobs": [{"name": "Home", "files": FILES, "settings": settings}]}
        self.folder = folder
        self.release = release
        self.state = Duplicati(release=release, password=PASSWORD, folder=folder / "server",
                               site=site)
        self.server = make_server(self.state, port=0)
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()
        self.source = folder / "server" / "sources" / "Home"
        self.target = f"file://{folder}/server/targets/Home"
        self.back = folder / "back"
        self.host = Host(folder / "host")
        self.host.folder.mkdir()
        path = self.written("password", PASSWORD)
        login = self.host.inside("duplicati_login", f"--url={self.server.url}",
                              f"--password_file={path}")
        assert 0 == login.code, login

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
        self.state.close()

    def written(self, name, content):
        """A file of the host's with that content, which nobody else can read; its path."""
        path = self.host.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        return path

    def back_up(self):
        """Runs the job; gives what it has backed up."""
        run = self.host.inside("duplicati_run", "--id=Home", "--wait")
        assert 0 == run.code, run
        return content_of(self.source)

    def versions(self):
        return self.host.inside("duplicati_versions", "--id=Home").answer["versions"]

    def restore(self, *words, source=("--id=Home",)):
        return self.host.inside("duplicati_restore", *source, *words)

    def asked(self, end):
        """How many POST requests came whose path ends so."""
        return len([path for method, path in self.state.requests
                    if method == "POST" and path.partition("?")[0].endswith(end)])


@pytest.fixture
def place(tmp_path):
    """place(release, settings of the job) -> a Place."""
    places = []

    def make(release, settings=None):
        folder = tmp_path / f"place-{len(places)}"
        folder.mkdir()
        places.append(Place(folder, release, PLAIN if settings is None else settings))
        return places[-1]

    yield make
    for one in places:
        one.close()


@pytest.fixture(params=RELEASES)
def backed_up(request, place):
    """A Place with two versions; in the second, a.txt is another and b.txt is new."""
    there = place(request.param)
    there.old = there.back_up()
    (there.source / "a.txt").write_text("second\n")
    (there.source / "b.txt").write_text("new\n")
    there.new = there.back_up()
    return there


def test_versions_and_their_files_are_listed(backed_up):
    """Two versions, newest first; roots, a folder, a search and a file; 10 for what is not."""
    host, versions = backed_up.host, backed_up.versions()
    assert [(0, True), (1, True)] == [(row["version"], row["full"]) for row in versions]
    assert [sum(map(len, backed_up.new.values())), sum(map(len, backed_up.old.values()))] == [
        row["bytes"] for row in versions]
    source = f"{backed_up.source}/"

    def paths(*words):
        listed = host.inside("duplicati_files", "--id=1", *words)
        assert 0 == listed.code, listed
        return [row["path"].removeprefix(source) for row in listed.answer["files"]]

    assert [""] == paths()
    assert ["docs/", "photos/", "a.txt", "b.txt"] == paths(f"--path={source}")
    assert ["docs/", "photos/", "a.txt"] == paths(f"--path={source}", "--backup_version=1")
    assert ["docs/report.txt"] == paths("--filter=report")
    assert ["docs/report.txt"] == paths("--filter=*/rep?rt.txt", f"--time={versions[1]['time']}")
    assert ["b.txt"] == paths(f"--path={source}b.txt")
    for words in ([f"--path={source}none"], ["--backup_version=2"], ["--time=1Y"]):
        assert 10 == host.inside("duplicati_files", "--id=1", *words).code
    assert 10 == host.inside("duplicati_versions", "--id=7").code


def test_a_selection_comes_back_as_it_was(backed_up):
    """A file and a folder of the older version, at the place that was named, and nowhere else."""
    done = backed_up.restore("--path", f"{backed_up.source}/docs", f"{backed_up.source}/a.txt",
                             "--backup_version=1", f"--restore_path={backed_up.back}", "--wait")
    assert 0 == done.code, done
    expected = {name: content for name, content in backed_up.old.items() if "photos" not in name}
    assert expected == content_of(backed_up.back)
    assert backed_up.new == content_of(backed_up.source)
    answer = done.answer
    assert 1 == answer["version"]["version"]
    restored = answer["restored"]
    assert (3, sum(map(len, expected.values())), []) == (
        restored["files"], restored["bytes"], restored["not_restored"])
    assert "version 1 of" in done.err and "(whole)" in done.err
    assert f"goes to {backed_up.back}" in done.err and "are kept" in done.err


def test_nothing_goes_to_the_original_place_unless_asked(backed_up):
    """Everything, elsewhere: the sources stay as they are to the byte and the minute."""
    (backed_up.source / "a.txt").write_text("edited meanwhile\n")
    before = content_of(backed_up.source)
    times = {path: path.stat().st_mtime_ns for path in backed_up.source.rglob("*")}
    done = backed_up.restore(f"--restore_path={backed_up.back}", "--wait")
    assert 0 == done.code, done
    assert backed_up.new == content_of(backed_up.back)
    assert before == content_of(backed_up.source)
    assert times == {path: path.stat().st_mtime_ns for path in backed_up.source.rglob("*")}


def test_nothing_is_overwritten_unless_asked(backed_up):
    """What is there stays, and what comes gets another name; --overwrite puts it in its place."""
    backed_up.back.mkdir()
    mine = backed_up.back / "a.txt"
    mine.write_text("mine\n")
    words = [f"--path={backed_up.source}/a.txt", f"--restore_path={backed_up.back}", "--wait"]
    assert 0 == backed_up.restore(*words).code
    assert b"mine\n" == mine.read_bytes()
    assert sorted([b"mine\n", b"second\n"]) == sorted(content_of(backed_up.back).values())
    assert 0 == backed_up.restore(*words, "--overwrite").code
    assert b"second\n" == mine.read_bytes()


def test_in_place_is_where_the_files_came_from(backed_up):
    """Asked for, it goes there; and still overwrites nothing unless that is asked for, too."""
    mine = backed_up.source / "a.txt"
    mine.write_text("mine\n")
    (backed_up.source / "docs" / "report.txt").unlink()
    assert 0 == backed_up.restore("--in_place", "--wait").code
    assert b"mine\n" == mine.read_bytes()
    assert backed_up.new["docs/report.txt"] == content_of(backed_up.source)["docs/report.txt"]
    assert 0 == backed_up.restore("--in_place", "--overwrite", "--wait", "--backup_version=1").code
    assert backed_up.old["a.txt"] == mine.read_bytes()


def test_what_is_not_there_starts_nothing(backed_up):
    """No such version, none so old, a selection that matches nothing, in part even: 10."""
    to = f"--restore_path={backed_up.back}"
    source = backed_up.source
    for words in (["--backup_version=2"], ["--time=1W"], [f"--path={source}/none"],
                  ["--path", f"{source}/a.txt", f"{source}/none"], ["--path=*none*"],
                  [f"--path={source}/b.txt", "--backup_version=1"]):
        for extra in ([], ["--dry_run"]):
            done = backed_up.restore(to, *words, *extra)
            assert (10, "not_found") == (done.code, done.answer["kind"]), done
    assert 0 == backed_up.asked("/restore")
    assert not backed_up.back.exists()


def test_what_is_said_wrongly_asks_the_server_nothing(backed_up):
    """Neither place, both places, two versions, a relative folder, no source, two sources: 2."""
    before = len(backed_up.state.requests)
    to = f"--restore_path={backed_up.back}"
    for words in ([], [to, "--in_place"], [to, "--backup_version=0", "--time=3D"],
                  ["--restore_path=relative"], [to, "--time=soon"],
                  [to, f"--target_url={backed_up.target}"]):
        assert 2 == backed_up.restore(*words).code
    assert 2 == backed_up.restore(to, source=()).code
    assert 2 == backed_up.restore(to, "--id", "1", "2", source=()).code
    assert before == len(backed_up.state.requests)


def test_a_dry_run_lists_what_would_come(backed_up):
    """Files and bytes, each once; and nothing is done."""
    source = backed_up.source
    done = backed_up.restore("--path", f"{source}/docs", f"{source}/docs/report.txt", "*.jpg",
                             f"--restore_path={backed_up.back}", "--dry_run")
    assert 0 == done.code, done
    answer = done.answer
    files = {row["path"]: row["bytes"] for row in answer["entries"] if not row["folder"]}
    expected = {f"{source}/{name}": len(content) for name, content in backed_up.new.items()
                if name.startswith("docs/") or name.endswith(".jpg")}
    assert expected == files
    assert (3, sum(expected.values())) == (answer["files"], answer["bytes"])
    assert 0 == backed_up.asked("/restore") and not backed_up.back.exists()
    everything = backed_up.restore("--in_place", "--dry_run").answer
    assert (len(backed_up.new), sum(map(len, backed_up.new.values()))) == (
        everything["files"], everything["bytes"])


def test_a_pattern_brings_back_what_it_matches(backed_up):
    """`*` and `?`, where no file is of that name."""
    done = backed_up.restore("--path=*.txt", f"--restore_path={backed_up.back}", "--wait")
    assert 0 == done.code, done
    assert sorted(content for name, content in backed_up.new.items() if name.endswith("txt")) == \
        sorted(content_of(backed_up.back).values())


def test_without_wait_the_answer_says_how_to_come_back(backed_up):
    """The task's number, what goes where, and the action that waits for it."""
    done = backed_up.restore(f"--restore_path={backed_up.back}")
    assert 0 == done.code, done
    (task,) = done.answer["tasks"]
    assert f"--action=duplicati_wait --task={task['task']}" in done.answer["message"]
    assert (str(backed_up.back), False) == (
        done.answer["restore_path"], done.answer["in_place"])
    assert 0 == backed_up.host.inside("duplicati_wait", f"--task={task['task']}").code
    assert backed_up.new == content_of(backed_up.back)


def test_files_that_cannot_be_written_are_told(backed_up):
    """3, with the server's warnings, though it calls the task completed."""
    backed_up.back.write_text("a file where a folder is wanted")
    done = backed_up.restore(f"--restore_path={backed_up.back}/deeper", "--wait")
    assert (3, "warnings") == (done.code, done.answer["kind"]), done
    restored = done.answer["restored"]
    assert restored["warnings"] and 0 == restored["files"]
    if backed_up.release in ("2.3.0.4", "today"):
        assert f"{backed_up.back}/deeper/a.txt" in restored["not_restored"]


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("release", RELEASES)
def test_a_wrong_passphrase_is_a_failure_whatever_the_server_calls_it(place, release, is_right):
    """2.0 and 2.1 say "Completed": it is 4 all the same, and the passphrase stands nowhere."""
    there = place(release, {"encryption-module": "aes", "passphrase": PASSPHRASE})
    expected = there.back_up()
    passphrase = PASSPHRASE if is_right else "quite another passphrase"
    path = there.written("passphrase", passphrase + "\n")
    done = there.restore(f"--restore_path={there.back}", f"--passphrase_file={path}", "--wait",
                         "--debug")
    assert passphrase not in done.out + done.err
    if is_right:
        assert 0 == done.code, done
        assert expected == content_of(there.back)
    else:
        assert (4, "task_failed") == (done.code, done.answer["kind"]), done
        assert not there.back.exists()


@pytest.mark.parametrize("release", RELEASES)
def test_the_version_at_a_time_is_restored(backed_up_long_ago, release):
    """An age is reckoned here, backward: a server would take it forward, and restore the newest."""
    there = backed_up_long_ago(release)
    done = there.restore("--time=2D", f"--restore_path={there.back}", "--wait")
    assert 0 == done.code, done
    assert 1 == done.answer["version"]["version"]
    assert there.old == content_of(there.back)


@pytest.fixture
def backed_up_long_ago(place):
    """make(release) -> a Place with a version of now and one that is three days old."""
    def make(release):
        there = place(release)
        there.old = there.back_up()
        _set_back(there, timedelta(days=3))
        (there.source / "a.txt").write_text("second\n")
        there.back_up()
        return there

    return make


def _set_back(there, age):
    """Makes the only version of the demo's target older: its file, and what the job knows."""
    import zipfile

    from demo.duplicati_server.moments import stamp
    from demo.duplicati_server.operations import database_of, target_of

    job = there.state.store.backup("1")
    (old,) = target_of(job).stamps().values()
    with zipfile.ZipFile(old) as archive:
        document = json.loads(archive.read("filelist.json"))
    moment = datetime.fromisoformat(document["time"]) - age
    document["time"] = moment.isoformat()
    fresh = old.with_name(f"duplicati-{stamp(moment)}.dlist.zip")
    with zipfile.ZipFile(fresh, "w") as archive:
        archive.writestr("filelist.json", json.dumps(document))
    old.unlink()
    database_of(job).know({stamp(moment)})


@pytest.mark.parametrize("release", ["2.0.8.1", "2.3.0.4", "today"])
def test_a_partial_version_is_called_partial(place, release):
    """One that was stopped: in the list, and before a restore of it begins."""
    there = place(release)
    there.state.hold("Home")
    run = there.host.inside("duplicati_run", "--id=Home")
    assert there.state.wait_reached("Home")
    task = run.answer["tasks"][0]["task"]
    abort = there.host.start("duplicati_abort", f"--task={task}", "--graceful")
    assert there.state.engine.wait_until(
        lambda: any("/task/" in path and method == "POST"
                    for method, path in there.state.requests), 10)
    there.state.release("Home")
    abort.communicate(timeout=60)
    assert there.state.wait_idle()
    assert [False] == [row["full"] for row in there.versions()]
    done = there.restore(f"--restore_path={there.back}", "--dry_run")
    assert 0 == done.code and "(partial)" in done.err, done


# -- without a job -------------------------------------------------------------------------

def fresh_place(place, release, there):
    """A server of that release that knows nothing of what `there` has backed up."""
    fresh = place(release, {**PLAIN, "--demo-seconds": "0"})
    fresh.target = there.target
    return fresh


def ended_clean(fresh):
    """Whether nothing temporary is left on the server."""
    assert fresh.state.wait_idle()
    return not fresh.state.store.temporary and not list(
        (fresh.folder / "server" / "data").glob("temporary-*"))


@pytest.mark.parametrize("release", RELEASES)
def test_a_bare_target_is_restored_from(place, release):
    """An older version from a target alone, on a server that has no such job; it leaves none."""
    there = place("2.3.0.4", {"encryption-module": "aes", "passphrase": PASSPHRASE})
    old = there.back_up()
    (there.source / "a.txt").write_text("second\n")
    new = there.back_up()
    fresh = fresh_place(place, release, there)
    passphrase = fresh.written("passphrase", PASSPHRASE)
    source = (f"--target_url={there.target}", f"--passphrase_file={passphrase}")
    done = fresh.restore("--backup_version=1", f"--restore_path={fresh.back}", source=source)
    assert 0 == done.code, done
    assert old == content_of(fresh.back)
    assert new == content_of(there.source)
    assert (len(old), sum(map(len, old.values()))) == (
        done.answer["restored"]["files"], done.answer["restored"]["bytes"])
    assert PASSPHRASE not in done.out + done.err
    done = fresh.restore("--path=*/report.txt", f"--restore_path={fresh.back}2", source=source)
    assert 0 == done.code, done
    assert {"report.txt": old["docs/report.txt"]} == content_of(fresh.folder / "back2")
    assert ended_clean(fresh)
    assert 1 == len(fresh.state.store.backups())


@pytest.mark.parametrize("release", RELEASES)
def test_an_export_is_restored_from(place, release):
    """As a server gives it, and encrypted; a dry run says what would come, and leaves nothing."""
    there = place(release, {"encryption-module": "aes", "passphrase": PASSPHRASE})
    expected = there.back_up()
    folder = there.folder / "exports"
    folder.mkdir()
    exported = there.host.inside("duplicati_export", "--id=Home", f"--output_path={folder}",
                              "--file_format=json")
    assert 0 == exported.code, exported
    (export,) = folder.iterdir()
    fresh = fresh_place(place, release, there)
    source = (f"--config_file={export}",)
    preview = fresh.restore("--in_place", "--dry_run", source=source)
    assert 0 == preview.code, preview
    assert (len(expected), sum(map(len, expected.values()))) == (
        preview.answer["files"], preview.answer["bytes"])
    assert 0 == fresh.asked("/restore")
    done = fresh.restore(f"--restore_path={fresh.back}", source=source)
    assert 0 == done.code, done
    assert expected == content_of(fresh.back)
    assert PASSPHRASE not in preview.out + preview.err + done.out + done.err
    assert ended_clean(fresh)


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_an_encrypted_export_and_one_without_passwords_need_a_passphrase(place, is_encrypted):
    """The file's own, or the backup's; without it, it is 2, and nothing is asked."""
    from remotes import aescrypt

    there = place("2.3.0.4", {"encryption-module": "aes", "passphrase": PASSPHRASE})
    expected = there.back_up()
    settings = [{"Name": "encryption-module", "Value": "aes"}]
    settings += [{"Name": "passphrase", "Value": PASSPHRASE}] if is_encrypted else []
    content = json.dumps({"Backup": {"TargetURL": there.target, "Settings": settings}}).encode()
    secret = "of the file" if is_encrypted else PASSPHRASE
    export = there.written("export", aescrypt.encrypt(content, secret) if is_encrypted else content)
    before = len(there.state.requests)
    words, source = [f"--restore_path={there.back}"], (f"--config_file={export}",)
    assert 2 == there.restore(*words, source=source).code
    assert before == len(there.state.requests)
    path = there.written("passphrase", secret)
    done = there.restore(*words, f"--passphrase_file={path}", source=source)
    assert 0 == done.code, done
    assert expected == content_of(there.back)


@pytest.mark.parametrize("release", RELEASES)
def test_a_failed_restore_without_a_job_leaves_nothing_behind(place, release):
    """A wrong or missing passphrase is 1, an empty or missing target or version 10, in the same
    words for all releases; no temporary backup stays."""
    there = place(release, {"encryption-module": "aes", "passphrase": PASSPHRASE})
    there.back_up()
    wrong = there.written("wrong", "quite another passphrase")
    to = f"--restore_path={there.back}"
    url = f"--target_url={there.target}"
    for words in ([f"--passphrase_file={wrong}"], []):
        done = there.restore(to, *words, source=(url,))
        assert (1, 0) == (done.code, done.answer["message"].find(
            "the passphrase does not fit what is at the target: --passphrase_file (")), done
        assert "Failed to decrypt" in done.answer["message"]
        assert "quite another" not in done.out + done.err
    right = there.written("right", PASSPHRASE)
    done = there.restore(to, f"--passphrase_file={right}", "--backup_version=3", source=(url,))
    assert 10 == done.code, done
    done = there.restore(to, f"--passphrase_file={right}", "--path=/none", source=(url,))
    assert 10 == done.code, done
    done = there.restore(to, source=(f"--target_url=file://{there.folder}/nowhere",))
    assert (10, 0) == (done.code, done.answer["message"].find(
        "there is no backup at the target: its folder is not there, or holds none")), done
    assert ended_clean(there) and not there.back.exists()


@pytest.mark.parametrize("operation", ["repairupdate", "restore"])
@pytest.mark.parametrize("release", RELEASES)
def test_ctrl_c_in_a_restore_without_a_job_clears_up(place, release, operation):
    """130; the task is aborted, and the temporary backups are gone."""
    there = place(release)
    there.back_up()
    slow = "repairupdate" if operation == "repairupdate" else "restore"
    settings = [{"Name": name, "Value": value} for name, value in PLAIN.items()]
    settings += [{"Name": f"--demo-{slow}-seconds", "Value": "60"}]
    export = there.written("export", json.dumps({"Backup": {
        "TargetURL": there.target, "Settings": settings}}))
    process = there.host.start("duplicati_restore", f"--config_file={export}",
                               f"--restore_path={there.back}")
    assert there.state.engine.wait_until(
        lambda: there.asked(f"/{operation}") and there.state.engine.active, 30)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert 130 == process.returncode, err
    assert "is aborted" in err
    assert ended_clean(there)
    assert time.monotonic() - began < 50 and not there.back.exists()
    assert os.path.exists(there.source)


@pytest.mark.parametrize("release", RELEASES)
def test_a_server_that_restarts_in_a_restore_without_a_job_is_told(place, release):
    """It forgets temporary backups: 4, interrupted; nothing is left, and nothing to clear up."""
    there = place(release)
    there.back_up()
    settings = [{"Name": "--no-encryption", "Value": "true"},
                {"Name": "--demo-restore-seconds", "Value": "60"}]
    export = there.written("export", json.dumps({"Backup": {
        "TargetURL": there.target, "Settings": settings}}))
    process = there.host.start("duplicati_restore", f"--config_file={export}",
                               f"--restore_path={there.back}")
    assert there.state.engine.wait_until(lambda: _is_looked_at(there), 30)
    there.state.crash_and_restart()
    out, err = process.communicate(timeout=60)
    assert 4 == process.returncode, out + err
    assert "interrupted" == json.loads(out)["tasks"][0]["result"]
    assert "stays" not in err
    assert not there.state.store.temporary and not there.back.exists()


def _is_looked_at(there):
    """Whether the client has asked for the server's state since it asked for the restore."""
    paths = [path.partition("?")[0] for _, path in there.state.requests]
    asked = [place for place, path in enumerate(paths) if path.endswith("/restore")]
    return bool(asked) and there.state.engine.active is not None \
        and any(path.endswith("/serverstate") for path in paths[asked[-1]:])
