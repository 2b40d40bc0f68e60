"""The command line: words -> an action's name and option values; and the help.

Guards: that a mistake in typing is told with the nearest name, and never with a value,
which may be a secret. Leaves alone: what the values mean (actions/options.py).
"""

from remotes.actions import ACTIONS, COMMON, OPTIONS, shown_default
from remotes.actions.options import nearest
from remotes.errors import EXIT_CODES, UsageError

_NOT_TYPED = [option.name for option in OPTIONS.values() if not option.is_typed]


def build_parser(words):
    """argparse's view of the table of options: those that stand among `words`, since to
    make it of all of them takes as long as to parse, ten times over.
    """
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise UsageError(message)

    parser = Parser(prog="client.py", allow_abbrev=False, add_help=False)
    parser.add_argument("--action")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-V", "--version", action="store_true")
    typed = {word.partition("=")[0] for word in words}
    for option in OPTIONS.values():
        names = [f"--{option.name}"] + (["-S"] if option.name == "settings" else [])
        if not option.is_typed or names[0] not in typed and option.name != "settings":
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


def spread(words):
    """`--id=A B` as `--id A B`: what follows the first of several words belongs to it."""
    for word, following in zip(words, [*words[1:], "-"]):
        name, equals, value = word.partition("=")
        option = OPTIONS.get(name[2:]) if equals and name.startswith("--") else None
        is_split = option is not None and option.kind == "words" and value \
            and not value.startswith("-") and not following.startswith("-")
        yield from (name, value) if is_split else (word,)


def parse(argv):
    """(action name or None, typed option values, wants help, wants the version)."""
    words = list(spread(list(underscored(argv))))
    parsed, rest = build_parser(words).parse_known_args(words)
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
