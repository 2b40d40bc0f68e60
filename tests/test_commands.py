"""commands.py: a command is run at most once, its result is recorded exactly once."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.conftest import PROJECT, site

COUNTING = "with open({path!r}, 'a') as stream:\n    stream.write('ran\\n')\nprint('done')"
KILLED_AT = [sys.executable, str(PROJECT / "tests" / "killed_at.py")]


def counting(path):
    """Source of a command that leaves a line in the file `path` each time it runs."""
    return COUNTING.format(path=str(path))


def runs(path):
    """How often the command of `counting(path)` ran."""
    return Path(path).read_text().count("ran") if Path(path).exists() else 0


def until(condition, process=None):
    """Waits until `condition()` holds; fails after 30 s, or if `process` is over before."""
    for _ in range(3000):
        if condition():
            return
        assert process is None or process.poll() is None, "the client ended before"
        time.sleep(0.01)
    raise AssertionError("it did not come to that within 30 s")


# -- the straight way -------------------------------------------------------------------

def test_a_listed_command_is_run_and_recorded_once(serve, enroll):
    """What a command prints and returns is on the server after one turn."""
    server = serve(site("print('hello')\n__RESULT__ = [1, 'two']"))
    host = enroll(server)
    result = host.run("commands_process")
    assert result.code == 0, result
    assert [(row["output"], row["result"]) for row in server.state.outputs()] == [
        ("hello\n", [1, "two"])]
    assert host.run("commands_process").answer["commands"] == []


def test_the_answer_tells_everything_of_each_command(serve, enroll):
    """Number, name, group, ending, seconds, output, result and delivery."""
    server = serve(site({"command": "print('x')", "name": "First"}))
    (row,) = enroll(server).run("commands_process").answer["commands"]
    assert 0 < row.pop("seconds") < 15
    assert row == {"command": 1, "group": 1, "name": "First", "ending": "completed", "why": "",
                   "output": "x\n", "result": [""], "delivered": True, "delivery": "delivered"}


def test_commands_run_in_the_order_of_the_list(serve, enroll):
    """The server's order is kept, across groups."""
    document = site("print(1)", "print(2)")
    document["groups"].append({"id": 7, "order": -1, "commands": [
        {"id": 9, "name": "first of all", "command": "print(9)"}]})
    server = serve(document)
    enroll(server).run("commands_process")
    assert [row["command"] for row in server.state.outputs()] == [9, 1, 2]


def test_a_result_reaches_the_variables_of_the_next_command(serve, enroll):
    """A command is fetched only after the result of the one before it was posted."""
    server = serve(site(
        {"command": "__RESULT__ = ['linux']", "results": {"platform": 0}},
        {"command": "print(__VARIABLES__, __SETTINGS__)", "variables": ["platform"],
         "settings": ["greeting"]},
        variables=["platform"], settings={"greeting": "hi"},
    ))
    enroll(server).run("commands_process")
    assert server.state.outputs()[1]["output"] == "{'platform': 'linux'} {'greeting': 'hi'}\n"


