"""The monitor as its service manager meets it: a process that gets signals for months."""

import contextlib
import json
import os
import queue
import signal
import socket
import threading

import pytest

from tests.conftest import site
from tests.processes import WAIT_LIMIT_SECONDS, eventually

SLEEPS = "import time\nopen({begun!r}, 'w').close()\nprint('before', flush=True)\ntime.sleep(600)"
WAITS = ("import os, time\nopen({begun!r}, 'w').close()\n"
         "while not os.path.exists({go!r}): time.sleep(0.01)\nprint('ended')")


class Monitor:
    """A running monitor: its events and lines, as they come."""

    def __init__(self, process):
        self.process = process
        self.events, self.lines = queue.Queue(), queue.Queue()
        self._readers = [threading.Thread(target=self._read, args=pair) for pair in (
            (process.stdout, self.events), (process.stderr, self.lines))]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, lines):
        with stream:
            for line in stream:
                lines.put(line)

    def event(self, name="command"):
        """The next event; it must be one compact line, and have that name."""
        line = self.events.get(timeout=WAIT_LIMIT_SECONDS)
        event = json.loads(line)
        assert line == json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n"
        assert name == event["event"]
        return event

    def line(self, beginning=""):
        """The next line on stderr that begins so, others left out."""
        while not (line := self.lines.get(timeout=WAIT_LIMIT_SECONDS)).startswith(beginning):
            pass
        return line

    def signal(self, number):
        self.process.send_signal(number)

    def ended(self):
        """Its exit code, and all lines that were not read yet."""
        code = self.process.wait(WAIT_LIMIT_SECONDS)
        for reader in self._readers:
            reader.join()
        return code, [self.lines.get() for _ in range(self.lines.qsize())]


@pytest.fixture
def monitor():
    """monitor(host, *words) -> a running Monitor; all end with the test."""
    started = []

    def start(host, *words, interval="0.2"):
        words += (f"--interval={interval}",) if interval else ()
        started.append(Monitor(host.start("commands_monitor", *words)))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.ended()


@pytest.fixture
def paths(tmp_path):
    """Where a command says that it has begun, and what it waits for."""
    return {"begun": str(tmp_path / "begun"), "go": str(tmp_path / "go")}


@contextlib.contextmanager
def service_manager(host, tmp_path, watchdog="3600000000"):
    """The socket of a service manager that `host`'s next process will talk to."""
    host.environ.update(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC=watchdog)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.settimeout(WAIT_LIMIT_SECONDS)
        line.bind(str(tmp_path / "notify"))
        yield line


def hear(line, wanted):
    while line.recv(4096).decode() != wanted:
        pass


def outputs(server):
    return [(row["host"], row["command"], row["output"]) for row in server.state.outputs()]


# -- work --------------------------------------------------------------------------------

def test_a_monitor_runs_what_arrives_and_says_each_in_a_line(serve, enroll, monitor):
    """Commands that are there at its start, and later ones; the end is an event, too."""
    server = serve(site("print('one')"))
    running = monitor(enroll(server))
    first = running.event()
    server.state.load(site("print('one')", "raise ValueError('two')"))
    second = running.event()
    running.signal(signal.SIGTERM)
    assert {"event": "stopped", "signal": 15} == running.event("stopped")
    assert 0 == running.ended()[0]
    assert [(1, "completed", True), (2, "failed", True)] == [
        (event["command"], event["ending"], event["delivered"])
        for event in (first, second)]
    assert "output" not in first and "result" not in first
    assert [1, 2] == [row["command"] for row in server.state.outputs()]


def test_each_command_is_a_line_of_the_log(serve, enroll, monitor):
    """On stderr, with how it ended; and nothing else is there."""
    running = monitor(enroll(serve(site({"name": "greet", "command": "print('hello')"}))))
    running.event()
    running.signal(signal.SIGTERM)
    code, [line] = running.ended()
    assert (0, True) == (code, line.startswith("command 1 greet: completed after "))
    assert line.endswith(" s, delivered\n")


def test_a_second_monitor_ends_with_11_and_names_the_first(serve, enroll, monitor, tmp_path):
    """One for each settings file."""
    host = enroll(serve(site()))
    with service_manager(host, tmp_path) as line:
        first = monitor(host)
        hear(line, "READY=1")
    result = host.run("commands_monitor")
    assert (11, "locked") == (result.code, result.answer["kind"])
    assert f"process {first.process.pid}, since " in result.answer["message"]


def test_a_turn_can_be_made_by_hand_while_a_monitor_idles(serve, enroll, monitor, tmp_path):
    """It holds the lock of the commands while it works, and not while it waits."""
    server = serve(site())
    host = enroll(server)
    with service_manager(host, tmp_path) as line:
        monitor(host, interval="3600")
        hear(line, "STATUS=waiting for the next turn")
        server.state.load(site("print('by hand')"))
        result = host.run("commands_process", "--lock_wait=20")
    assert (0, [(1, 1, "by hand\n")]) == (result.code, outputs(server))


