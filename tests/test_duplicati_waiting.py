"""Runs that are waited for, on each generation: what the client says of their end is the truth,
whatever happens to the server, the session and the client meanwhile.
"""

import contextlib
import http.server
import json
import signal
import subprocess
import sys
import threading

import pytest
import requests

from tests.conftest import PASSWORD, PROJECT, RELEASES, job

ALL = pytest.mark.parametrize("release", RELEASES)


@contextlib.contextmanager
def meanwhile(server, steps):
    """`steps()` in a thread, while the test's own thread waits for the client. If they fail,
    what is held at the server is let go, so that the client's wait has an end.
    """
    failed = []

    def walk():
        try:
            steps()
        except BaseException as error:
            failed.append(error)
            for name in ("Home", "First", "Other"):
                server.state.release(name)

    thread = threading.Thread(target=walk, daemon=True)
    thread.start()
    yield
    thread.join(120)
    assert not thread.is_alive() and not failed, failed


def the_task(result):
    """The one task of an answer."""
    (task,) = result.answer["tasks"]
    return task


def waits(server, seen=0):
    """Whether a client has come to wait at the server, since so many requests."""
    return server.state.engine.wait_until(
        lambda: any("longpoll" in path for _, path in server.state.requests[seen:]), 60)


# -- how a run ended -----------------------------------------------------------------------

@ALL
@pytest.mark.parametrize("ending, code, outcome", [
    ("success", 0, "success"), ("warning", 3, "warning"), ("error", 4, "error"),
    ("fatal", 4, "error"), ("early", 4, "error"),
])
@pytest.mark.parametrize("seconds", [0, 0.3])
def test_the_end_of_a_run_is_told_as_it_was(
        play, operator, release, ending, code, outcome, seconds):
    """Success, warning, error, an exception, a failure before there is a database; over before
    the first look, or waited for: exit code, result, and one line on stderr unless all is well.
    """
    host = operator(play(release, job("Home", ending=ending, seconds=seconds)))
    for _ in range(2):  # a second time, beside the traces of the first
        result = host.inside("duplicati_run", "--id=Home", "--wait")
        task = the_task(result)
        assert (code, outcome, "1", "Home") == (result.code, task["result"], task["id"],
                                                task["name"]), result
        assert (0 if code == 0 else 1) == result.err.count("\n")
        assert ("OK" if code == 0 else "ERROR") == result.answer["status"]
        assert code == 0 or task["why"] in result.answer["message"]


@ALL
def test_a_success_after_a_failure_is_a_success(play, operator, release):
    """And a failure after a success is one: old rows, errors and notifications do not count."""
    server = play(release, job("Home", ending="fatal"))
    host = operator(server)
    for ending, code in (("fatal", 4), ("success", 0), ("fatal", 4), ("early", 4), ("success", 0)):
        found = host.inside("duplicati_edit", "--id=1", f"--set=Settings.--demo-ending={ending}",
                            "--confirm=yes")
        assert 0 == found.code, found
        result = host.inside("duplicati_run", "--id=1", "--wait")
        assert code == result.code, (ending, result)


@ALL
@pytest.mark.parametrize("verb, operation", [
    ("verify", "Test"), ("compact", "Compact"), ("vacuum", "Vacuum"), ("repair", "Repair")])
def test_other_operations_end_in_truth_too(play, operator, release, verb, operation):
    """Each by the row that it leaves."""
    host = operator(play(release, job("Home")))
    assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
    task = the_task(host.inside(f"duplicati_{verb}", "--id=Home", "--wait"))
    assert (operation, "success") == (task["operation"], task["result"])


@ALL
def test_several_backups_are_run_and_each_is_told(play, operator, release):
    """--all: 4 if one failed, 3 if one has warnings, and what each was."""
    host = operator(play(release, job("Good"), job("Warns", ending="warning"),
                         job("Fails", ending="error")))
    result = host.inside("duplicati_run", "--all", "--wait")
    assert (4, ["success", "warning", "error"]) == (
        result.code, [task["result"] for task in result.answer["tasks"]])
    assert 3 == host.inside("duplicati_run", "--id", "Good", "Warns", "--wait").code


@ALL
def test_one_of_several_that_is_not_there_keeps_the_others_from_nothing(play, operator, release):
    """3, and the others run to their end; a name that is not known is told before anything."""
    host = operator(play(release, job("Good")))
    result = host.inside("duplicati_run", "--id", "1", "77", "--wait")
    assert (3, ["success", "not started"]) == (
        result.code, [task["result"] for task in result.answer["tasks"]])
    assert 10 == host.inside("duplicati_run", "--id", "Good", "Nothing", "--wait").code


