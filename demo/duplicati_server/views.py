"""What the demo Duplicati server shows of what happens: state, progress, tasks, notifications,
logs (sections 3.1, 3.4 and 5 of the protocol), by release.

Guards: the fields of each view and their forms. Each function takes the server and a call.
Leaves alone: jobs and their files; system and settings; who may look.
"""
import re
from datetime import timedelta

from demo.duplicati_server import jobs
from demo.duplicati_server.answers import BareError, Call, RefusedError
from demo.duplicati_server.engine import Task
from demo.duplicati_server.live import LEVELS
from demo.duplicati_server.moments import local_text, now, parse_span, utc_text
from demo.duplicati_server.releases import Release
from demo.duplicati_server.state import State

ZERO = "0001-01-01T00:00:00"
SHORTEST_POLL, LONGEST_POLL = 10, 3600


def serverstate(server: State, call: Call) -> dict:
    """GET serverstate, with its long poll."""
    if call.flag("longpoll"):
        event = call.query.get("lasteventid", "")
        if not event.lstrip("-").isdecimal():
            raise RefusedError(400, "When activating long poll, the request must include the "
                               "last event id")
        seconds = _poll_seconds(call.query.get("duration"))
        server.engine.wait_until(lambda: server.engine.event != int(event), seconds)
    return state(server)


def _poll_seconds(duration: str | None) -> float:
    if not duration:
        raise RefusedError(400, "When activating long poll, the request must include the duration")
    try:
        seconds = parse_span(duration)
    except ValueError:
        seconds = -1
    if not SHORTEST_POLL <= seconds <= LONGEST_POLL:
        raise RefusedError(400, "The duration must be between 10 seconds and 1 hour")
    return seconds


def state(server: State) -> dict:
    """The state of the server, at this moment."""
    release, engine, store = server.played, server.engine, server.store
    kinds = {one["Type"] for one in store.notifications()}
    schedules = [(key, schedule["Time"]) for key, schedule in store.schedules().items()]
    with engine.changed:
        active, paused = engine.active, engine.is_paused
        common = {
            "ActiveTask": _pair(active.number, active.backup_id) if active else None,
            "ProgramState": "Paused" if paused else "Running",
            "SchedulerQueueIds": [_pair(task.number, task.backup_id) for task in engine.queue],
            "ProposedSchedule": [_pair(key, time) for key, time in schedules],
            "HasWarning": "Warning" in kinds, "HasError": "Error" in kinds,
            "SuggestedStatusIcon": _icon(active is not None, paused, kinds),
            "EstimatedPauseEnd": _pause_end(server), "LastEventID": engine.event,
            "LastDataUpdateID": engine.data_update,
            "LastNotificationUpdateID": engine.notification_update}
    if release.is_legacy:
        update = {"ProgramState": common.pop("ProgramState"), "UpdatedVersion": None,
                  "UpdaterState": "Waiting", "UpdateReady": False, "UpdateDownloadProgress": 0.0}
        return update | common
    update = {"UpdatedVersion": None, "UpdaterState": "Waiting", "UpdateDownloadLink": None,
              "UpdateDownloadProgress": 0}
    return common | update | ({"Type": "legacystatus"} if release.has_v2 else {})


def _pair(first: object, second: object) -> dict:
    return {"Item1": first, "Item2": second}


def _pause_end(server: State) -> str:
    end, is_utc = server.engine.paused_until, server.played.has_v2
    if end is None:
        return ZERO + ("Z" if is_utc else "")
    return utc_text(end) if is_utc else local_text(end)


def _icon(is_active: bool, is_paused: bool, kinds: set[str]) -> str:
    if is_active:
        return "ActivePaused" if is_paused else "Active"
    if is_paused:
        return "Paused"
    return "ReadyError" if "Error" in kinds else "ReadyWarning" if "Warning" in kinds else "Ready"


def pause(server: State, call: Call) -> None:
    """POST serverstate/pause"""
    duration = call.form().get("duration", "") if server.played.is_legacy \
        else call.query.get("duration", "")
    if server.played.has_v2:
        call.flag("pauseTransfers")
    try:
        seconds = parse_span(duration) if duration else 0
    except ValueError as error:
        if server.played.is_legacy:
            raise RefusedError(400, f"Failed to parse the segment: {duration[:3]}, invalid "
                               "integer") from error
        raise RefusedError(400, "The duration must be a valid time span") from error
    server.store.save_setting("demo-paused", utc_text(now() + timedelta(seconds=seconds))
                              if seconds else "until resumed")
    server.engine.pause(seconds)


def resume(server: State, call: Call) -> None:
    """POST serverstate/resume"""
    server.store.save_setting("demo-paused", None)
    server.engine.resume()


def progressstate(server: State, call: Call) -> dict:
    """GET progressstate: of the running task, else of the last one."""
    with server.engine.changed:
        progress, task = dict(server.engine.progress or {}), server.engine.progress_task
        if task is None:
            raise RefusedError(404, "No active backup")
        if server.engine.is_paused and server.played.has_v2:
            progress["transfer"] = None
        return _progress(server.played, progress, task)


