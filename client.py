"""The client: argv -> exit code. The only place that exits.

Guards: one door for everything that goes wrong. Leaves alone: the command line
(remotes/command_line.py), what is printed (remotes/door.py), what the actions do.

It is short, since Python compiles a program anew at each start, but not what that imports.
"""

import gc
import os
import sys

try:
    from remotes import __version__
    from remotes.actions.context import MASKED_FAMILIES
    from remotes.actions.running import build_context, find_action
    from remotes.command_line import help_text, parse
    from remotes.door import Door, ending_signals
    from remotes.errors import Interrupted, RemotesError
except KeyboardInterrupt:  # before there is a door: no traceback, nothing was begun
    print("client: start: ended by SIGINT", file=sys.stderr)
    raise SystemExit(130) from None

# So many new objects, less those that went, let Python look for garbage. What is imported and
# read at the start stays: a short run looks less often. One without end looks as usual.
_SHORT_RUN_OBJECTS = 10_000
_USUAL_OBJECTS = gc.get_threshold()[0]


def _raise_interrupted(number, frame):
    raise Interrupted(number)


def _run(argv, door):
    """Runs what `argv` asks for; gives the exit code. Raises what the door tells."""
    action_name, typed, wants_help, wants_version = parse(argv)
    door.action_name, door.debug = action_name, bool(typed.get("debug"))
    if wants_version:
        return 0 if door.write(f"remotes {__version__}") else 1
    if wants_help:
        text = help_text(find_action(action_name).name if action_name else None)
        return 0 if door.write(text) else 1
    action = find_action(action_name)
    if action.name.endswith("_monitor"):
        door.has_emitted = True  # its stdout is lines from the start
        gc.set_threshold(_USUAL_OBJECTS)
    context = build_context(action, typed, door.environ, door.tell, door.emit)
    door.form, door.debug = context.values["output"], context.values["debug"]
    if context.values["quiet"]:
        from remotes.faults import Faults

        door.quiet_faults = Faults(context.settings.beside("faults.json"), action.name)
    if action.family in MASKED_FAMILIES and not context.values["show_secrets"]:
        from remotes.duplicati.masking import masked

        door.masked = masked
    reply = action.run(context)
    if door.quiet_faults is not None and (over := door.quiet_faults.ends()):
        door.tell(f"client: {action.name}: {over}")
    return door.answer(reply.document, reply.exit_code)


def _replace_closed_streams():
    """Gives what the caller has closed a place to go to: else the next file that is opened
    would get its number, and lines for stderr would turn up on stdout."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def main(argv=None, environ=None):
    """Runs the client with `argv` (list of words); gives its exit code (errors.py)."""
    _replace_closed_streams()
    argv = sys.argv[1:] if argv is None else argv
    door = Door(os.environ if environ is None else environ)
    if argv in (["--help"], ["-h"]):
        # Without argparse and signals, whose import takes as long as all the rest.
        return 0 if door.write(help_text()) else 1
    import signal

    # What the caller wants ignored stays so: nohup, a shell's job in the background.
    former = {number: signal.signal(number, _raise_interrupted) for number in ending_signals()
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        return _run(argv, door)
    except RemotesError as error:
        return door.fail(error)
    except Interrupted as error:
        return door.interrupted(error)
    except Exception as error:
        return door.fault(error)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    gc.set_threshold(_SHORT_RUN_OBJECTS)
    raise SystemExit(main())
