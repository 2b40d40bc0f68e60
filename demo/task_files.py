"""The tasks of a task server as people write them: a YAML file, or a folder with one for each host.

Guards: that a mistake is told with its file and line, changes nothing, and holds up none but the
hosts of its file; that no two hosts can be taken for each other; that values mean what they mean
in JSON (`yes`, `12:30` and `2026-01-01` are texts). Leaves alone: what an operation needs, which
the host judges by its own version and policy.

It imports nothing of the client's package.
"""
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from demo.serving import SiteError, printable
from demo.task_store import as_json, task_key

ONLY_HOST = "host"  # how a host is called in a file that names none
SHORTEST_OPEN_TOKEN = 16  # for a server that others can reach
TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


class HostTasks(NamedTuple):
    """A host: its token (None: whoever asks), and its tasks in their order."""
    token: str | None
    tasks: list


class _Loader(yaml.SafeLoader):
    """YAML with the plain values of JSON, and no name twice."""
    yaml_implicit_resolvers = {}

    def construct_mapping(self, node, deep=False):
        _pairs(node)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
        ("null", r"~|null|", ["~", "n", ""]), ("bool", r"true|false", ["t", "f"]),
        ("int", r"-?(0|[1-9][0-9]*)", list("-0123456789")),
        ("float", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-0123456789"))):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"),
                                  _first)


class _PlaceError(Exception):
    """What is wrong, and the line (from 1) where."""

    def __init__(self, what: str, node: yaml.Node):
        super().__init__(what)
        self.line = node.start_mark.line + 1


