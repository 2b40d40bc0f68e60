"""The documents tell the truth about today: tables are derived, commands can be typed.

`python tests/test_documents.py` writes the README's tables anew.
"""

import re
import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import client  # noqa: E402
from remotes import actions, errors  # noqa: E402

README = PROJECT / "README.md"
TABLES = {"actions": actions.actions_table, "exits": actions.exit_codes_table,
          "options": actions.options_table}


def filled(text):
    """The README with its tables as they are derived today."""
    for name, table in TABLES.items():
        text = re.sub(
            rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)",
            lambda found, table=table: f"{found[1]}\n{table()}\n\n{found[2]}", text,
            flags=re.DOTALL)
    return text


def documented_commands():
    """Every `python client.py …` of the README, as lists of words."""
    text = README.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        found = re.search(r"client\.py (-.*?)(`|$)", line)
        if found and "NAME" not in found[1]:
            yield shlex.split(found[1].partition(" >")[0])


def test_the_tables_of_the_readme_are_those_of_the_program():
    """Actions, options and exit codes stand in the README as they are declared."""
    assert filled(README.read_text()) == README.read_text()


def test_every_documented_command_can_be_typed():
    """Its action exists and takes all of its options."""
    commands = list(documented_commands())
    assert len(commands) >= 6
    for words in commands:
        name, typed, _, _ = client.parse(words)
        action = client.find_action(name)
        assert set(typed) <= set(actions.option_names(action)), words


def test_every_action_is_declared_in_full():
    """Summaries are one line without a full stop; needs and takes are known and apart."""
    for name, action in actions.ACTIONS.items():
        assert (name, action.name, action.run.__name__) == (name, name, name)
        assert action.summary == action.summary.strip(" .")
        assert set(action.needs + action.takes) <= set(actions.OPTIONS), name
        assert name == "config" or not set(action.needs) & set(action.takes), name


def test_every_option_is_taken_by_an_action():
    """No option is declared in vain."""
    taken = {name for action in actions.ACTIONS.values() if action.name != "config"
             for name in actions.option_names(action)}
    assert taken == set(actions.OPTIONS)


def all_errors(kind=errors.RemotesError):
    yield kind
    for below in kind.__subclasses__():
        yield from all_errors(below)


def test_every_exit_code_is_documented():
    """The codes of the error tree are in the table, and in the help."""
    codes = {kind.exit_code for kind in all_errors()} | {0, 3, 4, 70, 130}
    assert codes == set(errors.EXIT_CODES)
    for code in codes:
        assert re.search(rf"^  {code}\b", client.help_text(), re.MULTILINE)


def test_no_module_imports_from_above():
    """The layers of the design: a module imports from its own layer or from below."""
    layers = {"errors": 0, "files": 0, "answer": 0, "settings": 1, "keys": 1, "transport": 1,
              "journal": 1,
              "audit": 1, "faults": 1, "rendering": 1, "watcher": 2, "runner": 2, "host": 2,
              "server": 2, "duplicati": 2, "aescrypt": 1, "delivery": 3, "commands": 4,
              "operations": 2, "taskserver": 2, "policy": 3, "tasklist": 3, "task_calls": 3,
              "task_delivery": 3,
              "executor": 4, "tasks": 4,
              "daemon": 4, "actions": 5, "command_line": 6, "door": 6, "scripting": 6}
    for path in sorted((PROJECT / "remotes").rglob("*.py")):
        names = path.relative_to(PROJECT / "remotes").parts
        own = layers.get(names[0].removesuffix(".py"))
        if own is None:
            assert names == ("__init__.py",)
            continue
        for name in imported_by(path):
            assert layers[name.partition(".")[0]] <= own, f"{path.name} imports {name}"


def imported_by(path):
    """The modules of the package that a file imports, as names below `remotes.`."""
    text = path.read_text()
    found = set(re.findall(r"from remotes\.([\w.]+) import", text))
    for package, line in re.findall(r"from (remotes(?:\.\w+)*) import \(?([\w, ]+)", text):
        below = PROJECT / package.replace(".", "/")
        found |= {f"{package}.{name.strip()}"[len("remotes."):] for name in line.split(",")
                  if (below / f"{name.strip()}.py").exists() or (below / name.strip()).is_dir()
                  and name.strip()}
    return found


def test_no_two_modules_import_each_other():
    """Not even in a circle of several, nor inside functions."""
    modules = {".".join(path.relative_to(PROJECT / "remotes").with_suffix("").parts)
               .removesuffix(".__init__"): path for path in (PROJECT / "remotes").rglob("*.py")}
    above = {}

    def visit(name, trail):
        assert name not in trail, " -> ".join((*trail, name))
        if name not in above:
            for other in sorted(imported_by(modules[name]) & set(modules) - {name}):
                visit(other, (*trail, name))
            above[name] = True

    for name in modules:
        visit(name, ())


def test_foreign_libraries_have_one_importer_each():
    """Foreign exceptions are translated in the one module that imports the library."""
    importers = {"requests": set(), "cryptography": set(), "urllib3": set(), "rich": set(),
                 "dateutil": set()}
    for path in (PROJECT / "remotes").rglob("*.py"):
        for name in importers:
            if re.search(rf"^\s*(import|from) {name}\b", path.read_text(), re.MULTILINE):
                importers[name].add(path.name)
    assert importers == {"requests": {"transport.py"}, "urllib3": {"transport.py"},
                         "cryptography": {"keys.py", "aescrypt.py"}, "dateutil": {"moments.py"},
                         "rich": {"rendering.py", "drawing.py"}}


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
