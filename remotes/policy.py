"""The policy: what the owner of this host lets a task do.

Guards: that the first rule that matches decides, and the table of operations where none does;
that passwords leave only by a rule of their own; that a slip in a rule (a name that is not
known, a rule that could never match) is an error and not a rule that is passed over; that a
rule that denies knows a name however it is written (capitals, forms of Unicode, spaces around
it), and one that allows only as it stands; that nobody but the owner can write the rules.
Leaves alone: reading the config (options), what a task is (operations), and the names of
backups, which the caller looks up.

Source: protocol page of the task server, "Policy".
"""

import os
import re
import stat
from collections import namedtuple

from remotes.errors import SettingsError
from remotes.operations import OPERATIONS, nearest

# Exports of passwords: an operation to the rules alone.
PASSWORDS = "export_passwords"
BY_DEFAULT = "by default"
_ALL = "all"
_KEYS = ("allow", "deny", "types", "ids", "names", "hours", "reason")
_HOURS = re.compile(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)", re.ASCII)
_TYPES = tuple(dict.fromkeys(one for kind in OPERATIONS.values() for one in kind.types))
# Those that are looked up by a name; and those that have no ID, since they mean all of a kind.
_NAMED = ("backup", "database")
_WHOLE = tuple(one for kind in OPERATIONS.values() if kind.wants == "type" for one in kind.types)

# `words`: what it says of which operations ("deny delete"). `operations`: their names. `types`,
# `ids`, `names`: texts, None if it does not look at them. `hours`: (first minute of the day, minute
# after the last), or None. `names` of a rule that denies are folded.
Rule = namedtuple("Rule", "number words is_allowing operations types ids names hours reason")


class Verdict(namedtuple("Verdict", "is_allowed rule reason")):
    """Whether a task may be done, the `rule` that says so ("by default"), its `reason` or ""."""

    __slots__ = ()

    @property
    def message(self):
        """"refused by rule 2 (deny delete): not on this host", one line."""
        by = self.rule if self.rule == BY_DEFAULT else f"by {self.rule}"
        return f"{'allowed' if self.is_allowed else 'refused'} {by}" \
            + (f": {self.reason}" if self.reason else "")


class Policy:
    """The `rules` in their order; without any, the table of operations."""

    def __init__(self, rules=()):
        self.rules = tuple(rules)

    @classmethod
    def read(cls, section, where=None):
        """The Policy in the section `policy` of the config `where` (its path, or None).

        Errors: SettingsError, which names the place.
        """
        place = "policy" if where is None else f"{where}: policy"
        section = {} if section is None else section
        _require(isinstance(section, dict), f"{place} must be a mapping with `tasks`")
        _check_names(section, ("tasks",), place)
        listed = section.get("tasks")
        listed = [] if listed is None else listed
        _require(isinstance(listed, list), f"{place}: tasks must be a list of rules")
        return cls(_rule(said, number, f"{place}: tasks: rule {number}")
                   for number, said in enumerate(listed, 1))

    @property
    def needs_names(self):
        """Whether a rule looks at IDs or names: then both must be known for a verdict."""
        return any(rule.ids is not None or rule.names is not None for rule in self.rules)

    def verdict(self, operation, type, ids, name, now, passwords=False):
        """The Verdict on a key of OPERATIONS, done to one resource.

        `type`: its Type, None if there is none. `ids`: texts by which it is known, () for none;
        `name`: text or None. `now`: datetime of this host's clock, of which the time of day counts.
        `passwords`: whether an export holds them.
        """
        where = (type, {_id_text(one) for one in ids}, name, now.hour * 60 + now.minute)
        rule = self._first(operation, *where)
        if rule is not None:
            found = _by(rule)
        elif OPERATIONS[operation].is_allowed:
            found = Verdict(True, BY_DEFAULT, "")
        else:
            found = Verdict(False, BY_DEFAULT, f"{operation} is refused unless a rule allows it")
        return self._with_passwords(found, where) if passwords else found

    def _with_passwords(self, found, where):
        """The Verdict on an export with passwords, of which `found` is that on the export."""
        if not found.is_allowed and found.rule != BY_DEFAULT:
            return found
        rule = self._first(PASSWORDS, *where)
        if rule is not None:
            return _by(rule) if found.is_allowed or not rule.is_allowing else found
        return Verdict(False, BY_DEFAULT,
                       f"passwords are refused unless a rule allows {PASSWORDS}" if found.is_allowed
                       else f"{PASSWORDS} is refused unless a rule allows it, and so is export")

    def _first(self, operation, type, ids, name, minute):
        """The first rule that matches, or None."""
        for rule in self.rules:
            if operation in rule.operations \
                    and (rule.types is None or type in rule.types) \
                    and (rule.ids is None or not rule.ids.isdisjoint(ids)) \
                    and (rule.names is None or _names(rule, name)) \
                    and (rule.hours is None or _is_within(minute, *rule.hours)):
                return rule
        return None


def _by(rule):
    return Verdict(rule.is_allowing, f"rule {rule.number} ({rule.words})", rule.reason)


