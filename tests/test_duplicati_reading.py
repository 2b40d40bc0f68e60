"""Actions that read from a Duplicati server, against four releases: lists, single things, logs."""

import contextlib
import json
import signal
import threading
from datetime import timedelta

import pytest
import yaml

from demo import duplicati
from remotes.duplicati import moments
from tests.conftest import RELEASES, job

ALL = pytest.mark.parametrize("release", RELEASES)
BOTH = pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]])
SECRET = "a-secret-of-the-target"
LOGS = ("backup", "remote", "stored", "live")


def secret_job(name="Home"):
    """A job with a secret in its target and one among its settings."""
    return {**job(name), "target_url": f"ftp://host/folder?auth-username=ann&auth-password={SECRET}",
            "settings": {"encryption-module": "aes", "passphrase": SECRET, "--demo-seconds": 0}}


def ran(host, *words):
    """A run to its end; what came of it is judged elsewhere."""
    return host.inside("duplicati_run", "--id", *(words or ("1",)), "--wait")


# -- lists ---------------------------------------------------------------------------------

@ALL
def test_each_list_has_what_there_is(play, operator, release):
    """Backups with their versions and sizes, databases, notifications, settings, system, tasks."""
    server = play(release, job("Home", ending="warning"), job("Other"))
    host = operator(server)
    assert 3 == ran(host).code

    def listed(kind):
        result = host.inside("duplicati_list", f"--type={kind}")
        assert (0, "OK", "") == (result.code, result.answer["status"], result.err)
        return result.answer[kind]

    home, other = listed("backups")
    assert ("1", "Home", 1, 9, None) == tuple(
        home[name] for name in ("id", "name", "versions", "source_bytes", "error"))
    assert home["target_bytes"] > 0 and moments.parse(home["last_backup"])
    assert ("Other", None, None) == (other["name"], other["last_backup"], other["versions"])
    databases = listed("databases")
    assert ["Home", "Other"] == [row["name"] for row in databases]
    assert all(row["path"].endswith(".sqlite") for row in databases)
    (warning,) = listed("notifications")
    assert ("Warning", "1") == (warning["type"], warning["backup"])
    assert moments.parse(warning["at"])
    assert "startup-delay" in listed("serversettings")
    assert listed("systeminfo")["ServerVersion"] in (release, "1.0.0.0")
    assert [] == listed("tasks")


@ALL
def test_tasks_are_listed_alike_on_all_releases(play, operator, release):
    """The one that runs, and those that wait."""
    server = play(release, job("Home"), job("Other"))
    host = operator(server)
    server.state.hold("Home")
    assert 0 == host.inside("duplicati_run", "--all").code
    assert server.state.wait_reached("Home")
    first, second = server.state.tasks
    assert [{"task": first, "state": "running", "backup": "1"},
            {"task": second, "state": "queued", "backup": "2"}
            ] == host.inside("duplicati_list", "--type=tasks").answer["tasks"]


@ALL
def test_an_error_is_listed_until_a_backup_is_newer(play, operator, release):
    """Servers never clear it."""
    server = play(release, job("Home", ending="fatal"))
    host = operator(server)
    ran(host)
    (row,) = host.inside("duplicati_list", "--type=backups").answer["backups"]
    assert row["error"]
    assert server.state.wait_idle()
    backup = server.state.store.backup("1")
    backup["Metadata"] |= {"LastBackupFinished": "29990101T000000Z"}
    server.state.store.save_backup("1", backup)
    (row,) = host.inside("duplicati_list", "--type=backups").answer["backups"]
    assert row["error"] is None


@pytest.mark.parametrize("action, kind, named", [
    ("duplicati_list", "backup", "backups, databases"), ("duplicati_get", "backups", "backup, not"),
    ("duplicati_describe", "x", "notification"), ("duplicati_logs", "life", "did you mean live?"),
])
def test_a_wrong_type_names_the_right_ones(operator, play, action, kind, named):
    """2, before anything is asked of the server."""
    server = play("2.3.0.4", job("Home"))
    host = operator(server)
    seen = len(server.state.requests)
    words = () if action == "duplicati_list" else ("--id=1",)
    result = host.inside(action, f"--type={kind}", *words)
    assert (2, "usage", 1) == (result.code, result.answer["kind"], result.err.count("\n"))
    assert named in result.answer["message"]
    assert seen == len(server.state.requests)


