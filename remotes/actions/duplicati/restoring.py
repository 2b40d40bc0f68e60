"""Actions on the versions of a backup: what there is, what is in it, and bringing it back.

Each part of Duplicati is imported where it is needed: `--help` needs none of it.
"""

import contextlib

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION, acting, naming
from remotes.errors import (
    Interrupted,
    NotFoundError,
    RefusedError,
    RemotesError,
    SettingsError,
    UsageError,
)

_WHICH = ("backup_version", "time")
# What servers of all releases say where a passphrase is wrong, or missing.
_NOT_DECRYPTED = "failed to decrypt"
# What the steps of a restore without a job do (protocol page, section 3.6).
_STEPS = {"repairupdate": "reads the names of the version's files from the target",
          "repair": "makes a database of what is to come back", "restore": "restores"}


def duplicati_versions(context):
    from remotes.duplicati.browsing import Browser

    with contextlib.closing(context.duplicati()) as server:
        browser = Browser(server, acting.one_backup_id(context, server))
        versions = browser.versions()
    answer = {"status": "OK", "backup": browser.backup_id,
              "versions": [version.answer() for version in versions]}
    if browser.why_none:
        answer["message"] = f"it has no version: {browser.why_none}"
    return Reply(answer)


def duplicati_files(context):
    from remotes.duplicati.browsing import Browser, list_files

    at = _checked_which(context)
    with contextlib.closing(context.duplicati()) as server:
        browser = Browser(server, acting.one_backup_id(context, server))
        version = _chosen(context, browser, at)
        entries = list_files(browser, version, context.values["path"] or (),
                             context.values["filter"])
    return Reply({"status": "OK", "backup": browser.backup_id, "version": version.answer(),
                  "files": [entry.answer() for entry in entries]})


def duplicati_restore(context):
    values = context.values
    at, restore_path = _checked_which(context), _checked_destination(values)
    sources = [name for name in ("id", "config_file", "target_url") if values[name] is not None]
    if len(sources) != 1:
        raise UsageError("--action=duplicati_restore needs one of --id, --config_file and"
                         " --target_url: what to restore from")
    if sources == ["id"]:
        return _restore_of_a_backup(context, at, restore_path)
    return _restore_without_a_job(context, at, restore_path)


def _restore_of_a_backup(context, at, restore_path):
    from remotes.duplicati.browsing import Browser

    with contextlib.closing(context.duplicati()) as server:
        browser = Browser(server, acting.one_backup_id(context, server))
        selection, plan = _planned(context, browser, _chosen(context, browser, at), restore_path)
        if context.values["dry_run"]:
            return Reply(_preview(browser, selection, plan))
        question = _question(context, server, selection, restore_path, _passphrase(context.values))
        with _planned_in_errors(plan):
            reply = acting.begin(context, server, "restore", browser.backup_id, lambda: server.call(
                "POST", f"v1/backup/{browser.backup_id}/restore", **question))
            return _finished(server, reply, plan)


@contextlib.contextmanager
def _planned_in_errors(plan):
    """Whatever ends the waiting, the answer tells what goes on."""
    try:
        yield
    except (RemotesError, Interrupted) as error:
        error.document = {**plan, **error.document}
        raise


def _finished(server, reply, plan):
    """The Reply of the restore's task with the plan, and with what came back if it is over."""
    task = reply.document["tasks"][0]
    document = {**reply.document, **plan}
    if task.get("began"):
        document["restored"] = _came_back(server, task)
    return Reply(document, reply.exit_code)


def _came_back(server, task):
    """What the row of the restore that is over says came back; of no row, what is known."""
    from remotes.duplicati import moments, restoring

    for row in server.log(task["id"], page_size=50):
        result = row.get("Result")
        if isinstance(result, dict) and result.get("MainOperation") == "Restore" \
                and moments.iso(moments.parse(result.get("BeginTime"))) == task["began"]:
            return restoring.came_back(result)
    return None


