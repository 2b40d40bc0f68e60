"""Actions that have a Duplicati server do something, against four releases: pauses, tasks of one
backup that follow each other closely, and how a task is shown while it goes on. How runs end is
judged in test_duplicati_waiting.py.
"""

import json
import os
import pty
import re
import select

import pytest

from remotes.actions.duplicati.acting import standing
from remotes.actions.running import build_context, find_action
from remotes.duplicati import moments, progress, tasks
from remotes.duplicati.outcomes import Outcome
from tests.conftest import RELEASES, job

ALL = pytest.mark.parametrize("release", RELEASES)
OLDEST = pytest.mark.parametrize("release", ("2.0.6.3", *RELEASES))


def the_task(result):
    """The one task of an answer."""
    (task,) = result.answer["tasks"]
    return task


# -- pauses --------------------------------------------------------------------------------

@ALL
def test_a_pause_lasts_until_it_is_ended(play, operator, release):
    """Each says whether it changed something: a second one does not."""
    host = operator(play(release))
    for action, changed, state in (
            ("duplicati_resume", False, "running"), ("duplicati_pause", True, "paused"),
            ("duplicati_pause", False, "paused"), ("duplicati_resume", True, "running"),
            ("duplicati_resume", False, "running")):
        result = host.inside(action)
        assert (0, changed, state, None, "") == (result.code, *(
            result.answer[name] for name in ("changed", "state", "paused_until")), result.err)


@ALL
@pytest.mark.parametrize("typed, seconds", [
    ("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1D", 86400), ("2h1s", 7201)])
def test_a_pause_may_have_an_end(play, operator, release, typed, seconds):
    """In the grammar of the servers; the end is told."""
    host = operator(play(release))
    now = moments.parse(host.inside("duplicati_list", "--type=systeminfo").answer[
        "systeminfo"]["ServerTime"])
    result = host.inside("duplicati_pause", f"--duration={typed}")
    assert (0, True, "paused", "") == (result.code, result.answer["changed"],
                                       result.answer["state"], result.err)
    until = moments.parse(result.answer["paused_until"])
    assert 0 <= (until - now).total_seconds() - seconds < 30


@ALL
def test_a_pause_that_the_server_cuts_short_is_told(play, operator, release):
    """More than a day: it resumes after 24 hours, whatever it says."""
    host = operator(play(release))
    for typed, lines in (("25h", 1), ("2D", 1), ("24h", 0)):
        result = host.inside("duplicati_pause", f"--duration={typed}")
        assert (0, lines) == (result.code, result.err.count("24 hours")), result


@pytest.mark.parametrize("typed", ["", "0", "0s", "-5m", "1.5h", "5 m", "soon", "1H", "5min", "m"])
def test_a_duration_that_is_none_pauses_nothing(play, operator, typed):
    """2; for a server, one of no length would be one without end."""
    server = play("2.3.0.4")
    host = operator(server)
    result = host.inside("duplicati_pause", f"--duration={typed}")
    assert (2, "usage", 1) == (result.code, result.answer["kind"], result.err.count("\n"))
    assert "running" == host.inside("duplicati_status").answer["state"]


# -- one after another ---------------------------------------------------------------------

@pytest.fixture
def encrypted(play, operator, tmp_path):
    """encrypted(release) -> (server, host, restore): a backup with a version; `restore(word)`
    starts a restore of it with the passphrase `right` or `wrong`.
    """
    def make(release):
        home = job("Home", restore_seconds=0.6)
        home["settings"] = {**home["settings"], "encryption-module": "aes", "passphrase": "right"}
        del home["settings"]["--no-encryption"]
        server = play(release, home)
        host = operator(server)
        assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
        for word in ("right", "wrong"):
            (tmp_path / word).write_text(word)

        def restore(word, *more):
            return host.inside("duplicati_restore", "--id=1", f"--restore_path={tmp_path}/back",
                               f"--passphrase_file={tmp_path / word}", *more)
        return server, host, restore

    return make


EXPECTED = {"right": (0, "success"), "wrong": (4, "error")}


@OLDEST
@pytest.mark.parametrize("words", [("wrong", "right"), ("right", "wrong"),
                                   ("right", "wrong", "right", "wrong", "wrong", "right")])
def test_restores_one_after_another_never_share_a_result(encrypted, release, words):
    """Right and wrong passphrase within a second: each ends as it did."""
    _, _, restore = encrypted(release)
    for word in words:
        result = restore(word, "--wait")
        assert EXPECTED[word] == (result.code, the_task(result)["result"]), (word, result)


