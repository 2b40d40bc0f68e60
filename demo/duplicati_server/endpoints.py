"""The endpoints of the demo Duplicati server, one table for each generation, and the way from a
call to an answer (sections 0.3, 2.2 and 3 of the protocol).

Guards: the order of the checks, what is open to whom, what a release has, and the form of every
failure.
Leaves alone: what an endpoint does.
"""
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from demo.duplicati_server import backups, browsing, legacy, system, views
from demo.duplicati_server.answers import (
    BYTE_ORDER_MARK,
    Answer,
    BareError,
    Call,
    EngineError,
    RefusedError,
    compact,
    indented,
)
from demo.duplicati_server.cookies import JSON, NO_STORE
from demo.duplicati_server.moments import now
from demo.duplicati_server.releases import Release
from demo.duplicati_server.state import State

KESTREL = ("Server", "Kestrel")
UNCACHED = [("Cache-Control", "no-cache,no-store"), ("Expires", "-1"), ("Pragma", "no-cache")]


class Endpoint(NamedTuple):
    """A method at a path. `needs`: the name of a flag of the release without which it is not
    there, "!" before it: with which. `is_open`: no session is needed."""
    method: str
    pattern: re.Pattern
    function: Callable[[State, Call], Any]
    needs: str = ""
    is_open: bool = False


def _endpoint(method: str, path: str, function: Callable, needs: str = "",
              is_open: bool = False) -> Endpoint:
    """`path` with `<name>` for a part; case does not matter."""
    pattern = re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", path)
    return Endpoint(method, re.compile(pattern + "/?", re.IGNORECASE), function, needs, is_open)


def _session(name: str) -> Callable[[State, Call], Any]:
    """An endpoint that is a method of the sessions."""
    return lambda server, call: getattr(server.sessions, name)(call)