def _pairs(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """The names of a mapping, as text, and what they have."""
    if not isinstance(node, yaml.MappingNode):
        raise _PlaceError("names with values are expected here", node)
    found = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise _PlaceError("a name must be a text", name)
        if name.value in found:
            raise _PlaceError(f"{name.value!r} stands here a second time", name)
        found[name.value] = value
    return found.items()


def _fields(node: yaml.Node, known: tuple[str, ...]) -> dict[str, yaml.Node]:
    fields = dict(_pairs(node))
    for name, _ in node.value:
        if name.value not in known:
            raise _PlaceError(f"{name.value!r} is not known; known: {', '.join(known)}", name)
    return fields


def _read_token(loader: _Loader, node: yaml.Node | None) -> str | None:
    token = None if node is None else loader.construct_object(node, deep=True)
    if token is not None and not (isinstance(token, str) and TOKEN.fullmatch(token)):
        raise _PlaceError("a token is a text (in quotes, if it is a number) of printable ASCII"
                          " without spaces", node)
    return token


def _read_tasks(loader: _Loader, node: yaml.Node | None) -> list:
    if node is None or node.tag.endswith(":null"):
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise _PlaceError("a list of tasks is expected here", node)
    tasks, keys = [], set()
    for part in node.value:
        names = dict(_pairs(part))
        entry = loader.construct_object(part, deep=True)
        key = task_key(entry)
        if key is None:
            raise _PlaceError("a task needs an ID: a whole number, or a text", part)
        if key in keys:
            raise _PlaceError(f"the ID {key} stands in this list a second time", names["ID"])
        if not isinstance(entry.get("Operation"), str) or not entry["Operation"]:
            raise _PlaceError("a task needs an Operation", part)
        try:
            as_json(entry)
        except (TypeError, ValueError, RecursionError) as error:
            raise _PlaceError(f"this task cannot be written as JSON: {error}", part) from error
        keys.add(key)
        tasks.append(entry)
    return tasks


def _read_host(loader: _Loader, node: yaml.Node) -> HostTasks:
    if isinstance(node, yaml.SequenceNode):
        return HostTasks(None, _read_tasks(loader, node))
    fields = _fields(node, ("token", "tasks"))
    return HostTasks(_read_token(loader, fields.get("token")),
                     _read_tasks(loader, fields.get("tasks")))


def _read_hosts(loader: _Loader, node: yaml.Node, name: str | None) -> dict[str, HostTasks]:
    if name is not None:
        return {name: _read_host(loader, node)}
    if isinstance(node, yaml.SequenceNode) or "hosts" not in dict(_pairs(node)):
        return {ONLY_HOST: _read_host(loader, node)}
    hosts = _pairs(_fields(node, ("hosts",))["hosts"])
    return {name: _read_host(loader, host) for name, host in hosts}


def read_text(text: str, name: str | None) -> dict[str, HostTasks]:
    """What a file says: the tasks of the host `name`, or (None) {hosts: {NAME: …}} or those of
    the only one. Raises SiteError, with the line in front of it."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise SiteError("line 1: nothing stands here")
        return _read_hosts(loader, node, name)
    except _PlaceError as error:
        raise SiteError(f"line {error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SiteError(f"line {mark.line + 1}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SiteError):
            raise
        raise SiteError(f"line 1: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()


def read_document(document: object) -> dict[str, HostTasks]:
    """What a file would say, for tests: tasks, whatever they are, or {"hosts": {NAME: …}}."""
    if not isinstance(document, dict):
        return {ONLY_HOST: HostTasks(None, list(document))}
    return {name: HostTasks(host.get("token"), list(host.get("tasks", ())))
            for name, host in document["hosts"].items()}


def check_tokens(hosts: dict[str, HostTasks], is_open: bool = False,
                 has_others: bool = False) -> None:
    """SiteError unless each host can be told from the others (`is_open`: from anybody;
    `has_others`: these are not all of them), and its name can be shown."""
    seen = {}
    for name, host in hosts.items():
        if printable(name) != name or not name:
            raise SiteError(f"{name!r} cannot be the name of a host")
        if host.token is None and (is_open or has_others or len(hosts) > 1):
            raise SiteError(f"the host {name!r} needs a token, since "
                            + ("others can reach this server" if is_open else
                               "it is not the only one"))
        if is_open and len(host.token) < SHORTEST_OPEN_TOKEN:
            raise SiteError(f"the token of {name!r} is shorter than {SHORTEST_OPEN_TOKEN}"
                            " characters, and others can reach this server")
        if host.token in seen:
            raise SiteError(f"the hosts {seen[host.token]!r} and {name!r} have the same token")
        seen[host.token] = name


def _claims(hosts: dict[str, HostTasks]) -> list[tuple[str, str]]:
    """What a file of one or more hosts wants for itself alone."""
    return [*(("host", name) for name in hosts),
            *(("token", host.token) for host in hosts.values() if host.token is not None)]


class TaskFiles:
    """A task file, or a folder of them: HOST.yml holds the tasks of the host HOST.

    `hosts`: those that can be told from each other, as their file was when it last had no
    mistake. `faults`: what is wrong now, by file; it holds up the hosts of that file and no
    others. `held`: hosts that have a file, but are not among `hosts`.
    """

    def __init__(self, path: Path, log: Callable[[str], None] = lambda line: None):
        """Raises SiteError if no host is right to begin with."""
        self.path, self.hosts, self.faults, self.held = Path(path), {}, {}, frozenset()
        self._log, self._wants_tokens, self._stamps = log, False, None
        # By file: what it says, or why it cannot be read; what it said when it was last right;
        # which of the two is served.
        self._read, self._unread, self._good, self._served = {}, {}, {}, {}
        self._update()
        self._require_host()
        self._tell({})

    def want_tokens(self) -> None:
        """From now on a host without a token that others cannot guess is a mistake. SiteError if
        no host is left."""
        former, self._wants_tokens = self.faults, True
        if self._stamps is not None:
            self._join()
        self._require_host()
        self._tell(former)

    def refresh(self) -> bool:
        """Read what has changed since; whether there was anything."""
        former = self.faults
        is_changed = self._update()
        if is_changed:
            self._tell(former)
        return is_changed

    def _require_host(self) -> None:
        if not self.hosts and self.faults:
            raise SiteError("; ".join(what if name == str(self.path) else f"{name}: {what}"
                                      for name, what in self.faults.items()))

    def _tell(self, former: dict[str, str]) -> None:
        """Log what was not wrong before."""
        for name, what in self.faults.items():
            if former.get(name) != what:
                stays = name in self._served or name == str(self.path)
                self._log(printable(f"{name}: {what}; " + (
                    "the former tasks stay" if stays else "its host has to wait")))

    def _update(self) -> bool:
        try:
            stamps = self._look()
        except OSError as error:
            former, self.faults, self._stamps = self.faults, {
                str(self.path): error.strerror or str(error)}, None
            return former != self.faults
        if stamps == self._stamps:
            return False
        before, self._stamps = self._stamps or {}, stamps
        for known in (self._read, self._unread, self._good, self._served):
            for name in known.keys() - stamps.keys():
                del known[name]
        for name in stamps:
            if before.get(name) != stamps[name]:
                self._read_file(name)
        self._join()
        return True

    def _look(self) -> dict[str, tuple]:
        """The files that there are, each with what changes when it is written, or can be read."""
        paths = [self.path]
        if self.path.is_dir():
            paths = sorted(path for path in self.path.iterdir()
                           if path.suffix in (".yml", ".yaml") and not path.name.startswith("."))
            if not paths:
                raise OSError("no file in this folder is called HOST.yml")
        found = {}
        for path in paths:
            try:
                stat = path.stat()
            except OSError as error:  # a link to nowhere, for one; to read it will fail as well
                found[str(path)] = (error.errno,)
            else:
                found[str(path)] = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
        return found

    def _read_file(self, name: str) -> None:
        path = Path(name)
        self._read.pop(name, None)
        self._unread.pop(name, None)
        try:
            self._read[name] = read_text(path.read_text(encoding="utf-8-sig"),
                                         None if path == self.path else path.stem)
        except UnicodeDecodeError:
            self._unread[name] = "line 1: this is not UTF-8"
        except OSError as error:
            self._unread[name] = error.strerror or str(error)
        except SiteError as error:
            self._unread[name] = str(error)

    def _join(self) -> None:
        """Of each file, serve what it says; if that is wrong, what it said when it was right; if
        even that has become wrong, nothing."""
        faults, choices = dict(self._unread), {}
        for name in self._stamps:
            choices[name] = []
            for known in (self._good, self._read):
                if name in known:
                    flaw = self._flaw(known[name])
                    if flaw is None:
                        choices[name].append(known[name])
                    elif known is self._read:
                        faults[name] = flaw
        while lost := self._lost({name: left[-1] for name, left in choices.items() if left}):
            for name, what in lost.items():
                choices[name].pop()
                faults.setdefault(name, what)
        self._served = {name: left[-1] for name, left in choices.items() if left}
        self._good.update((name, hosts) for name, hosts in self._served.items()
                          if name not in faults)
        self.faults, self.hosts = dict(sorted(faults.items())), {}
        for hosts in self._served.values():
            self.hosts.update(hosts)
        self.held = frozenset(Path(name).stem for name in self._stamps
                              if name != str(self.path)) - self.hosts.keys()

    def _flaw(self, hosts: dict[str, HostTasks]) -> str | None:
        """What is wrong with a file, whatever the others say."""
        try:
            check_tokens(hosts, self._wants_tokens, len(self._stamps) > 1)
        except SiteError as error:
            return str(error)
        return None

    def _lost(self, said: dict[str, dict[str, HostTasks]]) -> dict[str, str]:
        """Files that want what another wants, too, and did not have it before. Where none of them
        had it, nobody can tell whose it is: then it is all of them."""
        claims, lost = {}, {}
        for name, hosts in said.items():
            for claim in _claims(hosts):
                claims.setdefault(claim, []).append(name)
        for claim, names in claims.items():
            kind, text = claim
            what = f"the host {text!r} has two files" if kind == "host" else "the hosts " + (
                " and ".join(repr(Path(name).stem) for name in names)) + " have the same token"
            for name in names if len(names) > 1 else ():
                if claim not in _claims(self._served.get(name, {})):
                    lost.setdefault(name, what)
        return lost
