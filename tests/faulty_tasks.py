"""What goes wrong around a client of tasks, for test_tasks_faults.py: proxies before both demo
servers that suffer a fault at random, and both servers as processes that are killed by it.

    python tests/faulty_tasks.py duplicati RELEASE FOLDER SITE(json) RUNS(log)
    python tests/faulty_tasks.py tasks DATABASE

Guards: that each fault is counted before it strikes; that what Duplicati began and ended is in
the log, whatever kills it. Leaves alone: when a fault is due, and what must have come of it.
"""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo import duplicati, task_server  # noqa: E402
from demo.serving import LoopbackServer  # noqa: E402

PASSWORD = "correct-horse-of-the-tests"
# (method of _Handler, the stage at which it strikes). before: the server never hears of the
# request; after: it has done what was asked, and the client does not learn of it. late: the client
# has given up when the server hears of it.
FAULTS = [(name, stage) for name in ("reset", "error_500", "error_502", "error_503", "page",
                                     "kill_client", "kill_server")
          for stage in ("before", "after")]
FAULTS += [("error_429", "before"), ("redirect", "before"), ("cut", "after"), ("half", "after"),
           ("late", "before"), ("silence", "after")]
# What would be an answer of no Duplicati, to what it has done.
OF_TASKS = [("redirect", "after"), ("wrong_status", "after")]
# To a result any 200 is a receipt, whatever stands in it.
RECEIPT = ("page", "before")
_BODY = b"<html><title>Something is wrong</title></html>"


class Program:
    """A demo server as a process. It comes back at another port: its own may be taken by then."""

    def __init__(self, *words):
        self._line = [sys.executable, __file__, *map(str, words)]
        self._process = None
        self._lock = threading.Lock()
        self.starts = 0
        self.restart()

    def restart(self):
        """Kills the process, if there is one, and starts it."""
        with self._lock:
            self.kill()
            self._process = subprocess.Popen(self._line, stdout=subprocess.PIPE, text=True)
            self.port = int(self._process.stdout.readline())
            self.starts += 1

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


class Faults:
    """Which request suffers which fault. `likelihood(is_change)` tells how likely it is now, None
    for never; each fault is noted in `struck`."""

    def __init__(self, seed, likelihood):
        self._draw = random.Random(seed)
        self.likelihood = likelihood
        self._lock = threading.Lock()
        self.struck = []

    def choose(self, where, method, path):
        """The fault of one request, (name, stage), or None."""
        with self._lock:
            likely = self.likelihood(method != "GET")
            if likely is None or self._draw.random() >= likely:
                return None
            faults = FAULTS + OF_TASKS if where == "tasks" else FAULTS
            if where == "tasks" and method == "POST":
                faults = [fault for fault in faults if fault != RECEIPT]
            fault = self._draw.choice(faults)
            self.struck.append((where, *fault, method, path))
            return fault


class Proxy(LoopbackServer):
    """Stands before `program`; `where` names it in the log, `kill_client` ends the client.
    `changes`: (method, path) of what the server has taken and was no GET."""

    def __init__(self, program, faults, where, kill_client, late_seconds):
        self.program, self.faults, self.where = program, faults, where
        self.kill_client, self.late_seconds = kill_client, late_seconds
        self.changes = []
        super().__init__(self, _Handler, ("127.0.0.1", 0), None)
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def log(self, line):
        """What is told of broken connections, which is what this is for."""

    def end(self):
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests go on to the server, its answers come back, unless a fault strikes.
    A fault answers True if it has dealt with the connection, which is closed then."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def respond(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.faults.choose(self.server.where, self.command, self._place())
        name, stage = fault or (None, None)
        if stage == "before" and getattr(self, name)():
            self.close_connection = True
            return
        answer = self._forwarded()
        if answer is None or stage == "after" and getattr(self, name)():
            self.close_connection = True
            return
        self._write(*answer)

    do_GET = do_POST = do_PUT = do_DELETE = respond

    def _place(self):
        return self.path.partition("?")[0]

    def _forwarded(self):
        """(status, reason, header lines, body) of the server; None if it does not answer."""
        line = http.client.HTTPConnection("127.0.0.1", self.server.program.port, timeout=60)
        with contextlib.closing(line):
            try:
                line.request(self.command, self.path, self.body or None,
                             {**dict(self.headers.items()), "Connection": "close"})
                answer = line.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                return None
        if self.command != "GET" and answer.status < 400:
            self.server.changes.append((self.command, self._place()))
        own = ("connection", "content-length", "transfer-encoding")
        return (answer.status, answer.reason,
                [pair for pair in answer.getheaders() if pair[0].lower() not in own], body)

    def _write(self, status, reason, headers, body, length=None):
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
        if status not in (204, 304):
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)

    def log_message(self, format, *values):
        pass

    # -- the faults ------------------------------------------------------------------------

    def reset(self):
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       struct.pack("ii", 1, 0))
            self.connection.close()
        return True

    def silence(self):
        with contextlib.suppress(OSError):
            self.rfile.read(1)  # until the client has had enough
        return True

    def late(self):
        threading.Event().wait(self.server.late_seconds)
        return False

    def _failure(self, status, reason, *headers, body=_BODY, length=None):
        headers = [("Content-Type", "text/html"), ("Connection", "close"), *headers]
        self._write(status, reason, headers, body, length)
        return True

    def error_500(self):
        return self._failure(500, "Fault")

    def error_502(self):
        return self._failure(502, "Bad Gateway")

    def error_503(self):
        return self._failure(503, "Busy", ("Retry-After", "1"))

    def error_429(self):
        return self._failure(429, "Too Many Requests")

    def page(self):
        return self._failure(200, "OK")

    def redirect(self):
        return self._failure(303, "See Other", ("Location", "/elsewhere"))

    def wrong_status(self):
        return self._failure(202, "Accepted", body=b"{}")

    def cut(self):
        return self._failure(200, "OK", body=b'[{"ID"', length=1000)

    def half(self):
        return self._failure(200, "OK", body=b'{"ID": 1, "Status": ')

    def kill_client(self):
        self.server.kill_client()
        return False

    def kill_server(self):
        self.server.program.restart()
        return True


# -- the servers as programs ---------------------------------------------------------------------

def _duplicati(release, folder, site, log):
    state = duplicati.Duplicati(release, PASSWORD, Path(folder), json.loads(site),
                                busy_seconds=0.2)
    engine, known = state.engine, set()
    add, perform = engine.add, engine.perform
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what, task):
        row = [what, os.getpid(), task.number, task.operation, task.backup["Name"]]
        os.write(descriptor, json.dumps(row).encode() + b"\n")

    def added(*values, **more):
        with engine.changed:  # so that it cannot run before it is noted
            task = add(*values, **more)
            if task.number not in known:
                known.add(task.number)
                note("start", task)
            return task

    def performed(task):
        try:
            perform(task)
        except duplicati.ClosedError:
            raise
        except Exception:
            note("aborted" if task.is_aborted else "failed", task)
            raise
        note("ended", task)

    engine.add, engine.perform = added, performed
    return duplicati.make_server(state)


def _tasks(database):
    return task_server.make_server(task_server.State((), database))


def main(kind, *words):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    server = {"duplicati": _duplicati, "tasks": _tasks}[kind](*words)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
