"""Secrets in documents: found, masked, and put back.

Guards: that no password, passphrase, token or key of a server's answer is shown, and that
a document which was shown, edited and sent back holds its secrets again. Leaves alone:
what is a secret (secret_texts.py).

What a server has masked itself (stars only, more than 3) stays as it is: a server that
masks restores it, too (2.3.0 and later). A placeholder is never sent where the original
has none: earlier servers would take it for the secret (protocol page, §3.3).
"""

from functools import lru_cache

from remotes.duplicati.secret_texts import (
    STARS,
    is_placeholder,
    is_secret,
    is_secret_name,
    may_hold_secrets,
    pieces,
)
from remotes.errors import ForeignServerError, RefusedError

__all__ = ["STARS", "is_placeholder", "is_secret", "is_secret_name", "masked", "masked_text",
           "masked_url", "placeholders", "restored", "secrets_of"]

_MISSING = object()
# How a setting or an option is written in a list.
_NAMED = (("Name", "Value"), ("name", "value"), ("Key", "Value"))
# What tells one item of a list from the others, if it has such a property.
_IDENTITIES = (("Name", "Filter"), ("name",), ("UrlKey",), ("ID",), ("Id",), ("Key",))


def masked(document):
    """A deep copy of `document` (any JSON value) with 15 stars in place of each secret.

    Errors: ForeignServerError, if it is nested as deeply as no server's is.
    """
    return _whole(document, [])


def secrets_of(document):
    """The secrets of `document` (any JSON value) as a set of texts; no placeholders."""
    found = []
    _whole(document, found)
    return set(found)


def _whole(document, found):
    try:
        return _mask(document, None, found)
    except RecursionError:
        raise ForeignServerError("the answer is nested too deeply to be a Duplicati server's"
                                 ) from None


def masked_text(text):
    """A free text (a line of a log, a message, a URL) with 15 stars in place of each secret."""
    return _mask_text(text, [])


# A URL is a text whose secrets stand in known places.
masked_url = masked_text


def _mask(value, name, found):
    """`value`, called `name`, masked; the secrets go to the list `found`."""
    if isinstance(value, str):
        if value and name is not None and is_secret(name, value):
            return _mask_whole(value, found)
        return _mask_text(value, found)
    if isinstance(value, dict):
        keys = zip(_masked_keys(value, found), value, _inner_names(value, name))
        return {shown: _mask(value[key], inner, found) for shown, key, inner in keys}
    if isinstance(value, list):
        return [_mask(item, name, found) for item in value]
    if name is not None and is_secret(name, value):
        return _mask_whole(value, found)
    return value


def _mask_whole(value, found):
    if is_placeholder(value):
        return value
    found.append(str(value))
    return STARS


def _mask_text(text, found):
    if not may_hold_secrets(text):
        return text
    shown = []
    for piece, name in pieces(text):
        if name is None or is_placeholder(piece):
            shown.append(piece)
        else:
            found.append(piece)
            shown.append(STARS)
    return "".join(shown)


def _inner_names(mapping, outer):
    """The name by which each item of a mapping, itself called `outer`, is judged.

    That is its key; for the value of a setting ({"Name": …, "Value": …}) the setting's name.
    All that stands inside something secret is secret.
    """
    if outer is not None and is_secret_name(outer):
        return [outer] * len(mapping)
    for name, value in _NAMED:
        if value in mapping and isinstance(mapping.get(name), str):
            return [mapping[name] if key == value else key for key in mapping]
    return list(mapping)


def _masked_keys(mapping, found):
    """The keys of a mapping (paths and URLs may be among them), masked and still different."""
    if _are_plain(tuple(mapping)):
        return mapping
    shown = {}
    for key in mapping:
        text = masked = _mask_text(key, found) if isinstance(key, str) else key
        number = 1
        while text in shown:
            number += 1
            text = f"{masked} ({number})"
        shown[text] = None
    return shown


@lru_cache(maxsize=256)
def _are_plain(keys):
    """Whether nothing in these keys needs masking. Rows of a list have the same ones."""
    return not any(isinstance(key, str) and may_hold_secrets(key) for key in keys)


# -- putting back ------------------------------------------------------------------------------

