"""What an action is and works with: option values, settings, the objects made from them.

Guards: that each thing is made when it is first needed, and not before (imports are
paid for at every cron turn). Leaves alone: what the actions do.
"""

import os
from collections import namedtuple

from remotes import __version__
from remotes.errors import SettingsError, UsageError

DUPLICATI = "Duplicati"  # the family of the actions on Duplicati servers
TASKS = "tasks"  # that of the actions on a task server's tasks, which are done through Duplicati
# What these answer holds what Duplicati servers say: it is masked.
MASKED_FAMILIES = (DUPLICATI, TASKS)
CERTIFICATE_FILES = ("ca_file", "client_certificate", "client_key")
# name, summary, family, options it needs, options it takes, function (Context -> Reply).
Action = namedtuple("Action", "name summary family needs takes run")
# What an action gives back: the JSON document (None: all was emitted) and the exit code.
Reply = namedtuple("Reply", "document exit_code", defaults=(0,))


class Context:
    """The world of one action.

    `tell` writes a line to stderr, `emit` an event (mapping) to stdout. `reload` gives
    a new Context from config and settings as they are now. `documents` has what stands in
    place of the files that options name (option -> mapping). `follower`, if there is one,
    is told of each task that is about to be started (`about_to_start`) and that was
    (`has_started`), and keeps it in place of the settings.
    """

    follower = None
    documents = {}

    def __init__(self, values, settings_path, *, environ, tell, emit, reload=None):
        from remotes.settings import Settings

        self.values = values
        self.environ = environ
        self.tell = tell
        self.emit = emit
        self.reload = reload
        self.settings = Settings(settings_path)
        self.is_other_server = False  # a login elsewhere: what is kept of the former is not heard
        values.attach(self._kept)
        values.require()

    def _kept(self, section, name):
        """The value of an option that the settings hold, or None."""
        if section == "server" and self.values.action.family in MASKED_FAMILIES:
            if self.is_other_server:
                return None
            return self._kept_of_server(name)
        return self.settings.get(section, name)

    def _kept_of_server(self, name):
        """The value of an option that is kept of the Duplicati server, as the option has it."""
        from remotes.actions.options import OPTIONS, convert

        value = self.settings.duplicati_server(self.values["server"]).get(name)
        if value is None:
            return None
        try:
            return convert(OPTIONS[name], value, f"{self.settings.path}: duplicati: servers:"
                           f" {self.values['server']}")
        except UsageError as error:
            raise SettingsError(str(error)) from None

    def verbose(self, line):
        """A line that is told with --verbose only."""
        if self.values["verbose"]:
            self.tell(line)

    def transport(self, *, files=None, **more):
        """A new Transport with the options for time-outs and certificates; `files`: those of the
        certificates (option -> path or None), if they are others than the options' values.
        """
        from remotes.transport import Transport

        files = files or {name: self.values[name] for name in CERTIFICATE_FILES}
        certificate, key = files["client_certificate"], files["client_key"]
        for name, path in files.items():
            if path is not None and not os.path.isfile(path):
                raise SettingsError(f"--{name} {path}: there is no such file")
        if key is not None and certificate is None:
            raise SettingsError("--client_key is of no use without --client_certificate")
        return Transport(
            timeout_seconds=self.values["http_timeout"], ca_file=files["ca_file"],
            certificate=(certificate, key or certificate) if certificate else None,
            headers={"CLIENT-AGENT": "Remotes", "CLIENT-VERSION": __version__,
                     "User-Agent": f"Remotes/{__version__}", "Accept": "application/json"},
            **more,
        )

    def masked_text(self, text):
        """A text of a Duplicati server without its secrets, unless they are to be shown."""
        if self.values["show_secrets"]:
            return text
        from remotes.duplicati import masking

        return masking.masked_text(text)

    def duplicati(self):
        """The Duplicati server that --server names, with the session that the settings keep."""
        from remotes.duplicati import calls, login, session

        self.require_known_server()
        return calls.Duplicati(login.open_session(
            session.Keeper(self.settings, self.values["server"]), self.duplicati_transport(),
            self.credentials(), tell=self.verbose,
        ))

    def require_known_server(self):
        """SettingsError, which names those that are kept, unless --server is among them."""
        name = self.values["server"]
        if self.settings.duplicati_server(name).get("url") is None:
            known = sorted(map(str, self.settings.duplicati_servers()))
            raise SettingsError(
                f"{self.settings.path} holds no Duplicati server {name}: log in with"
                f" --action=duplicati_login --url=…" + (
                    f", or choose one with --server: {', '.join(known)}" if known else "")
            )

    def duplicati_transport(self):
        """A new Transport with what the options say of the server's certificate."""
        return self.transport(pin=self.pin(), is_insecure=self.values["insecure"])

    def pin(self):
        """The pinned SHA-256 as 64 small hexadecimal digits, or None."""
        pin = self.values["pin"]
        if pin is None:
            return None
        digits = pin.lower().replace(":", "").removeprefix("sha256")
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise SettingsError("--pin must be a SHA-256: 64 hexadecimal digits, colons or not")
        return digits

    def credentials(self):
        """What the client can log in with by itself: see session.Credentials."""
        from remotes.duplicati.session import Credentials

        return Credentials(self.values, self.environ)

    def host(self, *, converts_ini=False):
        """The Host of the settings."""
        from remotes.host import Host

        return Host(self.settings, converts_ini=converts_ini, tell=self.tell)

    def server(self, host=None):
        """The Server of the settings, asked with the token of `host`."""
        from remotes.server import Server, normalize_url

        base = self.settings.get("server", "url")
        if base is None:
            found = "names no server" if self.settings.stamp else "is not there"
            raise SettingsError(
                f"{self.settings.path} {found}: begin with --action=new_host, or with"
                " --action=status --url"
            )
        endpoints = dict(self.settings.document.get("endpoints") or {})
        return Server(self.transport(), normalize_url(str(base)), endpoints,
                      host.token if host else None)

    def service_manager(self):
        """The line to the service manager of the environment."""
        from remotes import daemon

        return daemon.ServiceManager(self.environ)