def _names(rule, name):
    """Whether it names `name`: as it stands to allow, in any form to deny."""
    return (name if rule.is_allowing or name is None else _folded(name)) in rule.names


def _folded(name):
    """A name as one compares it who reads it: "STRASSE " is "Straße"."""
    import unicodedata

    text = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", text).strip()


def _is_within(minute, first, after):
    if first < after:
        return first <= minute < after
    return minute >= first or minute < after


def _id_text(said):
    """An ID as tasks have it: 3, "3" and "03" are the same."""
    text = str(said)
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


def check_owner(status, path):
    """SettingsError if the config `path`, of which `status` is the os.stat_result, can be
    written by others than root and this user. POSIX only.
    """
    if os.name == "nt":
        return
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"{path} belongs to user {status.st_uid}: the policy of a host must"
                            " belong to root or to the user of the client")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{path} can be written by others, who could change the policy:"
                            f" chmod go-w {path}")


# -- reading rules -------------------------------------------------------------------------

def _require(is_right, message):
    if not is_right:
        raise SettingsError(message)


def _check_names(document, names, place):
    for name in document:
        _require(name in names, f"{place}: unknown name {name}{nearest(str(name), names)}")


def _rule(said, number, place):
    _require(isinstance(said, dict), f"{place} must be a mapping with `allow` or `deny`")
    _check_names(said, _KEYS, place)
    verbs = [verb for verb in ("allow", "deny") if verb in said]
    _require(len(verbs) == 1, f"{place} must have either `allow` or `deny`")
    verb = verbs[0]
    named = _texts(said, verb, place)
    known = (*OPERATIONS, PASSWORDS, _ALL)
    for name in named:
        _require(name in known, f"{place}: {verb}: unknown operation {name}{nearest(name, known)}")
    operations = {*named} - {_ALL} | (set(OPERATIONS) if _ALL in named else set())
    types = _texts(said, "types", place)
    for name in types or ():
        _require(name in _TYPES, f"{place}: types: unknown type {name}{nearest(name, _TYPES)}")
    ids = _texts(said, "ids", place, numbers=True)
    names = _texts(said, "names", place)
    _check_reach(named, types, ids, names, place)
    if names is not None and verb == "deny":
        names = map(_folded, names)
    return Rule(number, f"{verb} {', '.join(named)}", verb == "allow", frozenset(operations),
                _set(types), _set(ids and map(_id_text, ids)), _set(names), _hours(said, place),
                _reason(said, place))


def _set(texts):
    return None if texts is None else frozenset(texts)


def _texts(said, key, place, *, numbers=False):
    """A text or a list of them as a list, None if `key` is not said."""
    if key not in said:
        return None
    listed = said[key] if isinstance(said[key], list) else [said[key]]
    is_right = all(isinstance(one, str) and one.strip()
                   or numbers and isinstance(one, int) and not isinstance(one, bool)
                   for one in listed)
    _require(listed and is_right, f"{place}: {key} must be "
             + ("numbers or texts" if numbers else "a text or a list of texts"))
    return [str(one) for one in listed]


def _check_reach(named, types, ids, names, place):
    """SettingsError if the rule could never match one of the operations or types that it names."""
    kinds = [OPERATIONS["export" if name == PASSWORDS else name] for name in named if name != _ALL]
    for kind in kinds:
        has_things = kind.wants not in ("none", "type")
        _require(has_things or not ids and not names, f"{place}: {kind.name} names nothing that has"
                 " an ID or a name: give it a rule without `ids` and `names`")
        _require(not names or set(kind.types) & set(_NAMED), f"{place}: {kind.name} names nothing"
                 " that has a name: give it a rule without `names`")
        _require(kind.types or not types, f"{place}: {kind.name} names no resource: give it a rule"
                 " without `types`")
        _require(types is None or set(kind.types) & set(types),
                 f"{place}: types: {kind.name} takes {', '.join(kind.types)}")
    reached = _TYPES if _ALL in named else [one for kind in kinds for one in kind.types]
    for name in types or ():
        _require(name in reached, f"{place}: types: none of its operations takes {name}"
                 + nearest(name, reached))
        _require(not ids and not names or name not in _WHOLE, f"{place}: types: {name} has neither"
                 " an ID nor a name: give it a rule without `ids` and `names`")
        _require(not names or name in _NAMED, f"{place}: types: a {name} has no name: give it a"
                 " rule without `names`")


def _hours(said, place):
    if "hours" not in said:
        return None
    found = _HOURS.fullmatch(said["hours"].strip()) if isinstance(said["hours"], str) else None
    wanted = f'{place}: hours must be two times of the day: "22:00-06:00"'
    _require(found is not None, wanted)
    hours = [int(number) for number in found.groups()]
    first, after = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    _require(max(hours[1], hours[3]) < 60 and first < 1440 and after <= 1440, wanted)
    _require(first != after, f"{place}: hours must have two ends that differ")
    return first, after


def _reason(said, place):
    if "reason" not in said:
        return ""
    _require(isinstance(said["reason"], str), f"{place}: reason must be a text")
    return " ".join(said["reason"].split())
