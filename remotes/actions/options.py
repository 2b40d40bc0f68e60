"""Every option, declared once; argparse, help, config and README are views of this table.

Guards: where a value comes from (command line, then environment, then config, then
settings, then default), its type, and that no name is taken for another. Leaves
alone: what an option does.
"""

import os
from collections import namedtuple

from remotes.errors import SettingsError, UsageError

# kind: text, path, seconds, count, size, flag, words (several texts), answer (a text; yes if
#   none is given), or a tuple of choices.
# setting: (section, name) in the settings file that holds the value, if one does. Section
#   "server" is that of the server which the action talks to: for Duplicati's actions the
#   one that --server names.
# is_secret: never shown. is_typed: whether it can stand on a command line.
Option = namedtuple(
    "Option", "name kind help default setting is_secret is_typed",
    defaults=(None, None, False, True),
)

OPTIONS = {option.name: option for option in (
    Option("url", "text", "URL of the server", None, ("server", "url")),
    Option("token", "text", "registration token of the server", is_secret=True),
    Option("token_file", "path", "file that holds the registration token"),
    Option("private_key", "path", "file of the host's private key", None, ("host", "private_key")),
    Option("public_key", "path", "file of the host's public key", None, ("host", "public_key")),
    Option("force", "flag", "do what is refused else: overwrite keys or files, register or verify"
           " again, run a command that is no longer listed"),
    Option("follow_url", "flag", "use the address that the server says of itself, even if it names"
           " another host than --url"),
    Option("command", "count", "number of a command"),
    Option("drop", "count", "number of a command whose kept result is thrown away"),
    Option("dry_run", "flag", "show what would be done, and do nothing"),
    Option("fail_on_command", "flag", "exit with 4 if a command ended in an error"),
    Option("interval", "seconds", "seconds from one turn of a monitor to the next", 300.0),
    Option("splay", "seconds", "wait at random up to so many seconds before a turn", 0.0),
    Option("grace", "seconds", "how long a running command may still take after SIGTERM", 30.0),
    Option("output_limit", "size", "most bytes of a command's output that are sent", 512 * 1024),
    Option("journal_limit", "size", "bytes of undelivered results over which nothing new is done",
           64 * 1024 * 1024),
    Option("lock_wait", "seconds", "how long to wait for another run to end", 0.0),
    Option("server", "text", "which Duplicati server: the name that its login gave it", "default"),
    Option("password", "text", "password of the Duplicati server (config and environment only)",
           is_secret=True, is_typed=False),
    Option("password_file", "path", "file that holds the password of the Duplicati server; its path"
           " is kept, so that the client logs in again by itself", None,
           ("server", "password_file")),
    Option("login_token", "text", "a sign-in, forever or pre-auth token in place of a password",
           is_secret=True),
    Option("login_token_file", "path", "file that holds such a token"),
    Option("forever", "flag", "let the server issue a token that does not expire, and keep that"),
    Option("basic_user", "text", "user of a proxy before the server that wants basic auth", None,
           ("server", "basic_user")),
    Option("basic_password_file", "path", "file that holds the password of that user", None,
           ("server", "basic_password_file")),
    Option("pin", "text", "SHA-256 that the server's certificate must have", None,
           ("server", "pin")),
    Option("insecure", "flag", "trust any certificate", None, ("server", "insecure")),
    Option("type", "text", "which kind of things"),
    Option("tasks_url", "text", "URL of the task server", None, ("tasks", "url")),
    Option("tasks_token", "text", "token for the task server (config and environment only)",
           is_secret=True, is_typed=False),
    Option("tasks_token_file", "path", "file that holds the token for the task server", None,
           ("tasks", "token_file")),
    Option("operation", "text", "what a task asks for, such as run; export_passwords for an export"
           " with them"),
    Option("id", "words", "numbers or names of them"),
    Option("all", "flag", "all backups"),
    Option("lines", "count", "how many lines or rows", 20),
    Option("level", ("Profiling", "Verbose", "Retry", "Information", "Warning", "Error"),
           "least level of the live log", "Information"),
    Option("follow", "flag", "go on, with a line for each event, until Ctrl-C"),
    Option("since", "text", "only what is newer: ISO 8601, or an age such as 2h or 3D"),
    Option("task", "count", "number of a task of the Duplicati server"),
    Option("wait", "flag", "wait for the end, and tell how it ended"),
    Option("wait_timeout", "seconds", "wait no longer than that; the work goes on (exit 124)"),
    Option("graceful", "flag", "let it finish the file or volume that it is at"),
    Option("duration", "text", "for how long, such as 30m or 1h30m; left out: until resumed"),
    Option("backup_version", "count", "number of a version, 0 the newest"),
    Option("time", "text", "the newest version at that time: ISO 8601, or an age such as 3D"),
    Option("path", "words", "files, or folders with a slash at the end"),
    Option("filter", "text", "a part of the path, or a pattern with * and ?"),
    Option("restore_path", "text", "folder to restore into, on the server's host"),
    Option("in_place", "flag", "restore to where the files came from"),
    Option("overwrite", "flag", "overwrite files that are there"),
    Option("skip_metadata", "flag", "restore contents alone, without times and rights"),
    Option("passphrase_file", "path", "file that holds a passphrase"),
    Option("config_file", "path", "an exported backup, to restore from without a job"),
    Option("target_url", "text", "URL of a backup's target, to restore from without a job",
           is_secret=True),
    Option("set", "words", "changes as PATH=VALUE, such as Settings.keep-versions=5; =@FILE for a"
           " secret"),
    Option("patch", "path", "file with a merge patch, JSON or YAML"),
    Option("file", "path", "file with a backup: JSON of the web interface, or YAML"),
    Option("confirm", "answer", "answers the question: yes, or the name of what is destroyed"),
    Option("import_metadata", "flag", "take over the metadata of the file"),
    Option("strip_metadata", "flag", "leave out the metadata of the file"),
    Option("recreate", "flag", "make the deleted database anew from the target"),
    Option("delete_remote_files", "flag", "delete the backup's files at its target, too"),
    Option("file_format", ("yaml", "json"), "form of the exported file", "yaml"),
    Option("output_path", "path", "file or folder to write to"),
    Option("timestamp", "flag", "put the time into the file's name"),
    Option("no_passwords", "flag", "export without passwords"),
    Option("name", "text", "name of a server setting"),
    Option("value", "text", "its new value; an empty one: --value="),
    Option("disable_password", "flag", "let everybody in who reaches the server (2.0 only)"),
    Option("show_secrets", "flag", "show secrets as they are"),
    Option("settings", "path", "settings file (-S)"),
    Option("config", "path", "config file of the owner"),
    Option("http_timeout", "seconds", "time-out for connecting and for each read", 30.0),
    Option("ca_file", "path", "CA certificates (PEM) to trust", None, ("server", "ca_file")),
    Option("client_certificate", "path", "certificate (PEM) to show to the server", None,
           ("server", "client_certificate")),
    Option("client_key", "path", "key (PEM) of that certificate", None, ("server", "client_key")),
    Option("output", ("json", "yaml", "table"), "form of the answer", "json"),
    Option("quiet", "flag", "tell a fault that goes on from run to run only when it begins and when"
           " it ends"),
    Option("verbose", "flag", "tell more of what is done"),
    Option("debug", "flag", "add the traceback to an error"),
)}

