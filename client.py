"""The client: argv -> exit code. The only place that prints answers and that exits.

Guards: one JSON document on stdout, whatever happens; one line on stderr for a
failure; one door for everything that goes wrong. Leaves alone: what the actions do.
"""

import os
import signal
import sys

from remotes import __version__
from remotes.actions import ACTIONS, COMMON, OPTIONS, shown_default
from remotes.actions.context import DUPLICATI
from remotes.actions.options import nearest
from remotes.actions.running import build_context, find_action
from remotes.errors import EXIT_CODES, Interrupted, RemotesError, UsageError

EXIT_FAULT = 70
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))
            if chr(code) not in "\t\n"}
_ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT")
                   if hasattr(signal, name)]


_NOT_TYPED = [option.name for option in OPTIONS.values() if not option.is_typed]


def build_parser():
    """argparse's view of the table of options."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise UsageError(message)

    parser = Parser(prog="client.py", allow_abbrev=False, add_help=False)
    parser.add_argument("--action")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-V", "--version", action="store_true")
    for option in OPTIONS.values():
        names = [f"--{option.name}"] + (["-S"] if option.name == "settings" else [])
        if not option.is_typed:
            continue
        if option.kind == "flag":
            parser.add_argument(*names, action="store_const", const=True)
        elif option.kind == "words":
            parser.add_argument(*names, nargs="+", action="extend")
        elif option.kind == "answer":
            parser.add_argument(*names, nargs="?", const="yes")
        else:
            parser.add_argument(*names)
    return parser


def underscored(argv):
    """Option names with hyphens are accepted for those with underscores."""
    for word in argv:
        name, equals, value = word.partition("=")
        if name.startswith("--") and len(name) > 2:
            name = "--" + name[2:].replace("-", "_")
        yield name + equals + value


def parse(argv):
    """(action name or None, typed option values, wants help, wants the version)."""
    parsed, rest = build_parser().parse_known_args(list(underscored(argv)))
    if rest:
        known = [f"--{name}" for name in ("action", *OPTIONS) if name not in _NOT_TYPED]
        unknown = rest[0].partition("=")[0]  # not the value: it may be a secret
        if unknown[2:] in _NOT_TYPED:
            raise UsageError(f"{unknown} is not taken on a command line, which everybody on the"
                             f" host can read: use {unknown}_file")
        raise UsageError(f"unknown argument {unknown}" + nearest(unknown, known))
    typed = {name: value for name, value in vars(parsed).items()
             if name in OPTIONS and value is not None}
    return parsed.action, typed, parsed.help, parsed.version


def help_text(action_name=None):
    """The help for people: all families, or one action."""
    lines = ["usage: client.py --action=NAME [--option=VALUE …]", ""]
    if action_name is not None:
        action = ACTIONS[action_name]
        lines += [f"{action.name}: {action.summary}", ""]
        for title, names in (("needs", action.needs), ("takes", action.takes)):
            own = [name for name in names if name not in COMMON]
            lines += [f"{title}:", *_option_lines(own), ""] if own else []
        return "\n".join([*lines, "every action takes:", *_option_lines(COMMON)])
    family = None
    for action in ACTIONS.values():
        if action.family != family:
            lines += [] if family is None else [""]
            lines.append(f"{action.family}:")
            family = action.family
        lines.append(f"  {action.name:<18} {action.summary}")
    lines += ["", "options (--action=NAME --help: those of one action):", *_option_lines(OPTIONS)]
    lines += ["  --help (-h), --version (-V)", "", "exit codes:"]
    lines += [f"  {code:<5}{meaning.replace('`', '')}" for code, meaning in EXIT_CODES.items()]
    return "\n".join(lines)


def _option_lines(names):
    for name in names:
        option = OPTIONS[name]
        default = "" if option.default is None else f" [{shown_default(option)}]"
        yield f"  --{name:<19} {option.help}{default}"


class _Door:
    """Where everything leaves: answers to stdout, lines to stderr, failures to a code."""

    def __init__(self, environ):
        self.form = "json"
        self.debug = False
        self.action_name = None
        self.quiet_faults = None
        self.has_emitted = False
        self.masked = lambda document: document  # takes the secrets out of what leaves
        self.environ = environ

    def tell(self, line):
        # Lines bear what servers say: no control character of theirs reaches a terminal.
        line = line.translate(_CONTROL)
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # nobody listens; the work goes on

    def emit(self, event):
        from remotes import rendering

        self.has_emitted = True
        self.write(rendering.event_line(self.masked(event)))

    def write(self, text):
        """Writes text to stdout. False if nobody takes it any more."""
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            return True
        except BrokenPipeError:
            # `| head`: not our failure. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
        except (OSError, ValueError) as error:
            self.tell(f"client: the answer cannot be written to stdout: {error}")
            return False

    def answer(self, document, exit_code):
        from remotes import rendering

        if document is None:  # a monitor: it has told everything already
            return exit_code
        document = self.masked(document)
        # Behind events, a monitor's failure is a line like them.
        text = rendering.event_line(document) if self.has_emitted \
            else rendering.render(document, self.form)
        is_written = self.write(text)
        return exit_code if is_written or exit_code else 1

    def _trace(self, error):
        """The traceback of an error: what a library says of an address can hold secrets."""
        import traceback

        from remotes.duplicati.masking import masked_text

        return masked_text("".join(traceback.format_exception(error)).rstrip())

    def fail(self, error):
        """The answer and the line for a failure of ours."""
        if self.debug:
            self.tell(self._trace(error))
        line = f"client: {self.action_name or 'usage'}: {error}"
        if self.quiet_faults is None or self.quiet_faults.begins(error.kind, str(error)):
            self.tell(line)
        return self.answer(error.as_document(), error.exit_code)

    def fault(self, error):
        """A fault of this program: never silent, never a traceback alone."""
        import traceback

        trace = traceback.extract_tb(error.__traceback__)
        place = f"{os.path.basename(trace[-1].filename)}:{trace[-1].lineno}" if trace else "?"
        message = f"a fault of this program: {type(error).__name__}: {error} ({place})"
        if self.debug:
            self.tell(self._trace(error))
        self.tell(f"client: {self.action_name or 'start'}: {message}; --debug shows where")
        document = {"status": "ERROR", "exit": EXIT_FAULT, "kind": "fault", "message": message}
        return self.answer(document, EXIT_FAULT)

    def interrupted(self, error):
        number = error.number
        for ending in _ENDING_SIGNALS:
            signal.signal(ending, signal.SIG_IGN)  # one is enough
        name = signal.Signals(number).name
        self.tell(f"client: {self.action_name or 'start'}: ended by {name}")
        document = {"status": "ERROR", "exit": 128 + number, "kind": "interrupted",
                    "message": f"ended by {name}", **error.document}
        return self.answer(document, 128 + number)


def _raise_interrupted(number, frame):
    raise Interrupted(number)


def _run(argv, door):
    """Runs what `argv` asks for; gives the exit code. Raises what the door tells."""
    if argv in (["--help"], ["-h"]):
        # Without argparse, whose import takes as long as all the rest.
        return 0 if door.write(help_text()) else 1
    action_name, typed, wants_help, wants_version = parse(argv)
    door.action_name, door.debug = action_name, bool(typed.get("debug"))
    if wants_version:
        return 0 if door.write(f"remotes {__version__}") else 1
    if wants_help:
        text = help_text(find_action(action_name).name if action_name else None)
        return 0 if door.write(text) else 1
    action = find_action(action_name)
    door.has_emitted = action.name.endswith("_monitor")  # whose stdout is lines from the start
    context = build_context(action, typed, door.environ, door.tell, door.emit)
    door.form, door.debug = context.values["output"], context.values["debug"]
    if context.values["quiet"]:
        from remotes.faults import Faults

        door.quiet_faults = Faults(context.settings.beside("faults.json"), action.name)
    if action.family == DUPLICATI and not context.values["show_secrets"]:
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
    door = _Door(os.environ if environ is None else environ)
    former = {number: signal.signal(number, _raise_interrupted) for number in _ENDING_SIGNALS}
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
    raise SystemExit(main())
