"""How far a task is: from a progressstate to a part of the whole and words for people.

Guards: that a bar never goes beyond what is known, and when the next line is due where there is
no bar. Leaves alone: asking, drawing.

Source: protocol page of Duplicati, sections 5.2 to 5.4.
"""

from collections import namedtuple

# part: 0 to 1, None if it is not known; words: what it is at; done_bytes, total_bytes: of the
# files, None if not known.
Progress = namedtuple("Progress", "part words done_bytes total_bytes")

_PROCESSING = {"Backup_ProcessingFiles", "Restore_DownloadingRemoteFiles", "Sync_ProcessingFiles"}
_MOST_WHILE_PROCESSING = 0.90
_PARTS = {
    "Backup_Finalize": 0.90, "Backup_WaitForUpload": 0.90, "Backup_Delete": 0.95,
    "Backup_Compact": 0.95, "Backup_VerificationUpload": 0.98, "Backup_PostBackupVerify": 0.98,
    "Backup_Complete": 1.0, "Restore_Complete": 1.0, "Sync_Complete": 1.0,
    "PurgeFiles_Complete": 1.0,
}


class Beat:
    """When a line is due: each `seconds`, counted from `now`. All moments are handed in (monotonic
    seconds).
    """

    def __init__(self, seconds, now):
        self._seconds = seconds
        self._last = now

    def is_due(self, now):
        """Whether a line is due; if so, the next one is counted from `now`."""
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def read(state):
    """The Progress that a progressstate (mapping) tells; whatever the mapping holds."""
    phase = str(state.get("Phase") or "")
    words = _words(phase)
    done, total = _count(state, "ProcessedFileSize"), _count(state, "TotalFileSize")
    if phase in _PROCESSING:
        files = _count(state, "ProcessedFileCount")
        if state.get("StillCounting"):
            counted = _count(state, "TotalFileCount")
            return Progress(0.0, f"{words}, counting: {counted} files so far", done, total)
        if not files or not total:
            return Progress(0.0, words, done, total)
        if not state.get("CurrentFilecomplete"):
            done += _count(state, "CurrentFileoffset")
        return Progress(min(done / total, _MOST_WHILE_PROCESSING), words, min(done, total), total)
    if phase in _PARTS:
        return Progress(_PARTS[phase], words, None, None)
    overall = state.get("OverallProgress")
    is_known = isinstance(overall, (int, float)) and 0 < overall <= 1
    return Progress(float(overall) if is_known else None, words, None, None)


def _count(state, name):
    value = state.get(name)
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 63 else 0


def _words(phase):
    """`Backup_WaitForUpload` as people say it: wait for upload; `Verify_Running`: verify."""
    first, _, name = phase.partition("_")
    name = first if name in ("", "Running") else name
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return spaced.strip() or "it runs"