def _restore_without_a_job(context, at, restore_path):
    from remotes.duplicati.browsing import Browser
    from remotes.duplicati.restoring import TemporaryBackups, repair_question

    values = context.values
    if values["wait_timeout"] is not None:
        raise UsageError("--wait_timeout is of no use without a job: the temporary backup must"
                         " outlive its restore, so that its end is waited for")
    document = _temporary_document(values)
    with contextlib.closing(context.duplicati()) as server, \
            TemporaryBackups(server, context.tell) as temporary:
        steps = _Steps(context, server, temporary)
        first = temporary.create(document)
        browser = Browser(server, first, is_temporary=True)
        version = _chosen(context, browser, at)
        question = repair_question(version, is_legacy=server.is_legacy)
        if reply := steps.failed(first, "repairupdate", question):
            return reply
        selection, plan = _planned(context, browser, version, restore_path)
        if values["dry_run"]:
            return Reply(_preview(browser, selection, plan))
        with _planned_in_errors(plan):
            second = temporary.copy(first)
            question = repair_question(version, is_legacy=server.is_legacy,
                                       paths=selection.expressions)
            reply = steps.failed(second, "repair", question)
            question = _question(context, server, selection, restore_path, None)
            reply = reply or steps.failed(second, "restore", question) or steps.reply()
        return Reply({**reply.document, **plan, "restored": steps.came_back()}, reply.exit_code)


class _Steps:
    """The steps of a restore without a job, one after another, each to its end."""

    def __init__(self, context, server, temporary):
        self._context = context
        self._server = server
        self._temporary = temporary
        self._last = None  # (number, Outcome) of the last step
        self._row = None

    def failed(self, backup_id, operation, question):
        """Does a step; the Reply of its failure, None if the next one may follow."""
        self._context.tell(f"client: duplicati_restore: {_STEPS[operation]}")
        outcome = self._temporary.run(backup_id, operation, question, self._wait)
        self._row = {**self._row, **outcome.answer(), "exit": outcome.exit_code}
        self._last = outcome
        return self.reply() if outcome.exit_code == 4 else None

    def _wait(self, started):
        from remotes.duplicati.waiting import Wait

        self._row = started.answer()
        with acting.shown(self._context, self._server, started) as on_look:
            return Wait(self._server, started, on_look=on_look,
                        tell=self._context.tell).until_over()

    def reply(self):
        """The Reply with the last step's end."""
        return acting.ended_reply(self._context, [dict(self._row)], [])

    def came_back(self):
        """What the last step's row says came back; None if it left none."""
        from remotes.duplicati import restoring

        return restoring.came_back(self._last.row) if self._last.row else None


def _planned(context, browser, version, restore_path):
    """The Selection of what is to come back, and the plan as it stands in the answer.

    Errors: NotFoundError if nothing matches; nothing is started then.
    """
    from remotes.duplicati import restoring

    values = context.values
    selection = restoring.select(browser, version, values["path"] or ())
    place = restore_path or "where it came from"
    plan = {"version": version.answer(), "paths": values["path"],  # None: everything
            "restore_path": restore_path, "in_place": restore_path is None,
            "overwrite": values["overwrite"]}
    what = ", ".join(values["path"] or ("everything",))
    there = "files that are there are overwritten" if values["overwrite"] \
        else "files that are there are kept"
    context.tell(f"client: duplicati_restore: {version.words()} of {_whose(browser)}: {what}"
                 f" goes to {place}; {there}"
                 + (" (dry run: nothing is done)" if values["dry_run"] else ""))
    return selection, plan


def _preview(browser, selection, plan):
    """The answer of a dry run: what would come, and how large."""
    from remotes.duplicati import restoring

    entries = restoring.planned(browser, selection)
    files = [entry for entry in entries if not entry.is_folder]
    return {"status": "OK", "dry_run": True, "backup": browser.backup_id, **plan,
            "files": len(files), "bytes": sum(entry.size or 0 for entry in files),
            "entries": [entry.answer() for entry in entries]}