# Taken by every action.
COMMON = ("settings", "config", "http_timeout", "ca_file", "client_certificate", "client_key",
          "output", "quiet", "verbose", "debug")
SYSTEM_CONFIG = "/etc/remotes/config.yml"
_CONFIG_SECTIONS = ("options", "actions", "policy")
_SIZE_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}
_MORE_THAN_0 = ("http_timeout", "interval", "wait_timeout")
_MOST_SECONDS = 1e9
_FLAG_WORDS = {"true": True, "yes": True, "on": True, "1": True,
               "false": False, "no": False, "off": False, "0": False}


def nearest(name, names):
    """", did you mean X?" for a name that is not known, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def convert(option, value, where):
    """`value` (text, or what YAML gave) as the option's kind has it. Errors: UsageError."""
    try:
        return _CONVERTERS[option.kind if isinstance(option.kind, str) else "choice"](option, value)
    except (ValueError, TypeError, AttributeError, OverflowError):
        least = "more than 0" if option.name in _MORE_THAN_0 else "0 or more"
        wanted = {"seconds": f"a number of seconds, {least}, below {_MOST_SECONDS:.0e}",
                  "count": "a whole number",
                  "size": "a number of bytes (K, M and G are known)", "flag": "true or false",
                  "text": "a text that is not empty", "path": "a path",
                  "answer": "a text that is not empty",
                  "words": "one or more texts that are not empty"}
        kind = wanted[option.kind] if isinstance(option.kind, str) \
            else "one of " + ", ".join(option.kind)
        raise UsageError(f"{where}: {option.name} must be {kind}") from None