# -- what happens meanwhile ----------------------------------------------------------------

@ALL
def test_an_abort_from_elsewhere_is_told_by_both(play, operator, release):
    """Who waits: 4, aborted. Who aborts: 0, when it is so."""
    server = play(release, job("Home", seconds=0.5))
    host, other = operator(server), operator(server)
    server.state.hold("Home")
    waiting = host.start("duplicati_run", "--id=1", "--wait")
    assert server.state.wait_reached("Home")
    (number,) = server.state.tasks
    aborted = other.inside("duplicati_abort", f"--task={number}")
    out, _ = waiting.communicate(timeout=60)
    assert (0, True, "aborted") == (aborted.code, aborted.answer["changed"],
                                    the_task(aborted)["result"])
    told = json.loads(out)["tasks"][0]["result"]
    # 2.1.0.5 leaves no trace of an abort: then it is said that there is no result.
    assert (4, "unknown" if release == "2.1.0.5" else "aborted") == (waiting.returncode, told)


@ALL
def test_a_stop_leaves_a_partial_version_and_is_an_interruption(play, operator, release):
    """--graceful: the run ends by itself, partial."""
    server = play(release, job("Home", seconds=0.5))
    host, other = operator(server), operator(server)
    server.state.hold("Home")
    waiting = host.start("duplicati_run", "--id=1", "--wait")
    assert server.state.wait_reached("Home")
    (number,) = server.state.tasks
    assert 0 == other.inside("duplicati_abort", f"--task={number}", "--graceful").code
    out, _ = waiting.communicate(timeout=60)
    told = json.loads(out)["tasks"][0]["result"]
    assert (4, "unknown" if release == "2.1.0.5" else "interrupted") == (waiting.returncode, told)


@ALL
def test_an_abort_that_the_server_ignores_is_told(play, operator, release):
    """A queued task: 1, though the server says OK. One that is not there: 10."""
    server = play(release, job("First"), job("Second"))
    host = operator(server)
    server.state.hold("First")
    assert 0 == host.inside("duplicati_run", "--id", "1", "2").code
    assert server.state.wait_reached("First")
    first, second = server.state.tasks
    queued = host.inside("duplicati_abort", f"--task={second}")
    assert (1, "refused") == (queued.code, queued.answer["kind"])
    assert "ignores" in queued.answer["message"]
    assert 10 == host.inside("duplicati_abort", "--task=99").code
    server.state.release("First")
    assert 0 == host.inside("duplicati_wait", f"--task={second}").code


@ALL
def test_an_abort_that_does_nothing_is_told(play, operator, release):
    """The server says OK, and the run goes on to its end: 3, not changed."""
    server = play(release, job("Home", ignores_abort="true"))
    host = operator(server)
    server.state.hold("Home")
    number = the_task(host.inside("duplicati_run", "--id", "1"))["task"]
    assert server.state.wait_reached("Home")
    late = host.inside("duplicati_abort", f"--task={number}", "--wait_timeout=0.3")
    assert (124, "wait_timeout") == (late.code, late.answer["kind"])
    seen = len(server.state.requests)

    def go_on():
        assert waits(server, seen)
        server.state.release("Home")

    with meanwhile(server, go_on):
        result = host.inside("duplicati_abort", f"--task={number}")
    assert (3, False, "ignored") == (result.code, result.answer["changed"], result.answer["kind"])


@ALL
def test_a_token_that_expires_three_times_is_renewed_each_time(play, operator, release):
    """In the middle of a wait; nobody notices."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.hold("Home")

    def renewals():
        return sum(path.startswith(("/api/v1/auth/refresh", "/login.cgi"))
                   for _, path in server.state.requests)

    def expire_three_times():
        state = server.state
        assert state.wait_reached("Home") and waits(server)
        for _ in range(3):
            before = renewals()
            state.expire_tokens()
            state.engine.tell(data=True)  # the long poll comes back, and the next one is refused
            assert state.engine.wait_until(lambda before=before: renewals() > before, 60)
            state.engine.tell(data=True)  # is answered under the new token, before that goes, too
            newest = f"lasteventid={state.engine.event}&"
            assert state.engine.wait_until(
                lambda newest=newest: newest in state.requests[-1][1], 60)
        state.release("Home")

    with meanwhile(server, expire_three_times):
        result = host.inside("duplicati_run", "--id=1", "--wait")
    assert (0, "success") == (result.code, the_task(result)["result"]), result
    assert renewals() >= 3


@ALL
def test_a_server_that_restarts_has_interrupted_the_run(play, operator, release):
    """4: it left no result, and the client says why."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.hold("Home")

    def crash():
        assert server.state.wait_reached("Home") and waits(server)
        server.state.crash_and_restart()

    with meanwhile(server, crash):
        result = host.inside("duplicati_run", "--id=1", "--wait")
    assert (4, "interrupted") == (result.code, the_task(result)["result"]), result
    assert "anew" in the_task(result)["why"]


