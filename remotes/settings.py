"""The settings: what this client has learnt and must not forget. One YAML file.

Guards: that no change is lost (lock, read again, write beside, sync, replace), that a
file nobody can parse is never written over, that a name which stands twice is told
(here and in the owner's config), and that keys of other versions stay.
An INI file of the reference client is read as it stands; the first change turns it
into YAML under the same path. Leaves alone: what the values mean, and all secrets in
clear: `host.uuid` and `host.token` are kept as they came, encrypted for this host
(protocol page of Django Remotes, "Keys, registration, verification").
"""

import contextlib
import copy
import os
import re

from remotes import files
from remotes.errors import SettingsError

VERSION = 1
_SECTIONS = ("host", "server", "endpoints", "duplicati", "tasks")
_LOCK_WAIT_SECONDS = 30.0
# UUID and token are 684 characters each; an INI's copy is written, too.
_LONGEST_CHANGE_BYTES = 8192
# What is kept of a Duplicati server, where it is no text; keys of other versions may be anything.
_SERVER_TEXTS = {
    "url", "generation", "access_token", "refresh_cookie", "refresh_nonce", "pre_auth_token",
    "xsrf_token", "session_auth", "ca_file", "client_certificate", "client_key", "pin",
    "basic_user", "basic_password_file", "password_file"}
_SERVER_KINDS = {"access_until": (int, float), "insecure": bool, "tasks": dict}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What its text says: a text, and the signs `<<` and `=`. 5 and 0x5 are the same name.
_TEXT_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "value")}
_INI_SECTION = re.compile(r"^\[(host|server|endpoints)\]\s*$", re.MULTILINE)


def default_path(environ):
    """Where the settings are if nobody says so; makes the default folder, 0700."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    folder = os.path.join(base, "remotes")
    with files.told("make", folder):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.path.join(folder, "settings.yml")


def parse_yaml(text, path):
    """A mapping from YAML `text` (bytes), of which no name stands twice in one mapping; an error
    names `path`, line and column.
    """
    import yaml

    try:
        document = _load(text, yaml)
    # LookupError, AttributeError: what a tag says is none, such as !!int "".
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid YAML: {_place(error)}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        kind = {list: "a list", str: "a text"}.get(type(document), "a single value")
        raise SettingsError(f"{path} holds {kind} where a mapping of names to values belongs")
    return document


def _load(text, yaml):
    """What YAML `text` holds. YAML itself takes the last of two equal names, without a word."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_twice(node, loader, yaml)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_twice(root, loader, yaml):
    """ConstructorError for a name that stands twice in one mapping under `root`.

    Before a document is made of it, for that mixes in what `<<` names.
    """
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode) or node in seen:  # an alias is the node itself
            continue
        seen.add(node)
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
            continue
        lines = {}
        for name, value in node.value:
            waiting.append(value)
            if not isinstance(name, yaml.ScalarNode):
                continue  # which is no name: the loader says so
            key = name.value if name.tag in _TEXT_TAGS else loader.construct_object(name, deep=True)
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{_plain(name.value)} stands there twice, first in line"
                    f" {lines[key]}", name.start_mark)
            lines[key] = name.start_mark.line + 1


def _plain(text):
    return text if text.isprintable() else ascii(text)


def _place(error):
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _parse_ini(text, path):
    """The reference client's INI as a settings document (protocol page, "Settings files")."""
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        line = " ".join(str(error).split())
        raise SettingsError(f"{path} looks like an INI file, but cannot be read: {line}") from error
    document = {name: dict(parser[name]) for name in parser.sections()}
    host = document.get("host", {})
    for name in ("private_key", "public_key"):
        if host.get(name):
            host[name] = _beside_unless_there(host[name], path)
    server = document.get("server", {})
    if "server_url" in server:
        server["url"] = server.pop("server_url")
    return document


def _beside_unless_there(written, path):
    """A path as it is written; if nothing is there, as seen from the folder of `path`."""
    beside = os.path.join(os.path.dirname(path), written)
    if os.path.exists(written) or not os.path.exists(beside):
        return os.path.abspath(written)
    return beside


def _check_shape(document, path):
    version = document.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise SettingsError(
            f"{path} has version {version!r}, and this program knows {VERSION}: it was written by a"
            " newer one, and is left alone"
        )
    for section in _SECTIONS:
        if not isinstance(document.get(section, {}), dict):
            raise SettingsError(f"{path}: `{section}` must be a mapping of names to values")
    for section in ("host", "server", "endpoints"):
        for name, value in document.get(section, {}).items():
            if value is not None and not isinstance(value, (str, int, bool)):
                raise SettingsError(f"{path}: `{section}: {name}` must be a single value")


