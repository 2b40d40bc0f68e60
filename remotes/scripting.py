"""Actions for programs, above all for commands that a Django Remotes server sends:

    from remotes.scripting import act
    answer = act("duplicati_run", id="Home", wait=True)
    __RESULT__ = [answer["tasks"][0]["result"]]

Guards: that an action called like this does, answers and hides what it does on the command
line; that a failure is an answer, too. Leaves alone: streams and exit codes.
"""

import os
import sys

from remotes.actions.context import MASKED_FAMILIES
from remotes.actions.running import build_context, find_action
from remotes.errors import RemotesError


def act(action_name, **options):
    """Runs an action; gives its answer, a mapping, with its exit code as `exit`.

    `options` are those of the command line, under the same names; a list where several
    words can stand; confirm=True is yes, which is no name of what is destroyed. What is
    left out, or None, comes from environment, config and settings; within a command of
    the server those of the host ($REMOTES_SETTINGS). A failure gives the answer that the
    command line gives: {"status": "ERROR", "exit", "kind", "message"}.
    Monitors and --follow, which do not end, are not for this.
    """
    masked = _masked if options.get("show_secrets") is not True else _as_it_is
    try:
        action = find_action(action_name)
        masked = masked if action.family in MASKED_FAMILIES else _as_it_is
        context = build_context(action, _given(options), os.environ, _tell, lambda event: None,
                                source="act")
        reply = action.run(context)
    except RemotesError as error:
        return masked(error.as_document())
    return masked({**(reply.document or {}), "exit": reply.exit_code})


def _given(options):
    """The options that say something, as the command line has them."""
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("confirm"), bool):
        del given["confirm"]
        if options["confirm"]:
            given["confirm"] = "yes"
    return given


def _tell(line):
    print(line, file=sys.stderr)


def _as_it_is(document):
    return document


def _masked(document):
    from remotes.duplicati.masking import masked

    return masked(document)