@ALL
def test_a_paused_server_is_waited_for_no_longer_than_is_said(play, operator, release):
    """124; the message says that it is paused; the run goes on when it is resumed."""
    server = play(release, job("Home"))
    host = operator(server)
    paused = host.inside("duplicati_pause")
    assert (0, True, "paused") == (paused.code, paused.answer["changed"], paused.answer["state"])
    result = host.inside("duplicati_run", "--id=1", "--wait", "--wait_timeout=0.4")
    assert (124, "wait_timeout") == (result.code, result.answer["kind"])
    assert "paused" in result.answer["message"] and "duplicati_wait --task=" in result.err
    number = result.answer["tasks"][0]["task"]
    assert 0 == host.inside("duplicati_resume").code
    waited = host.inside("duplicati_wait", f"--task={number}")
    assert (0, "success") == (waited.code, the_task(waited)["result"])


@ALL
def test_a_run_that_is_under_way_is_the_one_that_is_meant(play, operator, release):
    """Asked for again by another client: one run, and both tell how it ended."""
    server = play(release, job("Home", ending="warning"))
    host, other = operator(server), operator(server)
    server.state.hold("Home")
    first = host.inside("duplicati_run", "--id=1")
    assert server.state.wait_reached("Home")
    seen = len(server.state.requests)

    def go_on():
        # When the second client has asked for the run, and waits.
        assert waits(server, seen)
        server.state.release("Home")

    with meanwhile(server, go_on):
        result = other.inside("duplicati_run", "--id=1", "--wait")
    assert (3, the_task(first)["task"]) == (result.code, the_task(result)["task"]), result
    assert [the_task(first)["task"]] == list(server.state.tasks)
    assert 3 == host.inside("duplicati_wait", f"--task={the_task(first)['task']}").code


@ALL
def test_a_server_that_is_away_for_a_while_is_waited_for(play, operator, release):
    """Its port closed and open again: told once, and then the end is."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.hold("Home")
    waiting = host.start("duplicati_run", "--id=1", "--wait")
    # It may be held before the client has read that it was started: only then it waits.
    assert server.state.wait_reached("Home") and waits(server)
    server.shutdown()
    server.server_close()
    assert "goes on, though" in waiting.stderr.readline()

    from demo import duplicati
    back = duplicati.make_server(server.state, server.server_address[1])
    thread = threading.Thread(target=back.serve_forever, daemon=True)
    thread.start()
    server.state.release("Home")
    out, err = waiting.communicate(timeout=60)
    back.shutdown()
    back.server_close()
    assert (0, "success") == (waiting.returncode, json.loads(out)["tasks"][0]["result"]), err
    assert "answers again" in err


@ALL
def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(play, operator, release):
    """130; the task is named, and waiting for it by its number tells its end."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.hold("Home")
    waiting = host.start("duplicati_run", "--id=1", "--wait")
    assert server.state.wait_reached("Home")
    assert waits(server)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    (number,) = server.state.tasks
    assert (130, number) == (waiting.returncode, json.loads(out)["tasks"][0]["task"])
    assert f"--action=duplicati_wait --task={number}" in err
    server.state.release("Home")
    result = host.inside("duplicati_wait", f"--task={number}")
    assert (0, "success") == (result.code, the_task(result)["result"])


@ALL
def test_a_task_of_somebody_else_can_be_waited_for(play, operator, release):
    """While it runs, by its number alone. One that never was: 10."""
    server = play(release, job("Home", ending="warning"))
    host, other = operator(server), operator(server)
    server.state.hold("Home")
    number = the_task(host.inside("duplicati_run", "--id=1"))["task"]
    assert server.state.wait_reached("Home")
    seen = len(server.state.requests)

    def go_on():
        assert waits(server, seen)
        server.state.release("Home")

    with meanwhile(server, go_on):
        result = other.inside("duplicati_wait", f"--task={number}")
    assert (3, "warning") == (result.code, the_task(result)["result"]), result
    assert 10 == other.inside("duplicati_wait", "--task=4711").code


@ALL
def test_little_is_asked_while_it_waits(play, operator, release):
    """A run of some time costs a handful of requests, since the server tells of its end."""
    server = play(release, job("Home", seconds=0.6))
    host = operator(server)
    seen = len(server.state.requests)
    assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
    assert len(server.state.requests) - seen <= 13, server.state.requests[seen:]


# -- a real kill ---------------------------------------------------------------------------