def restored(edited, original):
    """`edited` with the secrets of `original` in place of placeholders, as a deep copy.

    Both are JSON values of one kind of document; `edited` began as `masked(original)`. A
    placeholder that `original` has in that place, too, stays. RefusedError where there is
    one that stands for nothing in `original`.
    """
    return _restore(edited, original, masked(original), None, "")


def placeholders(document):
    """The paths (`Settings.passphrase`) of all placeholders that stand for secrets."""
    found = []
    _find_placeholders(document, None, "", found)
    return found


def _find_placeholders(value, name, path, found):
    if isinstance(value, dict):
        for item, inner in zip(value.values(), _inner_names(value, name)):
            _find_placeholders(item, inner, f"{path}.{inner}", found)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _find_placeholders(item, name, f"{path}.{number}", found)
    elif isinstance(value, str) and _holds_placeholder(value, name):
        found.append(path[1:])


def _holds_placeholder(text, name):
    if is_placeholder(text):
        return name is not None and is_secret(name, text)
    return any(secret and is_placeholder(piece) for piece, secret in pieces(text))


def _restore(edited, original, shown, name, path):
    """`edited`, whose place in the original holds `original`, which was shown as `shown`."""
    if isinstance(edited, dict):
        return _restore_mapping(edited, original, shown, name, path)
    if isinstance(edited, list):
        partners = _partners(edited, original, shown)
        return [_restore(item, *partner, name, f"{path}.{number}")
                for number, (item, partner) in enumerate(zip(edited, partners))]
    if not isinstance(edited, str):
        return edited
    if isinstance(shown, str) and edited == shown:
        return original
    if not _holds_placeholder(edited, name):
        return edited
    return _restore_text(edited, original, name, path)


def _restore_mapping(edited, original, shown, name, path):
    known = {}
    if isinstance(original, dict) and isinstance(shown, dict):
        known = {key: (former, original[former], shown[key])
                 for key, former in zip(shown, original)}
    result = {}
    for (key, item), inner in zip(edited.items(), _inner_names(edited, name)):
        former, value, seen = known.get(key, (key, _MISSING, _MISSING))
        result[former] = _restore(item, value, seen, inner, f"{path}.{inner}")
    return result


def _partners(edited, original, shown):
    """For each item of the list `edited`: what it was (original, shown), or _MISSING twice.

    An item is known by its name, a text by what it was shown as, any other by its place.
    """
    if not isinstance(original, list) or not isinstance(shown, list):
        return [(_MISSING, _MISSING)] * len(edited)
    places = {}
    for number, item in enumerate(shown):
        places.setdefault(_identity(item), []).append(number)
    partners = []
    for number, item in enumerate(edited):
        identity = _identity(item)
        if places.get(identity):
            place = places[identity].pop(0)
        elif number < len(shown) and isinstance(item, str) and isinstance(shown[number], str):
            place = number
        else:
            partners.append((_MISSING, _MISSING))
            continue
        partners.append((original[place], shown[place]))
    return partners


def _identity(item):
    if isinstance(item, dict):
        for names in _IDENTITIES:
            if isinstance(item.get(names[0]), (str, int)):
                return (names[0], *(str(item.get(name) or "") for name in names))
        return ("mapping",)
    return item if isinstance(item, str) else (type(item).__name__,)


def _restore_text(edited, original, name, path):
    """A text with placeholders in it: each gets the secret of that name from the original."""
    if is_placeholder(edited) and isinstance(original, (str, int, float)):
        if original != "" and not isinstance(original, bool):
            return original
        raise _nothing_there(path)
    former = {}
    for piece, secret in pieces(original) if isinstance(original, str) else ():
        if secret is not None:
            former.setdefault(secret, []).append(piece)
    restored_pieces = []
    for piece, secret in [(edited, name)] if is_placeholder(edited) else pieces(edited):
        if secret is not None:
            known = former.get(secret)
            before = known.pop(0) if known else None
            if is_placeholder(piece):
                if before is None:
                    raise _nothing_there(path)
                piece = before
        restored_pieces.append(piece)
    return "".join(restored_pieces)


def _nothing_there(path):
    return RefusedError(
        f"{path[1:] or 'the text'} holds stars in place of a secret, and there is no secret there"
        " that they could stand for: write the secret itself, from a file (NAME=@FILE)"
    )
