"""Actions on this client itself."""

from remotes.actions.context import Action, Reply
from remotes.actions.options import OPTIONS

FAMILY = "client"
_MASKED = "********"


def config(context):
    """Every option in force, and where its value came from; secrets masked."""
    rows = {}
    for name in context.values.names:
        value, source = context.values.lookup(name)
        rows[name] = {"value": _masked(name, value), "from": source}
    owner = context.values.config
    return Reply({
        "status": "OK",
        "settings": {"path": context.settings.path, "is_there": context.settings.stamp is not None},
        "config": {"path": owner.path, "is_there": owner.path is not None},
        "options": rows,
        "actions": {action: {name: _masked(name, value) for name, value in own.items()}
                    for action, own in owner.actions.items()},
        "policy": owner.policy,
        "server": {"url": context.settings.get("server", "url"),
                   "endpoints": context.settings.document.get("endpoints") or {}},
        "duplicati": {str(name): _duplicati(kept)
                      for name, kept in context.settings.duplicati_servers().items()},
        "host": {name: context.settings.get("host", name) is not None
                 for name in ("private_key", "public_key", "uuid", "token")},
    })


def _duplicati(kept):
    """A Duplicati server that is kept: where it is, and whether there is a session."""
    return {"url": kept.get("url"), "generation": kept.get("generation"),
            "session": any(kept.get(name) for name in
                           ("access_token", "pre_auth_token", "session_auth"))}


def _masked(name, value):
    """The value of an option without what is secret: as a whole, or in it (URLs, changes)."""
    from remotes.duplicati.masking import masked_text

    # `value` may be that of any setting, a password's too.
    if (OPTIONS[name].is_secret or name == "value") and value is not None:
        return _MASKED
    if isinstance(value, list):
        return [_masked_change(word) for word in value]
    return masked_text(value) if isinstance(value, str) else value


def _masked_change(word):
    """One word of an option: it may be a change (`Settings.passphrase=…`)."""
    from remotes.duplicati.masking import is_secret, masked_text

    path, equals, value = word.partition("=")
    if equals and not value.startswith("@") and is_secret(path.rpartition(".")[2], value):
        return f"{path}={_MASKED}"
    return masked_text(word)


ACTIONS = (
    Action("config", "show the values in force, each with where it came from", FAMILY,
           (), tuple(OPTIONS), config),
)