@ALL
@pytest.mark.parametrize("form", ["table", "yaml"])
def test_what_is_read_has_other_forms(play, operator, release, form):
    """Tables show sizes and times as people read them; YAML is what JSON is."""
    host = operator(play(release, {**job("Home"), "files": {"a.bin": 5000}}))
    assert 0 == ran(host).code
    for words in [("duplicati_list", f"--type={kind}") for kind in (
            "backups", "databases", "notifications", "serversettings", "systeminfo", "tasks")] + [
            ("duplicati_get", "--type=backup", "--id=1"), ("duplicati_status",),
            ("duplicati_describe", "--type=backup", "--id=1"), ("duplicati_versions", "--id=1"),
            ("duplicati_files", "--id=1", "--filter=a.bin"),
            *(("duplicati_logs", f"--type={kind}", "--id=1") for kind in LOGS)]:
        result = host.inside(*words, f"--output={form}")
        assert (0, "") == (result.code, result.err), (words, result)
        if form == "yaml":
            assert "OK" == yaml.safe_load(result.out)["status"]
            continue
        assert "OK" in result.out.splitlines()[0]
        if words[0] in ("duplicati_get", "duplicati_versions", "duplicati_files") \
                or words[-1] == "--type=backups":
            assert "4.9 KiB" in result.out, result.out
        if words[0] in ("duplicati_get", "duplicati_versions") or words[-1] == "--type=backups":
            local = moments.parse(host.inside("duplicati_list", "--type=backups").answer[
                "backups"][0]["last_backup"]).astimezone().strftime("%Y-%m-%d %H:")
            assert local in result.out, result.out


# -- single things -------------------------------------------------------------------------

@ALL
def test_a_backup_is_got_by_id_and_by_name(play, operator, release):
    """Several at once, each by either; get is brief, describe is all."""
    host = operator(play(release, job("Home"), job("My other")))
    brief = host.inside("duplicati_get", "--type=backup", "--id", "My other", "1")
    assert (0, ["2", "1"]) == (brief.code, [row["id"] for row in brief.answer["backups"]])
    whole = host.inside("duplicati_describe", "--type=backup", "--id=Home")
    (home,) = whole.answer["backups"]
    assert {"Backup", "Schedule", "DisplayNames"} == set(home)
    assert "Home" == home["Backup"]["Name"] and home["Backup"]["Settings"]


@ALL
def test_what_is_missing_is_told(play, operator, release):
    """One of several: 3, with the others; all of them, or the only one: 10."""
    host = operator(play(release, job("Home")))
    for action in ("duplicati_get", "duplicati_describe"):
        some = host.inside(action, "--type=backup", "--id", "1", "77", "Hom")
        assert (3, "some_missing", 1, ["77", "Hom"]) == (
            some.code, some.answer["kind"], len(some.answer["backups"]),
            [row["id"] for row in some.answer["missing"]])
        assert "did you mean 'Home'?" in some.answer["message"] and 1 == some.err.count("\n")
        for names in (("77",), ("Hom",), ("77", "Hom"), ("78", "77")):
            none = host.inside(action, "--type=backup", "--id", *names)
            assert (10, "not_found", 1) == (none.code, none.answer["kind"], none.err.count("\n"))
    assert 2 == host.inside("duplicati_get", "--type=backup").code


@ALL
def test_digits_are_an_id_and_two_of_one_name_are_refused(play, operator, release):
    """A backup that is named 2 is reached by its ID; of two Twins, the IDs are told."""
    server = play(release, job("2"), job("Home"), job("Twin"), job("Other"))
    host = operator(server)
    backup = server.state.store.backup("4")
    server.state.store.save_backup("4", {**backup, "Name": "Twin"})
    (row,) = host.inside("duplicati_get", "--type=backup", "--id=2").answer["backups"]
    assert "Home" == row["name"]
    for words in (("duplicati_get", "--type=backup"), ("duplicati_run",), ("duplicati_versions",)):
        twins = host.inside(*words, "--id=Twin")
        assert (1, "refused") == (twins.code, twins.answer["kind"])
        assert "3, 4" in twins.answer["message"]
    assert not server.state.tasks


