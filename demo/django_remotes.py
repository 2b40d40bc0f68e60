"""A Django Remotes server on loopback, small enough to read: for a first try of the client,
and for its tests and benchmarks.

Guards: that a client meets here what it meets at the real server (0.3.2), traps included: its
statuses, headers, bodies and error texts, tokens that lapse, posts that are recorded and
answered 500 all the same. What hosts did is kept in SQLite; it survives the end of this
process, `kill -9` included.
Leaves alone: people and permissions, groups of hosts, time windows by the clock (a group is
`expired` or is not), OPTIONS, bodies in other formats than JSON. It is no server for a
network: whoever reaches it can read all outputs at `/`.

It imports nothing of the client's package, so that the two cannot share a mistake. It is also
a program: `python demo/django_remotes.py --help`.
"""
import argparse
import html
import json
import re
import secrets
import sqlite3
import ssl
import sys
import threading
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_pem_public_key

if not __package__:  # run as a program: what is on the path is this folder, not the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.serving import (
    Answer,
    AnsweringHandler,
    AnsweringServer,
    SiteError,
    add_certificate,
    check_address,
    first_line,
    printable,
    read_yaml,
    serve,
    tls_context,
)

IDENTITY = {"status": "OK", "app_name": "Django Remotes", "version": "0.3.2"}
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
ANYONE, REGISTRATION, HOST = "anyone", "the registration token", "the host's own token"
SHOWN_CHARACTERS = 2000  # of each output at `/`; `/recorded/` has all of it

# AUTOINCREMENT: the id of a row that was deleted is never given to another. NOT NULL at a
# variable's value: the fault that the real server has when a result brings a null for it.
TABLES = """
CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS hosts (id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT UNIQUE NOT NULL,
    public_key TEXT NOT NULL, user_id INTEGER);
CREATE TABLE IF NOT EXISTS outputs (id INTEGER PRIMARY KEY AUTOINCREMENT, host INTEGER NOT NULL,
    command INTEGER NOT NULL, output TEXT NOT NULL, result TEXT NOT NULL, time TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS outputs_done ON outputs (host, command);
CREATE TABLE IF NOT EXISTS variables (host INTEGER NOT NULL, name TEXT NOT NULL,
    value TEXT NOT NULL, PRIMARY KEY (host, name));
"""

# What can stand in a site: the value of what is left out, or the type of what must be there.
SITE = {"registration_token": str, "server_url": "", "settings": {}, "variables": {}, "groups": []}
GROUP = {"id": int, "name": "", "order": 0, "active": True, "expired": False, "foreign": False,
         "commands": []}
COMMAND = {"id": int, "name": str, "command": str, "timeout": 15, "active": True,
           "settings": [], "variables": [], "results": {}}


class RefusedError(Exception):
    """A request that is answered with an error in JSON: the HTTP status, and what it says."""

    def __init__(self, code: int, **content):
        super().__init__(code, content)
        self.code, self.content = code, content


@dataclass(frozen=True)
class Call:
    """What an endpoint is told: the host that asks (its row) and the command in the path (its
    id), each None where there is none; the body's JSON; the address of this server."""
    host: sqlite3.Row | None
    command: int | None
    content: dict
    url: str


@dataclass(frozen=True)
class Endpoint:
    """How and by whom a method of DjangoRemotes is called over HTTP."""
    method: str
    caller: str
    function: Callable[["DjangoRemotes", Call], dict]
    status: int = 200


def _take(given: object, fields: dict, where: str) -> dict:
    """`given` with what it leaves out filled in; SiteError if it has another shape."""
    if not isinstance(given, dict):
        raise SiteError(f"{where}: names with values are expected")
    for name in given:
        if name not in fields:
            raise SiteError(f"{where}: {name!r} is not known; known: {', '.join(fields)}")
    taken = {}
    for name, default in fields.items():
        kind = default if isinstance(default, type) else type(default)
        taken[name] = default if given.get(name) is None else given[name]
        if taken[name] is kind:
            raise SiteError(f"{where}: {name} is missing")
        if type(taken[name]) is not kind:
            raise SiteError(f"{where}: {name} must be of type {kind.__name__}")
    return taken


def _take_command(given: object, site: dict, where: str) -> dict:
    """A command of the site, checked; SiteError also for a name that the site does not have."""
    command = _take(given, COMMAND, where)
    for field, known in (("settings", "settings"), ("variables", "variables"),
                         ("results", "variables")):
        for name in command[field]:
            if not isinstance(name, str) or name not in site[known]:
                raise SiteError(f"{where}: {field}: {name!r} is not among the site's {known}")
    if any(type(place) is not int or place < 0 for place in command["results"].values()):
        raise SiteError(f"{where}: results: a place is a number, 0 or more")
    return command