BOTH = [
    ("GET", "v1/serverstate", views.serverstate),
    ("POST", "v1/serverstate/pause", views.pause),
    ("POST", "v1/serverstate/resume", views.resume),
    ("GET", "v1/progressstate", views.progressstate),
    ("GET", "v1/tasks", views.tasks),
    ("GET", "v1/task/<task>", views.task),
    ("POST", "v1/task/<task>/abort", views.end_task),
    ("POST", "v1/task/<task>/stopaftercurrentfile", views.end_task, "!has_stop"),
    ("POST", "v1/task/<task>/stopnow", views.end_task, "!has_stop"),
    ("GET", "v1/systeminfo", system.systeminfo),
    ("GET", "v1/serversettings", system.serversettings),
    ("GET", "v1/notifications", views.notifications),
    ("GET", "v1/notification/<notification>", views.notification),
    ("DELETE", "v1/notification/<notification>", views.dismiss),
    ("GET", "v1/logdata/poll", views.live_log),
    ("GET", "v1/logdata/log", views.server_log),
    ("GET", "v1/backups", backups.backups),
    ("GET", "v1/backup/<backup>/isactive", backups.is_active),
    ("GET", "v1/backup/<backup>/isdbusedelsewhere", backups.is_database_shared),
    ("POST", "v1/backup/<backup>/verify", backups.begin),
    ("POST", "v1/backup/<backup>/compact", backups.begin),
    ("POST", "v1/backup/<backup>/vacuum", backups.begin),
    ("POST", "v1/backup/<backup>/report-remote-size", backups.begin),
    ("POST", "v1/backup/<backup>/createreport", backups.begin),
    ("POST", "v1/backup/<backup>/deletedb", backups.delete_database),
    ("GET", "v1/backup/<backup>/filesets", browsing.filesets),
]
MODERN = [
    ("POST", "v1/auth/login", _session("login"), "", True),
    ("POST", "v1/auth/refresh", _session("refresh"), "", True),
    ("POST", "v1/auth/refresh/logout", _session("logout"), "", True),
    ("POST", "v1/auth/signin", _session("sign_in"), "", True),
    ("POST", "v1/auth/issuesignintoken", _session("issue_signin_token"), "", True),
    ("POST", "v1/auth/status", _session("status"), "has_auth_status", True),
    ("POST", "v1/auth/issuetoken/<operation>", _session("issue_token")),
    ("POST", "v1/auth/issue-forever-token", _session("issue_forever_token")),
    ("POST", "v1/task/<task>/stop", views.end_task, "has_stop"),
    ("PATCH", "v1/serversettings", system.patch_serversettings),
    ("GET", "v1/serversetting/<name>", system.serversetting),
    ("PUT", "v1/serversetting/<name>", system.put_serversetting),
    ("POST", "v1/backups", backups.post_backups),
    ("POST", "v1/backups/import", backups.import_backup),
    ("GET", "v1/backup/<backup>", backups.backup),
    ("PUT", "v1/backup/<backup>", backups.put_backup),
    ("DELETE", "v1/backup/<backup>", backups.delete_backup),
    ("POST", "v1/backup/<backup>/run", backups.begin),
    ("POST", "v1/backup/<backup>/start", backups.begin),
    ("POST", "v1/backup/<backup>/restore", backups.restore),
    ("POST", "v1/backup/<backup>/repair", backups.repair),
    ("POST", "v1/backup/<backup>/repairupdate", backups.repair),
    ("POST", "v1/backup/<backup>/copytotemp", backups.copy_to_temporary),
    ("GET", "v1/backup/<backup>/export", backups.export, "", True),
    ("GET", "v1/backup/<backup>/export-cmdline", backups.export_command),
    ("GET", "v1/backup/<backup>/export-argsonly", backups.export_arguments),
    ("GET", "v1/backup/<backup>/log", backups.log),
    ("GET", "v1/backup/<backup>/remotelog", backups.remote_log),
    ("GET", "v1/backup/<backup>/files", browsing.files),
    ("POST", "v1/remoteoperation/test", backups.test_destination),
    ("POST", "v2/backup/list-filesets", browsing.list_filesets, "has_v2"),
    ("POST", "v2/backup/list-folder", browsing.list_folder, "has_v2"),
    ("POST", "v2/backup/list-versions", browsing.list_versions, "has_v2"),
    ("POST", "v2/backup/search", browsing.search, "has_v2"),
    ("POST", "v2/backup/delete-versions", backups.delete_versions, "has_delete_versions"),
]
LEGACY = [
    ("GET", "v1/systeminfo/filtergroups", system.systeminfo),
    ("GET", "v1/logdata/<word>", views.server_log),
    ("POST", "v1/task/<task>/<word>", legacy.unknown_word),
    ("PATCH", "v1/serversettings", legacy.patch_serversettings),
    ("GET", "v1/serversetting/<name>", legacy.serversetting),
    ("PUT", "v1/serversetting/<name>", legacy.put_serversetting),
    ("POST", "v1/backups", legacy.post_backups),
    ("POST", "v1/backups/import", legacy.import_backup),
    ("GET", "v1/backup/<backup>", legacy.backup),
    ("PUT", "v1/backup/<backup>", legacy.put_backup),
    ("DELETE", "v1/backup/<backup>", legacy.delete_backup),
    ("POST", "v1/backup/<backup>/run", legacy.run),
    ("POST", "v1/backup/<backup>/start", legacy.run),
    ("POST", "v1/backup/<backup>/restore", legacy.restore),
    ("POST", "v1/backup/<backup>/repair", legacy.repair),
    ("POST", "v1/backup/<backup>/repairupdate", legacy.repair),
    ("POST", "v1/backup/<backup>/copytotemp", legacy.copy_to_temporary),
    ("GET", "v1/backup/<backup>/export", legacy.export),
    ("GET", "v1/backup/<backup>/log", legacy.log),
    ("GET", "v1/backup/<backup>/remotelog", legacy.remote_log),
    ("GET", "v1/backup/<backup>/files", legacy.files),
]


def endpoints(release: Release) -> list[Endpoint]:
    """The endpoints that a release has."""
    rows = [_endpoint(*row) for row in BOTH + (LEGACY if release.is_legacy else MODERN)]
    if release.is_legacy:
        rows.append(Endpoint("GET", re.compile(
            "v1/backup/(?P<backup>[^/]+)/files/(?P<filter>.+)"), legacy.files))
    return [row for row in rows if not row.needs
            or getattr(release, row.needs.lstrip("!")) is not row.needs.startswith("!")]