@OLDEST
@pytest.mark.parametrize("words", [("wrong", "right"), ("right", "wrong"), ("right", "right")])
def test_restores_that_wait_for_each_other_never_share_a_result(encrypted, release, words):
    """The second one is queued behind the first; both are waited for meanwhile, and again when
    both are long over. Where a release leaves no trace that tells them apart, it is not success
    that is told.
    """
    server, host, restore = encrypted(release)
    server.state.engine.pause(0)
    try:
        first = the_task(restore(words[0]))["task"]
        second = the_task(restore(words[1]))["task"]
        seen = len(server.state.requests)
        clients = [host.start("duplicati_wait", f"--task={number}") for number in (first, second)]
        assert server.state.engine.wait_until(lambda: 2 <= sum(
            "longpoll" in path for _, path in server.state.requests[seen:]), 20)
    finally:
        server.state.engine.resume()
    for word, client in zip(words, clients):
        out, err = client.communicate(timeout=60)
        told = json.loads(out)["tasks"][0]
        assert EXPECTED[word][0] == client.returncode, (out, err)
        assert told["result"] in (EXPECTED[word][1], "unknown" if word == "wrong" else "success")
    for word, number in zip(words, (first, second)):
        late = host.inside("duplicati_wait", f"--task={number}")
        assert late.code == EXPECTED[word][0] or (word, late.code) == ("right", 4) \
            and release in ("2.0.6.3", "2.0.8.1", "2.1.0.5"), (word, late)


@ALL
def test_the_result_is_waited_for_while_another_task_has_the_database(play, operator, release):
    """A run, and a verification behind it: the run's end is told, however soon that begins."""
    server = play(release, job("Home", seconds=0.8, verify_seconds=0.5))
    host, other = operator(server), operator(server)
    assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
    server.state.hold("Home")
    seen = len(server.state.requests)
    client = host.start("duplicati_run", "--id=1", "--wait")
    assert server.state.wait_reached("Home")
    assert 0 == other.inside("duplicati_verify", "--id=1").code
    assert server.state.engine.wait_until(lambda: any(
        "longpoll" in path for _, path in server.state.requests[seen:]), 20)
    server.state.release("Home")
    out, err = client.communicate(timeout=60)
    task = json.loads(out)["tasks"][0]
    assert (0, "Backup", "success") == (client.returncode, task["operation"], task["result"]), err


def test_patience_ends_also_while_the_result_cannot_be_read(play, operator):
    """124: it is over, and another task has the database; later its end can be told."""
    server = play("today", job("Home"))
    host, other = operator(server), operator(server)
    assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
    server.state.hold("Home", "Backup_Complete")
    number = the_task(host.inside("duplicati_run", "--id=1"))["task"]
    assert server.state.wait_reached("Home", "Backup_Complete")
    assert 0 == other.inside("duplicati_repair", "--id=1").code
    server.state.hold("Home")  # the run ends, and the repair stands in its middle
    assert server.state.wait_reached("Home")
    result = host.inside("duplicati_wait", f"--task={number}", "--wait_timeout=0.4")
    assert (124, "wait_timeout") == (result.code, result.answer["kind"])
    assert "is over" in result.answer["message"]
    server.state.release("Home")
    assert (0, "success") == ((late := host.inside("duplicati_wait", f"--task={number}")).code,
                              the_task(late)["result"])


@ALL
def test_an_abort_of_the_second_queued_task_is_told_to_be_ignored(play, operator, release):
    """Also if another task of the same backup stands before it in the queue."""
    server = play(release, job("Home"))
    host = operator(server)
    assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
    server.state.engine.pause(0)
    numbers = [the_task(host.inside(f"duplicati_{verb}", "--id=1"))["task"]
               for verb in ("verify", "repair")]
    for number in numbers:
        result = host.inside("duplicati_abort", f"--task={number}")
        assert (1, "refused") == (result.code, result.answer["kind"])
        assert "ignores" in result.answer["message"]
    server.state.engine.resume()


# -- how it is shown -----------------------------------------------------------------------

def test_a_line_is_due_once_a_minute():
    """By the moments that are handed in."""
    beat = progress.Beat(60.0, 1000.0)
    assert [1060.0, 1125.0, 1185.0] == [
        now for now in map(float, range(1000, 1240, 5)) if now != 1120.0 and beat.is_due(now)]


