"""A task of a Duplicati server: what is noted before it is started, and starting it.

Guards: that whoever waits for a task, now or in another run, knows enough to tell its
end from that of any other: numbers begin anew when a server does, and the old generation
gives none. Leaves alone: waiting (waiting), and how it ended (outcomes).

Source: protocol page of Duplicati, sections 2.7 (8), 3.3 and 4.1.
"""

import time
from dataclasses import asdict, dataclass, field, fields

from remotes.duplicati import moments
from remotes.errors import NotFoundError, RemotesError, UnavailableError

# What a task's row in the backup's log is called (section 4.2).
OPERATIONS = {"run": "Backup", "verify": "Test", "compact": "Compact", "vacuum": "Vacuum",
              "repair": "Repair", "repairupdate": "Repair", "restore": "Restore"}
# What a task does, by the first word of its phase (section 5.2); a repair has no phase of its own,
# and a backup may pass through those of the others.
_PHASES = {"Backup": "Backup", "Restore": "Restore", "Verify": "Test", "Vacuum": "Vacuum"}
# Where a run has left no task to be seen, it is looked for so often (the old generation).
_LOOKS = 8
_LOOK_PAUSE_SECONDS = 0.1


@dataclass
class Started:
    """A task that was asked for, and what was known before.

    `number`: the server's number for it, None if it was over before it was seen.
    `operation`: what its row in the log is called. `asked_at`: Unix seconds of this
    machine. `row`: the newest row of the log before it, None if that is not known.
    `event`: the server's LastEventID before it, which only falls when the server restarts.
    `error_stamp`: the backup's LastErrorDate before it. `started_at`: the server's
    TaskStarted (aware datetime), once it is known. `has_row`: whether an end leaves a row.
    `others`: numbers of the backup's tasks that ran or waited before it. `notified`: the server's
    LastNotificationUpdateID before it. `likely`: what the operation seems to be, where the server
    does not tell it; good enough to be shown, not to know its row by. `former`: the number of the
    server's last task before it (0: none since its start), None if that is not known. `is_over`:
    whether it was over when it was found (adoption).
    """

    number: int
    backup_id: str
    name: str = ""
    operation: str = "Backup"
    asked_at: float = 0.0
    row: int = None
    event: int = None
    error_stamp: str = ""
    started_at: object = None
    has_row: bool = True
    others: list = field(default_factory=list)
    notified: int = None
    likely: str = ""
    former: int = None
    is_over: bool = False

    @property
    def was_there(self):
        """Whether it was under way before it was asked for."""
        return self.number in self.others

    def answer(self, outcome=None):
        """As a mapping for an answer, with its Outcome if it is over; `joined` if somebody had
        started it before.
        """
        row = outcome.row if outcome and outcome.row else {}
        operation = self.operation or str(row.get("MainOperation") or self.likely)
        ended = outcome.answer() if outcome else {}
        return {"task": self.number, "id": self.backup_id, "name": self.name,
                "operation": operation, **ended, **({"joined": True} if self.was_there else {})}

    def kept(self):
        """As a mapping for the settings."""
        found = asdict(self)
        found["started_at"] = moments.iso(self.started_at)
        return found

    @classmethod
    def from_kept(cls, found):
        """From a mapping of the settings, whatever somebody made of it."""
        known = {one.name for one in fields(cls)}
        started = cls(**{name: value for name, value in found.items() if name in known})
        started.started_at = moments.parse(started.started_at)
        started.others = started.others if isinstance(started.others, list) else []
        started.asked_at = float(started.asked_at or 0)
        started.others = started.others if isinstance(started.others, list) else []
        return started


def note(server, backup_id, operation, *, has_row=True):
    """What is known of the backup before a task of it: a Started without a number.

    Errors: NotFoundError if there is no such backup.
    """
    # In this order: a run that was not under way yet has no row yet.
    state = server.state()
    event, notified = state.get("LastEventID"), state.get("LastNotificationUpdateID")
    former = (server.progress() or {}).get("TaskID", 0)
    found = server.backup(backup_id)["Backup"]
    metadata = found.get("Metadata") if isinstance(found.get("Metadata"), dict) else {}
    try:
        numbers = [row["ID"] for row in server.log(backup_id, page_size=10)
                   if isinstance(row.get("ID"), int)]
    except RemotesError:
        numbers = []  # its database is busy
    # No row can also mean that a task of it runs (2.1 to 2.3.0): it is not known then.
    row = max(numbers, default=0 if server.is_legacy else None)
    return Started(None, str(backup_id), str(found.get("Name") or ""), operation, row=row,
                   event=event if isinstance(event, int) else None,
                   error_stamp=str(metadata.get("LastErrorDate") or ""), has_row=has_row,
                   others=numbers_of(state, str(backup_id)),
                   notified=notified if isinstance(notified, int) else None, former=former)


