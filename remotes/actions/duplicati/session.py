"""Actions on the session with a Duplicati server: login, logout, status."""

import contextlib
import sys

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION
from remotes.errors import (
    CertificateError,
    ForeignServerError,
    LoginError,
    NotFoundError,
    RemotesError,
    SettingsError,
    UsageError,
)

# What is given to a login is kept for the actions after it; never a password.
_KEPT_OPTIONS = ("ca_file", "client_certificate", "client_key", "pin", "insecure", "basic_user",
                 "basic_password_file", "password_file")
_SHOWN_SCHEDULES = 5
# The state of a server that cannot be asked for it, by the error; "away" for all others.
_TROUBLES = {LoginError: "refused", SettingsError: "wrong", CertificateError: "untrusted"}


def duplicati_login(context):
    from remotes.duplicati import calls, login, session

    values, name = context.values, context.values["server"]
    base = login.normalize(values["url"])
    kept = context.settings.duplicati_server(name)
    context.is_other_server = kept.get("url") not in (None, base)
    transport, credentials = context.duplicati_transport(), context.credentials()
    found = _find_out(context, base, transport, credentials)
    if context.pin() and not found.base.startswith("https:"):
        raise UsageError(f"--pin is of no use with {found.base}, which shows no certificate: use"
                         " https://, or leave it out")
    context.settings.require_writable()  # else a session would begin that nobody can go on with
    draft = session.Draft(name)
    fresh = login.new_session(found, draft, transport, credentials, tell=context.verbose)
    if values["forever"] and found.generation == "cookie":
        raise UsageError("servers of the old generation issue no tokens: leave --forever out")
    _enter(context, found, fresh)
    with contextlib.closing(calls.Duplicati(fresh)) as server:
        version = _version(server.system_info())
        if values["forever"]:
            fresh.ask_forever()  # last: the server issues one, and no second
    draft.save({option: values[option] or None for option in _KEPT_OPTIONS})
    keeper = session.Keeper(context.settings, name)
    with keeper.renewing():
        if keeper.kept.get("url") == found.base:
            draft.save({"tasks": keeper.kept.get("tasks")})  # they can still be waited for
        keeper.replace(draft.kept)
    return Reply({"status": "OK", "changed": True, "server": name, "url": found.base,
                  "generation": found.generation, "version": version,
                  "session": _session(fresh)})


def _find_out(context, base, transport, credentials):
    from remotes.duplicati import login
    from remotes.transport import fingerprint

    try:
        return login.find_out(base, transport, credentials)
    except CertificateError as error:
        digits = None if context.values["pin"] else \
            fingerprint(getattr(error, "base", base), context.values["http_timeout"])
        if digits is None:
            raise
        raise CertificateError(f"{error}, or (compare it on the server first) --pin={digits}"
                               ) from error


def _enter(context, found, fresh):
    """Logs in with what there is: a token, no need for one, a password, a person's word."""
    from remotes.duplicati import token_session

    token = context.values.token("login_token")
    if token is not None:
        # The server prints it as the URL of a page.
        token = token.rpartition("token=")[2].partition("&")[0].partition("#")[0]
        if found.generation == "cookie":
            raise UsageError("servers of the old generation know no tokens: use a password")
        if token_session.claims(token).get("typ") == "SigninToken":
            fresh.sign_in(token)
        else:
            fresh.use_token(token)
        return
    if not found.wants_login:
        fresh.keep_open()
        return
    password = context.credentials().password()
    fresh.log_in(_asked(found.base) if password is None else password)


def _asked(base):
    import getpass

    if not sys.stdin.isatty():
        raise UsageError("a password is needed: --password_file, or $DUPLICATI_PASSWORD, or a"
                         " terminal to ask at (or --login_token_file)")
    try:
        password = getpass.getpass(f"password of {base}: ")
    except EOFError:
        password = ""
    if not password:
        raise UsageError("no password was given")
    return password


def _version(system):
    return str(system.get("ServerVersion") or "")


def _session(session):
    """The session as people see it; times as ISO 8601."""
    from remotes.duplicati import moments

    said = session.describe()
    until = said["access_until"]
    said["access_until"] = moments.iso(moments.parse(until))
    try:
        said["logs_in_again"] = session.credentials.password() is not None
    except SettingsError:  # a file that cannot be read
        said["logs_in_again"] = False
    return said


