"""This host as the server knows it: its key, UUID and token, decrypted when first needed.

Guards: that the private key is loaded once, checked in full once for each content of
its file, and that "not registered", "not verified" and "another host's key" are told
apart. Leaves alone: how a host gets registered.
"""

import contextlib

from remotes.errors import RemotesError, SettingsError


class Host:
    """The host that `settings` describe. `tell` is called with a line for people.

    An INI is left as it is, unless `converts_ini`: who only looks does not change it.
    """

    def __init__(self, settings, *, converts_ini=False, tell=lambda line: None):
        self._converts_ini = converts_ini
        self._settings = settings
        self._tell = tell
        self._private_key = None
        self._uuid = None
        self._result_key = None

    def is_registered(self):
        """Whether the settings hold a UUID (that of this key, or of another)."""
        return self._settings.get("host", "uuid") is not None

    def is_verified(self):
        return self._settings.get("host", "token") is not None

    def private_key(self):
        """The PrivateKey of the settings. Errors: SettingsError."""
        if self._private_key is None:
            path = self._settings.get("host", "private_key")
            if path is None:
                raise SettingsError(
                    f"{self._settings.path} names no private key: make one with"
                    " --action=generate_keys, or everything with --action=new_host"
                )
            from remotes import keys

            known = self._settings.get("host", "private_key_sha256")
            self._private_key = keys.load(path, known, tell=self._tell)
            if self._private_key.sha256 != known:
                self._remember_check()
        return self._private_key

    def _remember_check(self):
        """Keeps the checksum of a key that was checked. Without it all works, but slower."""
        if self._settings.is_ini and not self._converts_ini:
            return
        with contextlib.suppress(RemotesError), self._settings.changing() as document:
            document.setdefault("host", {})["private_key_sha256"] = self._private_key.sha256

    def uuid(self):
        """The UUID as text (36 characters). Errors: SettingsError."""
        if self._uuid is None:
            encrypted = self._settings.get("host", "uuid")
            if encrypted is None:
                raise SettingsError(
                    f"{self._settings.path} holds no registered host: register it with"
                    " --action=new_host"
                )
            self._uuid = self.private_key().decrypt_text(encrypted, "the host's UUID")
        return self._uuid

    def require_verified(self):
        """SettingsError unless the settings hold a token."""
        if not self.is_verified():
            raise SettingsError(
                f"{self._settings.path} holds no verified host: finish with --action=new_host or"
                " --action=host_verify"
            )

    def token(self):
        """The host's own token as text. Errors: SettingsError."""
        self.require_verified()
        encrypted = self._settings.get("host", "token")
        return self.private_key().decrypt_text(encrypted, "the host's token")

    def result_key(self):
        """The ResultKey with which this host encrypts what it posts."""
        if self._result_key is None:
            from remotes import keys

            self._result_key = keys.ResultKey(self.uuid())
        return self._result_key
