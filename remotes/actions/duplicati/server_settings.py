"""The action that changes settings of a Duplicati server, its password among them.

Guards: that a setting which the server does not take is told (servers drop some without a
word), and that no password is shown. Leaves alone: the session that goes on with the
password of before.

Source: protocol page of Duplicati, sections 3.1 (PATCH /serversettings), 1 and 2.3.
"""

import contextlib
import os

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION, naming
from remotes.actions.duplicati.asking import require_yes
from remotes.errors import LoginError, RefusedError, RemotesError, UsageError

_PASSWORD = "server-passphrase"
_SALT = "server-passphrase-salt"
_SALT_BYTES = 32


def duplicati_set(context):
    values = context.values
    new_password_file = _new_password_file(values)
    wanted = {"--name": values["name"] is not None, "--password_file": bool(new_password_file),
              "--disable_password": values["disable_password"]}
    if sum(wanted.values()) != 1:
        raise UsageError("--action=duplicati_set needs one of " + ", ".join(wanted))
    with contextlib.closing(context.duplicati()) as server:
        if new_password_file:
            return _set_password(server, new_password_file)
        if values["disable_password"]:
            return _disable_password(context, server)
        return _set(context, server)


def _new_password_file(values):
    """--password_file of the command line, which is about the password that is to be.

    It is taken out of there: the session goes on with what is kept of the present one.
    """
    typed = dict(values.layers).get("command line", {})
    return typed.pop("password_file", None)


def _set(context, server):
    from remotes.duplicati.masking import STARS, is_secret_name

    values, name = context.values, context.values["name"]
    if values["value"] is None:
        raise UsageError("--name needs --value, which may be empty (--value=)")
    if name in (_PASSWORD, _SALT):
        raise UsageError("the server's password is set with --password_file")
    before = server.server_settings()
    _require_known(name, before, force=values["force"])
    value = _wanted_value(values["value"], name)
    # Default options of all backups (`--…`) go when they are empty.
    sent = None if name.startswith("--") and value == "" else value
    server.call("PATCH", "v1/serversettings", document={name: sent})
    after = server.server_settings()
    if _text(after.get(name)).lower() != value.lower() and not is_secret_name(name):
        raise RefusedError(f"the server says OK, and does not take {name}: it is still"
                           f" {_text(after.get(name))!r}")
    shown = {"before": _text(before.get(name)), "value": value}
    if is_secret_name(name):
        shown = {key: STARS if text else "" for key, text in shown.items()}
    is_changed = is_secret_name(name) or _text(before.get(name)) != _text(after.get(name))
    return Reply({"status": "OK", "changed": is_changed, "name": name, **shown})


def _require_known(name, settings, *, force):
    """A server keeps any name at all: what it does not know is most likely a slip."""
    from remotes.actions.options import nearest
    from remotes.duplicati.masking import is_secret_name

    if name in settings or name.startswith("--") or is_secret_name(name) or force:
        return
    raise UsageError(f"the server has no setting {name}" + nearest(name, settings)
                     + " (--force sets it all the same)")


def _wanted_value(value, name):
    from remotes import files

    if not value.startswith("@"):
        return value
    with naming("--value"):
        return files.read_secret(value[1:], name)


def _text(value):
    return "" if value is None else str(value)


def _set_password(server, path):
    from remotes import files

    with naming("--password_file"):
        password = files.read_secret(path, "new password")
    is_in_force = _is_in_force(server, password)
    if not is_in_force:
        _send_password(server, password)
    if server.session.keeper.kept.get("password_file"):
        server.session.keeper.save({"password_file": path})
    return Reply({"status": "OK", "changed": not is_in_force, "message": (
        "that is the server's password already" if is_in_force
        else "the server has the new password; sessions that are open stay so")})


def _is_in_force(server, password):
    """Whether the server has this password now; asked so that no session is touched."""
    import base64
    import hashlib
    import hmac

    if not server.is_legacy:
        try:
            _prove(server, password)
        except LoginError:
            return False
        return True
    settings = server.server_settings()
    try:
        kept, salt = (base64.b64decode(settings.get(name) or "") for name in (_PASSWORD, _SALT))
    except (TypeError, ValueError):
        return False
    return hmac.compare_digest(kept, hashlib.sha256(password.encode() + salt).digest())


def _send_password(server, password):
    document = _salted(password) if server.is_legacy else {_PASSWORD: password}
    server.call("PATCH", "v1/serversettings", document=document)
    try:
        _prove(server, password)
    except LoginError as error:
        raise RemotesError("the server says OK, and refuses the new password", answer=error.answer
                           ) from error


def _salted(password):
    """What the old generation keeps of a password."""
    import base64
    import hashlib

    salt = os.urandom(_SALT_BYTES)
    proof = hashlib.sha256(password.encode() + salt).digest()
    return {_PASSWORD: base64.b64encode(proof).decode(), _SALT: base64.b64encode(salt).decode()}


def _prove(server, password):
    """Has the server take the password once. Errors: LoginError."""
    if server.is_legacy:
        server.session.log_in(password)
    else:
        server.call("POST", "v1/auth/issuesignintoken", document={"Password": password})


def _disable_password(context, server):
    if not server.is_legacy:
        raise RefusedError("servers from 2.1 on always have a password: it can be changed"
                           " (--password_file), and not taken away")
    require_yes(context, f"Let everybody in who reaches {server.base}?", (server.base,))
    was_there = bool(server.server_settings().get(_PASSWORD))
    server.call("PATCH", "v1/serversettings", document={_PASSWORD: None, _SALT: None})
    return Reply({"status": "OK", "changed": was_there, "message": "the server wants no password"})


ACTIONS = (
    Action("duplicati_set", "change a setting of the server, or its password", DUPLICATI,
           (), ("name", "value", "disable_password", "confirm", "force", *SESSION),
           duplicati_set),
)
