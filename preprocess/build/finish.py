"""One way from slices to a volume that is used: for tasks, new scans, and files of other formats."""

from dataclasses import dataclass, replace

import numpy as np

from preprocess.config import PreprocessConfig
from preprocess.qc.check import check, require_whole_head
from preprocess.reasons import IncompleteError, Rejection
from preprocess.select.candidate import Candidate
from preprocess.select.outcome import as_rejection
from preprocess.volume.build import Volume, build_volume


@dataclass(frozen=True)
class Made:
    """What came of a candidate: a volume, or a rejection."""

    volume: Volume | None = None
    """Resampled, cropped and measured, with its flags and, where that is configured, defaced. With a
    rejection it is as the checks saw it; None where they saw none."""
    rejection: Rejection | None = None
    with_face: np.ndarray | None = None
    """int16 HU (D, H, W) before defacing; None where nothing was defaced."""

    @property
    def failed_checks(self) -> bool:
        """Was there a volume, which the checks reject?"""
        return bool(self.volume and self.rejection) and not isinstance(self.rejection, IncompleteError)


def make_volume(candidate: Candidate, whole: bool, config: PreprocessConfig, name: str = "a series") -> Made:
    """The volume of a candidate, by `build_volume` and `finish_volume`.

    name: what a log line about a defect calls the series. Raises FmctError, OSError and MemoryError for
    failures of the machine alone.
    """
    try:
        return finish_volume(build_volume(candidate.series, config.grid, config.select), config, whole)
    except Exception as error:
        return Made(rejection=as_rejection(error, name))


def finish_volume(volume: Volume, config: PreprocessConfig, whole: bool = False) -> Made:
    """Check a volume and, where that is configured, deface it.

    volume: of `build_volume` or `array_volume`. whole: reject one of a head that is incomplete, by
    IncompleteError. Defects of ours are raised.
    """
    spacing, anatomy = config.grid.spacing_mm, config.select.profile
    try:
        seen = anatomy.shown(volume.voxels, spacing, volume.told_enhanced)
        flags = check(volume.measures, volume.affine, config.check, anatomy, seen)
        if whole:
            require_whole_head(volume.measures, flags, config.check, anatomy)
    except Rejection as rejection:
        return Made(volume, rejection)
    volume = replace(volume, flags=flags)
    if not config.privacy.deface or not anatomy.deface:
        return Made(volume)
    try:
        voxels = anatomy.deface(volume.voxels, spacing)
    except Rejection as rejection:
        return Made(rejection=rejection)
    facts = volume.facts.model_copy(update={"defaced": True})
    return Made(replace(volume, voxels=voxels, facts=facts), with_face=volume.voxels)
