"""What people change in a backup: one value, a merge patch, a whole document.

Guards: that names which are no fields are refused, and that a difference shows no
secret. Leaves alone: what a form is, and what is sent (forms.py).
"""

import copy
import difflib

from remotes.duplicati.documents import yaml_text
from remotes.duplicati.forms import (
    KINDS,
    LISTS_OF_TEXTS,
    NOTHING,
    READ_ONLY,
    flat,
    nearest_of,
    settings_mapping,
)
from remotes.duplicati.masking import STARS, masked, placeholders
from remotes.duplicati.secret_texts import pieces
from remotes.errors import UsageError

# Texts of a schedule, a filter, a further target, also where there is none yet.
_TEXTS = ("Time", "Repeat", "Expression", "UrlKey", "TargetUrl")
_UNFOLDED = 1 << 30  # a line that differs names the field that does


# -- the three ways of editing ---------------------------------------------------------------

def with_assignment(form, path, value, parse):
    """`form` with `value` (text) at `path` (`Settings.keep-versions`, `Sources.0`), as a copy.

    Where no text belongs, `parse` reads the value as YAML. An empty value, or null,
    removes a setting or an item of a list. Errors: UsageError.
    """
    form = copy.deepcopy(form)
    path = path.removeprefix("Backup.")
    _require_known(form, path.partition(".")[0])
    _assign(form, path, value, parse, path)
    if isinstance(form.get("Settings"), list):
        form["Settings"] = settings_mapping(form["Settings"])
    return form


def _assign(container, path, value, parse, whole):
    if isinstance(container, list):
        return _assign_item(container, path, value, parse, whole)
    if not isinstance(container, dict):
        raise UsageError(f"there is no place {whole}")
    name, _, rest = (path, "", "") if path in container else path.partition(".")
    if name in ("Settings", "Options") and rest:
        return _assign_setting(container, name, rest, value)
    if not rest:
        container[name] = value if _holds_text(container.get(name), name) else parse(value, whole)
        return None
    if name == "Schedule" and container.get(name) is None:
        container[name] = {}
    return _assign(container.get(name), rest, value, parse, whole)


def _assign_setting(container, mapping_name, name, value):
    if not isinstance(container.get(mapping_name), dict):
        container[mapping_name] = {}
    settings = container[mapping_name]
    name = _present_name(settings, name)
    if value in ("", "null", "~"):
        settings.pop(name, None)
    else:
        settings[name] = value


def _present_name(settings, name):
    """The name under which a setting is there: with or without `--`."""
    other = name[2:] if name.startswith("--") else f"--{name}"
    return other if name not in settings and other in settings else name


def _assign_item(items, path, value, parse, whole):
    place, _, rest = path.partition(".")
    if not (place.isascii() and place.isdigit()) or int(place) > len(items):
        raise UsageError(f"{whole}: there is no place {place}: the list has {len(items)} items,"
                         " from 0 on; the next number adds one")
    number = int(place)
    if number == len(items):
        items.append({} if rest else None)
    if rest:
        return _assign(items[number], rest, value, parse, whole)
    if value in ("", "null", "~"):
        items.pop(number)
    else:
        like = items[number] if items[number] is not None else items[0]
        is_text = like is None and whole.partition(".")[0] in LISTS_OF_TEXTS \
            or isinstance(like, str)
        items[number] = value if is_text else parse(value, whole)
    return None


def _holds_text(current, name):
    return isinstance(current, str) or name in _TEXTS or KINDS.get(name) is str


def with_patch(form, patch):
    """`form` with a merge patch (RFC 7396: null removes), as a copy. Errors: UsageError.

    The patch is a form, or a document; settings may be a list there, which is then the
    whole list.
    """
    patch = flat(patch)
    for name in patch:
        _require_known(form, name)
    settings = patch.get("Settings")
    if isinstance(settings, dict) and isinstance(form.get("Settings"), dict):
        patch = {**patch, "Settings": {_present_name(form["Settings"], name): value
                                       for name, value in settings.items()}}
    merged = {**dict.fromkeys(form), **_merged(form, patch)}
    if isinstance(merged.get("Settings"), list):
        merged["Settings"] = settings_mapping(merged["Settings"])
    return merged


