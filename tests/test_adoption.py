"""A run whose start the client did not live to note, on each generation: what came of it is found,
it is not started twice, and no other run is taken for it.
"""

import contextlib
import json
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from demo.duplicati_server.store import JobDatabase
from remotes.actions.running import build_context, find_action
from remotes.duplicati import adoption, moments, outcomes, tasks, waiting
from remotes.errors import NotFoundError, UnavailableError, WaitTimeoutError
from tests.conftest import RELEASES, job

ALL = pytest.mark.parametrize("release", RELEASES)
OLDEST = pytest.mark.parametrize("release", ("2.0.6.3", *RELEASES))
# Those that tell what a task does, and those that tell when it began.
TELLING = ("2.0.8.1", "2.1.0.5")
TIMED = ("2.3.0.4", "today")
EXPECTED = {"success": "success", "warning": "warning", "error": "error", "fatal": "error",
            "early": "error"}


class Scene:
    """A demo server with the backups Home (1) and Other (2), and a client of it that is ended when
    it is about to start Home, or just has.
    """

    def __init__(self, server, host):
        self.played, self.state = server, server.state
        values = {"settings": str(host.settings), "http_timeout": "10"}
        self.client = build_context(find_action("duplicati_status"), values, {}, print,
                                    print).duplicati()

    def ask(self, backup_id="1", verb="run"):
        self.client.call("POST", f"v1/backup/{backup_id}/{verb}")

    def run(self, ending="success", backup_id="1"):
        """A run of somebody else, to its end."""
        self.set_ending(ending, backup_id=backup_id)
        self.ask(backup_id)
        assert self.state.wait_idle()

    def set_ending(self, ending, word="ending", backup_id="1"):
        found = self.state.store.backup(backup_id)
        found["Settings"] = [one for one in found["Settings"] if one["Name"] != f"--demo-{word}"]
        found["Settings"].append({"Filter": "", "Name": f"--demo-{word}", "Value": ending,
                                  "Argument": None})
        self.state.store.save_backup(backup_id, found)

    def age_errors(self):
        """What failed so far did so a minute ago: stamps of errors are whole seconds."""
        self.state.store.change("UPDATE errors SET time = time - 60")
        found = self.state.store.backup("1")
        stamp = moments.parse(found["Metadata"]["LastErrorDate"]) - timedelta(minutes=1)
        found["Metadata"]["LastErrorDate"] = stamp.strftime("%Y%m%dT%H%M%SZ")
        self.state.store.save_backup("1", found)

    def note(self):
        """What the client has on its disk when it is ended."""
        noted = tasks.note(self.client, "1", "Backup")
        noted.asked_at = time.time()
        return tasks.Started.from_kept(json.loads(json.dumps(noted.kept())))

    def search(self, noted, ahead_seconds=0):
        """`ahead_seconds`: of the client's clock before the server's."""
        noted = replace(noted, asked_at=noted.asked_at + ahead_seconds)
        return adoption.search(self.client, noted, lambda: time.time() + ahead_seconds)

    def is_hidden(self, noted):
        """Whether the search says that it cannot tell now."""
        try:
            self.search(noted)
        except UnavailableError as error:
            assert "database_locked" == error.kind
            return True
        return False

    def look(self, started):
        """The Outcome of one look, as a later client has it; None while it goes on."""
        started = tasks.Started.from_kept(json.loads(json.dumps(started.kept())))
        ending = waiting.Wait(self.client, started).look(self.client.state())
        return ending and outcomes.find(self.client, started, ending, time.monotonic())

    def told(self, noted):
        """What is told of a run that is over: its result, "nothing" if it left no trace, "unclear"
        if what is there may be of another."""
        try:
            started = self.search(noted)
        except NotFoundError:
            return "unclear"
        return "nothing" if started is None else self.look(started).result

    def number_of_runs(self):
        return sum(task.operation == "Backup" for task in self.state.tasks.values())


@pytest.fixture
def scene(play, operator):
    """scene(release, **settings of the job Home) -> a Scene"""
    opened = []

    def make(release, **settings):
        server = play(release, job("Home", **settings), job("Other"))
        opened.append(Scene(server, operator(server)))
        return opened[-1]

    yield make
    for one in opened:
        one.client.close()


# -- it did not reach the server -----------------------------------------------------------

