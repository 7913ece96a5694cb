"""Base of the models that are read from files: an unknown key, as of a newer version, is an error."""

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """A frozen model without unknown keys, built on first use; configuration sections derive from
    `shards.section.Section` instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
