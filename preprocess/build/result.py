"""The result of building a candidate. A selection needs it, and none of the libraries that build volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preprocess.reasons import IncompleteError, Rejection

if TYPE_CHECKING:
    import numpy as np

    from preprocess.volume.build import Volume


@dataclass(frozen=True)
class BuildResult:
    """The result of a candidate: a volume or a rejection."""

    volume: Volume | None = None
    """Resampled, cropped and measured, with its flags, and defaced if configured. With a rejection, the
    volume that the checks rejected, or None if it was rejected earlier."""
    rejection: Rejection | None = None
    with_face: np.ndarray | None = None
    """int16 HU (D, H, W) before defacing; None if not defaced."""

    @property
    def failed_checks(self) -> bool:
        """Whether a volume was made and the checks rejected it."""
        return bool(self.volume and self.rejection) and not isinstance(self.rejection, IncompleteError)
