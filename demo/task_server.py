"""A task server: the reference for whoever writes one, and good enough for a small fleet.

    GET  api/tasks/status        303: there are tasks that this host has neither accepted nor
                                 refused; 304: there are none. Neither has a body.
    GET  api/tasks               those tasks, as JSON
    POST api/tasks/<id>/result   200: the result is on the disk. 400: it has not the form of a
                                 result; 404: no such task; 503: later
    GET  /                       for people: what became of each task

Guards: that a host gets its own tasks and no others'; that 200 is said of nothing that could be
lost; that a mistake in a task file takes nothing away. Leaves alone: what operations there are,
and whether a host may do them: its client judges that. Where tasks come from is told in
task_files.py, what is kept in task_store.py; task_page.py is the page.

It imports nothing of the client's package, so that the two cannot share a mistake. It is also a
program: `python demo/task_server.py --help`.
"""
import argparse
import base64
import hmac
import ipaddress
import json
import os
import re
import sqlite3
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

if not __package__:  # run as a program: what is on the path is this folder, not the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo import task_page
from demo.serving import (
    Answer,
    AnsweringHandler,
    AnsweringServer,
    SiteError,
    add_certificate,
    check_address,
    printable,
    serve,
    tls_context,
)
from demo.task_files import (
    ONLY_HOST,
    SHORTEST_OPEN_TOKEN,
    HostTasks,
    TaskFiles,
    check_tokens,
    read_document,
)
from demo.task_store import ACCEPTED, FINAL, Store, as_json

FORMS = ("list", "object", "bare")  # how api/tasks is written; the draft says this and shows that
STATUSES = (ACCEPTED, *FINAL)
RETRY_SECONDS = 30


class RefusedError(Exception):
    """A request that is answered with an error: the HTTP status, what it says, more headers."""

    def __init__(self, code: int, message: str, **headers: str):
        super().__init__(message)
        self.code, self.headers = code, headers


class Call(NamedTuple):
    """A request; `headers` by their names in lower case."""
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Percent-encoded, as it came."""
        return self.target.partition("?")[0]


def _json(status: int, document: object, **headers: str) -> Answer:
    return Answer(status, {"Content-Type": "application/json", "Cache-Control": "no-store",
                           **headers}, json.dumps(document).encode())


def _is_same(given: str, expected: str) -> bool:
    """Whether two tokens are the same, in a time that tells nothing."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def read_result(body: bytes, identifier: str) -> dict:
    """The result in a body, for the task with this ID (as text). Raises RefusedError."""
    try:
        result = json.loads(body.decode())
        as_json(result)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"The body is not JSON: {error}") from error
    if not isinstance(result, dict):
        raise RefusedError(400, "A result is an object with ID, Status and Data.")
    if type(result.get("ID")) not in (int, str) or str(result["ID"]) != identifier:
        raise RefusedError(400, "The ID in the body is not that in the path.")
    if result.get("Status") not in STATUSES:
        raise RefusedError(400, f"Status must be one of {', '.join(STATUSES)}.")
    return result


