"""Runs one command in processes of its own and says how it ended: an Outcome.

Guards: that nothing a command does can hurt the client. A failure, a time-out, a crash
of the command (or of the watcher that serves it) is an outcome like any other; memory
is bounded by `output_limit`; secrets are in no child's environment; a client that ends
ends the command. Leaves alone: what becomes of the outcome.

The watcher (watcher.py) is one process for a whole run, started with the first
command: so a command costs a fork in place of an interpreter's start.
"""

import contextlib
import os
import select
import signal
import sys
import time

from remotes import watcher

COMPLETED, FAILED, TIMED_OUT = "completed", "failed", "timed_out"
CRASHED, INTERRUPTED = "crashed", "interrupted"
LONGEST_TIMEOUT_SECONDS = 366 * 86400.0
_STOP_LIMIT_SECONDS = watcher.TERM_GRACE_SECONDS + watcher.KILL_LIMIT_SECONDS + 3.0
_WATCHER_FILE = os.path.abspath(watcher.__file__)
# Never in a child's environment: logins of ours, and the line to the service manager.
_WITHHELD = ("REMOTES_TOKEN", "REMOTES_PASSWORD", "REMOTES_LOGIN_TOKEN", "REMOTES_TARGET_URL",
             "REMOTES_TASKS_TOKEN", "DUPLICATI_PASSWORD", "DUPLICATI_BASIC_PASSWORD",
             "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class Outcome:
    """How a command ended.

    `ending` is completed, failed, timed_out, crashed or interrupted; `why` one line
    (empty when completed); `seconds` its time; `output` the text to post, `result`
    the JSON text of its `__RESULT__` list.
    """

    __slots__ = ("ending", "why", "seconds", "output", "result")

    def __init__(self, ending, why="", seconds=0.0, output="", result="[]"):
        self.ending = ending
        self.why = why
        self.seconds = seconds
        self.output = output
        self.result = result


def interrupted(why, seconds=0.0):
    """The outcome of a command that was cut off and of which nothing else is known."""
    return Outcome(INTERRUPTED, why, seconds, f"[{INTERRUPTED}] {why}\n")


class Runner:
    """Runs commands, one after another.

    `settings_path` is what commands find as REMOTES_SETTINGS. `stop`, if given, has
    `fileno()` (readable when the run should end), `grace_seconds` and `beat()`, called
    at least every `beat_seconds` while a command runs.
    """

    def __init__(self, settings_path, *, output_limit=512 * 1024, environ=None, stop=None):
        self.output_limit = output_limit
        environ = os.environ if environ is None else environ
        self._environ = {name: value for name, value in environ.items() if name not in _WITHHELD}
        self._environ["REMOTES_SETTINGS"] = settings_path
        self._stop = stop
        self._process = None
        self._others = set()  # children of this process that are no watcher's business
        self._left_over = set()  # what commands that ended by themselves have left running

    def start(self):
        """Starts the watcher, if none is there, and does not wait for it."""
        if self._process is not None and self._process.poll() is not None:
            self._bury()  # somebody ended it between two commands
            self._sweep()
        if hasattr(os, "fork") and self._process is None:
            # What a watcher leaves behind when it is killed must not get away, either.
            watcher.become_subreaper()
            self._left_over = {process for process in self._left_over if not _reap(process)}
            self._others = watcher.children()
            self._process = self._spawn()

    def run(self, source, *, settings, variables, timeout_seconds, name):
        """Runs `source` (Python text) and gives its Outcome. `name` stands in tracebacks.

        If a signal ends this run (KeyboardInterrupt, Interrupted), the command is
        ended first.
        """
        request = {
            "source": source, "settings": settings, "variables": variables, "file_name": name,
            "timeout": min(timeout_seconds, LONGEST_TIMEOUT_SECONDS),
            "output_limit": self.output_limit, "result_limit": self.output_limit,
        }
        if not hasattr(os, "fork"):
            return self._compose(*self._run_without_fork(request), timeout_seconds)
        self.start()
        started = time.monotonic()
        try:
            reply, streams = self._ask(request, started + timeout_seconds + _STOP_LIMIT_SECONDS)
        except (EOFError, OSError, ValueError):
            self._bury()
            self._sweep()
            why = "the process that watches it was brought down"
            return Outcome(CRASHED, why, time.monotonic() - started, f"[{CRASHED}] {why}\n")
        except BaseException:
            self.close()
            raise
        return self._compose(reply, streams, timeout_seconds)

    def close(self):
        """Ends the watcher, and with it a command that runs. Returns when both are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        import subprocess

        process.stdin.close()
        try:
            process.wait(_STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _bury(self):
        """Puts away a watcher that is dead, or that says what no watcher says."""
        process, self._process = self._process, None
        process.kill()
        for stream in (process.stdin, process.stdout):
            try:
                stream.close()
            except OSError:
                pass  # what it had not read cannot be flushed any more
        process.wait()

    def _sweep(self):
        """Ends what a watcher that was brought down has left (Linux: it came back to us)."""
        until = time.monotonic() + watcher.KILL_LIMIT_SECONDS
        while time.monotonic() < until:
            for process in watcher.children() - self._others - self._left_over:
                _reap(process)
            left = watcher.descendants(self._others | self._left_over)
            if not left:
                return
            for process in left:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)

    def _spawn(self, *arguments, reads_errors=False):
        import subprocess  # takes time, and a run with nothing to do needs none

        return subprocess.Popen(
            [sys.executable, _WATCHER_FILE, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, bufsize=0, env=self._environ, start_new_session=True,
            stderr=subprocess.PIPE if reads_errors else subprocess.DEVNULL,
        )

    def _ask(self, request, until):
        self._send(request)
        self._await_reply(until)
        channel = self._process.stdout.fileno()
        reply = watcher.read_message(channel)
        streams = []
        for head, tail, total in reply["streams"]:
            streams.append((watcher.read_exactly(channel, head),
                            watcher.read_exactly(channel, tail), total))
        if reply["retires"]:
            self._bury()
            self._left_over |= watcher.children() - self._others
        return reply, streams

    def _send(self, message):
        watcher.write_exactly(self._process.stdin.fileno(), watcher.pack_message(message))

    def _await_reply(self, until):
        """Returns when the watcher speaks; meanwhile hears the stop flag. EOFError if it
        is still silent at `until` (monotonic seconds): the command has stopped it.
        """
        channel = self._process.stdout.fileno()
        waiting = [channel] if self._stop is None else [channel, self._stop.fileno()]
        beat_seconds = None if self._stop is None else self._stop.beat_seconds
        while (left := until - time.monotonic()) > 0:
            left = min(left, 3600.0 if beat_seconds is None else beat_seconds)
            ready, _, _ = select.select(waiting, [], [], left)
            if channel in ready:
                return
            if self._stop is not None:
                self._stop.beat()
            if ready:
                waiting = [channel]
                self._send({"seconds": self._stop.grace_seconds})
        raise EOFError

    def _run_without_fork(self, request):
        """A child for each command, its output and its report each read by a thread (Windows)."""
        import subprocess
        import threading

        process = self._spawn("once", reads_errors=True)
        capture = watcher.Capture(self.output_limit)
        reply = {"ending": None, "result": "[]", "reason": None}
        started = time.monotonic()

        def read_output():
            with process.stdout:
                for chunk in iter(lambda: process.stdout.read(1 << 16), b""):
                    capture.take(chunk)

        def read_report():
            with process.stderr, contextlib.suppress(EOFError, ValueError):
                reply.update(watcher.read_message(process.stderr.fileno()))

        readers = [threading.Thread(target=read, daemon=True)
                   for read in (read_output, read_report)]
        for reader in readers:
            reader.start()
        try:
            with contextlib.suppress(OSError), process.stdin:
                watcher.write_exactly(process.stdin.fileno(), watcher.pack_message(request))
            process.wait(request["timeout"])
        except subprocess.TimeoutExpired:
            reply["reason"] = TIMED_OUT
        finally:
            _end_tree(process)
            for reader in readers:
                reader.join(watcher.KILL_LIMIT_SECONDS)
        code = process.returncode
        reply["status"] = -code if code < 0 else code << 8
        reply["seconds"] = time.monotonic() - started
        return reply, [(*capture.parts(), capture.total), (b"", b"", 0)]

    def _compose(self, reply, streams, timeout_seconds):
        ending, why = _judge(reply, timeout_seconds)
        notes = f"[{ending}] {why}\n" if ending != COMPLETED else ""
        dropped = (reply["ending"] or {}).get("result_bytes")
        if dropped:
            notes += (f"[result not sent] its {dropped:,} bytes are over the limit of"
                      f" {self.output_limit:,}\n")
        output = compose_output(*streams, notes, self.output_limit)
        return Outcome(ending, why, reply["seconds"], output, reply["result"])


def _reap(process):
    """Takes leave of a child that has ended; whether it is gone."""
    try:
        return os.waitpid(process, os.WNOHANG)[0] != 0
    except OSError:
        return True


def _end_tree(process):
    if process.poll() is None and os.name == "nt":
        import subprocess

        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if process.poll() is None:
        process.kill()
    process.wait()


def _judge(reply, timeout_seconds):
    """(ending, why) from what the watcher saw."""
    status, said = reply["status"], reply["ending"]
    if reply["reason"] == TIMED_OUT:
        return TIMED_OUT, f"it took longer than its {timeout_seconds:g} s and was ended"
    if reply["reason"] == INTERRUPTED:
        return INTERRUPTED, "the client was told to stop, and the command was ended"
    if said is not None and said["how"] == FAILED:
        return FAILED, said["why"]
    if status is not None and os.name == "posix" and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return CRASHED, f"it was ended by signal {number} ({signal.Signals(number).name})" \
            if number in list(signal.Signals) else f"it was ended by signal {number}"
    if said is None and status != 0:
        code = "unknown" if status is None else status >> 8
        return FAILED, f"its process ended with status {code}"
    return COMPLETED, ""


def compose_output(output, errors, notes, limit):
    """What is posted: the output, then stderr, then `notes`; at most `limit` bytes of
    UTF-8 of the first two, cut in the middle with a line that tells how much is missing.

    `output` and `errors` are (head, tail, total bytes). NUL and bad UTF-8 are replaced
    first, since the server refuses the one and cannot hold the other.
    """
    error_text = cut(*errors, limit // 4 if output[2] else limit)
    room = max(limit - len(error_text.encode()), limit // 2)
    text = cut(*output, room)
    if error_text:
        text = _whole_line(text) + "[stderr]\n" + error_text
    return _whole_line(text) + notes if notes else text


def _whole_line(text):
    return text if not text or text.endswith("\n") else text + "\n"


def cut(head, tail, total, limit):
    """Bytes as text of at most `limit` bytes of UTF-8, and a line where some are missing."""
    missing = total - len(head) - len(tail)
    if not missing:
        text = _decode(head + tail)
        if len(text.encode()) <= limit:
            return text
        # Not in the middle of the text, but of what is kept of it: the ends count.
        half = len(text) // 2
        first, last = text[:half], text[half:]
    else:
        first, last = _decode(head), _decode(tail)
    size = len(first.encode()) + len(last.encode())
    first = first.encode()[:limit // 2].decode("utf-8", "ignore")
    last = last.encode()[-(limit // 2):].decode("utf-8", "ignore") if limit > 1 else ""
    missing += size - len(first.encode()) - len(last.encode())
    return (f"{_whole_line(first)}[{missing:,} bytes are missing here: the output is limited to"
            f" {limit:,} bytes]\n{last}")


def _decode(content):
    return content.decode("utf-8", "replace").replace("\0", "\ufffd")
