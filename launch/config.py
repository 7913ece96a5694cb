"""Reading a configuration: YAML, overridden by section.key=value, validated as a typed model.

YAML reads 2024 as a number, 0123 as 83 and `on` as true. Fields of the model that are paths or text get the
characters as written.
"""

import difflib
import itertools
import math
import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shards.errors import FmctError, raise_refusal
from shards.sharing import share
from shards.sharing_section import Sharing

Model = TypeVar("Model", bound=BaseModel)


def load(model: type[Model], path: Path | None, overrides: list[str]) -> Model:
    """Read `path` (None: only defaults), apply `overrides`, and build `model`.

    If it has `privacy.share`, this applies to all files that this process writes from now on. Raises
    FmctError with one line that names the file or override, the key and what was expected.
    """
    config = _load(model, path, overrides)
    privacy = getattr(config, "privacy", None)
    if isinstance(privacy, Sharing) and privacy.share:
        share(privacy.share)
    return config


def _load(model: type[Model], path: Path | None, overrides: list[str]) -> Model:
    values, written = _read(path) if path else ({}, {})
    overridden = dict(_apply(values, written, override) for override in overrides)
    values = _with_homes(values)
    try:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            if not _restore_text(values, written, overridden, error):
                raise
        return model.model_validate(values)
    except ValidationError as error:
        raise FmctError(_one_line(error, model, path, set(overridden))) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a file, and the same structure with each value as text."""
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise FmctError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, not a configuration file")
        values, written = _parse(path.read_text())
    except FileNotFoundError:
        raise FmctError(f"{path}: no such configuration file; recipes are in launch/recipes") from None
    except (OSError, UnicodeDecodeError) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not readable as a text file ({type(error).__name__})") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter for 2026-99-99
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise FmctError(f"{path}:{line} not valid YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise FmctError(f"{path}: expected `key: value` lines at the top, found a {type(values).__name__}")
    return values, written


def _parse(text: str) -> tuple[Any, Any]:
    """The values of a YAML text, and the same with each value as text; YAMLError or ValueError if invalid."""
    try:
        return yaml.load(text, _Loader), yaml.load(text, yaml.BaseLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None


_MAX_BYTES = 2**24
"""Maximum size of a file: enough for the maximum number of values below."""
_MAX_DIGITS = 18
"""Maximum digits of an integer, which fit into 64 bits: no setting is larger, and more would overflow."""
_MAX_VALUES = 100_000
"""Maximum number of values with aliases expanded: far more than any configuration has, read in a second."""


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, of which SafeLoader would drop the first; reads 5e8 as YAML 1.2 does."""

    def get_single_node(self) -> yaml.Node | None:
        """As SafeLoader; rejects nested aliases that expand to very many values."""
        node: yaml.Node | None = super().get_single_node()
        if node and _values(node, {}) > _MAX_VALUES:
            raise yaml.constructor.ConstructorError(problem=f"more than {_MAX_VALUES} values")
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """As SafeLoader; rejects numbers that no setting can have."""
        if sum(map(str.isalnum, node.value)) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                problem=f"a number of more than {_MAX_DIGITS} digits", problem_mark=node.start_mark
            )
        number: int = super().construct_yaml_int(node)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader; rejects duplicate and non-scalar keys."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem="a list or mapping as a key", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """Number of values in a node with aliases expanded; infinite if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = math.inf
        inner = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain(*node.value)
        known[node] = 1 + sum(_values(one, known) for one in inner)
    return known[node]


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


_SHOWN = 200
"""Maximum characters of an override in a message."""
_INDICATORS = "'\"|>&*!"
"""First characters of YAML text that is not plain (YAML 1.2, 5.3)."""


def _with_homes(value: Any) -> Any:
    """The same value with a leading ~/ expanded as the shell does."""
    if isinstance(value, dict):
        return {key: _with_homes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_homes(inner) for inner in value]
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


