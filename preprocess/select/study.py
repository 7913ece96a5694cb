"""Selection of a study: compares its series, and ranks the candidates for volumes, best first.

A pure function of headers: preprocess.build makes volumes from its result.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from preprocess.dicom.catalog import Instance, Series, SeriesKey
from preprocess.dicom.geometry import AXIAL_DEG, has_geometry, is_axial
from preprocess.reasons import Reason, Rejection
from preprocess.select.candidate import Candidate, ranked
from preprocess.select.image_kind import kind
from preprocess.select.join import find_joins
from preprocess.select.outcome import Selection, SeriesDecision, as_rejection, with_rejections
from preprocess.select.rejected import refusal_of
from preprocess.select.rules import SelectConfig
from preprocess.select.series import Selected, require_whole, usable
from preprocess.select.single_image_series import with_explanations


def studies(series: Iterable[Series]) -> list[list[Series]]:
    """Series grouped by study, in the order of each study's first series.

    A study is identified by Patient ID and UID, because careless anonymisation reuses study UIDs.
    """
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        groups.setdefault((one.patient_id, one.study_uid), []).append(one)
    return list(groups.values())


def select_study(
    series: Sequence[Series],
    config: SelectConfig,
    refused: Mapping[SeriesKey, Rejection] = MappingProxyType({}),
) -> Selection:
    """Decide by headers on all series of one study; no two of them share their UIDs.

    refused: series divided between patients (preprocess.select.divided).
    """
    judged = tuple(
        SeriesDecision(one, refused[one.key]) if one.key in refused else _judge_alone(one, config)
        for one in series
    )
    try:
        judged = with_rejections(judged, _reformats(judged))
        singles = [(one.series, one.usable) for one in judged if one.usable and not one.rejection]
        joins = find_joins(singles, config) if config.join else []
        alone = _alone(singles, config)
        failed = [(one, candidate) for one, candidate in alone if isinstance(candidate, Rejection)]
        judged = with_rejections(judged, failed)
        candidates = _in_order(
            joins, [candidate for _, candidate in alone if isinstance(candidate, Candidate)], config
        )
    except Exception as error:  # a defect of this package rejects this study only
        rejection = as_rejection(error, "a study")
        return Selection(tuple(replace(one, rejection=one.rejection or rejection) for one in judged), ())
    return Selection(with_explanations(judged), candidates)


def _alone(
    singles: Iterable[tuple[Series, Selected]], config: SelectConfig
) -> list[tuple[Series, Candidate | Rejection]]:
    """Each series as a separate candidate, or its rejection."""
    results: list[tuple[Series, Candidate | Rejection]] = []
    for one, selected in singles:
        try:
            require_whole(selected, config)
            results.append((one, Candidate(one, selected)))
        except Exception as error:
            results.append((one, as_rejection(error)))
    return results


def _in_order(
    joins: Sequence[Candidate], alone: Sequence[Candidate], config: SelectConfig
) -> tuple[Candidate, ...]:
    """Best first. A part of a joined head is a candidate alone only if the joined one cannot be built."""
    parts = {key for joined in joins for key in joined.keys}
    wholes = [*joins, *(one for one in alone if one.series.key not in parts)]
    return (*ranked(wholes, config), *ranked([one for one in alone if one.series.key in parts], config))


def _judge_alone(one: Series, config: SelectConfig) -> SeriesDecision:
    refusal = refusal_of(one)
    if refusal:
        return SeriesDecision(one, refusal)
    try:
        return SeriesDecision(one, usable=usable(one, config))
    except Exception as error:
        return SeriesDecision(one, as_rejection(error))


def _reformats(study: Sequence[SeriesDecision]) -> Iterator[tuple[Series, Rejection]]:
    """Coronal and sagittal series in a frame of reference that has an axial acquisition.

    The table moves along the patient's axis, so scanners acquire axial images, tilted by some degrees. If the
    study has one, another plane in the same Frame of Reference was computed from it.
    """
    for judged in study:
        one = judged.series
        degrees = judged.usable.slices.obliquity_deg if judged.usable else 0.0
        if degrees > AXIAL_DEG and any(
            _is_axial_acquisition(other.series, one.frame_of_reference_uid) for other in study
        ):
            detail = f"{degrees:.0f} degrees from an axial series of the same frame of reference"
            yield one, Rejection(Reason.REFORMAT, detail)


def _is_axial_acquisition(series: Series, frame_of_reference_uid: str) -> bool:
    return series.frame_of_reference_uid == frame_of_reference_uid != "" and any(
        instance.modality == "CT" and kind(instance) is None and _lies_axial(instance)
        for instance in series.instances
    )


def _lies_axial(instance: Instance) -> bool:
    try:
        return has_geometry(instance) and is_axial(instance, AXIAL_DEG)
    except Rejection:
        return False