def _to_text(option, value):
    if isinstance(value, (dict, list, bool)) or not str(value).strip() and option.name != "value":
        raise ValueError
    return str(value)


def _to_words(option, value):
    words = value if isinstance(value, list) else [value]
    if not words:
        raise ValueError
    return [_to_text(option, word) for word in words]


def _to_path(option, value):
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return os.path.abspath(os.path.expanduser(value))


def _to_seconds(option, value):
    seconds = float(value)
    if isinstance(value, bool) or not 0 <= seconds < _MOST_SECONDS:
        raise ValueError
    if seconds == 0 and option.name in _MORE_THAN_0:
        raise ValueError
    return seconds


def _to_count(option, value):
    if isinstance(value, bool) or int(value) != float(value) or int(value) < 0:
        raise ValueError
    return int(value)


def _to_size(option, value):
    if isinstance(value, str) and value[-1:].lower() in _SIZE_UNITS:
        value = int(float(value[:-1]) * _SIZE_UNITS[value[-1].lower()])
    return _to_count(option, value)


def _to_flag(option, value):
    return value if isinstance(value, bool) else _FLAG_WORDS.get(str(value).lower()) \
        if str(value).lower() in _FLAG_WORDS else _fail()


def _fail():
    raise ValueError


def _to_choice(option, value):
    return value if value in option.kind else _fail()


_CONVERTERS = {"text": _to_text, "answer": _to_text, "words": _to_words, "path": _to_path,
               "seconds": _to_seconds, "count": _to_count, "size": _to_size, "flag": _to_flag,
               "choice": _to_choice}


class Config:
    """The owner's file: `options` (for all actions), `actions` (for one), `policy`.

    `known_actions`: the table of actions, by name. `status`: the os.stat_result of its file.
    """

    def __init__(self, path, document, known_actions, status=None):
        self.path = path
        self.status = status
        self.options = _section(document, "options", path)
        self.actions = _section(document, "actions", path)
        self.policy = _section(document, "policy", path)
        for name in document:
            if name not in _CONFIG_SECTIONS:
                raise SettingsError(f"{path}: unknown section {name}"
                                    + nearest(str(name), _CONFIG_SECTIONS))
        self._check_options(self.options, "options")
        for name in self.actions:
            if name not in known_actions:
                raise SettingsError(f"{path}: actions: unknown action {name}"
                                    + nearest(str(name), known_actions))
            own = self.actions[name] = _section(self.actions, name, path)
            self._check_options(own, f"actions: {name}")
            action = known_actions[name]
            for option in set(own) - {*action.needs, *action.takes, *COMMON}:
                raise SettingsError(f"{path}: actions: {name}: it takes no {option}")

    def _check_options(self, options, where):
        for name, value in options.items():
            option = OPTIONS.get(name)
            if name in ("settings", "config"):
                raise SettingsError(f"{self.path}: {where}: {name} cannot be said here: use the"
                                    f" command line, or $REMOTES_{name.upper()}")
            if option is None:
                raise SettingsError(f"{self.path}: {where}: unknown option {name}"
                                    + nearest(str(name), OPTIONS))
            try:
                options[name] = convert(option, value, f"{self.path}: {where}")
            except UsageError as error:
                raise SettingsError(str(error)) from None

    def for_action(self, name):
        """The option values that hold for the action `name`."""
        return {**self.options, **self.actions.get(name, {})}


