"""A Duplicati server on loopback, small enough to read: for a first try of the client, and for
its tests and benchmarks.

Guards: that a client meets here what it meets at real servers of five releases (2.0.6.3, 2.0.8.1,
2.1.0.5, 2.3.0.4 and today's), traps included; `tests/test_demo_duplicati.py` holds it against
what they answered. Backups are real: a run copies the files of a job to its target, where they
can be listed, searched and restored, also by another server that knows nothing but the target.
All but tasks is kept in `folder` and outlives the end of the process, `kill -9` included.
Leaves alone: schedules that come due, the file system, the command line, the websocket,
destinations other than `file://`. It is no server for a network.

How a run ends and how long it takes is steered by settings of its job: see
duplicati_server/operations.py. And there are endpoints that are not Duplicati's, without a session:
    POST /demo/hold?name=JOB      tasks of that job stop in their middle (or, with &phase=NAME,
                                  where a phase begins) ...
    POST /demo/release?name=JOB   ... until this
    POST /demo/reached?name=JOB   answers when one has come to its middle
    POST /demo/expire             all access tokens (sessions, on 2.0) given so far are over
    GET  /demo/requests           [method, path] of the latest requests

It imports nothing of the client's package, so that the two cannot share a mistake. It is also
a program: `python demo/duplicati.py --help`. Its parts are in duplicati_server/: releases (what
differs), endpoints (the table), views, system, backups, browsing, legacy (what they do), tokens,
cookies (sessions), engine, operations, counting, results, aftermath, versions (tasks), state (all
of it together), jobs, store, live, moments, answers, aescrypt.
"""
import argparse
import sqlite3
import ssl
import sys
from http import HTTPStatus
from pathlib import Path

if not __package__:  # run as a program: what is on the path is this folder, not the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.duplicati_server.answers import Answer, Call, compact
from demo.duplicati_server.endpoints import answer_legacy, answer_modern, endpoints
from demo.duplicati_server.engine import MIDDLE, ClosedError
from demo.duplicati_server.releases import RELEASES
from demo.duplicati_server.state import State
from demo.serving import (
    KEPT_REQUESTS,
    LoopbackHandler,
    LoopbackServer,
    add_certificate,
    check_address,
    read_yaml,
    serve,
    tls_context,
)

SITE = Path(__file__).with_name("duplicati-site.yml")


class Duplicati(State):
    """A server's state and its answers, without sockets; can be used from several threads."""

    def __init__(self, *options, **more):
        super().__init__(*options, **more)
        self.endpoints = endpoints(self.played)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes,
               url: str) -> Answer | None:
        """What the server says to a request; all that this changes is saved by then. `headers`:
        their names in lower case. None: it never answers. ClosedError if it is killed
        meanwhile."""
        call = Call(method, target, headers, body, url)
        if call.path.startswith("/demo/"):
            return self._control(call)
        engine = self.engine
        if method == "GET":
            self._note(method, target)
        if not self.played.is_legacy:
            answer = answer_modern(self, call)
        elif self.sessions.never_answers(call):
            return None
        else:
            answer = answer_legacy(self, call)
        if method != "GET":  # who waits for it may then rely on what it has done
            self._note(method, target)
        if engine.closed:
            raise ClosedError
        return answer

    def _note(self, method: str, target: str) -> None:
        """For tests that wait for a request."""
        with self.engine.changed:
            self.requests.append((method, target))
            del self.requests[:-KEPT_REQUESTS]
        self.engine.wake()

    def _control(self, call: Call) -> Answer:
        name, reply = call.query.get("name", ""), {}
        phase = call.query.get("phase") or MIDDLE
        if call.path == "/demo/hold":
            self.hold(name, phase)
        elif call.path == "/demo/release":
            self.release(name)
        elif call.path == "/demo/reached":
            reply = {"reached": self.wait_reached(name, phase, 60)}
        elif call.path == "/demo/expire":
            self.expire_tokens()
        elif call.path == "/demo/requests":
            reply = self.requests
        else:
            return Answer(404)
        return Answer(200, [("Content-Type", "application/json")], compact(reply))


class Handler(LoopbackHandler):
    """One connection: requests in, answers of `server.state` out."""

    def respond(self) -> None:
        """Answer a request, or end the connection if there is no answer."""
        body = self.read_body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.server.state.answer(self.command, self.path, headers, body,
                                              self.server.url)
        except (ClosedError, sqlite3.ProgrammingError):  # killed in the middle of it
            self.close_connection = True
            return
        if answer is None:
            self.rfile.read(1)  # until the other side, or the end of the server, gives up
            self.close_connection = True
            return
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        status, headers, body, reason = answer
        if ("Connection", "close") in headers:
            self.close_connection = True
        elif self.close_connection:
            headers = [*headers, ("Connection", "close")]
        lines = [f"HTTP/1.1 {status} {reason or HTTPStatus(status).phrase}",
                 *(f"{name}: {value}" for name, value in headers)]
        if status != 204:
            lines.append(f"Content-Length: {len(body)}")
        # In one piece: a body sent after its headers can wait 40 ms for the other side's
        # delayed acknowledgement.
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        self.wfile.write(head + (b"" if self.command == "HEAD" else body))


class Server(LoopbackServer):
    """A Duplicati at a port; end its `state` with `close` after `server_close`."""

    def __init__(self, state: Duplicati, address: tuple[str, int],
                 ssl_context: ssl.SSLContext | None):
        super().__init__(state, Handler, address, ssl_context)
        state.when_killed = self.end_connections


def make_server(state: Duplicati, port: int = 0, bind: str = "127.0.0.1",
                ssl_context: ssl.SSLContext | None = None) -> Server:
    """A server that listens (port 0: any) but does not serve yet. OSError if it cannot."""
    return Server(state, (bind, port), ssl_context)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A Duplicati server to try the client with; not for a network.")
    parser.add_argument("--release", choices=list(RELEASES), default="2.3.0.4",
                        help="which one it plays (default: %(default)s)")
    parser.add_argument("--bind", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8200, help="default: %(default)s; 0: any")
    parser.add_argument("--password", help="without it: none on 2.0, an unknown one later")
    parser.add_argument("--folder", type=Path, help="where all is kept (default: a temporary one)")
    parser.add_argument("--site", type=Path, default=SITE, metavar="FILE",
                        help="what a new folder begins with, in YAML")
    parser.add_argument("--token_seconds", type=float, default=900,
                        help="life of an access token (default: %(default)s)")
    parser.add_argument("--pre_auth", action="append", default=[], metavar="TOKEN",
                        help="a pre-auth token; can be given several times")
    parser.add_argument("--enable_forever_token", action="store_true")
    add_certificate(parser)
    arguments = parser.parse_args(argv)
    check_address(parser, arguments, "bind")
    return arguments


def _open_server(arguments: argparse.Namespace) -> Server:
    """The server that the arguments describe. Raises SiteError, OSError, sqlite3.Error."""
    site, context = read_yaml(arguments.site), tls_context(arguments)
    state = Duplicati(
        arguments.release, arguments.password, arguments.folder, site, arguments.token_seconds,
        tuple(arguments.pre_auth), arguments.enable_forever_token,
        log=lambda line: sys.stderr.write(line + "\n"))
    try:
        return make_server(state, arguments.port, arguments.bind, context)
    except OSError:
        state.close()
        raise


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C: 0. 1: it could not start, stderr says why."""
    arguments = _arguments(argv)
    return serve(lambda: _open_server(arguments), f"Duplicati {arguments.release}",
                 arguments.site, f"{arguments.bind}:{arguments.port}")


if __name__ == "__main__":
    raise SystemExit(main())
