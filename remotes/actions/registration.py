"""Actions that make this host known to a Django Remotes server, and ask of it.

Each saves what it learnt before anything else happens, so that `new_host` can be
broken off anywhere and run again.
"""

import os

from remotes.actions.context import Action, Reply
from remotes.errors import RemotesError, SettingsError, UsageError

FAMILY = "registration"
_KEPT_FILES = ("ca_file", "client_certificate", "client_key")


def status(context):
    from remotes.server import Server, is_same_host, normalize_url

    typed = normalize_url(context.values["url"])
    server = Server(context.transport(), typed)
    answer = server.status()
    said = normalize_url(answer["server_url"])
    if said == server.base or is_same_host(server.base, said) or context.values["follow_url"]:
        base = said
    else:
        base = server.base
        context.tell(f"the server calls itself {said}, which is not the host of {typed}: {base}"
                     " stays its address (--follow_url uses the other)")
    _refuse_other_server(context, base)
    with context.settings.changing() as document:
        kept = document.setdefault("server", {})
        kept["url"] = base
        for name in _KEPT_FILES:
            if context.values.is_given(name):
                kept[name] = context.values[name]
        document.setdefault("endpoints", {})["discover"] = answer["discover"]
    return Reply(answer)


def _refuse_other_server(context, base):
    """A registered host is not sent to another server unasked: its token would go there."""
    from remotes.server import is_same_host, normalize_url

    former = context.settings.get("server", "url")
    if former is None or not context.host().is_registered() or context.values["force"]:
        return
    former = normalize_url(str(former))
    if former != base and not is_same_host(former, base):
        raise RemotesError(
            f"this host is registered at {former}; --force would keep {base} in its place and send"
            " the host's token there"
        )


def discover(context):
    path = context.settings.get("endpoints", "discover")
    if path is None:
        raise SettingsError("the settings do not say where discovery is: ask with --action=status")
    answer = context.server().discover(path)
    with context.settings.changing() as document:
        document.setdefault("endpoints", {}).update(answer["endpoints"])
    return Reply(answer)


def generate_keys(context):
    with _registration_lock(context).held(context.values["lock_wait"], "registration"):
        return _generate_keys(context)


def _generate_keys(context):
    from remotes import files, keys

    private_path, public_path = context.values["private_key"], context.values["public_key"]
    if os.path.realpath(private_path) == os.path.realpath(public_path):
        raise UsageError("--private_key and --public_key name the same file")
    host = context.host()
    _refuse_other_key(context, host, private_path)
    if os.path.exists(private_path) and not context.values["force"]:
        private = keys.load(private_path, tell=context.tell)
        files.forget_beside(private_path)
        message = (f"{private_path} is there and is kept; --force would overwrite it"
                   + (", and the host's UUID and token could not be read any more"
                      if host.is_registered() else ""))
        changed = _write_public(private, public_path)
    elif os.path.exists(public_path) and not context.values["force"]:
        raise RemotesError(f"{public_path} is there, and {private_path} is not: move it away, or"
                           " name another with --public_key; --force would overwrite it")
    else:
        private = keys.generate(private_path, public_path, replace=context.values["force"])
        message, changed = f"a new pair of {keys.KEY_BITS} bits", True
    found = {"private_key": private_path, "public_key": public_path,
             "private_key_sha256": private.sha256}
    if any(context.settings.get("host", name) != value for name, value in found.items()):
        with context.settings.changing() as document:
            kept = document.setdefault("host", {})
            if kept.get("private_key_sha256") not in (None, private.sha256):
                # What was encrypted for the former key is of no use with this one.
                kept.pop("uuid", None)
                kept.pop("token", None)
            kept.update(found)
        changed = True
    return Reply({"status": "OK", "changed": changed, "message": message,
                  "private_key": private_path, "public_key": public_path})


def _refuse_other_key(context, host, private_path):
    """A registered host keeps its key: its UUID and token can be read with no other."""
    former = context.settings.get("host", "private_key")
    if not host.is_registered() or context.values["force"]:
        return
    if former != private_path or not os.path.exists(private_path):
        raise RemotesError(
            f"this host is registered with the key {former}; --force would make {private_path} its"
            " key and forget its UUID and token"
        )


