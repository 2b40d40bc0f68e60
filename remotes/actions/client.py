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
    return _MASKED if OPTIONS[name].is_secret and value is not None else value


ACTIONS = (
    Action("config", "show the values in force, each with where it came from", FAMILY,
           (), tuple(OPTIONS), config),
)