def test_dry_run_shows_and_runs_nothing(serve, enroll, tmp_path):
    """The source is shown, nothing is run, written or posted."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    before = sorted(os.listdir(host.folder))
    answer = host.run("commands_process", "--dry_run").answer
    assert [row["would"] for row in answer["commands"]] == ["run"]
    assert "print('done')" in answer["commands"][0]["source"]
    assert (runs(tmp_path / "log"), server.state.outputs()) == (0, [])
    assert sorted(set(os.listdir(host.folder)) - {"settings.yml.lock"}) == before


def test_fail_on_command_exits_with_4(serve, enroll):
    """Without it a failed command is a result like any other: 0."""
    server = serve(site("raise ValueError('boom')", "raise ValueError('boom')"))
    host = enroll(server)
    server.state.site["listed"].pop()
    assert host.run("commands_process").code == 0
    server.state.load(site("1", "raise ValueError('boom')"))
    assert host.run("commands_process", "--fail_on_command").code == 4


def test_a_command_that_cannot_be_read_does_not_stop_the_others(serve, enroll):
    """A poisonous command is left out: 3, and the next one runs."""
    server = serve(site("print(1)", "print(2)"))
    host = enroll(server)

    def poison(stage, handler):
        if stage == "after" and handler.path.endswith("/get/1/"):
            document = json.loads(handler.answer.body)
            document["command"] = "no token at all"
            handler.answer = handler.answer._replace(body=json.dumps(document).encode())
        return False

    server.fault = poison
    result = host.run("commands_process")
    assert (result.code, [row["command"] for row in server.state.outputs()]) == (3, [2])
    assert [row["ending"] for row in result.answer["commands"]] == ["unreadable", "completed"]


# -- command_get, command_post, commands_pending ----------------------------------------

def test_command_get_runs_one_command_and_delivers(serve, enroll):
    """Only the command that is named."""
    server = serve(site("print(1)", "print(2)"))
    result = enroll(server).run("command_get", "--command=2")
    assert (result.code, result.answer["output"]) == (0, "2\n")
    assert [row["command"] for row in server.state.outputs()] == [2]


def test_command_get_tells_how_the_command_ended(serve, enroll):
    """4 if it failed, 10 if there is none such."""
    server = serve(site("raise ValueError"))
    host = enroll(server)
    failed = host.run("command_get", "--command=1")
    assert (failed.code, failed.answer["exit"], failed.answer["kind"]) == (4, 4, "command_failed")
    assert failed.err == f"client: command_get: {failed.answer['message']}\n"
    assert host.run("command_get", "--command=99").code == 10


def test_a_command_that_is_done_is_run_again_with_force_only(serve, enroll, tmp_path):
    """No longer listed: 1, and --force runs it."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    host.run("commands_process")
    refused = host.run("command_get", "--command=1")
    assert (refused.code, "--force" in refused.answer["message"]) == (1, True)
    assert runs(tmp_path / "log") == 1
    assert host.run("command_get", "--command=1", "--force").code == 0
    assert runs(tmp_path / "log") == 2


def test_a_command_whose_output_was_deleted_on_the_server_runs_again(serve, enroll, tmp_path):
    """Listed again after a clean 201: it was asked for again."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    host.run("commands_process")
    server.state.delete_output(1)
    host.run("commands_process")
    assert (runs(tmp_path / "log"), len(server.state.outputs())) == (2, 1)


def refuse_posts(stage, handler, status=400):
    """A fault: the server refuses every post for good, and records nothing."""
    if stage == "before" and "/post/" in handler.path:
        body = b'{"status": "ERROR", "output": ["no"]}'
        handler.wfile.write(b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\n"
                            b"Connection: close\r\nContent-Length: %d\r\n\r\n"
                            % (status, len(body)) + body)
        return True
    return False


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refused_result_is_set_aside_and_blocks_nothing(serve, enroll, tmp_path, status):
    """Told once, shown by commands_pending, never run again, delivered by command_post."""
    server = serve(site(counting(tmp_path / "log"), "print(2)"))
    host = enroll(server)
    server.fault = lambda stage, handler: (
        "/post/1/" in handler.path and refuse_posts(stage, handler, status))
    first = host.run("commands_process")
    assert (first.code, first.err.count("set aside")) == (3, 1)
    second = host.run("commands_process")
    assert (second.code, second.err, runs(tmp_path / "log")) == (0, "", 1)
    (row,) = host.run("commands_pending").answer["pending"]
    assert (row["command"], row["state"]) == (1, "refused")
    server.fault = None
    assert host.run("command_post", "--command=1").code == 0
    assert sorted(row["command"] for row in server.state.outputs()) == [1, 2]
    assert host.run("commands_pending").answer["pending"] == []


def test_a_dropped_result_is_gone_and_the_command_runs_again(serve, enroll, tmp_path):
    """--drop throws a kept result away; 10 if there is none."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = refuse_posts
    host.run("commands_process")
    assert host.run("commands_pending", "--drop=2").code == 10
    assert host.run("commands_pending", "--drop=1").answer["changed"] is True
    server.fault = None
    host.run("commands_process")
    assert runs(tmp_path / "log") == 2


def test_a_result_that_is_too_large_for_the_proxy_is_halved(serve, enroll):
    """413: half, and again, until it is taken."""
    server = serve(site("print('a' * 400000)"))
    host = enroll(server)
    lengths = []

    def proxy(stage, handler):
        if stage == "before" and "/post/" in handler.path:
            lengths.append(len(handler.body))
            return len(handler.body) > 100000 and refuse_posts(stage, handler, 413)
        return False

    server.fault = proxy
    assert host.run("commands_process").code == 0
    (row,) = server.state.outputs()
    assert len(lengths) == 4 and row["output"].startswith("aaaa") and "missing" in row["output"]


