"""A configuration section without unknown keys, whose stored records stay valid when keys are added.

A new key must not change the content of a digest or a stored record. A key that came after 0.1.0 has an
earlier value, which keeps the behaviour before the key existed and never changes: the default, or the value
in `Section.earlier` if the default differs. The key is recorded only if it has another value; `from_record`
gives a record without the key the earlier value. The keys of 0.1.0 are always recorded, in the order and
under the names of 0.1.0.
"""

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from shards.closed import Closed
from shards.renamed_keys import of_section, with_present_names

_RECORD: Any = object()
"""The validation context for reading a record."""


class Section(Closed):
    """Base of all sections; keys may be given under old names (shards.renamed_keys)."""

    model_config = ConfigDict(allow_inf_nan=False)

    earlier: ClassVar[Mapping[str, Any]] = {}
    """Values of keys newer than 0.1.0 for records that lack them, if they differ from the default."""

    @classmethod
    def from_record(cls, values: Any) -> Self:
        """Read a record of any version, given as JSON types; raises pydantic.ValidationError."""
        return cls.model_validate(values, context=_RECORD)

    @classmethod
    def from_record_json(cls, text: str | bytes) -> Self:
        """Like `from_record`, from the bytes of a JSON file."""
        return cls.model_validate_json(text, context=_RECORD)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Wraps the whole schema, so that a section's own validators see present names only.
        return core_schema.with_info_before_validator_function(cls._prepared, handler(source))

    @classmethod
    def _prepared(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        is_record = info.context is _RECORD
        prepared = with_present_names(cls, values, warn=not is_record)
        return {**cls.earlier, **prepared} if is_record else prepared

    def recorded(self, uncovered: Collection[str] = ()) -> dict[str, Any]:
        """The section for a digest or a stored record, as JSON types.

        The values of `uncovered` keys do not matter: keys of 0.1.0 get the defaults of 0.1.0.
        """
        first = first_keys(type(self))
        old_names = {new: old for old, new in of_section(type(self)).items() if old in first}
        record, later = dict(first), {}
        for name in sorted(type(self).model_fields):
            recorded_name = old_names.get(name, name)
            if name in uncovered:
                continue
            if recorded_name in first:
                record[recorded_name] = self._recorded(name)
            elif getattr(self, name) != self._earlier(name):
                later[name] = self._recorded(name)
        return record | later

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
    """The keys of a section in 0.1.0, in order, with their defaults (null without a default).

    They are those of the nearest base class that existed in 0.1.0; empty for newer sections.
    """
    table = json.loads(Path(__file__).with_name("first_keys.json").read_bytes())
    return next((table[base.__name__] for base in cls.__mro__ if base.__name__ in table), {})