def test_settings_that_another_process_has_replaced_are_seen(serve, enroll, monitor):
    """The next turn is that of the host that they describe now."""
    server = serve(site("print('hello')"))
    one, other = enroll(server), enroll(server, "other")
    running = monitor(one)
    running.event()
    os.replace(other.settings, one.settings)
    running.event()
    assert [(1, 1, "hello\n"), (2, 1, "hello\n")] == outputs(server)


def test_settings_that_became_bad_are_told_once_and_the_old_ones_stay(serve, enroll, monitor):
    """Until they are good again."""
    server = serve(site())
    host = enroll(server)
    running = monitor(host)
    good = host.settings.read_text()
    eventually(lambda: server.requests, "the first turn")
    host.settings.write_text("[")
    assert "not valid YAML" in running.line("the former config and settings stay in force: ")
    server.state.load(site("print('all the same')"))
    running.event()
    host.settings.write_text(good)
    server.state.load(site("print('all the same')", "print('again')"))
    running.event()
    running.signal(signal.SIGTERM)
    code, lines = running.ended()
    assert (0, 2) == (code, sum(line.startswith("command ") for line in lines))
    assert not any("stay in force" in line for line in lines)


# -- signals -----------------------------------------------------------------------------

def test_sigterm_lets_the_running_command_end_and_delivers(serve, enroll, monitor, paths):
    """Within the grace; the next command is left for another run. 0."""
    server = serve(site(WAITS.format(**paths), "print('next')"))
    running = monitor(enroll(server))
    eventually(lambda: os.path.exists(paths["begun"]), "the command to begin")
    running.signal(signal.SIGTERM)
    open(paths["go"], "w").close()
    assert (0, [(1, 1, "ended\n")]) == (running.ended()[0], outputs(server))


def test_a_command_that_outlives_the_grace_is_ended_and_told(serve, enroll, monitor, paths):
    """As interrupted, with what it had printed, and delivered before the monitor ends. 0."""
    server = serve(site({"command": SLEEPS.format(**paths), "timeout": 600}))
    running = monitor(enroll(server), "--grace=0.2")
    eventually(lambda: os.path.exists(paths["begun"]), "the command to begin")
    running.signal(signal.SIGTERM)
    assert "interrupted" == running.event()["ending"]
    [(_, _, output)] = outputs(server)
    assert (0, True) == (running.ended()[0], output.startswith("before\n[interrupted] "))


def test_a_second_sigterm_stops_now_and_the_next_run_tells(
        serve, enroll, monitor, paths, tmp_path):
    """143; the command ends with the monitor, and is reported once, as interrupted."""
    server = serve(site({"command": SLEEPS.format(**paths), "timeout": 600}))
    host = enroll(server)
    with service_manager(host, tmp_path) as line:
        running = monitor(host, "--grace=600")
        hear(line, "WATCHDOG=1")
        eventually(lambda: os.path.exists(paths["begun"]), "the command to begin")
        running.signal(signal.SIGTERM)
        hear(line, "WATCHDOG=1")  # so the first one has been heard
        running.signal(signal.SIGTERM)
        assert 143 == running.ended()[0]
    result = host.run("commands_process")
    [report] = result.answer["commands"]
    assert (0, "interrupted", True) == (result.code, report["ending"], report["delivered"])
    [(_, _, output)] = outputs(server)
    assert output.startswith("[interrupted] ")


def test_ctrl_c_ends_with_130(serve, enroll, monitor, tmp_path):
    """As any program; within the grace, like SIGTERM."""
    host = enroll(serve(site()))
    with service_manager(host, tmp_path) as line:
        running = monitor(host)
        hear(line, "READY=1")
        running.signal(signal.SIGINT)
        hear(line, "STOPPING=1")
    assert (2, 130) == (running.event("stopped")["signal"], running.ended()[0])


def test_sighup_reads_the_config_again(serve, enroll, monitor, tmp_path):
    """What the owner changed holds from the next command on."""
    server = serve(site("print('x' * 100)"))
    host, config = enroll(server), tmp_path / "config.yml"
    config.write_text("options: {interval: 0.2}")
    with service_manager(host, tmp_path) as line:
        running = monitor(host, f"--config={config}")
        running.event()
        config.write_text("options: {output_limit: 10}")
        running.signal(signal.SIGHUP)
        hear(line, "READY=1")
    server.state.load(site("print('x' * 100)", "print('x' * 100)"))
    running.event()
    assert [False, True] == [
        "bytes are missing here" in output for _, _, output in outputs(server)]


def test_sighup_does_not_disturb_a_running_command(serve, enroll, monitor, paths):
    """It is heard after the turn."""
    server = serve(site(WAITS.format(**paths)))
    running = monitor(enroll(server), "--verbose")
    eventually(lambda: os.path.exists(paths["begun"]), "the command to begin")
    running.signal(signal.SIGHUP)
    open(paths["go"], "w").close()
    assert "completed" == running.event()["ending"]
    assert running.line("config and settings were read again")
    assert [(1, 1, "ended\n")] == outputs(server)