def _merged(target, patch):
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def replaced(form, edited):
    """`form` with all fields that `edited` (a form or a document) has, as a copy.

    What `edited` leaves out stays as it is; settings are replaced as a whole.
    """
    edited = {name: value for name, value in flat(edited).items()
              if name in form or name not in KINDS or value not in NOTHING}
    for name in edited:
        _require_known(form, name)
    merged = {**copy.deepcopy(form), **copy.deepcopy(edited)}
    if isinstance(merged.get("Settings"), list):
        merged["Settings"] = settings_mapping(merged["Settings"])
    if isinstance(form.get("Schedule"), dict) and isinstance(merged["Schedule"], dict):
        merged["Schedule"] = {**copy.deepcopy(form["Schedule"]), **merged["Schedule"]}
    return merged


def as_patch(form, edited):
    """The merge patch that does to `form` what `replaced` does with `edited`: what is left
    out of a mapping there (a setting, above all) is null here.

    Both may be masked. Errors: UsageError, if `edited` is no mapping.
    """
    edited, shown = flat(edited), masked(form)
    return {name: value if name == "Schedule" else _with_nulls(shown.get(name), value)
            for name, value in edited.items()}


def _with_nulls(before, after):
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    return {**{name: _with_nulls(before.get(name), value) for name, value in after.items()},
            **{name: None for name in before if name not in after}}


def new_form(document):
    """The form of a backup that is to be made, from a form or a document. Errors: UsageError."""
    found = replaced({**dict.fromkeys(KINDS), **_own_names(document)}, document)
    return {name: value for name, value in found.items() if value is not None}


def _own_names(document):
    """What a server has exported may have fields that are not known here."""
    return dict.fromkeys(flat(document)) if "CreatedByVersion" in document else {}


def _require_known(form, name):
    if not name:
        raise UsageError("no place is named: PATH=VALUE, such as Settings.keep-versions=5")
    if name in READ_ONLY:
        raise UsageError(f"{name} is what the server says, and cannot be edited")
    if name not in form:
        raise UsageError(f"a backup of this server has no {name}" + nearest_of(name, form))


# -- what is shown -----------------------------------------------------------------------------

def difference(before, after):
    """What an edit changes, as lines of a unified diff of the masked forms' YAML.

    A secret that changes is shown as `*************** (changed)`; the order of names in a
    mapping is none.
    """
    after = _in_order_of(before, after)
    shown, shown_after = masked(before), masked(after)
    return list(difflib.unified_diff(
        yaml_text(shown, width=_UNFOLDED).splitlines(),
        yaml_text(_marked(before, shown, after, shown_after), width=_UNFOLDED).splitlines(),
        "before", "after", lineterm="", n=2))


def unmasked(form, edited, export):
    """`form` with what the form `export` has in place of each field, or setting, that `edited`
    changes and in which the server has hidden a secret.

    It is for comparing: what is sent is made from `form`. What is not edited stays hidden: a
    server that hides a part of a URL writes it anew, and exports it as it was.
    """
    found = _unmasked(form, edited, export)
    parts = [mapping.get("Settings") for mapping in (form, edited, export)]
    if all(isinstance(part, dict) for part in parts):
        found["Settings"] = _unmasked(*parts)
    return found


def _unmasked(form, edited, export):
    return {name: export[name] if name in export and edited.get(name) != value
            and placeholders({name: value}) else value for name, value in form.items()}


def _in_order_of(before, after):
    """`after` with the names of its mappings in the order of `before`, new ones behind."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {**{name: _in_order_of(value, after[name]) for name, value in before.items()
                   if name in after},
                **{name: value for name, value in after.items() if name not in before}}
    if isinstance(before, list) and isinstance(after, list):
        former = [*before, *[None] * len(after)]
        return [_in_order_of(former[number], item) for number, item in enumerate(after)]
    return after


def _marked(before, shown, after, shown_after):
    """`shown_after` (the masked `after`) with a mark at each secret that changes."""
    if isinstance(after, dict) and isinstance(before, dict):
        known = {key: (before[former], shown[key]) for key, former in zip(shown, before)}
        return {key: _marked(*known[key], after[former], value) if key in known else value
                for (key, value), former in zip(shown_after.items(), after)}
    if isinstance(after, list) and isinstance(before, list):
        return [_marked(before[number], shown[number], item, shown_after[number])
                if number < len(before) and item not in before else shown_after[number]
                for number, item in enumerate(after)]
    if isinstance(shown_after, str) and STARS in shown_after and before != after \
            and _secrets(before, shown) != _secrets(after, shown_after):
        return f"{shown_after} (changed)"
    return shown_after


def _secrets(value, shown):
    """The secrets in one value that is shown masked; a server may have masked it before."""
    if shown == STARS or not isinstance(value, str):
        return [value]
    return [piece for piece, name in pieces(value) if name is not None]