class State:
    """A task server's rules and state, without sockets; can be used from several threads."""

    def __init__(self, tasks: Iterable | dict | str | Path = (), database: str = ":memory:", *,
                 token: str | None = None, page_token: str | None = None, form: str = "list",
                 has_location: bool = False, clock: Callable[[], datetime] | None = None,
                 log: Callable[[str], None] = lambda line: None):
        """`tasks`: the path of a file or a folder; or tasks themselves, whatever they are: a list,
        for the host "host" with the token `token`, or {"hosts": {NAME: {"token", "tasks"}}}.
        `form`: how the list is written, see FORMS. `has_location`: whether 303 says where.
        Raises SiteError, OSError, sqlite3.Error."""
        self.log, self.page_token, self.form = log, page_token, form
        self.has_location, self._lock, self._is_behind = has_location, threading.Lock(), True
        self.files, self.asked = None, {}
        if isinstance(tasks, (str, Path)):
            self.files = TaskFiles(tasks, log)
            hosts = self.files.hosts
        else:
            hosts = read_document(tasks)
            if token:
                hosts[ONLY_HOST] = hosts[ONLY_HOST]._replace(token=token)
            check_tokens(hosts)
        self.hosts: dict[str, HostTasks] = hosts
        self.store = Store(database, clock)
        if not self.files:
            for name, host in hosts.items():
                for task in host.tasks:
                    self.store.add(name, task)
        self.refresh()

    def close(self) -> None:
        """Close the database; nothing can be asked afterwards."""
        self.store.close()

    def refresh(self) -> None:
        """Read task files again if they have changed. Raises sqlite3.Error."""
        if not self.files:
            return
        with self._lock:
            if self.files.refresh():
                self.hosts, self._is_behind = self.files.hosts, True
            if self._is_behind:
                self.store.replace({name: host.tasks for name, host in self.hosts.items()},
                                   self.files.held)
                self._is_behind = False

    def want_tokens(self) -> None:
        """From now on nobody is served without a token. SiteError if nobody has one, or the page
        has none; of tasks that came without files, if one is missing."""
        if len(self.page_token or "") < SHORTEST_OPEN_TOKEN:
            raise SiteError("since others can reach this server, its page needs a token of"
                            f" {SHORTEST_OPEN_TOKEN} characters or more (--page_token_file)")
        if not self.files:
            return check_tokens(self.hosts, is_open=True)
        with self._lock:
            self.files.want_tokens()
            self.hosts, self._is_behind = self.files.hosts, True
        return None

    # For tests.

    def add(self, host: str, task: object) -> None:
        """One more task for a host, even with an ID that it has had. KeyError: no such host."""
        if host not in self.hosts:
            raise KeyError(host)
        self.store.add(host, task)

    def replace(self, tasks: list, host: str = ONLY_HOST) -> None:
        """The tasks of the hosts are these from now on, as if they stood in a file."""
        self.store.replace({host: tasks})

    def posts(self, host: str = ONLY_HOST) -> list[dict]:
        """Every result of a host in the order in which they came: ID, Status, Data."""
        return self.store.posts(host)

    def state(self, host: str, identifier: object) -> str | None:
        """The state of a task: new, accepted, refused, completed, error; None: there is none."""
        return self.store.state(host, identifier)

    def answer(self, call: Call) -> Answer:
        """What the server says to a request; all that this changes is on the disk by then."""
        try:
            self.refresh()
            return self._answer(call)
        except RefusedError as refusal:
            return _json(refusal.code, {"Message": str(refusal)}, **refusal.headers)
        except sqlite3.Error as error:
            self.log(f"the database: {error}")
            return _json(503, {"Message": "The database cannot be used now."},
                         **{"Retry-After": str(RETRY_SECONDS)})

    def _answer(self, call: Call) -> Answer:
        if call.path in ("/", "/task"):
            self._check_page(call)
            _allow(call, "GET", "HEAD")
            return task_page.answer(self, call.target)
        result = re.fullmatch(r"/api/tasks/([^/]+)/result", call.path)
        if not result and call.path not in ("/api/tasks/status", "/api/tasks"):
            raise RefusedError(404, "Nothing is at this address.")
        host = self._host(call)
        self.asked[host] = self.store.now()
        if result:
            _allow(call, "POST")
            return self._post(host, call, result[1])
        _allow(call, "GET")
        return self._status(host) if call.path == "/api/tasks/status" else self._list(host)

    def _status(self, host: str) -> Answer:
        headers = {"Cache-Control": "no-store"}
        if not self.store.has_new(host):
            return Answer(304, headers)
        if self.has_location:
            headers["Location"] = "../tasks"
        return Answer(303, headers)

    def _list(self, host: str) -> Answer:
        tasks = self.store.hand_out(host, 1 if self.form == "bare" else -1)
        if self.form == "object":
            return _json(200, {"Tasks": tasks})
        return _json(200, tasks[0] if self.form == "bare" and tasks else tasks)

    def _post(self, host: str, call: Call, part: str) -> Answer:
        if "origin" in call.headers:
            raise RefusedError(403, "Results do not come from web pages.")
        try:
            identifier = unquote(part, errors="strict")
        except UnicodeDecodeError as error:
            raise RefusedError(400, "The ID in the path is not UTF-8.") from error
        result = read_result(call.body, identifier)
        became = self.store.post(host, result)
        shown = printable(f"host {host}, task {result['ID']}: {result['Status']}")
        if became is None:
            self.log(f"{shown}: there is no such task")
            raise RefusedError(404, "This host has no task with this ID.")
        self.log(f"{shown} ({became})")
        return _json(200, {"Message": f"Received ({became})."})

    def _host(self, call: Call) -> str:
        """The host that asks. Raises RefusedError."""
        keyword, _, given = call.headers.get("authorization", "").strip().partition(" ")
        given = given.strip() if keyword.lower() == "bearer" else ""
        found = None
        for name, host in self.hosts.items():  # all of them, so that the time tells nothing
            if host.token is None:
                _check_name(call)
                found = name
            elif _is_same(given, host.token):
                found = name
        if found is None:
            raise RefusedError(401, "A token of a host is needed.",
                               **{"WWW-Authenticate": "Bearer"})
        return found

    def _check_page(self, call: Call) -> None:
        """Raises RefusedError unless whoever asks may see the page: a browser asks for a name,
        which does not matter, and a password, which is the token."""
        if not self.page_token:
            return _check_name(call)
        keyword, _, given = call.headers.get("authorization", "").strip().partition(" ")
        if keyword.lower() == "basic":
            try:
                given = base64.b64decode(given).decode().partition(":")[2]
            except ValueError:
                given = ""
        if not _is_same(given.strip(), self.page_token):
            raise RefusedError(401, "The token of the page is needed, as the password.", **{
                "WWW-Authenticate": 'Basic realm="Task server", charset="UTF-8"'})
        return None


