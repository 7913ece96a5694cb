"""The common path from slices to a finished volume: for tasks, new scans, and other file formats."""

from dataclasses import replace

from preprocess.build.result import BuildResult
from preprocess.config import PreprocessConfig
from preprocess.qc.check import check, require_whole_head
from preprocess.reasons import Rejection
from preprocess.select.candidate import Candidate
from preprocess.select.outcome import as_rejection
from preprocess.volume.build import Volume, build_volume


def make_volume(
    candidate: Candidate, whole: bool, config: PreprocessConfig, name: str = "a series"
) -> BuildResult:
    """Make the volume of a candidate with `build_volume` and `finish_volume`.

    name: the series' name in log lines about defects. Raises FmctError, OSError and MemoryError only for
    failures of the machine.
    """
    try:
        selected = None if candidate.parts else candidate.selected
        volume = build_volume(candidate.series, config.grid, config.select, selected)
        return finish_volume(volume, config, whole)
    except Exception as error:
        return BuildResult(rejection=as_rejection(error, name))


def finish_volume(volume: Volume, config: PreprocessConfig, whole: bool = False) -> BuildResult:
    """Check a volume and, if configured, deface it.

    volume: of `build_volume` or `array_volume`. whole: reject an incomplete head, with IncompleteError.
    Defects of this package are raised.
    """
    spacing, anatomy = config.grid.spacing_mm, config.select.profile
    try:
        seen = anatomy.shown(volume.voxels, spacing, volume.enhanced_by_header)
        flags = check(volume.measures, volume.affine, config.check, anatomy, seen)
        if whole:
            require_whole_head(volume.measures, flags, config.check, anatomy)
    except Rejection as rejection:
        return BuildResult(volume, as_rejection(rejection))
    volume = replace(volume, flags=flags)
    if not config.privacy.deface or not anatomy.deface:
        return BuildResult(volume)
    try:
        voxels = anatomy.deface(volume.voxels, spacing)
    except Rejection as rejection:
        return BuildResult(rejection=as_rejection(rejection))
    facts = volume.facts.model_copy(update={"defaced": True})
    return BuildResult(replace(volume, voxels=voxels, facts=facts), with_face=volume.voxels)