def test_kept_results_go_to_the_servers_new_address(serve, enroll, tmp_path):
    """A server that moved gets what was kept for it: the UUID is its own."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = lambda stage, handler: "/post/" in handler.path
    assert host.run("commands_process", "--http_timeout=5").code == 75
    server.fault = None
    moved = server.url.replace("127.0.0.1", "localhost")
    assert host.run("status", f"--url={moved}", "--force", "--follow_url").code == 0
    host.settings.write_text(host.settings.read_text().replace(server.url, moved))
    result = host.run("commands_process")
    assert (result.code, runs(tmp_path / "log"), len(server.state.outputs())) == (0, 1, 1)


def test_command_get_delivers_what_is_kept_and_does_not_run_again(serve, enroll, tmp_path):
    """A kept result is sent; one that was refused is left to its own actions, forced or not."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = lambda stage, handler: refuse_posts(stage, handler, 401)
    assert host.run("command_get", "--command=1").code == 12
    server.fault = None
    result = host.run("command_get", "--command=1")
    assert (result.code, result.answer["output"], runs(tmp_path / "log")) == (0, "done\n", 1)
    server.state.delete_output(1)
    server.fault = refuse_posts
    assert host.run("command_get", "--command=1").code == 3
    again = host.run("command_get", "--command=1", "--force")
    assert (again.code, "commands_pending" in again.answer["message"]) == (1, True)
    assert runs(tmp_path / "log") == 2


# -- answers that say nothing -------------------------------------------------------------

def reset(handler):
    """Breaks a connection off, hard."""
    import socket
    import struct

    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    return True