def duplicati_logout(context):
    from remotes.duplicati.session import Keeper

    keeper = Keeper(context.settings, context.values["server"])
    answer = {"status": "OK", "changed": bool(keeper.kept), "server": keeper.name}
    if not keeper.kept:
        if context.settings.duplicati_servers():
            context.require_known_server()  # a name that was mistyped ends no session
        return Reply({**answer, "message": "there is no session"})
    message, code = "the server has forgotten the session", 0
    with keeper.renewing():  # what is revoked is the newest, and nobody renews it meanwhile
        try:
            with contextlib.closing(context.duplicati()) as server:
                if not server.session.log_out():
                    message = "the server keeps no session of this kind; the client has forgotten" \
                              " it"
        except RemotesError as error:
            message, code = f"the client has forgotten the session, the server not: {error}", 3
        keeper.replace(None)
    if code:
        context.tell(f"client: duplicati_logout: {message}")
        answer.update(status="ERROR", exit=code, kind="not_revoked")
    return Reply({**answer, "message": message}, code)


def duplicati_status(context):
    server = context.duplicati()
    kept = context.settings.duplicati_server(context.values["server"])
    known = {"server": context.values["server"], "url": server.base}
    try:
        state = _asked_state(server)
        system = server.system_info()
        document = {"status": "OK", **known, "generation": server.generation,
                    "version": _version(system), "host": system.get("MachineName"),
                    **_state(server, state),
                    "session": _session(server.session)}
    except RemotesError as error:
        # What is known without the server is told all the same.
        other = getattr(error, "generation", None)
        error.document.update(
            known, generation=other or server.generation, state=next(
                (word for kind, word in _TROUBLES.items() if isinstance(error, kind)), "away"),
            logged_in=other is None and bool(kept.get("access_token") or kept.get("session_auth")
                                             or kept.get("pre_auth_token")))
        raise
    return Reply(document)


def _asked_state(server):
    """What the server says of its state. Errors: ForeignServerError and others."""
    try:
        state = server.state()
    except NotFoundError as error:
        raise ForeignServerError(f"{error}: no Duplicati server is there") from None
    if not isinstance(state.get("ProgramState"), str):
        raise ForeignServerError(f"{server.base} tells of no state: no Duplicati server is there")
    return state


def _state(server, state):
    """What a serverstate says, for people: ids with names, times as ISO 8601."""
    from remotes.duplicati import moments

    active = state.get("ActiveTask")
    names = {}
    return {
        "state": state["ProgramState"].lower(),
        "paused_until": moments.iso(moments.parse(state.get("EstimatedPauseEnd"))),
        "active": _task(server, names, active) if isinstance(active, dict) else None,
        "queued": [_task(server, names, row) for row in _rows(state, "SchedulerQueueIds")],
        "next": [{**_task(server, names, {"Item2": row.get("Item1")}, has_task=False),
                  "at": moments.iso(moments.parse(row.get("Item2")))}
                 for row in _rows(state, "ProposedSchedule")[:_SHOWN_SCHEDULES]],
        "has_warning": bool(state.get("HasWarning")), "has_error": bool(state.get("HasError")),
        "update": state.get("UpdatedVersion"),
    }


def _rows(state, name):
    """The rows of a list in the state that are mappings, as all of a Duplicati server's are."""
    rows = state.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _task(server, names, row, *, has_task=True):
    """A task of the state: its number, and the backup by ID and name."""
    import re

    backup_id = row.get("Item2")
    if not isinstance(backup_id, str) or not re.fullmatch(r"[\w-]+", backup_id, re.ASCII):
        backup_id = None  # a task that is no backup's
    if backup_id not in names:
        names[backup_id] = _name(server, backup_id)
    task = {"task": row.get("Item1")} if has_task else {}
    return {**task, "id": backup_id, "name": names[backup_id]}


def _name(server, backup_id):
    """The name of a backup; None if it has none (any more)."""
    if backup_id is None:
        return None
    try:
        return server.backup(backup_id)["Backup"].get("Name")
    except RemotesError:
        return None


_LOGIN = ("login_token", "login_token_file", "forever", *SESSION)
ACTIONS = (
    Action("duplicati_login", "log into a Duplicati server of any generation", DUPLICATI,
           ("url",), _LOGIN, duplicati_login),
    Action("duplicati_logout", "end the session on the server, and forget it", DUPLICATI,
           (), SESSION, duplicati_logout),
    Action("duplicati_status", "show the server, what it does, and the session", DUPLICATI,
           (), SESSION, duplicati_status),
)
