"""The section of a configuration that says who else may read what is written."""

from shards.section import Section
from shards.sharing import Share


class Sharing(Section):
    """The section `privacy` of recipes and of a site file."""

    share: Share | None = None
    """Who else may read what is written: only its owner, the group, or everybody. None: what the site file
    says, else the group at most, since volumes and pictures of heads are patients'."""