def _write_public(private, public_path):
    """Writes the public key's file if it is missing. One of another key is not ours to write."""
    from remotes import files

    content = private.public_pem().encode()
    try:
        with open(public_path, "rb") as stream:
            is_ours = stream.read(1 << 16).split() == content.split()
    except OSError:
        files.replace(public_path, content)
        return True
    if not is_ours:
        raise RemotesError(f"{public_path} is there, and is not the public key of {private.path}:"
                           " move it away, or name another with --public_key")
    return False


def host_register(context):
    with _registration_lock(context).held(context.values["lock_wait"], "registration"):
        return _host_register(context)


def _host_register(context):
    host = context.host()
    if host.is_registered() and not context.values["force"]:
        return Reply({
            "status": "OK", "changed": False, "uuid": host.uuid(),
            "message": "this host is registered; --force would register a second one in its place"
                       " and forget the first, its token and its place in groups",
        })
    context.settings.require_writable()
    answer = context.server().host_register(host.private_key().public_pem(),
                                            context.values.token())
    uuid = host.private_key().decrypt_text(answer["encrypted"], "the new host's UUID")
    with context.settings.changing() as document:
        kept = document.setdefault("host", {})
        kept["uuid"] = answer["encrypted"]
        kept.pop("token", None)
    return Reply({**answer, "changed": True, "uuid": uuid})


def host_verify(context):
    with _registration_lock(context).held(context.values["lock_wait"], "registration"):
        return _host_verify(context)


def _host_verify(context):
    host = context.host()
    if host.is_verified() and not context.values["force"]:
        host.token()  # that it is this key's
        return Reply({
            "status": "OK", "changed": False,
            "message": "this host is verified; --force would verify it again: the server makes it a"
                       " new user with a new token, and the present token is refused from then on",
        })
    context.settings.require_writable()
    answer = context.server().host_verify(host.uuid(), host.private_key().sign_ok(),
                                          context.values.token())
    host.private_key().decrypt_text(answer["encrypted"], "the new host's token")
    with context.settings.changing() as document:
        document.setdefault("host", {})["token"] = answer["encrypted"]
    return Reply({**answer, "changed": True})


def new_host(context):
    steps = {}
    with _registration_lock(context).held(context.values["lock_wait"], "registration"):
        for name, step in (("status", status), ("discover", discover),
                           ("generate_keys", _generate_keys), ("host_register", _host_register),
                           ("host_verify", _host_verify)):
            steps[name] = step(context).document
    changed = any(steps[name]["changed"]
                  for name in ("generate_keys", "host_register", "host_verify"))
    return Reply({**steps, "changed": changed})


def host_status(context):
    return Reply(context.server(context.host()).host_status())


def _registration_lock(context):
    from remotes import files

    return files.Lock(context.settings.beside("registration.lock"))


ACTIONS = (
    Action("status", "ask a server what it is, and keep its address", FAMILY,
           ("url",), ("follow_url", "force"), status),
    Action("discover", "ask the server for its endpoints, and keep them", FAMILY,
           (), (), discover),
    Action("generate_keys", "make the host's pair of RSA keys", FAMILY,
           ("private_key", "public_key"), ("force", "lock_wait"), generate_keys),
    Action("host_register", "register this host with its public key", FAMILY,
           ("token",), ("token_file", "force", "lock_wait"), host_register),
    Action("host_verify", "prove that this host has the key, and get its token", FAMILY,
           ("token",), ("token_file", "force", "lock_wait"), host_verify),
    Action("new_host", "status, discover, generate_keys, host_register and host_verify in one;"
           " may be broken off anywhere and run again", FAMILY,
           ("url", "token", "private_key", "public_key"),
           ("token_file", "follow_url", "force", "lock_wait"), new_host),
    Action("host_status", "ask the server who this host is and in which groups", FAMILY,
           (), (), host_status),
)