def answer_500(handler):
    """Says that it closes: a request that crosses the close would break off, by chance."""
    body = b"<html><title>Fault</title></html>"
    handler.wfile.write(b"HTTP/1.1 500 Fault\r\nContent-Type: text/html\r\nConnection: close\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return True


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("fault", [reset, answer_500])
def test_a_post_without_a_clear_answer_is_settled_by_listing(serve, enroll, tmp_path, stage,
                                                             fault):
    """Recorded or not before it broke: in the end it is recorded once, and run once."""
    server = serve(site(counting(tmp_path / "log"), "print(2)"))
    host = enroll(server)
    faults = [fault]
    server.fault = lambda now, handler: bool(
        now == stage and "/post/1/" in handler.path and faults and faults.pop()(handler))
    result = host.run("commands_process")
    assert result.code == 0, result
    assert [row["command"] for row in server.state.outputs()] == [1, 2]
    assert runs(tmp_path / "log") == 1
    assert result.answer["commands"][0]["delivery"] == (
        "delivered" if stage == "before" else "presumed delivered")


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_post_that_timed_out_is_settled_later(serve, enroll, tmp_path, is_saved):
    """75 at first, since the server may be at it; then posted again, or taken for delivered."""
    server = serve(site(counting(tmp_path / "log"), "print(2)"))
    host = enroll(server)
    stalled = []

    def stall(stage, handler):
        if "/post/1/" in handler.path and not stalled and stage == (
                "after" if is_saved else "before"):
            stalled.append(handler.rfile.read(1))  # until the client gives up
            return True
        return False

    server.fault = stall
    first = host.run("commands_process", "--http_timeout=1")
    assert (first.code, first.answer["kind"]) == (75, "time_out")
    second = host.run("commands_process", "--http_timeout=1")
    assert second.code == 0, second
    assert [row["command"] for row in server.state.outputs()] == [1, 2]
    assert runs(tmp_path / "log") == 1


def test_a_server_that_is_slow_to_record_is_given_time(serve, enroll, tmp_path):
    """A post that timed out and is still listed is not posted again at once."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = lambda stage, handler: bool(
        stage == "before" and "/post/" in handler.path and not handler.rfile.read(1))
    assert host.run("commands_process", "--http_timeout=1").code == 75
    server.fault = None
    early = host.run("commands_process", "--http_timeout=30")
    assert (early.code, early.answer["kind"]) == (75, "unclear")
    assert len(server.state.outputs()) == 0


def test_a_presumed_result_that_is_listed_again_is_posted_and_not_run(serve, enroll, tmp_path):
    """Its window may just have been closed: what is kept is sent, nothing runs twice."""
    document = site(counting(tmp_path / "log"))
    server = serve(document)
    host = enroll(server)

    def lose(stage, handler):
        if stage == "before" and "/post/" in handler.path:
            server.state.site["listed"].clear()  # the window closes at this very moment
            return reset(handler)
        return False

    server.fault = lose
    assert host.run("commands_process").answer["commands"][0]["delivery"] == "presumed delivered"
    assert server.state.outputs() == []
    server.fault = None
    assert host.run("command_get", "--command=1").code == 1
    assert host.run("command_post").code == 0
    server.state.load(document)
    assert host.run("commands_process").code == 0
    assert (runs(tmp_path / "log"), len(server.state.outputs())) == (1, 1)


def test_a_result_that_the_server_cannot_take_does_not_block_for_ever(serve, enroll):
    """After three turns of 500 the others go on; it is kept, and tried at each turn."""
    server = serve(site("print(1)", "print(2)"))
    host = enroll(server)
    server.fault = lambda stage, handler: (
        stage == "before" and "/post/1/" in handler.path and answer_500(handler))
    assert [host.run("commands_process").code for _ in range(4)] == [75, 75, 75, 75]
    assert [row["command"] for row in server.state.outputs()] == [2]
    server.fault = None
    assert host.run("commands_process").code == 0
    assert sorted(row["command"] for row in server.state.outputs()) == [1, 2]


# -- servers and clients that die -----------------------------------------------------------

def test_a_result_is_kept_while_the_server_is_away(serve, enroll, tmp_path):
    """75, kept; with the server back delivered, and nothing is run twice."""
    database = str(tmp_path / "database")
    document = site(f"import os, signal\n{counting(tmp_path / 'log')}\n"
                    f"open({str(tmp_path / 'running')!r}, 'w').close()\n"
                    f"open({str(tmp_path / 'go')!r}).read()")
    os.mkfifo(tmp_path / "go")
    server = serve(document, database)
    host = enroll(server)
    process = host.start("commands_process")
    until((tmp_path / "running").exists, process)
    server.shutdown()
    server.server_close()
    (tmp_path / "go").write_text("on")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)["kind"]) == (75, "unreachable"), err
    assert [row["state"] for row in host.run("commands_pending").answer["pending"]] == ["ended"]
    back = serve(document, database, address=("127.0.0.1", server.server_address[1]))
    assert host.run("commands_process").code == 0
    assert (runs(tmp_path / "log"), len(back.state.outputs())) == (1, 1)


def is_alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def long_command(folder):
    """Source that tells its process, then waits for ever, with a child in its own session."""
    return (f"import os, time\n{counting(folder / 'log')}\n"
            "if os.fork() == 0:\n    os.setsid()\n"
            f"with open({str(folder / 'pids')!r}, 'a') as stream:\n"
            "    stream.write(f'{os.getpid()}\\n')\n"
            "while True:\n    time.sleep(100)")


def pids_of(folder):
    path = folder / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_killed_client_takes_its_command_along_and_tells_later(serve, enroll, tmp_path):
    """SIGKILL while a command runs: it ends with the client; interrupted, not run again."""
    server = serve(site({"command": long_command(tmp_path), "timeout": 600}, "print(2)"))
    host = enroll(server)
    process = host.start("commands_process")
    until(lambda: len(pids_of(tmp_path)) == 2, process)
    process.kill()
    process.communicate()
    until(lambda: not any(is_alive(pid) for pid in pids_of(tmp_path)))
    result = host.run("commands_process")
    assert result.code == 0, result
    assert [row["ending"] for row in result.answer["commands"]] == ["interrupted", "completed"]
    assert "interrupted" in server.state.outputs()[0]["output"]
    assert (runs(tmp_path / "log"), len(server.state.outputs())) == (1, 2)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                          (signal.SIGHUP, 129)])
def test_a_signal_ends_client_and_command_and_is_told(serve, enroll, tmp_path, number, code):
    """Ctrl-C at the worst moment: JSON, 128 + n, the command is gone and reported later."""
    server = serve(site("print('first')", {"command": long_command(tmp_path), "timeout": 600}))
    host = enroll(server)
    process = host.start("commands_process")
    until(lambda: len(pids_of(tmp_path)) == 2, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)["exit"]) == (code, code)
    assert [row["command"] for row in json.loads(out)["commands"]] == [1]
    assert err.count("\n") == 1
    assert not any(is_alive(pid) for pid in pids_of(tmp_path))
    result = host.run("commands_process")
    assert [row["ending"] for row in result.answer["commands"]] == ["interrupted"]
    assert len(server.state.outputs()) == 2


def test_two_runs_at_once_do_not_meet(serve, enroll, tmp_path):
    """The second ends with 11 and names the first; reading goes on meanwhile."""
    os.mkfifo(tmp_path / "go")
    server = serve(site(f"{counting(tmp_path / 'log')}\n"
                        f"open({str(tmp_path / 'go')!r}).read()"))
    host = enroll(server)
    first = host.start("commands_process")
    until(lambda: runs(tmp_path / "log") == 1, first)
    second = host.run("commands_process")
    assert second.code == 11
    assert f"process {first.pid}" in second.answer["message"]
    assert host.run("commands_list").code == 0
    assert host.run("config").code == 0
    assert host.run("commands_pending").answer["pending"][0]["state"] == "started"
    assert host.run("status", f"--url={server.url}").code == 0
    (tmp_path / "go").write_text("on")
    assert first.communicate(timeout=30) and first.returncode == 0
    assert runs(tmp_path / "log") == 1


def test_a_removed_lock_does_not_let_a_second_run_in(serve, enroll, tmp_path):
    """Somebody takes the lock for stale and removes it: the journal itself is locked, too."""
    os.mkfifo(tmp_path / "go")
    server = serve(site(f"{counting(tmp_path / 'log')}\n"
                        f"open({str(tmp_path / 'go')!r}).read()", counting(tmp_path / "log2")))
    host = enroll(server)
    first = host.start("commands_process")
    until(lambda: runs(tmp_path / "log") == 1, first)
    (host.folder / "commands.lock").unlink()
    assert host.run("commands_process").code == 11
    (tmp_path / "go").write_text("on")
    assert first.communicate(timeout=30) and first.returncode == 0
    assert (runs(tmp_path / "log"), runs(tmp_path / "log2")) == (1, 1)
    assert [row["command"] for row in server.state.outputs()] == [1, 2]


# -- the matrix of kills ---------------------------------------------------------------------

def run_killed_at(host, point, *words):
    """commands_process, killed at its write number `point`; gives its return code."""
    line = [*KILLED_AT, str(point), "--action=commands_process", f"--settings={host.settings}",
            "--http_timeout=5", *words]
    import subprocess

    environ = {**host.environ, "KILL_COUNT": str(host.folder / "count")}
    return subprocess.run(line, env=environ, cwd=host.folder, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, timeout=60, check=False).returncode


def check_kill_point(serve, enroll, tmp_path, point):
    """Kills the client at one write, runs it again, and counts runs and records."""
    logs = [tmp_path / f"log-{point}-{number}" for number in (1, 2)]
    server = serve(site(*(counting(log) for log in logs)))
    host = enroll(server, f"host-{point}")
    code = run_killed_at(host, point)
    assert code == -signal.SIGKILL, f"write {point} was not reached: {code}"
    result = host.run("commands_process", "--http_timeout=5")
    assert result.code == 0, (point, result)
    recorded = sorted(row["command"] for row in server.state.outputs())
    assert (point, recorded) == (point, [1, 2])
    assert (point, [runs(log) <= 1 for log in logs]) == (point, [True, True])
    assert host.run("commands_pending").answer["pending"] in ([], [
        {**row, "state": "presumed"} for row in host.run("commands_pending").answer["pending"]])


def count_points(serve, enroll, tmp_path):
    """How many kill points a run over two commands has."""
    server = serve(site("1", "1"))
    host = enroll(server, "counted")
    assert run_killed_at(host, 0) == 0
    return 2 * int((host.folder / "count").read_text())


def test_killed_at_any_write_it_runs_once_and_records_once(serve, enroll, tmp_path):
    """SIGKILL at writes all over the run: each command recorded once, run at most once."""
    points = count_points(serve, enroll, tmp_path)
    for point in range(2, points, 5):
        check_kill_point(serve, enroll, tmp_path, point)


@pytest.mark.soak
def test_killed_at_every_write_it_runs_once_and_records_once(serve, enroll, tmp_path):
    """The whole matrix."""
    points = count_points(serve, enroll, tmp_path)
    for point in range(2, points):
        check_kill_point(serve, enroll, tmp_path, point)
    print(f"\nkilled at each of {points - 2} points around every write", file=sys.stderr)


# -- bad surroundings ----------------------------------------------------------------------

def limited(host, action, size, *words):
    """The client with RLIMIT_FSIZE: no file may grow beyond `size` bytes."""
    import resource

    return host.run(action, *words, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (size, size)))


@pytest.mark.parametrize("size", [0, 100, 1000, 10000, 200000])
def test_with_a_full_disk_nothing_is_run_and_nothing_lost(serve, enroll, tmp_path, size):
    """75, one line, and everything goes on when there is room."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    result = limited(host, "commands_process", size)
    assert (result.code, result.answer["kind"]) == (75, "disk_full"), result
    assert result.err.count("\n") == 1
    assert (runs(tmp_path / "log"), server.state.outputs()) == (0, [])
    assert host.run("commands_process").code == 0
    assert (runs(tmp_path / "log"), len(server.state.outputs())) == (1, 1)


def test_a_damaged_result_is_told_delivered_as_lost_and_not_run_again(serve, enroll, tmp_path):
    """One flipped byte in what is kept: interrupted, recorded once, nothing blocked."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = lambda stage, handler: refuse_posts(stage, handler, 401)
    host.run("commands_process")
    server.fault = None
    journal = host.folder / "commands-journal.yml"
    content = journal.read_text()
    place = content.index('"body"') + 60
    flipped = "A" if content[place] != "A" else "B"
    journal.write_text(content[:place] + flipped + content[place + 1:])
    result = host.run("commands_process")
    assert (result.code, runs(tmp_path / "log")) == (0, 1), result
    (row,) = server.state.outputs()
    assert "damaged" in row["output"]


def test_a_journal_full_of_results_stops_new_commands(serve, enroll, tmp_path):
    """Over --journal_limit nothing new is run, and that is told; nothing is dropped."""
    server = serve(site("print('x' * 5000)", counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = lambda stage, handler: (
        "/post/1/" in handler.path and refuse_posts(stage, handler))
    result = host.run("commands_process", "--journal_limit=2K")
    assert (result.code, runs(tmp_path / "log")) == (1, 0)
    assert "is full" in result.answer["message"]
    assert len(host.run("commands_pending").answer["pending"]) == 1


def test_a_revoked_token_keeps_the_result(serve, enroll, tmp_path):
    """401 to a post is our login, not the result: 12, kept, delivered later."""
    server = serve(site(counting(tmp_path / "log")))
    host = enroll(server)
    server.fault = lambda stage, handler: refuse_posts(stage, handler, 401)
    assert host.run("commands_process").code == 12
    server.fault = None
    assert host.run("commands_process").code == 0
    assert (runs(tmp_path / "log"), len(server.state.outputs())) == (1, 1)


def test_a_certificate_that_is_no_longer_trusted_keeps_the_result(serve, enroll, tmp_path):
    """Swapped between fetch and post: 14, and the result is not set aside, but sent later."""
    (tmp_path / "ca").mkdir()
    (tmp_path / "stranger").mkdir()
    authority = Authority(tmp_path / "ca")
    trusted = authority.sign("127.0.0.1")
    strange = Authority(tmp_path / "stranger").sign("127.0.0.1")
    context = authority.context()
    server = serve(site(counting(tmp_path / "log"), "print(2)"), ssl_context=context)
    host = enroll(server)

    def swap(stage, handler):
        if stage == "after" and "/get/1/" in handler.path:
            handler.close_connection = True
            context.load_cert_chain(*strange)
        return False

    server.fault = swap
    result = host.run("commands_process", f"--ca_file={authority.ca_file}")
    assert (result.code, result.answer["kind"]) == (14, "certificate"), result
    again = host.run("commands_process", f"--ca_file={authority.ca_file}")
    assert (again.code, [row["command"] for row in server.state.outputs()]) == (14, [])
    server.fault = None
    context.load_cert_chain(*trusted)
    assert host.run("commands_process", f"--ca_file={authority.ca_file}").code == 0
    assert (runs(tmp_path / "log"), [row["command"] for row in server.state.outputs()]) == (
        1, [1, 2])


def test_what_is_kept_is_encrypted(serve, enroll, tmp_path):
    """The journal shows no output of a command in clear; the audit neither."""
    server = serve(site("print('a-secret-of-the-host')"))
    host = enroll(server)
    server.fault = refuse_posts
    host.run("commands_process")
    for name in ("commands-journal.yml", "audit.jsonl"):
        path = host.folder / name
        assert "a-secret-of-the-host" not in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
    assert host.journal()[0] == {"journal": "commands", "version": 1}