def _route(server: State, call: Call) -> Endpoint:
    """The endpoint of a call, its parts noted in it. BareError 404, or 405 with what is allowed."""
    path = call.path.removeprefix("/api/")
    found = [(one, match) for one in server.endpoints if (match := one.pattern.fullmatch(path))]
    for endpoint, match in found if path != call.path else []:
        if endpoint.method == call.method:
            call.parts = match.groupdict()
            return endpoint
    if found and path != call.path:
        raise BareError(405, ("Allow", ", ".join(one.method for one, match in found)),
                        reason="Method is not allowed" if server.played.is_legacy else None)
    raise BareError(404, reason="No such module" if server.played.is_legacy else None)


# The token generation.

def answer_modern(server: State, call: Call) -> Answer:
    """The answer to a call of the token generation."""
    try:
        server.sessions.check_family(call)
        if call.path == "/health":
            return Answer(200, [
                ("Content-Type", "text/plain"), KESTREL,
                ("Cache-Control", "no-store, no-cache"),
                ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Pragma", "no-cache")], b"Healthy")
        endpoint = _route(server, call)
        server.sessions.check(call, endpoint.is_open)
        reply = endpoint.function(server, call)
    except BareError as bare:
        return Answer(bare.status, [*bare.headers, KESTREL])
    except (RefusedError, EngineError) as error:
        return _failure(server, call, error)
    if isinstance(reply, Answer):
        return reply._replace(headers=[*reply.headers, KESTREL])
    if reply is None:
        return Answer(200, [KESTREL])
    return Answer(200, [("Content-Type", "application/json; charset=utf-8"), KESTREL],
                  compact(reply))


def _failure(server: State, call: Call, error: RefusedError | EngineError) -> Answer:
    """An error in JSON, by version of the API and by kind."""
    if isinstance(error, EngineError):
        if error.help_id and server.played.has_v2:
            error = RefusedError(400, error.message, error.help_id)
        else:
            error = RefusedError(500, "An error occurred")
    if call.path.startswith("/api/v2/") and error.status != 500:
        status, content = 200, {"Success": False, "Error": error.text,
                                "StatusCode": error.help_id or f"HTTP-{error.status}"}
    else:
        status, content = error.status, {"Error": error.text, "Code": error.status}
        if error.help_id:
            content["HelpId"] = error.help_id
    return Answer(status, [("Content-Type", "application/json"), KESTREL, *UNCACHED],
                  compact(content))


# The cookie generation.

def answer_legacy(server: State, call: Call) -> Answer:
    """The answer to a call of the cookie generation."""
    answer, cookies = server.sessions.answer(call)
    if answer is None:
        answer = _answer_api(server, call)
    is_kept = (call.header("Connection") or "").lower() == "keep-alive"
    connection = [("Connection", "keep-alive"), ("Keep-Alive", "timeout=20, max=400")] \
        if is_kept else [("Connection", "close")]
    return answer._replace(headers=[*answer.headers, ("Server", "Tiny WebServer"), *connection,
                                    *cookies])


def _answer_api(server: State, call: Call) -> Answer:
    try:
        reply = _route(server, call).function(server, call)
    except BareError as bare:
        if bare.reason is None:  # what is a binding failure elsewhere is bad input here
            text = "Invalid input"
            return Answer(bare.status, [NO_STORE, JSON], indented({"Error": text}), text)
        return Answer(bare.status, [NO_STORE, ("Content-Type", "text/html;charset=UTF-8")],
                      BYTE_ORDER_MARK, bare.reason)
    except RefusedError as error:
        return Answer(error.status, [NO_STORE, JSON], indented({"Error": error.text}),
                      " ".join(error.text.split()))
    except EngineError as error:
        server.store.add_error(None, f"Request for {call.url.rstrip('/')}{call.target} gave error",
                               error.trace, int(now().timestamp()))
        return Answer(500, [NO_STORE, JSON], indented({
            "Message": error.message, "Type": error.kind.rpartition(".")[2]}), "Error")
    if isinstance(reply, Answer):
        return reply._replace(headers=[NO_STORE, *reply.headers])
    return Answer(200, [NO_STORE, JSON], indented({"Status": "OK"} if reply is None else reply))
