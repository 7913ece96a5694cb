"""The base of what is read from files and closed: an unknown key is an error, as of a newer version."""

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """A closed and frozen model, built when it is first used; sections of configurations derive from
    `shards.section.Section`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
