"""The configuration section for the read permission of outputs."""

from shards.section import Section
from shards.sharing import Share


class Sharing(Section):
    """The section `privacy` of recipes and of a site file."""

    share: Share | None = None
    """Who may read the outputs: only the owner, the group, or everybody. None: the setting of the site file,
    else at most the group, since volumes and images of heads are patient data."""