def read_site(given: dict) -> dict:
    """A site, checked and filled in; `site.yml` beside this file explains what can be in it.

    Adds `commands` (id -> command, with `reachable`) and `listed` (what commands_list tells a
    host that has posted nothing). Raises SiteError.
    """
    if isinstance(given, dict) and isinstance(given.get("variables"), list):
        given = {**given, "variables": {str(name): None for name in given["variables"]}}
    site = {**_take(given, SITE, "site"), "commands": {}, "listed": []}
    for field, kinds in (("settings", str), ("variables", (str, type(None)))):
        for name, value in site[field].items():
            if not isinstance(name, str) or not isinstance(value, kinds):
                raise SiteError(f"site: {field}: {name!r}: names and values are text, in quotes")
    groups = [_take(group, GROUP, f"group {n}") for n, group in enumerate(site["groups"], 1)]
    for group in sorted(groups, key=lambda group: (group["order"], group["id"])):
        for n, entry in enumerate(group["commands"], 1):
            command = _take_command(entry, site, f"group {group['id']}, command {n}")
            if command["id"] in site["commands"]:
                raise SiteError(f"site: two commands have the id {command['id']}")
            site["commands"][command["id"]] = command
            command["reachable"] = group["active"] and command["active"] and not group["foreign"]
            if command["reachable"] and not group["expired"]:
                site["listed"].append({"group": group["id"], "command": command["id"]})
    return site


def _encrypt(public_key_pem: str, text: str) -> str:
    """`text` for the owner of the key: RSA-OAEP with SHA-256, base64."""
    key = load_pem_public_key(public_key_pem.encode())
    return b64encode(key.encrypt(text.encode(), OAEP)).decode()


def _html_page(status: int, title: str, path: str) -> Answer:
    """A fault as Django shows it: HTML, and none of the API's headers."""
    title = f"{html.escape(title)} at {html.escape(path)}"
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body></body></html>\n"
    return Answer(status, {"Content-Type": "text/html"}, page.encode())


