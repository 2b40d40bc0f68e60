"""The actions on Duplicati servers, one module for each part: what they share stands here."""

import contextlib

from remotes.errors import SettingsError

# Taken by every action that talks to a Duplicati server.
SESSION = ("server", "password", "password_file", "basic_user", "basic_password_file", "pin",
           "insecure", "show_secrets")


@contextlib.contextmanager
def naming(option):
    """Names `option` ("--patch") in the error for a file of it that cannot be read."""
    try:
        yield
    except SettingsError as error:
        error.args = (f"{option}: {error}",)
        raise
