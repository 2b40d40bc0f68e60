"""The rows of Duplicati: what is asked for at once, and how soon the end of a run is known."""

from statistics import median

from duplicati_world import LONG, LONG_SECONDS, SHORT, SHORT_SECONDS, DuplicatiWorld
from measure import in_turns
from table import compare, megabytes, row

BACKUPS, ASK_ROUNDS, MEMORY_ROUNDS, SHORT_ROUNDS = 500, 20, 3, 5
ASK_AIM, WAIT_AIM_SECONDS, WAIT_AIM_REQUESTS = 1.20, 0.3, 30
POLLS = "a poll each second"


def measure_duplicati(world):
    """(6) Two actions that ask and print, and two that wait, against bare scripts."""
    with DuplicatiWorld(world, BACKUPS) as duplicati:
        _measure_asking(duplicati)
        _measure_waiting(duplicati, SHORT, SHORT_SECONDS, SHORT_ROUNDS)
        # One round, not in turns: it is long.
        _measure_waiting(duplicati, LONG, LONG_SECONDS, 1)


def _measure_asking(duplicati):
    programs = {}
    for verb, more in (("status", []), ("list", ["--type=backups"])):
        programs[verb] = duplicati.client(verb, *more)
        programs[f"bare {verb}"] = duplicati.bare(verb)
    costs = in_turns({name: lambda words=words: duplicati.world.cost(*words)
                      for name, words in programs.items()}, ASK_ROUNDS)
    peaks = {name: median(duplicati.peak_memory(*words) for _ in range(MEMORY_ROUNDS))
             for name, words in programs.items()}
    for verb in ("status", "list"):
        what = f"duplicati_{verb}" + (f", {BACKUPS} backups" if verb == "list" else "")
        compare(what, costs, verb, f"bare {verb}", "bare script", ASK_AIM)
        ours, theirs = peaks[verb], peaks[f"bare {verb}"]
        row(f"{what}: peak memory", megabytes(ours), "bare script", megabytes(theirs),
            f"{ours / theirs:.2f}", "", f"{ASK_AIM:.2f}", ours <= ASK_AIM * theirs)


def _measure_waiting(duplicati, backup_id, run_seconds, rounds):
    """How long after the server's end of a run the client ends, and what it asks meanwhile."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(duplicati.waited(*duplicati.client("run", f"--id={backup_id}", "--wait")))
        theirs.append(duplicati.waited(*duplicati.bare("run", backup_id)))
    what = f"duplicati_run --wait, {run_seconds:g} s: "
    late = median(each.seconds for each in ours)
    ratio = median(our.seconds / their.seconds for our, their in zip(ours, theirs))
    row(what + "after the server's end", _milliseconds(late), POLLS,
        _milliseconds(median(each.seconds for each in theirs)), f"{ratio:.2f}", "",
        _milliseconds(WAIT_AIM_SECONDS), late <= WAIT_AIM_SECONDS)
    most, polled = (max(each.requests for each in waits) for waits in (ours, theirs))
    row(what + "requests", str(most), POLLS, str(polled), f"{most / polled:.2f}", "",
        str(WAIT_AIM_REQUESTS), most <= WAIT_AIM_REQUESTS)


def _milliseconds(seconds):
    return f"{seconds * 1000:.0f} ms"
