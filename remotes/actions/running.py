"""An action by its name, with option values from everywhere: what the command line and
commands of the server (scripting) have in common.

Guards: that an option is heard only by an action that takes it. Leaves alone: streams,
exit codes, failures.
"""

from remotes.actions import ACTIONS, OPTIONS, option_names
from remotes.actions.options import Values, convert, load_config, nearest
from remotes.errors import UsageError


def find_action(name):
    """The Action of that name. Errors: UsageError, with the nearest name."""
    if name is None:
        raise UsageError("say what to do: --action=NAME (--help lists the names)")
    if name not in ACTIONS:
        raise UsageError(f"unknown action {name}" + nearest(str(name), ACTIONS))
    return ACTIONS[name]


def build_context(action, typed, environ, tell, emit, *, source="command line"):
    """The action's Context, from the command line and all files. Errors: Usage, Settings.

    `source`: where `typed` stands, for errors.
    """
    from remotes.actions.context import Context
    from remotes.settings import default_path

    taken = option_names(action)
    for name in typed:
        if name not in taken:
            raise UsageError(f"--action={action.name} takes no --{name}")
    typed = {name: convert(OPTIONS[name], value, source) for name, value in typed.items()}
    config_path = typed.get("config") or environ.get("REMOTES_CONFIG") or None
    values = Values(action, taken, typed, environ, load_config(config_path, ACTIONS))
    return Context(
        values, values["settings"] or default_path(environ), environ=environ, tell=tell, emit=emit,
        reload=lambda: build_context(action, typed, environ, tell, emit, source=source),
    )