@ALL
def test_the_line_tells_where_a_task_stands(play, operator, release):
    """Waiting, running with a part of the whole, on a paused server; of another task: nothing."""
    server = play(release, {**job("Home"), "files": {f"{name}.bin": 100_000 for name in "abcdef"}},
                  job("Other"))
    host = operator(server)
    server.state.hold("Home")
    assert 0 == host.inside("duplicati_run", "--all").code
    assert server.state.wait_reached("Home")
    first, second = server.state.tasks
    context = build_context(find_action("duplicati_status"), {"settings": str(host.settings)}, {},
                            print, print)
    asked = context.duplicati()
    state = asked.state()
    running = tasks.Started(first, "1", "Home")
    assert re.fullmatch(r"Backup of backup 1 'Home': processing files [1-8]\d% of 58\d\.\d KiB",
                        standing(asked, running, "running", state))
    queued = tasks.Started(second, "2", "Other")
    assert "Backup of backup 2 'Other' waits its turn" == standing(asked, queued, "queued", state)
    assert "Backup of backup 2 'Other' runs" == standing(asked, queued, "running", state)
    server.state.engine.pause(0)
    assert standing(asked, running, "running", asked.state()).endswith(", and the server is paused")
    server.state.engine.resume()
    asked.close()


def drawn(leader, pattern=None):
    """What comes to a terminal until it matches `pattern`; without one, until its end."""
    text = b""
    while not (pattern and re.search(pattern.encode(), text)):
        assert select.select([leader], [], [], 60)[0], (pattern, text)
        try:
            block = os.read(leader, 65536)
        except OSError:  # how a terminal ends on Linux
            block = b""
        assert block or not pattern, (pattern, text)
        if not block:
            break
        text += block
    return text.decode("utf-8", "replace")


@ALL
def test_a_bar_moves_on_a_terminal_and_vanishes(play, operator, release):
    """On stderr, and stdout holds the answer and nothing else."""
    server = play(release, {**job("Home"), "files": {
        f"{number}.bin": 10_000 for number in range(100)}})
    host = operator(server)
    server.state.hold("Home")
    leader, follower = pty.openpty()
    process = host.start("duplicati_run", "--id=1", "--wait", stderr=follower,
                         env={**host.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(follower)
    text = drawn(leader, r"Backup Home: processing files, 976\.6 KiB[^%]*?4[78]%")
    server.state.hold("Home", "Backup_WaitForUpload")
    text += drawn(leader, r"Backup Home: wait for upload[^%]*?90%")
    server.state.release("Home")
    text += drawn(leader)
    os.close(leader)
    out, _ = process.communicate(timeout=60)
    assert (0, "success") == (process.returncode, json.loads(out)["tasks"][0]["result"])
    # The last thing that happens is that the line is erased, and nothing is written any more.
    _, erased, rest = text.rpartition("\x1b[2K")
    assert erased and not re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", "", rest)


@ALL
def test_without_a_terminal_nothing_is_drawn(play, operator, release):
    """A run that is over within a minute writes no line at all."""
    host = operator(play(release, job("Home", seconds=0.2)))
    process = host.start("duplicati_run", "--id=1", "--wait")
    out, err = process.communicate(timeout=60)
    assert (0, "", "OK") == (process.returncode, err, json.loads(out)["status"])


@ALL
def test_an_abort_names_the_operation_whether_the_server_tells_it_or_not(play, operator, release):
    """By its tasks, by its row in the log, or by the phase that it was in."""
    server = play(release, job("Home", seconds=30))
    host = operator(server)
    started = host.inside("duplicati_run", "--id=1")
    number = the_task(started)["task"]
    result = host.inside("duplicati_abort", f"--task={number}")
    assert 0 == result.code, result
    assert "Backup" == the_task(result)["operation"], result


@pytest.mark.parametrize("phase, operation", [
    ("Backup_ProcessingFiles", "Backup"), ("Restore_Begin", "Restore"), ("Verify_Running", "Test"),
    ("Vacuum_Running", "Vacuum"), ("Error", ""), (None, ""), (5, "")])
def test_a_phase_tells_what_a_task_does(phase, operation):
    """Of that task alone; the row of its end, which says it for sure, comes before that."""
    progress = {"TaskID": 3, "Phase": phase}
    assert operation == tasks._likely(progress, 3)
    assert "" == tasks._likely(progress, 4)
    started = tasks.Started(3, "1", "Home", "", likely="Test")
    assert "Test" == started.answer()["operation"]
    ended = Outcome("success", "", row={"MainOperation": "Backup"})
    assert "Backup" == started.answer(ended)["operation"]
