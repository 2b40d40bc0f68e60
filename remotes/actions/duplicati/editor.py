"""A backup in the user's editor.

Guards: that the editor's file holds no secret, can be read by nobody else, and goes with
its folder; that no text is lost that was changed: whatever fails, before the server has
taken it, leaves it where it is, as a patch. Leaves alone: what the text means, and what is
done with it.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

from remotes.actions.duplicati.asking import ask, has_terminal
from remotes.errors import Interrupted, RemotesError, UsageError

_HEAD = """\
# Backup {name}. What is saved here is shown as a difference before it is sent.
# Stars stand for a secret that stays; write over them to change it. A setting whose line
# is taken out is removed; what else is left out stays as it is.
"""


@contextlib.contextmanager
def edited_by_hand(context, form, backup_id):
    """The completed form that the user's editor leaves behind, for the length of a `with`.

    If that, or what is done in there, fails, the text is kept, and the error says where.
    Errors: UsageError and others.
    """
    from remotes.duplicati import documents
    from remotes.duplicati.masking import masked

    command = _command(context)
    folder = tempfile.mkdtemp(prefix="remotes-edit-")  # 0700
    path = os.path.join(folder, "backup.yml")
    name = "".join(letter if letter.isprintable() else "?" for letter in str(form.get("Name")))
    text = (_HEAD.format(name=name) + documents.yaml_text(masked(form))).encode()
    is_kept = False
    try:
        _write(path, text)
        yield _edited(context, command, path, text, form)
    except BaseException as error:  # whatever it is: nobody types a text twice gladly
        is_kept = _is_changed(path, text)
        if is_kept:
            _keep_as_patch(path, form)
            _tell_where(context, error, path, backup_id)
        raise
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _edited(context, command, path, text, form):
    """The completed form, once the text is without a mistake, or nobody wants to go on."""
    while True:
        content = _run(context, command, path)
        try:
            return _completed(content, text, form)
        except RemotesError as error:
            if not has_terminal() or ask(context, f"{error}\nEdit again? [Y/n]").lower() in (
                    "n", "no"):
                raise


# -- a text that is kept -------------------------------------------------------------------------

def _is_changed(path, text):
    try:
        with open(path, "rb") as stream:
            return stream.read() != text
    except OSError:
        return False


def _keep_as_patch(path, form):
    """Writes into the text what only an editor's text can say without a word: what is gone.

    A text with a mistake, or one that says all, stays as it was typed.
    """
    from remotes import files
    from remotes.duplicati import documents
    from remotes.duplicati.editing import as_patch

    with contextlib.suppress(RemotesError, OSError):
        with open(path, "rb") as stream:
            found = documents.parse(stream.read(), path)
        patch = as_patch(form, found)
        if patch != found:
            files.replace(path, documents.yaml_text(patch).encode())


def _tell_where(context, error, path, backup_id):
    server, source = context.values.lookup("server")
    where = f" --server={shlex.quote(server)}" if source == "command line" else ""
    kept = (f"the text is kept in {path}: --action=duplicati_edit{where} --id={backup_id}"
            f" --patch={shlex.quote(path)} goes on with it")
    if isinstance(error, (RemotesError, Interrupted)):
        error.document["edited_text"] = path
    if isinstance(error, RemotesError):
        error.args = (f"{error}; {kept}",)
    else:
        context.tell(f"client: {context.values.action.name}: {kept}")


# -- the editor ----------------------------------------------------------------------------------

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


@contextlib.contextmanager
def _handled(names, handler):
    """Signals, by their names, handled otherwise than usual, those of them that this system has.

    A handler, unlike "ignore", is not passed on to the editor.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _exit_code(words, environ):
    """Runs the editor to its end, which is also that of this process. Errors: OSError."""
    process, came = None, []
    try:
        # Ctrl-C reaches every process at the terminal, and means something to some editors.
        with _handled(["SIGINT"], lambda number, frame: None):
            # In the middle of its start, a signal would leave the editor behind.
            with _handled(["SIGTERM", "SIGHUP"], lambda number, frame: came.append(number)):
                # stdout is for the answer: the editor draws on stderr.
                process = subprocess.Popen(words, env=environ, stdout=sys.stderr)
            for number in came:
                signal.raise_signal(number)
            return process.wait()
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise


def _run(context, command, path):
    """Lets the user edit the file `path`; gives what is in it then."""
    from remotes.actions.options import OPTIONS
    from remotes.duplicati.masking import is_secret_name

    secret = {f"REMOTES_{name.upper()}" for name, option in OPTIONS.items() if option.is_secret}
    environ = {name: value for name, value in context.environ.items()
               if name not in secret
               and not (name.startswith(("DUPLICATI_", "REMOTES_")) and is_secret_name(name))}
    try:
        code = _exit_code([*command, path], environ)
    except OSError as error:
        raise UsageError(f"the editor {command[0]} cannot be started: {error.strerror}"
                         " ($VISUAL, $EDITOR)") from error
    if code:
        raise RemotesError(f"the editor {command[0]} failed ({code}): nothing was changed")
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise RemotesError(f"the edited text is gone ({error.strerror}): nothing was changed"
                           ) from error