def _check_name(call: Call) -> None:
    """Without a token, whoever reaches this machine's loopback may ask; but not a web page that
    has its own name lead here."""
    try:
        name = urlsplit("//" + call.headers.get("host", "")).hostname or "localhost"
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise RefusedError(403, "Without tokens this server answers as localhost only.")


def _allow(call: Call, *methods: str) -> None:
    if call.method not in methods:
        raise RefusedError(405, "This address has another method.", Allow=", ".join(methods))


def is_loopback(name: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Server(AnsweringServer):
    """A State at a port, below `base_path`."""

    def __init__(self, state: State, address: tuple[str, int], base_path: str,
                 ssl_context: ssl.SSLContext | None):
        self._base = "/" + base_path.strip("/") if base_path.strip("/") else ""
        super().__init__(state, address, ssl_context)
        self.url = self.url.rstrip("/") + self._base + "/"

    def answer(self, handler: AnsweringHandler) -> Answer:
        """What the state says; 404 for what is not below the base."""
        if not handler.path.startswith(self._base + "/"):
            return _json(404, {"Message": f"Everything is below {self._base}/."})
        headers = {name.lower(): value for name, value in handler.headers.items()}
        return self.state.answer(Call(handler.command, handler.path[len(self._base):], headers,
                                      handler.body))


def make_server(state: State, port: int = 0, bind: str = "127.0.0.1", base_path: str = "/",
                ssl_context: ssl.SSLContext | None = None) -> Server:
    """A server that listens (port 0: any) but does not serve yet. OSError if it cannot; SiteError
    if others could reach it and a token is missing."""
    if not is_loopback(bind):
        state.want_tokens()
    return Server(state, (bind, port), base_path, ssl_context)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A task server for a small fleet.")
    parser.add_argument("--tasks", type=Path, default=Path(__file__).with_name("tasks-site.yml"),
                        metavar="PATH", help="a YAML file, or a folder with HOST.yml for each host;"
                        " read again when it changes")
    parser.add_argument("--database", default=":memory:", metavar="FILE",
                        help="where results are kept (default: in memory, until it ends)")
    parser.add_argument("--bind", default="127.0.0.1", help="default: %(default)s; for another,"
                        " each host and the page need a token")
    parser.add_argument("--port", type=int, default=8300, help="default: %(default)s; 0: any")
    parser.add_argument("--base_path", default="/", help="what addresses begin with")
    parser.add_argument("--page_token_file", type=Path, metavar="FILE",
                        help="what a browser must give as the password (the name does not matter)")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0],
                        help="how the list of tasks is written (default: %(default)s)")
    add_certificate(parser)
    arguments = parser.parse_args(argv)
    check_address(parser, arguments, "bind")
    return arguments


def _log(line: str) -> None:
    sys.stderr.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")


def _open_server(arguments: argparse.Namespace) -> Server:
    """The server that the arguments describe. Raises SiteError, OSError, sqlite3.Error."""
    token, context = None, tls_context(arguments)
    if arguments.page_token_file:
        token = arguments.page_token_file.read_text(encoding="utf-8").strip()
        if not token:
            raise SiteError(f"{arguments.page_token_file} is empty")
    state = State(arguments.tasks, arguments.database, page_token=token, form=arguments.form,
                  log=_log)
    try:
        server = make_server(state, arguments.port, arguments.bind, arguments.base_path, context)
    except (OSError, SiteError):
        state.close()
        raise
    if os.name == "posix" and any(host.token for host in state.hosts.values()) \
            and arguments.tasks.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _log(f"others can read {arguments.tasks}, which holds tokens; chmod -R go= ends that")
    if not context and not is_loopback(arguments.bind):
        _log("without --certificate tokens go over the network as they are")
    return server


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C: 0. 1: it could not start, stderr says why."""
    arguments = _arguments(argv)
    return serve(lambda: _open_server(arguments), "The task server listens", arguments.tasks,
                 f"{arguments.bind}:{arguments.port}")


if __name__ == "__main__":
    raise SystemExit(main())
