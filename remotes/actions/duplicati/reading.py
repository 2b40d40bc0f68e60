"""Actions that read from a Duplicati server: lists, single things, logs."""

import contextlib
import time

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION
from remotes.actions.duplicati.acting import one_backup_id
from remotes.errors import NotFoundError, UnavailableError, UsageError

_FOLLOW_SECONDS = 2.0
_LONGEST_FOLLOW_SECONDS = 60.0
_PAGE_LIMITS = (10, 500)  # of the servers, for a page of rows


def _chosen(context, choices):
    """The value of --type, which must be one of `choices` (a mapping or a tuple)."""
    from remotes.actions.options import nearest

    kind = context.values["type"]
    if kind not in choices:
        raise UsageError(f"--action={context.values.action.name} --type must be one of "
                         + ", ".join(choices) + nearest(str(kind), choices))
    return kind


# -- lists ---------------------------------------------------------------------------------

def duplicati_list(context):
    kind = _chosen(context, _LISTS)
    with contextlib.closing(context.duplicati()) as server:
        return Reply({"status": "OK", kind: _LISTS[kind](server)})


def _backups(server):
    return [_brief(row) for row in server.backups()]


def _brief(found):
    """A backup and its schedule in the few lines that people look for."""
    from remotes.duplicati import moments

    backup, schedule = found["Backup"], found.get("Schedule") or {}
    metadata = backup.get("Metadata") if isinstance(backup.get("Metadata"), dict) else {}
    finished = moments.parse(metadata.get("LastBackupFinished"))
    failed = moments.parse(metadata.get("LastErrorDate"))
    is_broken = failed is not None and (finished is None or failed > finished)
    return {
        "id": backup.get("ID"), "name": backup.get("Name"), "target": backup.get("TargetURL"),
        "last_backup": moments.iso(finished),
        "next_backup": moments.iso(moments.parse(schedule.get("Time"))),
        "versions": _number(metadata, "BackupListCount"),
        "source_bytes": _number(metadata, "SourceFilesSize"),
        "target_bytes": _number(metadata, "TargetFilesSize"),
        # Errors are not cleared by a later success: only one after the last backup counts.
        "error": metadata.get("LastErrorMessage") if is_broken else None,
    }


def _number(metadata, name):
    """A number of the metadata, which has them as texts; None if it is not there."""
    try:
        return int(metadata.get(name))
    except (TypeError, ValueError):
        return None


def _databases(server):
    return [{"id": row["Backup"].get("ID"), "name": row["Backup"].get("Name"),
             "path": row["Backup"].get("DBPath"),
             "is_there": row["Backup"].get("DBPathExists")} for row in server.backups()]


def _notifications(server):
    return [_brief_notification(row) for row in server.notifications()]


def _brief_notification(row):
    from remotes.duplicati import moments

    return {"id": row.get("ID"), "type": row.get("Type"), "title": row.get("Title"),
            "message": row.get("Message"), "backup": row.get("BackupID"),
            "at": moments.iso(moments.parse(row.get("Timestamp")))}


def _tasks(server):
    """The tasks that run and wait: alike on all releases, whose /tasks are not."""
    state = server.state()
    active = state.get("ActiveTask")
    rows = [{"task": active.get("Item1"), "state": "running", "backup": active.get("Item2")}] \
        if isinstance(active, dict) else []
    return rows + [{"task": row.get("Item1"), "state": "queued", "backup": row.get("Item2")}
                   for row in state.get("SchedulerQueueIds") or [] if isinstance(row, dict)]


_LISTS = {
    "backups": _backups, "databases": _databases, "notifications": _notifications,
    "serversettings": lambda server: server.server_settings(),
    "systeminfo": lambda server: server.system_info(), "tasks": _tasks,
}


# -- single things -------------------------------------------------------------------------

def duplicati_get(context):
    return _things(context, {"backup": _brief, "notification": _brief_notification})