def serve_program(folder, release, port=0):
    """The demo server as a program; gives (process, port)."""
    site = folder / "site.yml"
    site.write_text(json.dumps({"jobs": [job("Home"), job("Other")]}))
    process = subprocess.Popen(
        [sys.executable, PROJECT / "demo" / "duplicati.py", f"--release={release}",
         f"--port={port}", f"--password={PASSWORD}", f"--folder={folder / 'served'}",
         f"--site={site}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()
    return process, int(line.rstrip().rstrip("/").rpartition(":")[2])


def control(port, path, method="POST"):
    """One of the demo server's own endpoints; gives the JSON."""
    return requests.request(method, f"http://127.0.0.1:{port}{path}", timeout=60).json()


@ALL
@pytest.mark.parametrize("winner", ["Other", "Home"])
def test_a_killed_server_deceives_nobody(operator, tmp_path, release, winner):
    """SIGKILL in mid-run, a new start at the same port, and a run that ends well and gets the
    awaited number: of another backup, or of the same one. What was waited for was interrupted.
    """
    process, port = serve_program(tmp_path, release)
    host, other = operator(), operator()
    try:
        for one in (host, other):
            one.log_in(f"http://127.0.0.1:{port}/")
        control(port, "/demo/hold?name=Home")
        seen = len(control(port, "/demo/requests", "GET"))
        waiting = host.start("duplicati_run", "--id=Home", "--wait")
        assert control(port, "/demo/reached?name=Home")["reached"]
        while not any("longpoll" in path for _, path in
                      control(port, "/demo/requests", "GET")[seen:]):
            assert waiting.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        assert "goes on, though" in waiting.stderr.readline()
        process, _ = serve_program(tmp_path, release, port)
        ran = other.inside("duplicati_run", f"--id={winner}", "--wait")
        assert 0 == ran.code, ran
        out, err = waiting.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    told = json.loads(out)["tasks"][0]
    assert the_task(ran)["task"] == told["task"]
    assert (4, "interrupted") == (waiting.returncode, told["result"]), (out, err)


@ALL
def test_an_answer_that_is_lost_is_not_taken_for_a_start(play, operator, release):
    """A run whose answer does not come: 75 if the server does not have it, however many runs of
    that backup it had before; the run that is there if it has it.
    """
    server = play(release, job("Home"))
    host = operator(server)
    assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
    url = host.kept()["url"]
    for reaches, code in ((False, 75), (True, 0)):
        server.state.hold("Home")
        with Losing(server.url, "/run", reaches) as losing:
            change(host, url=losing.url)
            result = host.inside("duplicati_run", "--id=1")
            assert code == result.code, result
        change(host, url=url)
        server.state.release("Home")
    assert 0 == host.inside("duplicati_wait", f"--task={the_task(result)['task']}").code


def change(host, **kept):
    """Changes what the settings keep of the server."""
    document = host.document()
    document["duplicati"]["servers"]["default"].update(kept)
    host.settings.write_text(json.dumps(document))


class Losing:
    """A proxy before the server at `url` that breaks off where a path ends in `tail`; with
    `reaches` after the server has had the request.
    """

    def __init__(self, url, tail, reaches):
        self._target, self._tail, self._reaches = url, tail, reaches

    def __enter__(self):
        losing = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                is_lost = self.path.endswith(losing._tail)
                self.close_connection = True
                if not is_lost or losing._reaches:
                    answer = requests.request(
                        self.command, losing._target + self.path[1:], data=body, timeout=60,
                        headers={name: value for name, value in self.headers.items()
                                 if name.lower() not in ("host", "connection")},
                        allow_redirects=False)
                if is_lost:
                    return
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in ("connection", "content-length", "date", "server",
                                            "content-encoding", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = pass_on

            def log_message(self, *words):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@ALL
def test_what_was_started_by_others_is_not_called_a_change(play, operator, release):
    """A run that is joined: `joined`, not changed; one that is waited for: not changed; one that
    this client has started and does not see the end of: changed.
    """
    server = play(release, job("Home"))
    host, other = operator(server), operator(server)
    server.state.hold("Home")
    first = host.inside("duplicati_run", "--id=1", "--wait", "--wait_timeout=0.2")
    assert (124, True) == (first.code, first.answer["changed"])
    assert 1 == first.err.count("\n") and "duplicati_wait --task=" in first.answer["message"]
    joined = other.inside("duplicati_run", "--id=1")
    assert (False, True) == (joined.answer["changed"], the_task(joined)["joined"])
    server.state.release("Home")
    waited = host.inside("duplicati_wait", f"--task={the_task(first)['task']}")
    assert (0, False) == (waited.code, waited.answer["changed"])
