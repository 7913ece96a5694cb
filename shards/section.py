"""A section of a configuration: closed, and recorded in a way that outlives the keys of later versions.

What a digest or a stored record covers must not change because a later version has one more key. A key that
came after 0.1.0 has an earlier value, which does what was done before there was the key, and never changes:
its default, or where that is another, what `Section.earlier` says. The key is recorded only where it has
another value, and a record that lacks it, read by `from_record`, has the earlier one. The keys of 0.1.0 are
always recorded, in its order and under its names.
"""

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from shards.closed import Closed
from shards.renamed import of_section, with_present_names

_RECORD: Any = object()
"""The context of validation that says that a record is read."""


class Section(Closed):
    """Base of all sections; their keys may be given by old names (shards.renamed)."""

    model_config = ConfigDict(allow_inf_nan=False)

    earlier: ClassVar[Mapping[str, Any]] = {}
    """Values of keys that came after 0.1.0, in records that lack them; only of those with another default."""

    @classmethod
    def from_record(cls, values: Any) -> Self:
        """What a file of any version recorded, as JSON's types; raises pydantic.ValidationError."""
        return cls.model_validate(values, context=_RECORD)

    @classmethod
    def from_record_json(cls, text: str | bytes) -> Self:
        """The same of a file's bytes."""
        return cls.model_validate_json(text, context=_RECORD)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # About the whole, so that a section's own validators see present names only.
        return core_schema.with_info_before_validator_function(cls._prepared, handler(source))

    @classmethod
    def _prepared(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        is_record = info.context is _RECORD
        found = with_present_names(cls, values, warn=not is_record)
        return {**cls.earlier, **found} if is_record else found

    def recorded(self, uncovered: Collection[str] = ()) -> dict[str, Any]:
        """The section for a digest or a stored record, as JSON's types.

        The values of `uncovered` keys have no influence: those of 0.1.0 stand as its defaults were.
        """
        first = first_keys(type(self))
        old_names = {new: old for old, new in of_section(type(self)).items() if old in first}
        found, later = dict(first), {}
        for name in sorted(type(self).model_fields):
            recorded_name = old_names.get(name, name)
            if name in uncovered:
                continue
            if recorded_name in first:
                found[recorded_name] = self._recorded(name)
            elif getattr(self, name) != self._earlier(name):
                later[name] = self._recorded(name)
        return found | later

    @classmethod
    def _earlier(cls, name: str) -> Any:
        default = cls.model_fields[name].get_default(call_default_factory=True)
        return cls.earlier.get(name, default)

    def _recorded(self, name: str) -> Any:
        value = getattr(self, name)
        if isinstance(value, Section):
            return value.recorded()
        return self.model_dump(mode="json", include={name})[name]


@cache
def first_keys(cls: type[Section]) -> Mapping[str, Any]:
    """The keys that a section had in 0.1.0, in its order, with its defaults (null where it had none).

    Those of its nearest base class that 0.1.0 knew; none of a section that is newer.
    """
    table = json.loads(Path(__file__).with_name("first_keys.json").read_bytes())
    return next((table[base.__name__] for base in cls.__mro__ if base.__name__ in table), {})