def duplicati_describe(context):
    return _things(context, {"backup": _whole, "notification": lambda row: row})


def _whole(found):
    return {"Backup": found["Backup"], "Schedule": found.get("Schedule"),
            "DisplayNames": found.get("DisplayNames")}


def _things(context, views):
    """The things that --id names, each as its view shows it; 3 if some are not there."""
    kind, names = _chosen(context, views), context.values["id"] or []
    if not names:
        raise UsageError(f"--action={context.values.action.name} needs --id")
    found, missing = [], []
    with contextlib.closing(context.duplicati()) as server:
        for name in names:
            try:
                thing = server.backup(server.find_backup(name)) if kind == "backup" \
                    else server.notification(_whole_number(name))
                found.append(views[kind](thing))
            except NotFoundError as error:
                if len(names) == 1:
                    raise
                missing.append({"id": name, "why": str(error)})
    if not found:
        raise NotFoundError("none of them is there: " + "; ".join(row["why"] for row in missing))
    if missing:
        message = "not all of them are there: " + "; ".join(row["why"] for row in missing)
        context.tell(f"client: {context.values.action.name}: {message}")
        return Reply({"status": "ERROR", "exit": 3, "kind": "some_missing", "message": message,
                      f"{kind}s": found, "missing": missing}, 3)
    return Reply({"status": "OK", f"{kind}s": found})


def _whole_number(name):
    if not (name.isascii() and name.isdigit()):
        raise UsageError(f"a notification has a number, not a name: {name:.40}")
    return name


# -- logs ----------------------------------------------------------------------------------

def duplicati_logs(context):
    """Rows of a log, newest last as in any log; with --follow a line for each new one."""
    kind = _chosen(context, _LOGS)
    with contextlib.closing(context.duplicati()) as server:
        log = _LOGS[kind](context, server)
        if context.values["follow"]:
            return _follow(context, log)
        rows = log.newest()
    return Reply({"status": "OK", "type": kind, **log.names, "lines": rows})


class _Log:
    """A log of the server: `newest()` gives the last rows, `after()` those since then."""

    names = {}

    def __init__(self, context, server):
        from datetime import datetime, timezone

        from remotes.duplicati import moments

        values = context.values
        self.server = server
        self.lines = max(1, values["lines"])
        self.since = None if values["since"] is None else moments.typed_time(
            values["since"], datetime.now(timezone.utc))
        self.last = None

    def page(self):
        """So many rows as the servers give at once, for the lines that are asked for."""
        least, most = _PAGE_LIMITS
        return min(max(self.lines, least), most)

    def _pages(self, read, key):
        """Rows of `read(page_size, before)`, newest first, until there are enough."""
        rows, before = [], None
        while len(rows) < self.lines:
            page = read(self.page(), before)
            new = [row for row in page if before is None or row.get(key) != before]
            rows += new
            if len(page) < self.page() or not new or not self._is_wanted(new[-1]):
                break
            before = new[-1].get(key)
        return rows

    def _is_wanted(self, row):
        from remotes.duplicati import moments

        at = moments.parse(row.get("Timestamp", row.get("When")))
        return self.since is None or at is not None and at >= self.since

    def newest(self):
        rows = [row for row in self._newest() if self._is_wanted(row)][:self.lines]
        self._remember(rows)
        return [self._shown(row) for row in reversed(rows)]

    def after(self):
        """The rows that are new since the last call, oldest first."""
        rows = [row for row in self._newest() if self._is_new(row)]
        self._remember(rows)
        return [self._shown(row) for row in reversed(rows)]

    def _remember(self, rows):
        numbers = [row["ID"] for row in rows if isinstance(row.get("ID"), int)]
        self.last = max([*numbers, self.last or 0])

    def _is_new(self, row):
        return isinstance(row.get("ID"), int) and row["ID"] > (self.last or 0)

    def _newest(self):
        raise NotImplementedError

    def _shown(self, row):
        """A row for people: its times as ISO 8601, SQL's NULL as null."""
        from remotes.duplicati import moments

        shown = {name: None if value == {} else value for name, value in row.items()}
        for name in ("Timestamp", "When"):
            if name in shown:
                shown[name] = moments.iso(moments.parse(shown[name]))
        return shown