def _apply(values: dict[str, Any], written: dict[str, Any], override: str) -> tuple[str, str]:
    """Set one section.key=value in both; the value is read as YAML. Returns the key and the value's text."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise FmctError(f"override {override[:_SHOWN]!r}: expected section.key=value")
    try:
        value, as_written = _parse(text)
    except (yaml.YAMLError, ValueError):
        raise FmctError(f"override {override[:_SHOWN]!r}: the value is not valid YAML") from None
    if isinstance(value, str) and text.lstrip()[0] not in _INDICATORS:  # plain: ` #` begins no comment
        value = as_written = text.strip()
    *sections, last = key.split(".")
    for tree, leaf in ((values, value), (written, as_written)):
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise FmctError(f"override {override[:_SHOWN]!r}: {section} is a value, not a section")
        place[last] = leaf
    return key, text


def _restore_text(values: Any, written: Any, overridden: dict[str, str], error: ValidationError) -> bool:
    """Replace values that should be text by the text as written; returns whether there were any."""
    changed = False
    for detail in error.errors(include_url=False):
        if detail["type"] not in ("path_type", "string_type") or detail["input"] is None:
            continue
        value, text, holder, key = values, written, values, detail["loc"][0]
        try:
            for part in detail["loc"]:
                if isinstance(value, (dict, list)):  # after a value, the location names a union member
                    value, text, holder, key = value[part], text[part], value, part  # type: ignore[index]
        except (LookupError, TypeError):  # another structure than the model's
            continue
        text = overridden.get(".".join(map(str, detail["loc"])), text)
        if isinstance(text, str):
            holder[key] = text
            changed = True
    return changed


def _one_line(error: ValidationError, model: type[BaseModel], path: Path | None, overridden: set[str]) -> str:
    details = _without_echoes(error.errors(include_url=False))
    first = details[0]
    # Below an overridden key, the location continues with the key or index within its value.
    key = ".".join(str(part) for part in first["loc"])
    above = any(key == given or key.startswith(f"{given}.") for given in overridden)
    if first["type"] == "extra_forbidden":  # a section that only an override has
        above |= any(given.startswith(f"{key}.") for given in overridden)
    source = f"override {key}" if above else f"{path or 'defaults'}: {key}"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    message = f"{source}: {_expectation(first, model)}{more}".replace(": : ", ": ")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def _without_echoes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors without those of lists that are too short only because an item of theirs is invalid."""
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    return [one for one in details if one["type"] != "too_short" or one["loc"] not in inner]


def _expectation(detail: ErrorDetails, model: type[BaseModel]) -> str:
    if detail["type"] == "extra_forbidden":
        known = _keys(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key, expected one of {', '.join(known)}{guess}" if known else "unknown key"
    if detail["type"] == "missing":
        return "missing, and there is no default"
    if detail["type"] == "too_short":  # pydantic speaks of tuples, of items and of their number twice
        return f"expected at least {detail['ctx']['min_length']} of them, not {len(detail['input'])}"
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if isinstance(detail["input"], dict) else f", not {detail['input']!r}"
    return f"{message[0].lower()}{message[1:]}{given}"


def _keys(model: type[BaseModel], sections: tuple[int | str, ...]) -> list[str]:
    """The keys of a (nested) section; empty if they are not known."""
    annotation: Any = model
    for section in sections:
        annotation = _inner(annotation, section)
    return next((list(model.model_fields) for model in _models(annotation)), [])


def _inner(annotation: Any, section: int | str) -> Any:
    """The type at a key or index in a value of a type; None if it is not known."""
    for model in _models(annotation):
        if section in model.model_fields:
            return model.model_fields[str(section)].annotation
    for candidate in (annotation, *get_args(annotation)):
        if get_origin(candidate) in (dict, list, tuple):
            return next(inner for inner in reversed(get_args(candidate)) if inner is not Ellipsis)
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections among a type and the members of a union."""
    candidates = (annotation, *get_args(annotation))
    if get_origin(annotation) in (dict, list, tuple):
        return []
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
