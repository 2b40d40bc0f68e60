"""The table of actions, and what is derived from it: lookups and the README's tables.

An action is declared in one literal beside its function; here they are only listed.
"""

from remotes.actions import client, commands, registration, tasks
from remotes.actions.context import MASKED_FAMILIES
from remotes.actions.duplicati import (
    SESSION,
    acting,
    changing,
    deleting,
    exporting,
    reading,
    restoring,
    server_settings,
    session,
)
from remotes.actions.options import COMMON, OPTIONS
from remotes.errors import EXIT_CODES

ACTIONS = {action.name: action
           for module in (registration, commands, session, reading, acting, restoring, changing,
                          exporting, deleting, server_settings, tasks, client)
           for action in module.ACTIONS}


def option_names(action):
    """Every option that the action takes, its own before the common ones."""
    return tuple(dict.fromkeys((*action.needs, *action.takes, *COMMON)))


def actions_table():
    """The actions as a Markdown table."""
    rows = ["| action | what it does | needs | takes |", "|---|---|---|---|"]
    for action in ACTIONS.values():
        hidden = COMMON if action.family not in MASKED_FAMILIES else (*COMMON, *SESSION)
        own = [name for name in action.takes if name not in hidden]
        takes = "all" if action.name == "config" else " ".join(f"`--{name}`" for name in own)
        needs = " ".join(f"`--{name}`" for name in action.needs)
        rows.append(f"| `{action.name}` | {action.summary} | {needs} | {takes} |")
    return "\n".join(rows)


def shown_default(option):
    """The default of an option as people write it."""
    if option.default is None:
        return ""
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def options_table():
    """The options as a Markdown table."""
    rows = ["| option | what it is | default |", "|---|---|---|"]
    for option in OPTIONS.values():
        default = shown_default(option)
        mark = " (every action)" if option.name in COMMON else ""
        rows.append(f"| `--{option.name}` | {option.help}{mark} | {default} |")
    return "\n".join(rows)


def exit_codes_table():
    """The exit codes as a Markdown table."""
    rows = ["| exit | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()])
