"""The table that the benchmarks print: each figure in a line, beside its reference."""

from measure import median, ratio


def row(what, ours, reference, theirs, wall="", cpu="", aim="", is_met=None):
    """Prints one line of the table."""
    verdict = {None: "", True: "met", False: "missed"}[is_met]
    print("|", " | ".join([what, ours, reference, theirs, wall, cpu, aim, verdict]), "|",
          flush=True)


def head():
    """Prints the two lines that the table begins with."""
    row("what", "client", "reference", "", "ratio", "CPU", "aim", None)
    print("|---|--:|---|--:|--:|--:|---|---|")


def compare(what, costs, name, reference, label, aim=None):
    """A line that sets the costs of `name` beside those of `reference`."""
    found = ratio(costs[name], costs[reference])
    times = [f"{median(costs[each]).seconds * 1000:.0f} ms" for each in (name, reference)]
    row(what, times[0], label, times[1], f"{found.seconds:.2f}", f"{found.cpu_seconds:.2f}",
        f"{aim:.2f}" if aim else "", found.seconds <= aim if aim else None)


def megabytes(size):
    return f"{size / 1e6:.1f} MB"