@OLDEST
def test_a_request_that_never_came_has_no_trace(scene, release):
    """Of a backup that never ran, and after runs of each ending, the last a moment before."""
    there = scene(release)
    assert there.search(there.note()) is None
    for ending in ("fatal", "early", "success", "warning", "early", "error", "fatal"):
        there.run(ending)
        assert there.search(there.note()) is None, ending
    there.run(backup_id="2")
    noted = there.note()
    for ending in ("success", "early"):
        there.run(ending, backup_id="2")
        assert there.search(noted) is None, ending


@ALL
def test_an_error_that_the_backup_has_forgotten_is_not_it(scene, release):
    """The server's own log still has it; it is from before."""
    there = scene(release)
    there.run("early")
    there.state.store.save_backup("1", {**there.state.store.backup("1"), "Metadata": {}})
    noted = there.note()
    assert there.search(replace(noted, asked_at=noted.asked_at + 60)) is None


@ALL
def test_what_others_do_with_the_backup_is_not_it(scene, release):
    """A verification, one that fails, and a listing that does: no trace, once they are over."""
    there = scene(release)
    there.run()
    there.run("fatal")
    for ending in ("success", "fatal"):
        there.set_ending(ending, "verify-ending")
        noted = there.note()
        there.ask(verb="verify")
        assert there.state.wait_idle()
        assert there.search(noted) is None, ending


@ALL
def test_a_verification_that_runs_is_not_it(scene, release):
    """It hides what there is but on 2.0; then the truth comes out: nothing, or the run's end."""
    there = scene(release)
    there.run()
    for ending, expected in ((None, "nothing"), ("warning", "warning")):
        noted = there.note()
        if ending:
            there.run(ending)
        started = there.search(noted)
        there.state.hold("Home")
        there.ask(verb="verify")
        assert there.state.wait_reached("Home")
        if started:
            with contextlib.suppress(WaitTimeoutError):  # it cannot be read now
                assert "warning" == there.look(started).result
        if release == "2.0.8.1":
            assert expected == there.told(noted)
        else:
            assert there.is_hidden(noted)
        there.state.release("Home")
        assert there.state.wait_idle()
        assert expected == there.told(noted)


@ALL
def test_a_backup_that_is_gone_has_no_trace(scene, release):
    """Whoever starts it again is told that there is none."""
    there = scene(release)
    there.run()
    noted = there.note()
    there.state.store.delete_backup("1")
    assert there.search(noted) is None


# -- it is there ---------------------------------------------------------------------------

@ALL
def test_a_run_that_goes_on_is_found_and_told_to_its_end(scene, release):
    """By its number; one look tells that it goes on, a later one how it ended."""
    there = scene(release, ending="warning")
    there.run("warning")
    noted = there.note()
    there.state.hold("Home")
    there.ask()
    assert there.state.wait_reached("Home")
    started = there.search(noted)
    assert max(there.state.tasks) == started.number and not started.was_there
    assert there.look(started) is None
    there.state.release("Home")
    assert there.state.wait_idle()
    assert "warning" == there.look(started).result
    assert "warning" == there.told(noted)
    assert 2 == there.number_of_runs()


@ALL
def test_a_run_that_waits_its_turn_is_found(scene, release):
    """Where it is told what a task does; else once it runs. Before that it is not said that there
    is none."""
    there = scene(release)
    noted = there.note()
    there.state.hold("Other")
    there.ask("2")
    assert there.state.wait_reached("Other")
    there.ask()
    (number,) = [task.number for task in there.state.tasks.values() if task.backup_id == "1"]
    if release in TELLING:
        assert number == there.search(noted).number
    else:
        assert there.is_hidden(noted)
    there.state.hold("Home")
    there.state.release("Other")
    assert there.state.wait_reached("Home")
    started = there.search(noted)
    assert (number, None) == (started.number, there.look(started))
    there.state.release("Home")
    assert there.state.wait_idle()
    assert "success" == there.look(started).result == there.told(noted)