@ALL
def test_notifications_are_got_by_number(play, operator, release):
    """Brief and whole; one that is not there; a name is none."""
    host = operator(play(release, job("Home", ending="fatal")))
    ran(host)
    (listed,) = host.inside("duplicati_list", "--type=notifications").answer["notifications"]
    number = f"--id={listed['id']}"
    assert [listed] == host.inside(
        "duplicati_get", "--type=notification", number).answer["notifications"]
    (whole,) = host.inside(
        "duplicati_describe", "--type=notification", number).answer["notifications"]
    assert (listed["id"], "backup:show-log") == (whole["ID"], whole["Action"])
    assert 10 == host.inside("duplicati_get", "--type=notification", "--id=4711").code
    some = host.inside("duplicati_get", "--type=notification", "--id", str(listed["id"]), "4711")
    assert (3, 1) == (some.code, len(some.answer["notifications"]))
    assert 2 == host.inside("duplicati_get", "--type=notification", "--id=Home").code


@ALL
def test_nothing_secret_is_shown_unless_it_is_asked_for(play, operator, release):
    """In no form and by no action; with --show_secrets what the server sends, as it is."""
    server = play(release, secret_job())
    host = operator(server)
    server.state.store.add_error("1", f"ftp://ann:{SECRET}@host/ --passphrase={SECRET}", "", 1)
    for words in [("duplicati_list", f"--type={kind}") for kind in (
            "backups", "databases", "serversettings", "systeminfo", "tasks")] + [
            ("duplicati_get", "--type=backup", "--id=1"), ("duplicati_logs", "--type=stored"),
            ("duplicati_describe", "--type=backup", "--id=1")]:
        for more in ((), ("--output=table",), ("--output=yaml",), ("--debug", "--verbose")):
            result = host.inside(*words, *more)
            assert 0 == result.code and SECRET not in result.out + result.err, words
    # The list is never masked by servers; a single backup is from 2.3 on.
    shown = host.inside("duplicati_list", "--type=backups", "--show_secrets")
    assert SECRET in shown.answer["backups"][0]["target"]
    whole = host.inside("duplicati_describe", "--type=backup", "--id=1", "--show_secrets")
    assert (release in ("2.0.8.1", "2.1.0.5")) == (SECRET in whole.out)


# -- status --------------------------------------------------------------------------------

@ALL
def test_the_status_tells_what_runs_waits_and_is_paused(play, operator, release):
    """By number, ID and name; the schedule; the session."""
    schedule = {"repeat": "1D", "time": "2999-08-22T13:00:00Z"}
    server = play(release, job("Home"), job("Other"), {**job("Daily"), "schedule": schedule})
    host = operator(server)
    idle = host.inside("duplicati_status").answer
    assert ("running", None, []) == (idle["state"], idle["active"], idle["queued"])
    assert [{"id": "3", "name": "Daily", "at": "2999-08-22T13:00:00Z"}] == idle["next"]
    assert server.url == idle["url"] and idle["session"]["logs_in_again"]
    server.state.hold("Home")
    assert 0 == host.inside("duplicati_run", "--id", "1", "2").code
    assert server.state.wait_reached("Home")
    first, second = server.state.tasks
    busy = host.inside("duplicati_status").answer
    assert {"task": first, "id": "1", "name": "Home"} == busy["active"]
    assert [{"task": second, "id": "2", "name": "Other"}] == busy["queued"]
    host.inside("duplicati_pause", "--duration=1h")
    paused = host.inside("duplicati_status").answer
    assert "paused" == paused["state"] and moments.parse(paused["paused_until"])


@ALL
def test_the_status_is_truthful_of_a_server_that_is_away(play, operator, release):
    """75: the answer tells of which server, and that there is a session all the same."""
    server = play(release)
    host = operator(server)
    server.shutdown()
    server.server_close()
    result = host.inside("duplicati_status")
    assert (75, "unreachable", "away", server.url, True) == (result.code, *(
        result.answer[name] for name in ("kind", "state", "url", "logged_in")))
    assert 1 == result.err.count("\n")