def test_sighup_with_a_bad_config_keeps_the_old_one(serve, enroll, monitor, tmp_path):
    """It is told, and the monitor goes on."""
    server = serve(site())
    host, config = enroll(server), tmp_path / "config.yml"
    config.write_text("options: {output_limit: 10}")
    with service_manager(host, tmp_path) as line:
        running = monitor(host, f"--config={config}")
        hear(line, "READY=1")
        config.write_text("options: {outptu_limit: 20}")
        running.signal(signal.SIGHUP)
        hear(line, "READY=1")
    assert "did you mean output_limit?" in running.line("the former config")
    server.state.load(site("print('x' * 100)"))
    running.event()
    assert "limited to 10 bytes" in outputs(server)[0][2]


def test_sighup_with_another_interval_is_heard(serve, enroll, monitor, tmp_path):
    """The next turn comes when the new one says, not after the old one."""
    server = serve(site())
    host, config = enroll(server), tmp_path / "config.yml"
    config.write_text("options: {grace: 5}\nactions: {commands_monitor: {interval: 3000}}")
    with service_manager(host, tmp_path) as line:
        running = monitor(host, f"--config={config}", interval=None)
        hear(line, "STATUS=waiting for the next turn")
        server.state.load(site("print('soon')"))
        config.write_text("options: {interval: 0.2}")
        running.signal(signal.SIGHUP)
        event = running.event()
        running.signal(signal.SIGTERM)
    assert ("completed", 0) == (event["ending"], running.ended()[0])


# -- faults ------------------------------------------------------------------------------

def test_a_server_that_went_away_is_told_and_met_again(serve, enroll, monitor, tmp_path):
    """One line when it is gone, one when it is back; then commands are run again."""
    database = str(tmp_path / "server.sqlite")
    server = serve(site(), database)
    running = monitor(enroll(server))
    eventually(lambda: server.requests, "the first turn")
    server.shutdown()
    server.server_close()
    assert "127.0.0.1" in running.line("unreachable: ")
    again = serve(site("print('back')"), database, address=server.server_address)
    assert running.line("the fault is over (unreachable)")
    for name in ("fault", "command", "fault_over"):
        assert "unreachable" in running.event(name).values() or name == "command"
    assert [(1, 1, "back\n")] == outputs(again)


REFUSAL = json.dumps({"detail": "Invalid token."})


@pytest.mark.parametrize("status, body, told", [
    ("503 Service Unavailable", "<html>", ""),
    ("401 Unauthorized", REFUSAL, "login_refused: "),
])
def test_a_fault_that_goes_on_is_told_once(serve, enroll, monitor, status, body, told):
    """A proxy's page, a revoked token: at the third turn as at the first; then its end."""
    server = serve(site("print('after')"))
    asked = []

    def refuse(stage, handler):
        if stage == "before":
            asked.append(handler.path)
            handler.wfile.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                                f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                                f"{body}".encode())
        return True

    server.fault = refuse
    running = monitor(enroll(server))
    eventually(lambda: len(asked) >= 3, "three turns")
    server.fault = None
    for name in ("fault", "command", "fault_over"):
        running.event(name)
    running.signal(signal.SIGTERM)
    code, lines = running.ended()
    assert (0, True) == (code, lines[0].startswith(told))
    assert ["command 1", "the fault"] == [line[:9] for line in lines[1:]]


# -- months ------------------------------------------------------------------------------

def footprint(server, process, turn):
    """(resident KiB, open files) while the process waits for the answer of that turn."""
    has_come, goes_on = threading.Event(), threading.Event()

    def hold(stage, handler):
        if stage == "before" and len(server.requests) >= turn:
            has_come.set()
            goes_on.wait(WAIT_LIMIT_SECONDS)
        return False

    server.fault = hold
    try:
        assert has_come.wait(120), f"{turn} turns"
        with open(f"/proc/{process}/status") as stream:
            resident = next(int(line.split()[1]) for line in stream if line.startswith("VmRSS:"))
        return resident, len(os.listdir(f"/proc/{process}/fd"))
    finally:
        server.fault = None
        goes_on.set()


@pytest.mark.parametrize("turns", [60, pytest.param(500, marks=pytest.mark.soak)])
def test_empty_turns_take_neither_memory_nor_files(serve, enroll, monitor, turns):
    """After many turns as after ten."""
    server = serve(site())
    running = monitor(enroll(server), interval="0.02")
    early = footprint(server, running.process.pid, 10)
    late = footprint(server, running.process.pid, turns)
    assert early[1] == late[1]
    assert late[0] - early[0] < 1024


def written(path):
    """What tells one writing of a file from another."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, path.read_bytes()


def test_the_settings_of_an_idle_monitor_are_not_written(serve, enroll, monitor):
    """But for the sum of its key, once: a turn that finds nothing changes nothing."""
    server = serve(site())
    host = enroll(server)
    monitor(host, interval="0.05")
    eventually(lambda: len(server.requests) >= 3, "some turns")
    before = written(host.settings)
    count = len(server.requests)
    eventually(lambda: len(server.requests) >= count + 5, "some more turns")
    assert before == written(host.settings)
