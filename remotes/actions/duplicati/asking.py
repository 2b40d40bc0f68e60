"""Questions to whoever sits at the terminal, and what answers them elsewhere (--confirm).

Guards: that nothing is changed or destroyed unasked. Leaves alone: what is asked about.
"""

import sys

from remotes.errors import RemotesError, UsageError


def has_terminal():
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def ask(context, question):
    """The line that is typed behind `question`, on stderr; "" at the end of the input."""
    context.tell(question)
    return sys.stdin.readline().strip()


def require_yes(context, question, names):
    """Goes on only if the question is answered: y at a terminal, or --confirm yes.

    In place of yes one of `names` will do. Errors: UsageError, RemotesError.
    """
    given = context.values["confirm"]
    if given is not None:
        if given.lower() not in ("yes", "y") and given not in names:
            raise UsageError(f"--confirm {given} is neither yes nor {names[0]}: nothing was"
                             " changed")
        return
    _require_terminal(context, "yes")
    if ask(context, f"{question} [y/N]").lower() not in ("y", "yes"):
        raise RemotesError("not confirmed: nothing was changed")


def require_name(context, question, name):
    """Goes on only if `name` is typed, at a terminal or behind --confirm. Errors: as above."""
    given = context.values["confirm"]
    if given is None:
        _require_terminal(context, "NAME")
        given = ask(context, f"{question} Type its name ({name}) to go on:")
        if not given:
            raise RemotesError("not confirmed: nothing was changed")
    if given != name:
        raise UsageError(f"its name is {name!r}, not {given!r}: nothing was changed")


def _require_terminal(context, value):
    if not has_terminal():
        raise UsageError(f"--action={context.values.action.name} needs --confirm={value} where"
                         " nobody can be asked: nothing was changed")
