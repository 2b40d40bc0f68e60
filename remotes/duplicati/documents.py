"""Documents of people: backups as JSON or YAML, read from files and written as texts.

Guards: that a text of the user's never turns into something else (YAML takes `no`, `1:30`
and `2030-01-01` for what they are not), that a name which stands twice is told, and that
a file's name cannot lead out of its folder. Leaves alone: what the documents mean
(editing.py), encryption (aescrypt.py).
"""

import json
import re

from remotes.errors import UsageError

_MOST_BYTES = 64 << 20
# Names that Windows keeps for itself, whatever follows the dot.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?\Z", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f<>:\"/\\|?*\u2028\u2029\u200e\u200f\u202a-\u202e"
                     r"\ud800-\udfff]+")
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def parse(content, name):
    """The JSON values in `content` (bytes), written as JSON or YAML; `name` is for errors.

    Errors: UsageError, with line and column.
    """
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{name} is larger than {_MOST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is no text in UTF-8 (byte {error.start})") from error
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text, object_pairs_hook=_mapping_of_pairs)
        except RecursionError as error:
            raise UsageError(f"{name} is nested too deeply") from error
        except ValueError:
            pass  # flow style of YAML begins like that, too; its message is the better one
    return parse_yaml(text, name)


def _mapping_of_pairs(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def parse_yaml(text, name):
    """The JSON values in a YAML `text`: texts, numbers, true and false, null, lists, mappings.

    What JSON does not have (dates, octal numbers, yes and no) stays a text. Errors: UsageError.
    """
    import yaml

    try:
        return yaml.load(text, _loader(yaml))
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is not valid YAML: {_place_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not valid YAML: {error}") from error


def _place_of(error):
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return problem if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _loader(yaml):
    """A loader of the values that JSON has; aliases, which can grow without end, are refused."""

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {}

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(None, None, "aliases are not taken",
                                                  event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "a name must be a text", key_node.start_mark)
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key_node.value} stands there twice", key_node.start_mark)
                seen.add(key_node.value)
            return {key.value: self.construct_object(value, deep=True)
                    for key, value in node.value}

    def construct_mapping(loader, node):
        return loader.construct_mapping(node)

    Loader.add_constructor("tag:yaml.org,2002:map", construct_mapping)
    for tag, pattern, first in (
        ("null", r"(?:null|~|)\Z", ["n", "~", ""]), ("bool", r"(?:true|false)\Z", ["t", "f"]),
        ("int", r"-?(?:0|[1-9][0-9]*)\Z", list("-0123456789")),
        ("float", r"-?[0-9]+\.[0-9]+(?:[eE][+-][0-9]+)?\Z", list("-0123456789")),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)
    return Loader


def yaml_text(document, *, width=100):
    """`document` (JSON values) as YAML that `parse` reads as the same; texts that are longer
    than `width` (characters) are folded.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, value):
            return True

    # PyYAML writes some line breaks of Unicode as they are; then everything is escaped.
    is_plain = not _BREAKS.search(json.dumps(document, ensure_ascii=False))
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=is_plain,
                     default_flow_style=False, width=width)


def json_text(document):
    """`document` as indented JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def safe_file_name(text):
    """`text` (a backup's name) as a name that every system takes, and that leads nowhere else."""
    name = _UNSAFE.sub("_", text).strip(" .")
    name = name.encode("utf-8")[:150].decode("utf-8", "ignore").strip(" .")
    if not name or _DEVICES.match(name):
        name = f"_{name}"
    return name
