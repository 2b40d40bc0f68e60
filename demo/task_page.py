"""The page of a task server, for people: what became of each task, and each task by itself.

Guards: that whatever is in a task, a result or a name is shown as text: all of it is escaped
where it enters an element, and the browser is told to run nothing but the one script below. That
it stays readable: it refreshes itself in place, tells when the server no longer answers, and can
be held still; without scripts it is loaded anew. Leaves alone: changing anything.
"""
import base64
import hashlib
import html
import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from demo.serving import Answer
from demo.task_store import REPEATED, STATES, TAKEN

REFRESH_SECONDS = 5
ROWS = 200  # tasks on a page
SHOWN_CHARACTERS = 200_000  # of each document; all of it is to be had as JSON
SIGNS = dict(zip(STATES, "○◐⊘✓✗"))
BECAME = {TAKEN: "", REPEATED: "the same again", "second": "another one, too late: it changes"
          " nothing", "late": "after the end: it changes nothing"}
STYLE = Path(__file__).with_name("task_page.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("task_page.js").read_text(encoding="utf-8").replace(
    "REFRESH_SECONDS", str(REFRESH_SECONDS))


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HEADERS = {
    "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": f"default-src 'none'; style-src {_hash(STYLE)};"
    f" script-src {_hash(SCRIPT)}; connect-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
}


class Html(str):
    """Text that is HTML already; every other text is escaped when it enters an element."""


def element(tag: str, *children: object, **attributes: str) -> Html:
    """An element; `class_` stands for class, and `data_label` for data-label."""
    told = "".join(f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
                   for name, value in attributes.items())
    return Html(f"<{tag}{told}>{_joined(children)}</{tag}>")


def _joined(children: Iterable) -> Html:
    return Html("".join(child if isinstance(child, Html) else html.escape(str(child))
                        for child in children))


def _foreign(text: str) -> Html:
    """Text that somebody else wrote; what it says of directions ends with it."""
    return element("bdi", text) if text else Html()


class View(NamedTuple):
    """What of it is looked at; "" and 0: all."""
    host: str = ""
    state: str = ""
    after: int = 0
    hold: str = ""
    n: int = 0
    json: str = ""

    def link(self, **changed) -> str:
        """The address of this view with something changed."""
        view = self._replace(**changed)
        given = {name: value for name, value in view._asdict().items() if value}
        return ("task" if view.n else "./") + ("?" + urlencode(given) if given else "")


def read_view(target: str) -> View:
    """The view that an address asks for; what it does not know it leaves out."""
    query = target.partition("?")[2].encode(errors="replace").decode()
    given = dict(parse_qsl(query, errors="replace"))
    for name in ("after", "n"):
        text = given.get(name, "")
        given[name] = int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0
    return View(**{name: value for name, value in given.items() if name in View._fields})


def answer(state, target: str) -> Answer:
    """The page at an address: of the tasks of `state` (a task_server.State), or of one."""
    view = read_view(target)
    if target.partition("?")[0] == "/":
        return _page(200, "Tasks", view, *_faults(state), _counts(state, view),
                     _hosts(state, view), *_tasks(state, view))
    task = state.store.task(view.n)
    if task is None:
        return _page(404, "No such task", view._replace(hold="1"), element(
            "p", element("a", "All tasks", href="./")))
    results = state.store.results(view.n)
    if view.json:
        document = {"Host": task["host"], "State": task["state"],
                    "Task": json.loads(task["document"]), "Results": [
                        {"Time": result["time"], "Became": result["became"],
                         "Result": json.loads(result["document"])} for result in results]}
        return Answer(200, {**HEADERS, "Content-Type": "application/json"},
                      json.dumps(document, indent=2).encode())
    identifier = _text(json.loads(task["document"]), "ID")
    return _page(200, f"Task {identifier} of {task['host']}", view, *_one(task, results, view))