class _BackupLog(_Log):
    def __init__(self, context, server):
        super().__init__(context, server)
        self.backup_id = one_backup_id(context, server)
        self.names = {"id": self.backup_id}

    def _newest(self):
        return self._pages(lambda size, before: self.server.log(
            self.backup_id, page_size=size, before=before), "ID")

    def _shown(self, row):
        from remotes.duplicati import outcomes

        shown = super()._shown(row)
        result = shown.pop("Result", None)
        if isinstance(result, dict):
            del shown["Message"]  # the same, as text
            outcome = outcomes.of_row(result)
            shown.update(Operation=result.get("MainOperation"), Outcome=outcome.result,
                         Why=outcome.why, Result=result)
        return shown


class _RemoteLog(_BackupLog):
    def _newest(self):
        return self._pages(lambda size, before: self.server.remote_log(
            self.backup_id, page_size=size, before=before), "ID")


class _StoredLog(_Log):
    """The server's own log of errors, whose rows have no ID."""

    def _newest(self):
        return self._pages(lambda size, before: self.server.stored_log(
            page_size=size, before=before), "Timestamp")

    def _remember(self, rows):
        self.last = max([self.last or 0, *(row.get("Timestamp") or 0 for row in rows)])

    def _is_new(self, row):
        return (row.get("Timestamp") or 0) > (self.last or 0)


class _LiveLog(_Log):
    def __init__(self, context, server):
        super().__init__(context, server)
        self.level = context.values["level"]

    def _newest(self):
        rows = self.server.live_log(level=self.level, after=self.last or 0, page_size=self.page())
        if not rows and self.last:
            # Numbers begin anew with the server: then all there is is below the last one.
            rows = self.server.live_log(level=self.level, page_size=self.page())
            if rows and max(row.get("ID", 0) for row in rows) < self.last:
                self.last = 0
        return list(reversed(rows))


_LOGS = {"backup": _BackupLog, "remote": _RemoteLog, "stored": _StoredLog, "live": _LiveLog}


def _follow(context, log):
    """A line for each row, until Ctrl-C; a server that is away is waited for."""
    pause, is_told = _FOLLOW_SECONDS, False
    first = True
    while True:
        try:
            rows = log.newest() if first else log.after()
            first = False
            for row in rows:
                context.emit({"event": "log", **row})
            if is_told:
                context.tell(f"{log.server.base} answers again")
            pause, is_told = _FOLLOW_SECONDS, False
        except UnavailableError as error:
            if not is_told and error.kind != "database_locked":
                context.tell(f"following goes on, though {error}")
                is_told = True
            pause = min(pause * 2, _LONGEST_FOLLOW_SECONDS) \
                if error.kind != "database_locked" else _FOLLOW_SECONDS
        time.sleep(pause)


ACTIONS = (
    Action("duplicati_list", "list backups, databases, notifications, serversettings, systeminfo"
           " or tasks", DUPLICATI, ("type",), SESSION, duplicati_list),
    Action("duplicati_get", "show backups or notifications in brief", DUPLICATI,
           ("type",), ("id", *SESSION), duplicati_get),
    Action("duplicati_describe", "show all that there is of backups or notifications", DUPLICATI,
           ("type",), ("id", *SESSION), duplicati_describe),
    Action("duplicati_logs", "show the log of a backup, of its target (remote), of the server"
           " (stored), or the live one", DUPLICATI, ("type",),
           ("id", "lines", "level", "follow", "since", *SESSION), duplicati_logs),
)