def _progress(release: Release, progress: dict, task: Task) -> dict:
    transfer, current = progress["transfer"], progress["current"]
    backend = {"BackendAction": transfer["action"] if transfer else "Get",
               "BackendPath": transfer["path"] if transfer else None,
               "BackendFileSize": transfer["size"] if transfer else 0,
               "BackendFileProgress": transfer["done"] if transfer else 0,
               "BackendSpeed": transfer["speed"] if transfer else -1,
               "BackendIsBlocking": False}
    overall = progress["overall"]
    fields = {
        "BackupID": task.backup_id, "TaskID": task.number, **backend,
        "CurrentFilename": current["name"] if current else None,
        "CurrentFilesize": current["size"] if current else 0,
        "CurrentFileoffset": current["offset"] if current else 0,
        "CurrentFilecomplete": False, "Phase": progress["phase"],
        "OverallProgress": overall if release.is_legacy or overall % 1 else int(overall),
        "ProcessedFileCount": progress["files"], "ProcessedFileSize": progress["size"],
        "TotalFileCount": progress["total_files"], "TotalFileSize": progress["total_size"],
        "StillCounting": progress["counting"]}
    if release.has_v2:
        fields |= {"ActiveTransfers": [backend] if transfer else [],
                   "RemoteSyncDestinationIndex": 0, "RemoteSyncDestinationCount": 0}
    if release.has_estimate:
        fields["EstimatedTimeToCompletion"] = progress["estimate"]
    return fields


def tasks(server: State, call: Call) -> list[dict]:
    """GET tasks: the one that runs and those in the queue."""
    release, engine = server.played, server.engine
    with engine.changed:
        present = [task for task in [engine.active, *engine.queue] if task]
    if release.has_task_times:  # queued ones say Running, too
        return [_task(release, task) | {"Status": "Running"} for task in present]
    shown = []
    for task in present:
        fields = {"Backup": jobs.raw(release, task.backup), "ExtraOptions": None,
                  "FilterStrings": None, "TaskID": task.number, "BackupID": task.backup_id,
                  "Operation": task.operation}
        if release.is_legacy:
            fields |= {"OriginalUploadSpeed": 0, "OriginalDownloadSpeed": 0}
        shown.append(fields)
    return shown


def _task(release: Release, task: Task) -> dict:
    """The state of a task. What failed says so only on later releases."""
    error = task.error if release.tells_failure else None
    fields = {"Status": task.state, "ID": task.number}
    if release.has_task_times:
        fields |= {"TaskStarted": local_text(task.started) if task.started else None,
                   "TaskFinished": local_text(task.finished) if task.finished else None}
    return fields | {"ErrorMessage": error.message if error else None,
                     "Exception": error.trace if error else None}


def task(server: State, call: Call) -> dict:
    """GET task/N"""
    with server.engine.changed:
        fields = _task(server.played, find_task(server, call))
    if server.played.is_legacy:
        del fields["ID"]
        if fields["Status"] != "Completed":
            return {"Status": fields["Status"]}
    return fields


def find_task(server: State, call: Call, text: str = "No such task found") -> Task:
    """The task that a path names; 404 if it is not known."""
    number = call.part("task")
    if not number.isdecimal():
        raise BareError(400) if not server.played.is_legacy else RefusedError(
            404, "Invalid or missing task id")
    found = server.engine.tasks.get(int(number))
    if found is None:
        raise RefusedError(404, text)
    return found


def end_task(server: State, call: Call) -> None:
    """POST task/N/abort, /stop, /stopaftercurrentfile, /stopnow: nothing for a queued one."""
    way = call.path.rpartition("/")[2].lower()
    text = "No such task" if server.played.is_legacy else "No such task found"
    found = find_task(server, call, text)
    if found.finished:
        raise RefusedError(404, text)
    if way == "abort":
        server.engine.abort(found)
    elif way in ("stop", "stopaftercurrentfile"):  # stopnow, where it is, may do nothing
        server.engine.stop(found)


def notifications(server: State, call: Call) -> list[dict]:
    """GET notifications"""
    return server.store.notifications()


def notification(server: State, call: Call) -> dict:
    """GET notification/N"""
    for one in server.store.notifications():
        if str(one["ID"]) == call.part("notification"):
            return one
    raise RefusedError(404, "No such notification" if server.played.is_legacy
                       else "Notification not found")


def dismiss(server: State, call: Call) -> None:
    """DELETE notification/N"""
    server.store.forget_notification(notification(server, call)["ID"])
    server.engine.tell(notification=True)


def page_size(call: Call, least: int = 10, most: int = 500) -> int:
    """The pagesize of a call; one that is out of range is taken for the next that is not."""
    text = call.query.get("pagesize", "100")
    if not re.fullmatch(r"-?\d+", text):
        raise BareError(400)
    return max(least, min(most, int(text)))


def offset(call: Call) -> int | None:
    """The offset of a call, None if it has none."""
    text = call.query.get("offset", "")
    return int(text) if text.isdecimal() else None


def live_log(server: State, call: Call) -> list[dict]:
    """GET logdata/poll"""
    level, after = call.query.get("level"), call.query.get("id", "")
    if server.played.is_legacy and level:
        level = next((one for one in LEVELS if one.lower() == level.lower()), level)
    if level not in LEVELS or not after.isdecimal():
        raise BareError(400)
    entries = server.live.poll(level, int(after), page_size(call, least=1))
    if server.played.is_legacy:
        return [{**one, "Exception": one["Exception"] and {"Message": one["Exception"]}}
                for one in entries]
    return entries


def server_log(server: State, call: Call) -> list[dict]:
    """GET logdata/log"""
    return [{"BackupID": one["backup"], "Message": one["message"], "Exception": one["exception"],
             "Timestamp": one["time"]} for one in server.store.errors(offset(call),
                                                                      page_size(call))]