def _page(status: int, title: str, view: View, *content: Html) -> Answer:
    now = datetime.now(timezone.utc).isoformat()
    control = element("a", "Go on" if view.hold else "Hold still", class_="control", id="hold",
                      href=view.link(hold="" if view.hold else "1"))
    header = element(
        "header", element("h1", _foreign(title)),
        element("p", "As of ", _time(now, id="read"), " UTC. ",
                "Held still. " if view.hold else "", control),
        element("p", id="told", role="status"))
    anew = element("noscript", Html(f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'))
    head = element(
        "head", Html('<meta charset="utf-8"><meta name="color-scheme" content="light dark">'
                     '<meta name="viewport" content="width=device-width, initial-scale=1">'
                     '<link rel="icon" href="data:,">'),
        element("title", f"{title} · task server"), Html(f"<style>{STYLE}</style>"),
        "" if view.hold else anew)
    script = "" if view.hold else Html(f"<script>{SCRIPT}</script>")
    body = element("body", header, element("main", *content), script)
    page = element("html", head, body, lang="en")
    return Answer(status, HEADERS, f"<!DOCTYPE html>\n{page}\n".encode(errors="replace"))


def _time(text: str | None, **attributes: str) -> Html:
    """A time as it is kept (ISO, UTC), to the second."""
    if not text:
        return Html("–")
    return element("time", text[:19].replace("T", " "), datetime=text, **attributes)


def _text(entry: object, name: str) -> str:
    """A field of a task as a text, whatever stands there."""
    value = entry.get(name, "–") if isinstance(entry, dict) else "–"
    return value if isinstance(value, str) else _cut(json.dumps(value, ensure_ascii=False), 200)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _resources(entry: object) -> str:
    """What a task is about: "backup 3, backup Documents"."""
    resources = entry.get("Resources") if isinstance(entry, dict) else None
    if not isinstance(resources, list):
        return "" if resources is None else _cut(json.dumps(resources), 200)
    words = [" ".join(_text(one, name) for name in ("Type", "ID") if name in one)
             if isinstance(one, dict) else _cut(json.dumps(one), 200) for one in resources[:20]]
    return _cut(", ".join(words), 300)


def _faults(state) -> list[Html]:
    faults = state.files.faults if state.files else {}
    if not faults:
        return []
    lines = [element("li", element("strong", _foreign(name)), ": ", _foreign(what))
             for name, what in faults.items()]
    return [element("section", element(
        "h2", "A task file has a mistake; the tasks that it had before stay"),
        element("ul", *lines), class_="fault", role="alert")]


def _badge(state: str) -> Html:
    return element("span", element("span", SIGNS[state], aria_hidden="true"), " ", state,
                   class_=f"badge {state}")


def _counts(state, view: View) -> Html:
    """How many there are in each state, as links to them."""
    counts = {name: 0 for name in STATES}
    for row in state.store.counts():
        if view.host in ("", row["host"]):
            counts[row["state"]] += row["count"]
    links = [_filter(view, "state", "", "All", sum(counts.values()))]
    links += [_filter(view, "state", name, _badge(name), count) for name, count in counts.items()]
    return element("nav", *links, aria_label="States")


def _filter(view: View, field: str, value: str, shown: str, count: int) -> Html:
    chosen = {"aria_current": "true"} if getattr(view, field) == value else {}
    return element("a", shown, " ", element("b", f"{count:,}"),
                   href=view.link(**{field: value, "after": 0}), **chosen)


def _table(name: str, heads: list[str], rows: list[list]) -> Html:
    """A table that a narrow screen shows as cards; the roles stay what they are then."""
    cells = [element("tr", *(element("td", cell, data_label=head, role="cell")
                             for head, cell in zip(heads, row)), role="row") for row in rows]
    top = element("tr", *(element("th", head, scope="col", role="columnheader")
                          for head in heads), role="row")
    return element("table", element("caption", name), element("thead", top, role="rowgroup"),
                   element("tbody", *cells, role="rowgroup"), role="table")


def _hosts(state, view: View) -> Html:
    """Each host: when it asked last, and what it has. Those that only have a past, too."""
    held = state.files.held if state.files else ()
    counts = {host: {} for host in (*state.hosts, *sorted(held))}
    for row in state.store.counts():
        counts.setdefault(row["host"], {})[row["state"]] = row["count"]
    rows = []
    for host, has in counts.items():
        asked = _time(state.asked.get(host)) if host in state.hosts else (
            "held up by its file" if host in held else "no longer in the files")
        badges = [element("span", _badge(name), f" {has[name]:,}", class_="count")
                  for name in STATES if has.get(name)]
        name = element("a", _foreign(host), href=view.link(host=host, after=0),
                       **({"aria_current": "true"} if host == view.host else {}))
        rows.append([name, asked, _joined(badges) or Html("–")])
    table = _table("Hosts", ["Host", "Asked last", "Tasks"], rows)
    if not view.host:
        return table
    return _joined([table, element("p", element("a", "All hosts",
                                                href=view.link(host="", after=0)))])


def _tasks(state, view: View) -> list[Html]:
    found = state.store.overview(view.host, view.state, view.after, ROWS + 1)
    rows = []
    for task in found[:ROWS]:
        entry = json.loads(task["document"])
        notes = [_foreign(task["message"])] if task["message"] else []
        notes += [element("em", note) for note in _notes(task)]
        rows.append([
            _badge(task["state"]), element("a", _foreign(_cut(_text(entry, "ID"), 100)),
                                           href=view.link(n=task["number"])),
            _foreign(task["host"]), _foreign(_cut(_text(entry, "Operation"), 100)),
            _foreign(_resources(entry)), _time(task["since"]),
            Html("<br>".join(notes))])
    if not rows:
        return [element("p", "There are no such tasks.")]
    heads = ["State", "ID", "Host", "Operation", "Resources", "Since", "Told"]
    parts = [_table("Tasks, the latest change first", heads, rows)]
    if len(found) > ROWS:
        parts.append(element("p", element("a", f"The next {ROWS}",
                                          href=view.link(after=view.after + ROWS))))
    return parts


def _notes(task) -> list[str]:
    """What is out of the ordinary with a task."""
    notes = []
    if not task["listed"]:
        notes.append("no longer in the files, or replaced there")
    if task["next"]:
        notes.append("changed in the file: that is a new task when this one has ended")
    for column, words in (("repeated", "the same result again"),
                          ("second", "another final result, too late"),
                          ("late", "accepted after its end")):
        if task[column]:
            notes.append(f"{words}: {task[column]:,}×")
    return notes


def _one(task, results: list, view: View) -> list[Html]:
    """All that is known of a task."""
    facts = [("State", _joined([_badge(task["state"]), " since ", _time(task["since"])])),
             ("Host", _foreign(task["host"])), ("First fetched", _time(task["handed"]))]
    facts += [("Note", note) for note in _notes(task)]
    parts = [element("p", element("a", "All tasks", href=view.link(n=0)), " · ",
                     element("a", "This as JSON", href=view.link(json="1"))),
             element("dl", *(element("div", element("dt", name), element("dd", value))
                             for name, value in facts)),
             element("h2", "Task"), _document(json.loads(task["document"])),
             element("h2", "Results" if results else "No result yet")]
    for result in results:
        document = json.loads(result["document"])
        became = BECAME[result["became"]]
        parts.append(element("h3", _badge(document["Status"]), " ", _time(result["time"]),
                             f" ({became})" if became else ""))
        parts.append(_document(document))
    return parts


def _document(document: object) -> Html:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return element("pre", _cut(text, SHOWN_CHARACTERS), tabindex="0")