def _question(context, server, selection, restore_path, passphrase):
    from remotes.duplicati import restoring

    return restoring.restore_question(
        selection, restore_path, is_legacy=server.is_legacy, passphrase=passphrase,
        overwrite=context.values["overwrite"], skip_metadata=context.values["skip_metadata"])


def _checked_destination(values):
    """The folder to restore into, None for the original place. Errors: UsageError."""
    from remotes.duplicati import restoring

    typed, in_place = values["restore_path"], values["in_place"]
    if bool(typed) == bool(in_place):
        raise UsageError("say where the files go: --restore_path=FOLDER, or --in_place for where"
                         " they came from" + ("; not both" if in_place else ""))
    return None if in_place else restoring.checked_folder(typed)


def _temporary_document(values):
    """The document of the temporary backup that --config_file or --target_url means."""
    from remotes.duplicati import documents, restoring

    passphrase = _passphrase(values)
    if values["target_url"] is not None:
        return restoring.temporary_document(values["target_url"], passphrase)
    path = values["config_file"]
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError as error:
        raise SettingsError(f"--config_file: cannot read {path}: {error.strerror}") from error
    is_encrypted = content[:3] == b"AES"
    if is_encrypted:
        from remotes import aescrypt

        if passphrase is None:
            raise UsageError(f"{path} is encrypted: say its passphrase with --passphrase_file")
        content = aescrypt.decrypt(content, passphrase, path)
    export = documents.parse(content, path)
    try:
        # The passphrase of an encrypted export is the file's; the backup's stands in it.
        return restoring.exported_document(export, None if is_encrypted else passphrase)
    except UsageError:
        if not is_encrypted:
            raise
        return restoring.exported_document(export, passphrase)


def _passphrase(values):
    """What --passphrase_file holds, or None."""
    from remotes import files

    path = values["passphrase_file"]
    with naming("--passphrase_file"):
        return files.read_secret(path, "passphrase") if path else None


def _checked_which(context):
    """The moment of --time, or None. Errors: UsageError, also where two say which version."""
    from datetime import datetime, timezone

    from remotes.duplicati import moments

    number, typed = (context.values[name] for name in _WHICH)
    if number is not None and typed is not None:
        raise UsageError("--backup_version and --time both say which version: use one")
    return moments.typed_time(typed, datetime.now(timezone.utc)) if typed is not None else None


def _chosen(context, browser, at):
    """The version that --backup_version or --time name, else the newest."""
    from remotes.duplicati.browsing import choose_version

    versions = _versions_of_a_target(browser) if browser.is_temporary else browser.versions()
    return choose_version(versions, context.values["backup_version"], at,
                          backup=_whose(browser), why_none=browser.why_none)


def _versions_of_a_target(browser):
    """[Version]: one at least. Errors: NotFoundError, RefusedError (the passphrase), and others."""
    try:
        versions = browser.versions()
    except RefusedError as error:
        if _NOT_DECRYPTED not in str(error).lower():
            raise
        raise RefusedError("the passphrase does not fit what is at the target: --passphrase_file"
                           f" ({error})", answer=error.answer) from error
    if not versions:
        raise NotFoundError("there is no backup at the target: its folder is not there, or holds"
                            " none" + (f" ({browser.why_none})" if browser.why_none else ""))
    return versions


def _whose(browser):
    return "the target" if browser.is_temporary else f"backup {browser.backup_id}"


ACTIONS = (
    Action("duplicati_versions", "the versions of a backup, newest first", DUPLICATI,
           ("id",), SESSION, duplicati_versions),
    Action("duplicati_files", "files of a version: its roots, those in a folder, or a search's",
           DUPLICATI, ("id",), (*_WHICH, "path", "filter", *SESSION), duplicati_files),
    Action("duplicati_restore", "bring files of a version back, of a backup or without one",
           DUPLICATI, (), ("id", *_WHICH, "path", "restore_path", "in_place", "overwrite",
                           "skip_metadata", "passphrase_file", "dry_run", "wait", "wait_timeout",
                           "config_file", "target_url", *SESSION), duplicati_restore),
)
