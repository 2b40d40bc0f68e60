"""A backup in the user's editor.

Guards: that the editor's file holds no secret, can be read by nobody else, and goes with
its folder; that a text with a mistake is not lost. Leaves alone: what the text means.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile

from remotes.actions.duplicati.asking import ask, has_terminal
from remotes.errors import RemotesError, UsageError

_HEAD = """\
# Backup {name}. What is saved here is shown as a difference before it is sent.
# Stars stand for a secret that stays; write over them to change it. A setting whose line
# is taken out is removed; what else is left out stays as it is.
"""


def edited_by_hand(context, form):
    """The completed form that the user's editor leaves behind. Errors: UsageError and others."""
    from remotes.duplicati import documents
    from remotes.duplicati.masking import masked

    command = _command(context)
    folder = tempfile.mkdtemp(prefix="remotes-edit-")  # 0700
    path = os.path.join(folder, "backup.yml")
    name = "".join(letter if letter.isprintable() else "?" for letter in str(form.get("Name")))
    text = _HEAD.format(name=name) + documents.yaml_text(masked(form))
    is_kept = False
    try:
        _write(path, text.encode())
        while True:
            content = _run(context, command, path)
            try:
                return _completed(content, text.encode(), form)
            except RemotesError as error:
                if has_terminal() and ask(context, f"{error}\nEdit again? [Y/n]").lower() not in (
                        "n", "no"):
                    continue
                is_kept = True
                raise type(error)(f"{error}; the text is kept in {path}") from error
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _completed(content, former, form):
    from remotes.duplicati import documents
    from remotes.duplicati.editing import replaced
    from remotes.duplicati.forms import completed

    if content == former:
        return form
    found = documents.parse(content, "the edited text")
    return form if found is None else completed(replaced(form, found), form)


def _command(context):
    """The words of the editor's command line."""
    line = context.environ.get("VISUAL") or context.environ.get("EDITOR")
    if not line:
        if not has_terminal():
            raise UsageError("say what to change with --set PATH=VALUE or --patch FILE: there is no"
                             " $EDITOR here, and no terminal")
        line = "notepad" if os.name == "nt" else "vi"
    try:
        return shlex.split(line, posix=os.name != "nt")
    except ValueError as error:
        raise UsageError(f"$EDITOR cannot be read: {error}") from error


def _write(path, content):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(content)


def _run(context, command, path):
    """Lets the user edit the file `path`; gives what is in it then."""
    from remotes.actions.options import OPTIONS
    from remotes.duplicati.masking import is_secret_name

    secret = {f"REMOTES_{name.upper()}" for name, option in OPTIONS.items() if option.is_secret}
    environ = {name: value for name, value in context.environ.items()
               if name not in secret
               and not (name.startswith(("DUPLICATI_", "REMOTES_")) and is_secret_name(name))}
    try:
        # stdout is for the answer: the editor draws on stderr.
        done = subprocess.run([*command, path], env=environ, stdout=sys.stderr, check=False)
    except OSError as error:
        raise UsageError(f"the editor {command[0]} cannot be started: {error.strerror}"
                         " ($VISUAL, $EDITOR)") from error
    if done.returncode:
        raise RemotesError(f"the editor {command[0]} failed ({done.returncode}): nothing was"
                           " changed")
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise RemotesError(f"the edited text is gone ({error.strerror}): nothing was changed"
                           ) from error
