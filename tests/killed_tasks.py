"""Runs the client and kills it with SIGKILL at one point of its run: before or after a write, sync
or change of a file, before or after a request, or when an answer has come and is not read yet.

A test has `Clients`: a process that has imported the client and forks one for each order. Each
client is a process of its own, and costs a fork instead of an interpreter's start. Where a client
is paced, it asks the test to let the servers settle instead of passing time, so that its points
are the same ones each time.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parent.parent
CALLS = ("write", "fsync", "replace", "link", "ftruncate", "unlink")
PAUSE = "pause"
LIMIT_SECONDS = 120


class Clients:
    """Where tests order clients; one goes on at a time."""

    def __init__(self):
        environ = {name: value for name, value in os.environ.items()
                   if not name.lower().endswith("_proxy")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], env=environ, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        """Ends all of it, a client that goes on included."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def start(self, words, output, *, point=None, settles=()):
        """A client with the command line `words`; what it prints goes to the file `output`.

        It is killed at its point number `point`, or at the first one that is called so. At each
        point that `settles` names it waits until the test has let the servers settle; PAUSE names
        the pauses.
        """
        self._send({"words": list(map(str, words)), "output": str(output), "point": point,
                    "settles": list(settles)})

    def ended(self, settle=lambda: None):
        """(exit status, negative if it was killed; the points that it has passed, if it was not).
        `settle()` is called at each point that was to settle."""
        points = []
        while "status" not in (heard := self._hear()):
            points = heard.get("points", points)
            if "settle" in heard:
                settle()
                self._send("go")
        return heard["status"], points

    def _send(self, document):
        self._process.stdin.write(json.dumps(document).encode() + b"\n")

    def _hear(self):
        came, _, _ = select.select([self._process.stdout], [], [], LIMIT_SECONDS)
        assert came, f"the client has not ended after {LIMIT_SECONDS} s"
        return json.loads(self._process.stdout.readline())


class _Points:
    """The points of this process: it ends at the one that is `deadly`."""

    def __init__(self, order, ask):
        self._deadly, self._settles, self._ask = order["point"], order["settles"], ask
        self.passed = []

    def reach(self, name):
        if self._deadly in (len(self.passed), name):
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(name)
        if name in self._settles:
            self._ask()

    def around(self, function, name):
        """`function` with a point before and one after it."""
        def call(*arguments, **more):
            self.reach(f"before {name}")
            try:
                return function(*arguments, **more)
            finally:
                self.reach(f"after {name}")

        return call

    def watch(self):
        """From now on there is a point wherever something leaves this process."""
        import http.client
        import time

        from remotes.transport import Transport

        for name in CALLS:
            setattr(os, name, self.around(getattr(os, name), name))
        exchange, getresponse = Transport.exchange, http.client.HTTPConnection.getresponse
        current = []

        def watched_exchange(transport, method, url, **more):
            current[:] = [f"{method} {urlsplit(url).path}"]
            return self.around(exchange, current[0])(transport, method, url, **more)

        def watched_getresponse(connection, *arguments, **more):
            select.select([connection.sock], [], [])
            self.reach(f"sent {current[0]}")
            return getresponse(connection, *arguments, **more)

        Transport.exchange = watched_exchange
        http.client.HTTPConnection.getresponse = watched_getresponse
        if PAUSE in self._settles:
            time.sleep = lambda seconds: self.reach(PAUSE)


def main():
    """Forks a client for each order on stdin."""
    import client  # and what it needs, once for all
    import remotes.actions.tasks
    import remotes.duplicati.adoption
    import remotes.duplicati.outcomes
    import remotes.executor
    import remotes.tasks
    import remotes.taskserver  # noqa: F401

    orders, told = os.fdopen(os.dup(0), "r"), os.dup(1)
    write = os.write

    def tell(document):
        write(told, json.dumps(document).encode() + b"\n")

    def ask():
        tell({"settle": True})
        orders.readline()

    while line := orders.readline():
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_client(client, order, tell, ask)
        tell({"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def _be_client(client, order, tell, ask):
    """The child: a client from here to its end."""
    status = 70
    try:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        points = _Points(order, ask)
        points.watch()
        home = str(Path(order["output"]).parent)
        status = client.main(order["words"], {"HOME": home, "REMOTES_CONFIG": ""})
        sys.stdout.flush()
        tell({"points": points.passed})
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    main()