@ALL
def test_the_status_is_truthful_of_a_session_that_is_over(play, operator, release):
    """12, and what to do; nothing is known of the server then but where it is."""
    server = play(release)
    host = operator(server)
    (host.folder / "password").write_text("another one\n")
    if release == "2.0.8.1":
        server.state.expire_tokens()
    else:
        server.state.expire_tokens()
        document = host.document()
        document["duplicati"]["servers"]["default"].pop("refresh_cookie", None)
        host.settings.write_text(yaml.safe_dump(document))
    result = host.inside("duplicati_status")
    assert (12, "refused", server.url) == (result.code, result.answer["state"],
                                           result.answer["url"])
    assert 1 == result.err.count("\n")


# -- logs ----------------------------------------------------------------------------------

def rows_of(host, *words):
    result = host.inside("duplicati_logs", *words)
    assert (0, "") == (result.code, result.err), result
    return result.answer["lines"]


def fill(server, count, backup_id="1"):
    """Puts results of so many runs into the log of a backup, one a second from 2026 on."""
    database = duplicati_database(server, backup_id)
    for number in range(count):
        at = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        database.add_result(database.begin("Backup"), 1767225600 + number, json.dumps({
            "MainOperation": "Backup", "ParsedResult": "Success", "BeginTime": at, "EndTime": at}))


def duplicati_database(server, backup_id):
    from demo.duplicati_server.aftermath import database_of

    database = database_of(server.state.store.backup(backup_id))
    database.make()
    return database


@ALL
def test_the_log_of_a_backup_gives_its_last_rows_in_order(play, operator, release):
    """One, ten, and more than a page of the server's holds; each with what it means."""
    server = play(release, job("Home"))
    host = operator(server)
    fill(server, 1300)
    for count in (1, 10, 1000):
        rows = rows_of(host, "--type=backup", "--id=Home", f"--lines={count}")
        assert list(range(1301 - count, 1301)) == [row["ID"] for row in rows]
    assert ("Backup", "success", "2026-01-01T00:21:39Z") == tuple(
        rows[-1][name] for name in ("Operation", "Outcome", "Timestamp"))
    assert "Backup" == rows[-1]["Result"]["MainOperation"] and "Message" not in rows[-1]
    assert 1300 == len(rows_of(host, "--type=backup", "--id=1", "--lines=5000"))
    since = rows_of(host, "--type=backup", "--id=1", "--lines=5000", "--since=2026-01-01T00:20:00Z")
    assert (100, "2026-01-01T00:20:00Z") == (len(since), since[0]["Timestamp"])
    assert [] == rows_of(host, "--type=backup", "--id=1", "--since=1h")


@ALL
def test_the_log_of_the_target_says_what_was_done_there(play, operator, release):
    """put, list, get, with sizes and names as the server has them."""
    host = operator(play(release, job("Home")))
    ran(host)
    rows = rows_of(host, "--type=remote", "--id=1", "--lines=1000")
    assert {"put", "list"} <= {row["Operation"] for row in rows}
    assert rows == sorted(rows, key=lambda row: row["ID"])
    assert rows[-1:] == rows_of(host, "--type=remote", "--id=1", "--lines=1", "--since=1h")
    assert {} not in [value for row in rows for value in row.values()]