def _section(document, name, path):
    section = document.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise SettingsError(f"{path}: {name} must be a mapping of names to values")
    return section


def load_config(path, known_actions):
    """The Config in the file `path`; without a path, the system's if it is there."""
    from remotes.settings import parse_yaml

    if path is None:
        if not os.path.exists(SYSTEM_CONFIG):
            return Config(None, {}, known_actions)
        path = SYSTEM_CONFIG
    try:
        with open(path, "rb") as stream:
            return Config(path, parse_yaml(stream.read(), path), known_actions,
                          os.fstat(stream.fileno()))
    except OSError as error:
        raise SettingsError(f"cannot read the config {path}: {error.strerror}") from error


class Values:
    """The options in force for one action: values, and where each came from.

    `names` are the options that it takes; `typed` and the others hold converted values.
    """

    def __init__(self, action, names, typed, environ, config):
        self.names = names
        self.action = action
        self.layers = [
            ("command line", typed),
            ("environment", _from_environment(names, environ)),
            ("config", config.for_action(action.name)),
        ]
        self._kept = lambda section, name: None
        self.config = config

    def attach(self, kept):
        """Adds what the settings hold: `kept(section, name)` gives a value, or None."""
        self._kept = kept

    def lookup(self, name):
        """(value, where it came from): command line, environment, config, settings, default."""
        for source, values in self.layers:
            if name in values:
                return values[name], source
        option = OPTIONS[name]
        value = self._kept(*option.setting) if option.setting else None
        if value is not None:
            return value, "settings"
        return (False if option.kind == "flag" else option.default), "default"

    def __getitem__(self, name):
        return self.lookup(name)[0]

    def is_given(self, name):
        """Whether a person has said it: on the command line, in environment or config."""
        return self.lookup(name)[1] in ("command line", "environment", "config")

    def token(self, name="token", *, with_kept=True):
        """The token of an option: as it stands, or from its file, where it is said first; else
        from the file that the settings keep, `with_kept`.
        """
        for source, values in self.layers:
            if values.get(name):
                return _checked_secret(values[name], f"the {_spelt(name)} ({source})")
            if values.get(f"{name}_file"):
                from remotes.files import read_secret

                path, what = values[f"{name}_file"], _spelt(name)
                return _checked_secret(read_secret(path, what).strip(), f"the {what} file {path}")
        kept = OPTIONS.get(f"{name}_file")
        if with_kept and kept is not None and kept.setting and (path := self._kept(*kept.setting)):
            from remotes.files import read_secret

            what = _spelt(name)
            return _checked_secret(read_secret(path, what).strip(), f"the {what} file {path}")
        return None

    def require(self):
        """UsageError if the action needs an option that nobody has given."""
        missing = [name for name in self.action.needs
                   if (self.token() if name == "token" else self[name]) is None]
        if missing:
            names = " and ".join(f"--{name}" for name in missing)
            hint = " (or --token_file, or $REMOTES_TOKEN)" if "token" in missing else ""
            raise UsageError(f"--action={self.action.name} needs {names}{hint}")


def _from_environment(names, environ):
    """$REMOTES_NAME for each option that the action takes."""
    found = {}
    for name in names:
        variable = f"REMOTES_{name.upper()}"
        if environ.get(variable):
            found[name] = convert(OPTIONS[name], environ[variable], f"${variable}")
    return found


def _spelt(name):
    return name.replace("_", " ")


def _checked_secret(secret, where):
    """A token that can travel in a header. The message tells where it is, not what it is."""
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise SettingsError(f"{where} must be one word of plain characters, on one line")
    return secret