class DjangoRemotes:
    """A server's rules and state, without sockets; can be used from several threads."""

    def __init__(self, site: dict, database: str = ":memory:",
                 log: Callable[[str], None] = lambda line: None):
        """`site`: see `read_site`. `database`: a file, made if it is missing. `log` gets one
        line for each thing that happens. Raises SiteError, sqlite3.Error."""
        self.load(site)
        self.log = log
        self._lock = threading.Lock()
        # Without isolation each statement is a transaction, and is saved when it returns.
        self._database = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        # Not synced: it has to outlive this process, not this machine.
        self._database.execute("PRAGMA synchronous=OFF")
        if database != ":memory:":
            self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(TABLES)

    def load(self, site: dict) -> None:
        """Serve another site from now on; hosts and outputs stay. Raises SiteError."""
        self.site = read_site(site)

    def close(self) -> None:
        """Close the database; nothing can be asked afterwards."""
        with self._lock:
            self._database.close()

    def _rows(self, sql: str, *values) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(sql, values).fetchall()

    def _change(self, sql: str, *values) -> int:
        """Make one change, saved when this returns; the id of the new row."""
        with self._lock:
            return self._database.execute(sql, values).lastrowid

    def hosts(self) -> list[dict]:
        """Oldest first: id, uuid (text), verified, and the user_id and token that are valid
        now (None for a host that is not verified)."""
        rows = self._rows("SELECT hosts.id, uuid, user_id, token FROM hosts"
                          " LEFT JOIN users ON users.id = user_id ORDER BY hosts.id")
        return [{**dict(row), "verified": row["token"] is not None} for row in rows]

    def outputs(self) -> list[dict]:
        """In the order of the posts: id, host and command (ids), output (text), result (what
        its JSON means; None if it was not JSON), time (ISO, UTC)."""
        outputs = [dict(row) for row in self._rows("SELECT * FROM outputs ORDER BY id")]
        for output in outputs:
            try:
                output["result"] = json.loads(output["result"])
            except ValueError:
                output["result"] = None
        return outputs

    def delete_output(self, command: int) -> None:
        """Forget all outputs of a command: every host is asked for it again."""
        self._change("DELETE FROM outputs WHERE command = ?", command)

    def clear_variables(self) -> None:
        """Give all variables of all hosts their initial values again."""
        self._change("DELETE FROM variables")

    def add_host(self, public_key_pem: str, uuid: str | None = None,
                 token: str | None = None) -> dict:
        """Make a verified host without a request; it is returned as `hosts()` has it."""
        uuid = str(UUID(uuid) if uuid else uuid4())
        user = self._change("INSERT INTO users (token) VALUES (?)", token or secrets.token_hex(20))
        self._change("INSERT INTO hosts (uuid, public_key, user_id) VALUES (?, ?, ?)",
                     uuid, public_key_pem, user)
        return next(host for host in self.hosts() if host["uuid"] == uuid)

    def recorded(self) -> list[dict]:
        """For people: the hosts, without their tokens, each with its `outputs`."""
        outputs = [{**output, "name": self.site["commands"].get(output["command"], {}).get("name")}
                   for output in self.outputs()]
        return [{"id": host["id"], "uuid": host["uuid"], "verified": host["verified"],
                 "outputs": [output for output in outputs if output["host"] == host["id"]]}
                for host in self.hosts()]

    def page(self) -> str:
        """`recorded()` as plain text; long outputs are cut."""
        lines = ["Django Remotes (demo)"]
        for host in self.recorded():
            lines += ["", f"host {host['id']}  {host['uuid']}"
                          f"  {'verified' if host['verified'] else 'not verified'}"]
            for output in host["outputs"]:
                shown = output["output"][:SHOWN_CHARACTERS]
                lines += ["", f"  {output['time']}  command {output['command']}: {output['name']}"]
                lines += [f"    | {printable(line)}" for line in shown.splitlines()]
                if len(shown) < len(output["output"]):
                    lines.append(f"    {len(output['output'])} characters: see /recorded/")
                lines.append(f"    result: {json.dumps(output['result'], ensure_ascii=False)}")
        return "\n".join(lines) + "\n"

    def answer(self, method: str, path: str, authorization: str = "", body: bytes = b"",
               url: str = "http://127.0.0.1:8900/") -> Answer:
        """What the server says to a request; all that this changes is saved by then.
        `authorization`: the value of that header. `url`: the address of this server."""
        path = path.partition("?")[0]
        if path == "/":
            return Answer(200, {"Content-Type": "text/plain; charset=utf-8"},
                          self.page().encode(errors="replace"))
        if path == "/recorded/":
            return Answer(200, {"Content-Type": "application/json"},
                          json.dumps(self.recorded(), indent=2).encode())
        endpoint, command = _find(path)
        if endpoint:
            return self._call(endpoint, command, method, path, authorization, body, url)
        if _find(path + "/")[0]:
            return Answer(301, {"Content-Type": "text/html; charset=utf-8",
                                "Location": path + "/"}, b"")
        return _html_page(404, "Page not found", path)

    def _call(self, endpoint: Endpoint, command: int | None, method: str, path: str,
              authorization: str, body: bytes, url: str) -> Answer:
        methods = ("POST",) if endpoint.method == "POST" else ("GET", "HEAD")
        headers = {"Content-Type": "application/json", "Vary": "Accept",
                   "Allow": ", ".join((*methods, "OPTIONS"))}
        try:
            # In this order: a wrong method without a token is 401, and not 405.
            host = self._caller(endpoint.caller, authorization)
            if method not in methods:
                raise RefusedError(405, detail=f'Method "{method}" not allowed.')
            content = _parse(body) if endpoint.method == "POST" else {}
            reply = endpoint.function(self, Call(host, command, content, url))
            status = endpoint.status
        except RefusedError as refusal:
            status, reply = refusal.code, refusal.content
            if status == 401:
                headers["WWW-Authenticate"] = "Token"
        except Exception as fault:  # whatever else fails inside the real one is a page, too
            self.log(f"{method} {path}: 500, {type(fault).__name__} {first_line(str(fault))}")
            return _html_page(500, type(fault).__name__, path)
        return Answer(status, headers, json.dumps(reply, separators=(",", ":")).encode())

    def _caller(self, caller: str, authorization: str) -> sqlite3.Row | None:
        """The host that asks (None where no host does) if it may; else RefusedError."""
        if caller == ANYONE:
            return None
        keyword, _, token = authorization.strip().partition(" ")
        if keyword.lower() != "token":
            raise RefusedError(401, detail="Authentication credentials were not provided.")
        registration = token == self.site["registration_token"]
        users = self._rows("SELECT id FROM users WHERE token = ?", token)
        if not registration and not users:
            raise RefusedError(401, detail="Invalid token.")
        # The token of an earlier verification still has a user, but that has no host.
        hosts = users and self._rows("SELECT * FROM hosts WHERE user_id = ?", users[0]["id"])
        if not (registration if caller == REGISTRATION else hosts):
            raise RefusedError(403, detail="You do not have permission to perform this action.")
        return hosts[0] if hosts else None

    # The endpoints: each takes a Call, and returns the content of its reply.

    def status(self, call: Call) -> dict:
        """Which server this is, and where it tells its endpoints."""
        return {**IDENTITY, "server_url": self.site["server_url"] or call.url, "discover": DISCOVER}

    def discover(self, call: Call) -> dict:
        """The paths of the endpoints for hosts, by name."""
        return {"status": "OK", "endpoints": {
            endpoint.function.__name__: path.removesuffix("<id>/")
            for path, endpoint in ENDPOINTS.items() if endpoint.caller != ANYONE}}

    def host_register(self, call: Call) -> dict:
        """A new host for a public key, however often that key came before."""
        public_key = call.content.get("public_key")
        if not public_key:
            raise RefusedError(400, status="ERROR", message="Missing host public key")
        uuid = str(uuid4())
        try:
            encrypted = _encrypt(public_key, uuid)
        except ValueError as error:
            raise RefusedError(400, status="ERROR", message="Invalid PEM key") from error
        host = self._change("INSERT INTO hosts (uuid, public_key) VALUES (?, ?)", uuid, public_key)
        self.log(f"host {host} registered: {uuid}")
        return {"status": "OK", "encrypted": encrypted}

    def host_verify(self, call: Call) -> dict:
        """A new user and token for a host that can sign; its former token lapses."""
        for name, what in (("uuid", "host UUID"), ("encrypted", "encrypted text")):
            if not call.content.get(name):
                raise RefusedError(400, status="ERROR", message=f"Missing {what}")
        uuid = str(UUID(call.content["uuid"]))  # what is no UUID is a fault inside: 500
        hosts = self._rows("SELECT * FROM hosts WHERE uuid = ?", uuid)
        if not hosts:
            raise RefusedError(400, status="ERROR", message="Host not found")
        host, public_key = hosts[0]["id"], hosts[0]["public_key"]
        try:
            load_pem_public_key(public_key.encode()).verify(
                b64decode(call.content["encrypted"]), b"OK", PSS, hashes.SHA256())
        except InvalidSignature as error:
            raise RefusedError(400, status="ERROR", message="Invalid signature") from error
        token = secrets.token_hex(20)
        user = self._change("INSERT INTO users (token) VALUES (?)", token)
        self._change("UPDATE hosts SET user_id = ? WHERE id = ?", user, host)
        self.log(f"host {host} verified: user {user}")
        return {"status": "OK", "encrypted": _encrypt(public_key, token)}

    def host_status(self, call: Call) -> dict:
        """Who the host is to the server."""
        user = call.host["user_id"]
        return {**IDENTITY, "id": call.host["id"], "user_id": user, "user_name": f"{user:06d}",
                "hosts_groups": [{"id": 1, "name": "All hosts"}]}

    def commands_list(self, call: Call) -> dict:
        """The commands that have no output of this host yet, in the order to run them."""
        done = {row["command"] for row in self._rows(
            "SELECT DISTINCT command FROM outputs WHERE host = ?", call.host["id"])}
        return {"status": "OK", "results": [
            entry for entry in self.site["listed"] if entry["command"] not in done]}

    def command_get(self, call: Call) -> dict:
        """A command, each text in it encrypted with a Fernet key made for this reply."""
        site, command = self.site, self.site["commands"].get(call.command)
        if not command or not command["reachable"]:
            raise RefusedError(404, detail="Not found.")
        values = {**site["variables"], **{row["name"]: row["value"] for row in self._rows(
            "SELECT name, value FROM variables WHERE host = ?", call.host["id"])}}
        key = Fernet.generate_key()
        fernet = Fernet(key)

        def encrypt(text: str | None) -> str | None:
            return None if text is None else fernet.encrypt(text.encode()).decode()

        self.log(f"host {call.host['id']} fetched command {command['id']}: {command['name']}")
        return {"id": command["id"], "name": encrypt(command["name"]),
                "settings": {name: encrypt(site["settings"][name]) for name in command["settings"]},
                "variables": {name: encrypt(values[name]) for name in command["variables"]},
                "command": encrypt(command["command"]), "timeout": command["timeout"],
                "encrypted": ["name", "settings", "variables", "command"],
                "encryption_key": _encrypt(call.host["public_key"], key.decode())}

    def command_post(self, call: Call) -> dict:
        """Record an output; then give the items of its result to the variables."""
        host, command = call.host["id"], self.site["commands"].get(call.command)
        if not command or not command["reachable"]:
            raise RefusedError(403, status="ERROR")
        fernet = Fernet(urlsafe_b64encode(UUID(call.host["uuid"]).hex.encode()))
        texts = {name: fernet.decrypt(call.content[name].encode()).decode()
                 for name in ("output", "result")}
        faulty = [name for name, text in texts.items() if "\0" in text]
        if faulty:
            raise RefusedError(400, **dict.fromkeys(faulty, ["Null characters are not allowed."]),
                               status="ERROR")
        output = self._change(
            "INSERT INTO outputs (host, command, output, result, time) VALUES (?, ?, ?, ?, ?)",
            host, command["id"], texts["output"], texts["result"],
            datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        self.log(f"host {host} posted command {command['id']}: "
                 f"{first_line(texts['output']) or '(printed nothing)'}")
        # What fails from here on is answered 500 although the output is recorded.
        result = json.loads(texts["result"])
        for name, place in command["results"].items():
            value = result[place] if place < len(result) else ""
            self._change("REPLACE INTO variables VALUES (?, ?, ?)", host, name,
                         None if value is None else str(value))
        return {"status": "OK", "results": {"id": output}}


DISCOVER = "/api/v1/discover/"
# At <id> stands a command's id; `discover` leaves it out, for the client to add.
ENDPOINTS = {
    "/api/status/": Endpoint("GET", ANYONE, DjangoRemotes.status),
    DISCOVER: Endpoint("GET", ANYONE, DjangoRemotes.discover),
    "/api/v1/host/register/": Endpoint("POST", REGISTRATION, DjangoRemotes.host_register),
    "/api/v1/host/verify/": Endpoint("POST", REGISTRATION, DjangoRemotes.host_verify),
    "/api/v1/host/status/": Endpoint("GET", HOST, DjangoRemotes.host_status),
    "/api/v1/commands/list/": Endpoint("GET", HOST, DjangoRemotes.commands_list),
    "/api/v1/commands/get/<id>/": Endpoint("GET", HOST, DjangoRemotes.command_get),
    "/api/v1/commands/post/<id>/": Endpoint("POST", HOST, DjangoRemotes.command_post, 201),
}


def _find(path: str) -> tuple[Endpoint | None, int | None]:
    """The endpoint at a path, and the command's id in it."""
    number = re.search(r"/([0-9]{1,9})/$", path)
    if number is None:
        return ENDPOINTS.get(path), None
    return ENDPOINTS.get(path[:number.start()] + "/<id>/"), int(number[1])


def _parse(body: bytes) -> dict:
    """The JSON of a body; no body at all counts as one without fields."""
    try:
        return json.loads(body.decode()) if body else {}
    except ValueError as error:
        raise RefusedError(400, detail=f"JSON parse error - {error}") from error


class Server(AnsweringServer):
    """A DjangoRemotes at a port."""

    def answer(self, handler: AnsweringHandler) -> Answer:
        """What the state says."""
        return self.state.answer(handler.command, handler.path,
                                 handler.headers.get("Authorization", ""), handler.body, self.url)


def make_server(state: DjangoRemotes, address: tuple[str, int] = ("127.0.0.1", 0),
                ssl_context: ssl.SSLContext | None = None) -> Server:
    """A server that listens at `address` (port 0: any) but does not serve yet. OSError if it
    cannot listen there."""
    return Server(state, address, ssl_context)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A Django Remotes server to try the client with; not for a network.")
    parser.add_argument("--site", type=Path, default=Path(__file__).with_name("site.yml"),
                        metavar="FILE", help="what it serves, in YAML")
    parser.add_argument("--database", default=":memory:", metavar="FILE",
                        help="where it keeps what hosts did (default: in memory)")
    parser.add_argument("--address", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8900, help="default: %(default)s; 0: any")
    add_certificate(parser)
    arguments = parser.parse_args(argv)
    check_address(parser, arguments, "address")
    return arguments


def _open_server(arguments: argparse.Namespace) -> Server:
    """The server that the arguments describe. Raises SiteError, OSError, sqlite3.Error."""
    site, context = read_yaml(arguments.site), tls_context(arguments)
    state = DjangoRemotes(site, arguments.database, log=lambda line: sys.stderr.write(
        f"{datetime.now():%H:%M:%S} {line}\n"))
    return make_server(state, (arguments.address, arguments.port), context)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C: 0. 1: it could not start, stderr says why."""
    arguments = _arguments(argv)
    return serve(lambda: _open_server(arguments), "Django Remotes (demo) listens",
                 arguments.site, f"{arguments.address}:{arguments.port}")


if __name__ == "__main__":
    raise SystemExit(main())