def _belongs(key, value):
    """Whether `value` can be what is kept of a Duplicati server as `key`."""
    if key in _SERVER_KINDS:
        is_truth = isinstance(value, bool)  # which is a number, too
        return isinstance(value, _SERVER_KINDS[key]) and is_truth == (key == "insecure")
    if key not in _SERVER_TEXTS:
        return True
    if not isinstance(value, str) or _CONTROL.search(value):
        return False
    return key != "url" or _is_url(value)


def _is_url(text):
    import urllib.parse

    try:
        parts = urllib.parse.urlsplit(text)
        parts.port  # noqa: B018  (a port that is no number raises here)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class Settings:
    """The settings file at `path`, read once; `changing` writes it.

    Errors: SettingsError (unreadable, not YAML, not a mapping, newer version).
    """

    def __init__(self, path):
        # A link is followed, so that a replace renames over the file and not the link.
        self.path = os.path.realpath(path)
        self.stamp = None
        self.document = {}
        self.read()

    def read(self):
        """Reads the file again. One that is not there is empty settings."""
        document, self.is_ini = {}, False
        self.stamp = self.stamp_now()
        try:
            with open(self.path, "rb") as stream:
                text = stream.read()
        except FileNotFoundError:
            text = b""
        except OSError as error:
            raise SettingsError(f"cannot read {self.path}: {error.strerror}") from error
        decoded = text.decode("utf-8-sig", "replace")
        if _INI_SECTION.search(decoded):
            self.is_ini = True
            document = _parse_ini(decoded, self.path)
        else:
            document = parse_yaml(text, self.path)
        _check_shape(document, self.path)
        self.document = document

    def stamp_now(self):
        """What tells one writing of the file from another; None if there is no file."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def get(self, section, name, default=None):
        """The text of `name` in `section`, or `default` if it is missing or empty."""
        value = (self.document.get(section) or {}).get(name)
        if value in (None, ""):
            return default
        if not isinstance(value, str):  # a path that is a number would open a descriptor
            raise SettingsError(f"{self.path}: `{section}: {name}` must be a text")
        return value

    def duplicati_servers(self):
        """What is kept of each Duplicati server: name -> mapping. Errors: SettingsError."""
        servers = (self.document.get("duplicati") or {}).get("servers") or {}
        if not isinstance(servers, dict):
            raise SettingsError(f"{self.path}: `duplicati: servers` must be a mapping")
        for name, kept in servers.items():
            if not isinstance(kept, dict):
                raise SettingsError(f"{self.path}: `duplicati: servers: {name}` must be a mapping")
        return servers

    def duplicati_server(self, name):
        """What is kept of the Duplicati server `name`; an empty mapping if nothing is.

        Whatever somebody has made of it: what is there is of the kind that belongs there,
        a text of one line for most. Errors: SettingsError.
        """
        kept = self.duplicati_servers().get(name) or {}
        for key, value in kept.items():
            if value is not None and not _belongs(key, value):
                raise SettingsError(f"{self.path}: `duplicati: servers: {name}: {key}` is not what"
                                    " belongs there")
        return kept

    @contextlib.contextmanager
    def changing(self):
        """Gives the document to change, as it is now on the disk; writes it if it was.

        Under the lock (waited for, 30 s), so that two runs never lose each other's
        change. If the body raises, nothing is written. The lock is not for network.
        """
        lock = files.Lock(self.beside("lock"))
        with lock.held(_LOCK_WAIT_SECONDS, "change of the settings"):
            self.read()
            before = copy.deepcopy(self.document)
            yield self.document
            if self.document != before:
                self._write()

    def require_writable(self):
        """An error of ours unless a change could be written now.

        For who is about to make the server do what cannot be undone, and must be kept.
        """
        lock = files.Lock(self.beside("lock"))
        with lock.held(_LOCK_WAIT_SECONDS, "change of the settings"):
            size = self.stamp_now()[2] if self.stamp_now() else 0
            files.require_writable(self.path, size + _LONGEST_CHANGE_BYTES)

    def beside(self, name):
        """The path of a file that belongs to these settings.

        `settings.yml` gives its folder's `commands-journal.yml`; a file of another name
        gives its stem: `web2.commands-journal.yml`. A lock is named after the whole file.
        """
        folder, base = os.path.split(self.path)
        if name == "lock":
            return self.path + ".lock"
        stem = os.path.splitext(base)[0]
        return os.path.join(folder, name if stem == "settings" else f"{stem}.{name}")

    def _write(self):
        import yaml

        document = {"version": VERSION, **self.document}
        text = yaml.dump(
            document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
            sort_keys=False, allow_unicode=True, default_flow_style=False, width=1 << 20,
        )
        if self.is_ini:
            with files.told("write", self.path + ".bak"):
                files.copy(self.path, self.path + ".bak")
        files.replace(self.path, text.encode())
        self.document, self.is_ini = document, False
        self.stamp = self.stamp_now()
