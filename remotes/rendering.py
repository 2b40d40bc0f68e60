"""An answer as text: JSON, YAML, or a table for people.

Guards: that no control character of a server or a command reaches a terminal. Leaves
alone: what an answer holds.
"""

import json
import re
import sys

_MOMENT = re.compile(r"[12]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
# JSON escapes C0; C1 (0x7f to 0x9f) moves cursors on some terminals, too. Compiled when
# they are needed first, since most answers need neither.
_CONTROL = "[\x7f-\x9f\u2028\u2029\ud800-\udfff]"
_CONTROL_OR_C0 = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
# Mappings within mappings are broken up so deep.
_PAIRS_DEPTH = 4
_LONGEST_ALONE = 500  # characters of a value that has a line for itself
_WHOLE_WIDTH = 20  # texts up to that are not folded


def _is_unicode():
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def _escaped(text):
    if text.isascii() and "\x7f" not in text:
        return text
    return re.sub(_CONTROL, lambda found: f"\\u{ord(found[0]):04x}", text)


def event_line(event):
    """An event (mapping) as one compact line of JSON."""
    text = json.dumps(event, ensure_ascii=not _is_unicode(), separators=(",", ":"), default=str)
    return _escaped(text)


def render(document, form):
    """`document` (JSON values) in one of the forms json, yaml, table."""
    if form == "yaml":
        import yaml

        # PyYAML writes some of them as they are; then everything is escaped.
        is_plain = not re.search(_CONTROL, json.dumps(document, ensure_ascii=False))
        return yaml.safe_dump(document, sort_keys=False,
                              allow_unicode=_is_unicode() and is_plain).rstrip()
    if form == "table":
        return _table(document)
    return _escaped(json.dumps(document, indent=2, ensure_ascii=not _is_unicode(), default=str))


def _readable(name, value):
    """Sizes and times as people read them: by the name of a size, by the form of a time."""
    name = str(name)
    if (name == "bytes" or name.endswith("_bytes")) and isinstance(value, int) \
            and not isinstance(value, bool) and value >= 0:
        return size_text(value)
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        from datetime import datetime

        try:
            moment = datetime.fromisoformat(value[:19] + "+00:00")
            return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        except (ValueError, OverflowError, OSError):
            return value  # it only looks like one
    return value


def size_text(size):
    """A size in bytes for people: 1.5 MiB."""
    if size < 1024:
        return f"{size} bytes"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        size /= 1024
        if size < 1024 or unit == "PiB":
            return f"{size:.1f} {unit}"


def _cell(value, name="", longest=60):
    value = _readable(name, value)
    if isinstance(value, list) and not any(isinstance(part, (dict, list)) for part in value):
        value = "; ".join(map(str, value))
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    text = "" if value is None else str(value)
    text = re.sub(_CONTROL_OR_C0, lambda found: {"\n": "⏎", "\t": " "}.get(found[0], "·"), text)
    text = text if len(text) <= longest else text[:longest - 1] + "…"
    return text if _is_unicode() else text.encode("ascii", "replace").decode()


def _table(document):
    """Single values as two columns, then each list of mappings as a table of its own, and each
    mapping (or a list of what holds nothing but mappings) as two columns, name and value.
    """
    plain, blocks = [], []
    for name, value in document.items():
        rows = _rows(value)
        if rows and not all(_is_nested(row) for row in rows):
            blocks.append(f"{_cell(name)}\n" + _row_grid(rows))
        elif rows or isinstance(value, dict) and value:
            for part in rows or [value]:
                blocks.append(f"{_cell(name)}\n" + _grid(["", ""], list(_pairs(part))))
        else:
            plain.append([_cell(name), _cell(value, name, _LONGEST_ALONE)])
    return "\n\n".join(([_grid(["", ""], plain)] if plain else []) + blocks)


def _row_grid(rows):
    """Rows under the names of their columns, without those that are empty in all rows."""
    columns = dict.fromkeys(column for row in rows for column in row)
    cells = {column: [_cell(row.get(column), column) for row in rows] for column in columns}
    cells = {column: texts for column, texts in cells.items() if any(texts)}
    return _grid([_cell(column) for column in cells], list(zip(*cells.values())))


def _is_nested(row):
    """Whether a row holds mappings, and besides them nothing."""
    return any(isinstance(value, dict) and value for value in row.values()) \
        and all(isinstance(value, (dict, type(None))) for value in row.values())


def _pairs(value, path=(), depth=_PAIRS_DEPTH):
    """(name, value) as cells of all that is in a mapping, with names such as Backup.Name."""
    for name, part in value.items():
        here = (*path, str(name))
        named = _named(part)
        if depth and named:
            yield from _pairs(named, here, depth - 1)
        else:
            yield [_cell(".".join(here)), _cell(part, name)]


def _named(value):
    """A mapping that is not empty, also one that was written as a list of Name and Value."""
    if isinstance(value, list) and all(isinstance(row, dict) and {"Name", "Value"} <= set(row)
                                       for row in value):
        return {str(row["Name"]): row["Value"] for row in value}
    return value if isinstance(value, dict) and value else None


def _rows(value):
    """The rows in a list of mappings, or in a mapping of names to mappings; else None."""
    if isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
        return [{"name": name, **row} for name, row in value.items()]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    return None


def _grid(columns, rows):
    if sys.stdout.isatty():
        return _rich_grid(columns, rows)
    widths = [max(len(str(row[index])) for row in [columns, *rows])
              for index in range(len(columns))]
    lines = [columns] if any(columns) else []
    return "\n".join("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in [*lines, *rows])


def _rich_grid(columns, rows):
    """For a terminal: long texts fold, short ones stay whole. Where there is no room for that,
    each row becomes a block of lines.
    """
    import io
    import shutil

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room = shutil.get_terminal_size().columns
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    least = sum(min(width, _WHOLE_WIDTH) + 1 for width in widths)
    if least > room and any(columns):
        return "\n\n".join(_rich_grid(["", ""], [pair for pair in zip(columns, row) if pair[1]])
                           for row in rows)
    table = Table(show_header=any(columns), box=None, pad_edge=False)
    for column, width in zip(columns, widths):
        table.add_column(column, overflow="fold", no_wrap=width <= _WHOLE_WIDTH,
                         min_width=min(width, _WHOLE_WIDTH))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    text = io.StringIO()
    Console(file=text, width=room).print(table)
    return text.getvalue().rstrip()