def start(server, started, request):
    """Starts what `request()` asks of the server (it gives the call's JSON); sets the number.

    A run that is under way already is the one that is meant. Errors: those of the call.
    """
    started.asked_at = time.time()
    try:
        answer = request()
    except UnavailableError as error:
        # The answer was lost. A backup is not queued twice: one that is there is the one.
        if not error.maybe_done or started.operation != "Backup":
            raise
        started.number = _seen(server, started)
        if started.number is None:
            raise
        return started
    said = answer if isinstance(answer, dict) else {}
    number = said.get("ID", said.get("TaskID"))
    if isinstance(number, int) and not isinstance(number, bool):
        started.number = number
    else:
        started.number = _found(server, started)
    return started


def _found(server, started):
    """The number of a run that the server did not tell; None if it is not to be seen."""
    for look in range(_LOOKS):
        try:
            state, progress = server.state(), server.progress() or {}
        except RemotesError:
            return None  # it may well run: whoever waits for it looks again
        if number := number_of(state, started.backup_id):
            return number
        if str(progress.get("BackupID")) == started.backup_id \
                and progress.get("TaskID") != started.former:
            return progress.get("TaskID")
        time.sleep(_LOOK_PAUSE_SECONDS * (look + 1))
    return None


def _seen(server, started):
    """The number of the task that runs or waits for the backup now; None if none is seen."""
    try:
        return number_of(server.state(), started.backup_id)
    except RemotesError:  # whatever it is: it says nothing of what was asked
        return None


def numbers_of(state, backup_id):
    """The numbers of the tasks that run or wait for a backup, from a serverstate."""
    return [task["Item1"] for task in [state.get("ActiveTask"), *state["SchedulerQueueIds"]]
            if task and str(task.get("Item2")) == backup_id]


def number_of(state, backup_id):
    """The number of the task that runs, or waits first, for a backup, or None."""
    return next(iter(numbers_of(state, backup_id)), None)


def adopt(server, number):
    """A Started for a task that was started elsewhere, while it is there to be seen.

    Errors: NotFoundError.
    """
    state = server.state()
    for task in [state.get("ActiveTask"), *state["SchedulerQueueIds"]]:
        if task and task["Item1"] == number and task.get("Item2"):
            started = note(server, str(task["Item2"]), operation_of(server, number))
            started.number, started.asked_at = number, time.time()
            if not started.operation:
                started.likely = _likely(server.progress() or {}, number)
            return started
    try:
        said = server.task(number)
    except NotFoundError as error:
        raise NotFoundError(
            f"{server.base} has no task {number}: it was started anew, or has forgotten it; how the"
            " last run of a backup ended: --action=duplicati_logs --type=backup --id=…",
            answer=error.answer) from None
    progress = server.progress() or {}
    if progress.get("TaskID") != number or not progress.get("BackupID") \
            or not said.get("TaskStarted"):
        raise NotFoundError(
            f"task {number} of {server.base} is over ({said.get('Status')}), and how it ended is"
            " not known any more: see --action=duplicati_logs --type=backup --id=…"
        )
    started = note(server, str(progress["BackupID"]), "")
    started.likely = _likely(progress, number)
    started.number, started.row = number, None
    started.started_at = moments.parse(said.get("TaskStarted"))
    return started


def operation_of(server, number):
    """What the task does, as its row will be called; "" if the server does not tell."""
    for task in server.tasks():
        if task.get("TaskID") == number and isinstance(task.get("Operation"), str):
            words = {"Verify": "Test", "RepairUpdate": "Repair"}
            return words.get(task["Operation"], task["Operation"])
    return ""


def _likely(progress, number):
    """What the task does by the phase that it is in; "" if that does not tell."""
    if progress.get("TaskID") != number:
        return ""
    return _PHASES.get(str(progress.get("Phase")).partition("_")[0], "")