@ALL
def test_the_stored_log_is_read_over_several_pages(play, operator, release):
    """Its rows have no number, and many share a second: none is lost or told twice."""
    server = play(release, job("Home"))
    host = operator(server)
    for number in range(1200):
        server.state.store.add_error("1", f"error {number}", "trace", 1767225600 + number // 7)
    for count in (1, 10, 1000, 1200):
        rows = rows_of(host, "--type=stored", f"--lines={count}")
        told = [row["Message"] for row in rows if row["Message"].startswith("error")]
        assert count == len(rows) and len(set(told)) == len(told)
        assert {f"error {number}" for number in range(1207 - count, 1200)} <= set(told)
    since = rows_of(host, "--type=stored", "--lines=5000", "--since=2026-01-01T00:02:00Z")
    assert {f"error {number}" for number in range(840, 1200)} == {row["Message"] for row in since}


@ALL
def test_the_live_log_gives_what_is_at_least_that_bad(play, operator, release):
    """Of the level and above."""
    server = play(release, job("Home"))
    host = operator(server)
    rows_of(host, "--type=live", "--level=Information")  # from now on it is kept
    for level in ("Information", "Warning", "Error"):
        server.state.live.add(level, "a-Tag", f"one {level}")
    for level, count in (("Information", 3), ("Warning", 2), ("Error", 1)):
        rows = rows_of(host, "--type=live", f"--level={level}")
        assert ["Information", "Warning", "Error"][-count:] == [row["Type"] for row in rows]
    assert ["one Error"] == [row["Message"] for row in rows_of(host, "--type=live", "--lines=1")]
    assert moments.parse(rows[0]["When"])
    assert 2 == host.inside("duplicati_logs", "--type=live", "--level=warning").code


@ALL
def test_a_backup_that_never_ran_has_an_empty_log(play, operator, release):
    """0: on 2.0 the server fails at it. One that is not there: 10."""
    host = operator(play(release, job("Home")))
    for kind in ("backup", "remote"):
        assert [] == rows_of(host, f"--type={kind}", "--id=1")
        assert 10 == host.inside("duplicati_logs", f"--type={kind}", "--id=Nothing").code
        assert 2 == host.inside("duplicati_logs", f"--type={kind}").code
        assert 2 == host.inside("duplicati_logs", f"--type={kind}", "--id=1", "--since=x").code


@ALL
def test_a_log_whose_database_is_locked_is_told_in_one_line(play, operator, release):
    """Today: 75, database_locked. Before: what the server gives."""
    server = play(release, job("Home"))
    host = operator(server)
    ran(host)
    server.state.hold("Home")
    assert 0 == host.inside("duplicati_run", "--id=1").code
    assert server.state.wait_reached("Home")
    for kind in ("backup", "remote"):
        result = host.inside("duplicati_logs", f"--type={kind}", "--id=1")
        if release == "today":
            assert (75, "database_locked", 1) == (result.code, result.answer["kind"],
                                                  result.err.count("\n"))
            assert "try again" in result.answer["message"]
        else:
            assert 0 == result.code


# -- following -----------------------------------------------------------------------------

@contextlib.contextmanager
def following(host, *words):
    """The client that follows a log, as a process; it is ended."""
    process = host.start("duplicati_logs", "--follow", *words)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def next_line(process):
    """The next line of its answers, which it may wait for."""
    return json.loads(process.stdout.readline())


@ALL
def test_a_log_is_followed_until_ctrl_c(play, operator, release):
    """The last rows, then each new one as it happens, a line each; 130."""
    server = play(release, job("Home"))
    host = operator(server)
    fill(server, 3)
    with following(host, "--type=backup", "--id=1", "--lines=2") as process:
        assert [("log", 2), ("log", 3)] == [
            (line["event"], line["ID"]) for line in (next_line(process), next_line(process))]
        fill(server, 700)  # more than a page holds
        assert list(range(4, 704)) == [next_line(process)["ID"] for _ in range(700)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (130, 130, "interrupted") == (process.returncode, json.loads(out)["exit"],
                                         json.loads(out)["kind"])
    assert "client: duplicati_logs: ended by SIGINT\n" == err


@BOTH
def test_following_goes_on_when_the_server_comes_back(play, operator, release):
    """It is told once that it is away, once that it answers; what has happened meanwhile, too."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.live.poll("Error", 0, 10)  # 2.0 keeps nothing that nobody reads
    server.state.live.add("Error", "a-Tag", "before")
    with following(host, "--type=live") as process:
        assert "before" == next_line(process)["Message"]
        server.shutdown()
        server.server_close()
        assert "following goes on, though" in process.stderr.readline()
        server.state.live.add("Error", "a-Tag", "meanwhile")
        back = duplicati.make_server(server.state, server.server_address[1])
        thread = threading.Thread(target=back.serve_forever, daemon=True)
        thread.start()
        try:
            assert "answers again" in process.stderr.readline()
            assert "meanwhile" == next_line(process)["Message"]
        finally:
            back.shutdown()
            back.server_close()
            thread.join()


@BOTH
@pytest.mark.parametrize("count", [1, 9])
def test_following_outlives_numbers_that_begin_anew(play, operator, release, count):
    """A restart: fewer entries than before, or more, whose numbers go on beyond the last one."""
    server = play(release, job("Home"))
    host = operator(server)
    rows_of(host, "--type=live")
    for number in range(5):
        server.state.live.add("Error", "a-Tag", f"old {number}")
    with following(host, "--type=live") as process:
        assert [f"old {number}" for number in range(5)] == [
            next_line(process)["Message"] for _ in range(5)]
        server.shutdown()
        server.server_close()
        assert "following goes on, though" in process.stderr.readline()
        server.state.crash_and_restart()
        server.state.live.poll("Error", 0, 10)  # 2.0 keeps nothing that nobody reads
        for number in range(count):
            server.state.live.add("Error", "a-Tag", f"new {number}")
        back = duplicati.make_server(server.state, server.server_address[1])
        thread = threading.Thread(target=back.serve_forever, daemon=True)
        thread.start()
        try:
            assert [f"new {number}" for number in range(count)] == [
                next_line(process)["Message"] for _ in range(count)]
        finally:
            back.shutdown()
            back.server_close()
            thread.join()


@ALL
def test_following_waits_for_a_database_that_is_locked(play, operator, release):
    """Nothing is said of it; when the run is over, its row is told."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.hold("Home")
    assert 0 == host.inside("duplicati_run", "--id=1").code
    assert server.state.wait_reached("Home")
    seen = len(server.state.requests)
    with following(host, "--type=backup", "--id=1") as process:
        assert server.state.engine.wait_until(lambda: any(
            "/log" in path for _, path in server.state.requests[seen:]), 20)
        server.state.release("Home")
        line = next_line(process)
        assert ("Backup", "success") == (line["Operation"], line["Outcome"])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "client: duplicati_logs: ended by SIGINT\n" == err


@BOTH
def test_the_stored_log_is_followed_within_one_second(play, operator, release):
    """Rows that share their second with those that were told are new all the same, once."""
    server = play(release, job("Home"))
    host = operator(server)
    moment = int((moments.parse("2026-01-01T00:00:00Z") + timedelta(days=1)).timestamp())
    server.state.store.add_error("1", "first", "", moment)
    with following(host, "--type=stored", "--since=2026-01-01") as process:
        assert "first" == next_line(process)["Message"]
        for name in ("second", "third"):
            server.state.store.add_error("1", name, "", moment)
            assert name == next_line(process)["Message"]
        server.state.store.add_error("1", "fourth", "", moment + 1)
        assert "fourth" == next_line(process)["Message"]


# -- what is not there ---------------------------------------------------------------------

@ALL
def test_a_backup_that_is_named_in_digits_is_pointed_out(play, operator, release):
    """Digits are an ID, never a name: 10, with the number of the one that is named so. A name
    that nobody bears says no more than that there is none.
    """
    server = play(release, job("Home"), job("12345"))
    host = operator(server)
    for action in ("duplicati_run", "duplicati_versions", "duplicati_get"):
        words = ["--type=backup"] if action == "duplicati_get" else []
        for name, more in (("12345", "; one has that name: its number is 2"), ("54321", "")):
            result = host.inside(action, f"--id={name}", *words)
            assert (10, f"{server.url} has no backup {name}{more}") == (
                result.code, result.answer["message"]), (action, result)
    for kind in ("backup", "remote"):
        result = host.inside("duplicati_logs", f"--type={kind}", "--id=12345")
        assert result.code in (0, 10)  # some releases have an empty log for any number
        if result.code:
            assert "its number is 2" in result.answer["message"]


@ALL
def test_a_task_that_is_not_known_says_where_its_end_is_told(play, operator, release):
    """10, and the next step."""
    server = play(release, job("Home"))
    result = operator(server).inside("duplicati_wait", "--task=99")
    assert (10, f"{server.url} has no task 99: it was started anew, or has forgotten it; how the"
                " last run of a backup ended: --action=duplicati_logs --type=backup --id=…") == (
        result.code, result.answer["message"])