@ALL
def test_a_run_of_others_that_was_under_way_is_joined(scene, release):
    """As a request would have joined it, whether it came or not; while it runs and after it."""
    there = scene(release)
    there.run()
    there.set_ending("warning")
    there.state.hold("Home")
    there.ask()
    assert there.state.wait_reached("Home")
    noted = there.note()
    started = there.search(noted)
    assert started.was_there and there.look(started) is None
    there.state.release("Home")
    assert there.state.wait_idle()
    assert "warning" == there.look(started).result == there.told(noted)
    later = replace(noted, asked_at=noted.asked_at + 60)  # it was over before the request
    assert there.search(later) is None


# -- it is over ----------------------------------------------------------------------------

@OLDEST
@pytest.mark.parametrize("ending", EXPECTED)
def test_a_run_that_is_over_is_told_as_it_ended(scene, release, ending):
    """The first one, and one a moment after another of the same ending; also when others have run
    since, in another way."""
    there = scene(release)
    for _ in range(2):
        noted = there.note()
        there.run(ending)
        assert EXPECTED[ending] == there.told(noted)
    started = there.search(noted)
    task = started.number and there.state.tasks[started.number]
    assert release not in TIMED or max(there.state.tasks) == task.number
    there.run(backup_id="2")
    assert EXPECTED[ending] == there.look(started).result
    if ending != "early" and release != "2.0.6.3":  # what leaves no row shares its second
        there.run("warning" if ending == "success" else "success")
        assert EXPECTED[ending] == there.look(started).result == there.told(noted)


@ALL
def test_a_failure_without_a_row_hides_behind_no_later_run(scene, release):
    """It failed before it had a row, and another run ended well since."""
    there = scene(release)
    there.run("fatal")
    there.age_errors()
    noted = there.note()
    there.run("early")
    number = max(there.state.tasks)
    there.run("success")
    assert "error" == there.told(noted)
    assert there.search(noted).number in (None, number)


@ALL
@pytest.mark.parametrize("is_ours", [False, True])
def test_a_failure_that_the_servers_log_has_lost_is_found(scene, release, is_ours):
    """By the backup's last error, unless the row of another task tells of that one."""
    there = scene(release, verify_ending="fatal")
    there.run()
    noted = there.note()
    there.run("early") if is_ours else there.ask(verb="verify")
    assert there.state.wait_idle()
    there.state.store.change("DELETE FROM errors")
    assert ("error" if is_ours else "nothing") == there.told(noted)


@ALL
def test_an_aborted_run_is_told_as_no_success(scene, release):
    """On 2.1.0.5 what it leaves is that it was the last task: once there is another, nothing."""
    there = scene(release)
    there.run()
    noted = there.note()
    there.state.hold("Home")
    there.ask()
    assert there.state.wait_reached("Home")
    there.client.call("POST", f"v1/task/{max(there.state.tasks)}/abort")
    assert there.state.wait_idle()
    assert ("unknown" if release == "2.1.0.5" else "aborted") == there.told(noted)
    there.run(backup_id="2")
    assert ("nothing" if release == "2.1.0.5" else "aborted") == there.told(noted)


@ALL
def test_a_database_that_was_made_anew_does_not_hide_it(scene, release):
    """Numbers of rows begin anew with it."""
    there = scene(release)
    for _ in range(3):
        there.run()
    noted = there.note()
    there.client.call("POST", "v1/backup/1/deletedb")
    assert there.search(noted) is None
    there.ask(verb="repair")
    assert there.state.wait_idle()
    assert there.search(noted) is None
    there.run("warning")
    asked_at = noted.asked_at - 60  # longer ago than an answer takes
    assert "warning" == there.told(replace(noted, asked_at=asked_at, former=None))


@ALL
@pytest.mark.parametrize("ahead_seconds", [-4000, 4000])
def test_clocks_may_differ(scene, release, ahead_seconds):
    """Where the newest row was not known, as when another task had the log: the run is found, and
    one before it is not taken for it."""
    there = scene(release)
    there.run("warning")
    noted = replace(there.note(), row=None)
    later = replace(noted, asked_at=noted.asked_at + 60)
    assert there.search(later, ahead_seconds) is None
    there.run("error")
    assert "error" == there.look(there.search(noted, ahead_seconds)).result


@ALL
def test_a_stall_does_not_make_a_former_run_seem_a_later_one(scene, release):
    """By the clock, as above; one answer of the server's is read five seconds late."""
    there, late = scene(release), iter([0.0, 5.0])
    there.run("warning")
    noted = replace(there.note(), row=None)
    there.run("error")
    found = adoption.search(there.client, noted, lambda: time.time() + next(late, 0.0))
    assert "error" == there.look(found).result


@pytest.mark.parametrize("release", TIMED)
def test_a_log_that_shows_nothing_is_not_believed(scene, release):
    """There were rows, and the database is there: somebody has it, and it cannot be read now."""
    there = scene(release)
    there.run()
    noted = there.note()
    path = Path(there.state.store.backup("1")["DBPath"])
    path.rename(path.with_suffix(".away"))
    assert there.search(noted) is None
    JobDatabase(path).make()
    assert there.is_hidden(noted)
    path.with_suffix(".away").replace(path)
    assert there.search(noted) is None


# -- the server was started anew meanwhile -------------------------------------------------

@ALL
@pytest.mark.parametrize("is_ended", [False, True])
def test_a_restart_and_a_later_run_deceive_nobody(scene, release, is_ended):
    """A run that was cut off leaves no trace on any release: it is started again, and no later run
    is taken for it. One that had ended is told, whatever ran since; a client that comes later
    still finds its end."""
    there = scene(release)
    for _ in range(3):
        there.run()  # the server's counters stand higher than after the restart
    noted = there.note()
    if is_ended:
        there.run("warning")
    else:
        there.state.hold("Home")
        there.ask()
        assert there.state.wait_reached("Home")
    expected = "warning" if is_ended else "nothing"
    before = there.search(noted)
    there.state.crash_and_restart()
    there.state.release("Home")
    assert expected == there.told(noted)
    there.run("success")
    expected = expected if is_ended or release in TIMED else "unclear"
    assert expected == there.told(noted)
    for lost in ({"event": None}, {"former": None}):
        assert expected == there.told(replace(noted, **lost))
    assert not is_ended or "warning" == there.look(before).result
    there.state.hold("Home")
    there.ask()
    assert there.state.wait_reached("Home")
    # One that is under way is joined, as by whoever starts it again, if it can be told apart.
    joined = there.search(noted) if release in TIMED else None
    assert there.is_hidden(noted) if joined is None else there.look(joined) is None
    there.state.release("Home")
    assert there.state.wait_idle()
    assert "success" == there.look(joined).result if joined else expected == there.told(noted)


@ALL
def test_a_failure_after_a_restart_is_not_it(scene, release):
    """Nor is one from before it lost, if nothing has run since."""
    there = scene(release)
    for _ in range(2):
        there.run()
    noted = there.note()
    there.state.crash_and_restart()
    there.run("early")
    assert ("nothing" if release in TIMED else "unclear") == there.told(noted)
    there.age_errors()
    noted = there.note()
    there.run("early")
    there.state.crash_and_restart()
    assert "error" == there.told(noted)


@pytest.mark.parametrize("release", TIMED)
def test_a_number_that_is_another_task_s_by_now_deceives_nobody(scene, release):
    """It was over and found; the server was started anew, and a task of that number failed."""
    there = scene(release)
    noted = there.note()
    there.run("warning")
    started = there.search(noted)
    there.state.crash_and_restart()
    there.run("fatal")
    assert ["Failed"] == [task.state for task in there.state.tasks.values()]
    assert started.number in there.state.tasks and "warning" == there.look(started).result


@pytest.mark.parametrize("release", TIMED)
def test_a_restart_that_no_counter_shows_is_noticed(scene, release):
    """The last task of then began after the request: that number is another task's now."""
    there = scene(release)
    there.run(backup_id="2")
    noted = there.note()
    noted.asked_at -= 60  # longer ago than a restart takes
    there.state.crash_and_restart()
    for _ in range(3):
        there.run()
    assert there.state.engine.event > noted.event
    assert there.search(noted) is None


@pytest.mark.parametrize("release", TELLING)
@pytest.mark.parametrize("ending", ("warning", "early"))
def test_what_other_backups_do_after_a_restart_hides_no_end(scene, release, ending):
    """The last task of the server is told to be of another backup: the run is none of its."""
    there = scene(release)
    for _ in range(2):
        there.run(backup_id="2")
    noted = there.note()
    there.run(ending)
    there.state.crash_and_restart()
    there.run(backup_id="2")
    assert EXPECTED[ending] == there.told(noted)
