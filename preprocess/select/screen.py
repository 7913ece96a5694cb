"""Rules for a single series and each of its instances, by their own header facts."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial

from preprocess.dicom.catalog import Instance, Series, Texts, texts_of
from preprocess.dicom.geometry import has_geometry, is_axial, is_within_reach, lacking
from preprocess.reasons import Reason, Rejection
from preprocess.select.contrast import any_contrast
from preprocess.select.image_kind import described_kind, energy_kev, is_monoenergetic, kind
from preprocess.select.kernels import sharpness
from preprocess.select.lexicon import Lexicon
from preprocess.select.rules import SelectConfig

Verdict = tuple[Reason, str] | None
"""The failed rule with its numbers, or None."""


def screen(series: Series, config: SelectConfig) -> tuple[list[Instance], Counter[Reason]]:
    """The instances that pass all rules, and the number of left-out ones by reason.

    Raises Rejection with the reason of the first rule that no instance passes.
    """
    total = len(series.instances)
    dropped = Counter[Reason]()
    kept = _passing(series.instances, partial(_kind, config=config), total, dropped)
    lexicon = config.lexicon
    objections = {texts: _objection(texts, config, lexicon) for texts in texts_of(kept)}
    kept = _passing(kept, lambda instance: objections[instance.texts], total, dropped)
    _require_contrast(texts_of(kept), config, lexicon)
    for rule in (
        partial(_in_table, config=config),
        partial(_energy, config=config, lexicon=lexicon),
        partial(_acquisition, config=config, lexicon=lexicon),
        partial(_placement, config=config),
    ):
        kept = _passing(kept, rule, total, dropped)
    return kept, dropped


def _passing(
    instances: Sequence[Instance], rule: Callable[[Instance], Verdict], total: int, dropped: Counter[Reason]
) -> list[Instance]:
    """The instances that pass a rule; the others are counted in `dropped`, unless none is left."""
    verdicts = [rule(instance) for instance in instances]
    failed = Counter(verdict for verdict in verdicts if verdict)
    kept = [instance for instance, verdict in zip(instances, verdicts, strict=True) if not verdict]
    if not kept:
        (reason, numbers), count = min(failed.items(), key=lambda item: (-item[1], item[0]))
        raise Rejection(reason, f"{count} of {total} instances" + (f": {numbers}" if numbers else ""))
    for (reason, _), count in failed.items():
        dropped[reason] += count
    return kept


def _objection(texts: Texts, config: SelectConfig, lexicon: Lexicon) -> Verdict:
    """The first text of an image that the configuration rejects."""
    named = described_kind(texts.series_description, lexicon)
    if named and not (named is Reason.DERIVED and config.allow_derived):
        return named, "by the series description"
    body = (
        (Reason.BODY_PART, config.body_part, texts.body_part),
        (Reason.STUDY_DESCRIPTION, config.study_description, texts.study_description),
        (Reason.SERIES_DESCRIPTION, config.series_description, texts.series_description),
        (Reason.PROTOCOL, config.protocol, texts.protocol),
    )
    for reason, patterns, text in body:
        if lexicon.meanings(text, "phantom"):
            return Reason.PHANTOM, f"by {reason}"
        objection = patterns.described(text, lexicon, reason is Reason.SERIES_DESCRIPTION)
        if objection:
            return reason, objection
    return None


def _require_contrast(texts: Collection[Texts], config: SelectConfig, lexicon: Lexicon) -> None:
    """Raise Rejection unless the contrast of images with these texts is as configured."""
    if config.contrast == "any":
        return
    enhanced = any_contrast(texts, lexicon)
    if enhanced is None and config.unknown_contrast == "neither":
        raise Rejection(Reason.UNKNOWN_CONTRAST, "no text states whether contrast was given")
    if bool(enhanced) != (config.contrast == "with"):
        reason = Reason.CONTRAST if config.contrast == "without" else Reason.NO_CONTRAST
        raise Rejection(reason, f"contrast: {config.contrast} is required")


def _kind(instance: Instance, config: SelectConfig) -> Verdict:
    reason = kind(instance)
    if instance.modality != config.modality and reason is not Reason.DOSE_REPORT:
        reason = Reason.NOT_CT
    if reason and not (reason is Reason.DERIVED and config.allow_derived):
        return reason, ""
    objection = config.image_type.objection("\\".join(instance.image_type))
    return (Reason.IMAGE_TYPE, objection) if objection else None


def _in_table(instance: Instance, config: SelectConfig) -> Verdict:
    table = config.table
    if table is None or table.allows(instance.texts.study_description, instance.kvp, instance.kernel):
        return None
    return Reason.NOT_IN_TABLE, f"matches none of {len(table.rows)} rows of the table"


def _energy(instance: Instance, config: SelectConfig, lexicon: Lexicon) -> Verdict:
    if not is_monoenergetic(instance, lexicon):
        return None
    energy = energy_kev(instance)
    if energy is None:
        return Reason.SPECTRAL, "a monoenergetic image without a stated keV"
    if _within(energy, config.kev_range):
        return None
    return Reason.SPECTRAL, f"{energy:g} keV, outside {_written(config.kev_range)}"


_KERNEL_REASONS = {
    "bone": Reason.BONE_KERNEL,
    "soft": Reason.SOFT_KERNEL,
    "unknown": Reason.UNKNOWN_KERNEL,
}


def _acquisition(instance: Instance, config: SelectConfig, lexicon: Lexicon) -> Verdict:
    # Software that does not know voltage or thickness omits them or writes 0.
    if instance.kvp and not _within(instance.kvp, config.kvp_range):
        return Reason.KVP_OUT_OF_RANGE, f"{instance.kvp:g} kV, outside {_written(config.kvp_range)}"
    if instance.thickness and not _within(instance.thickness, config.thickness_range_mm):
        thickness = f"{instance.thickness:g} mm, outside {_written(config.thickness_range_mm)}"
        return Reason.THICKNESS_OUT_OF_RANGE, thickness
    sharpness_ = sharpness(instance, lexicon)
    if sharpness_ in config.kernels:
        return None
    return _KERNEL_REASONS[sharpness_], f"{sharpness_}, not {' or '.join(config.kernels)}"


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _written(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _placement(instance: Instance, config: SelectConfig) -> Verdict:
    if not has_geometry(instance):
        return Reason.MISSING_GEOMETRY, lacking(instance)
    if not is_within_reach(instance):
        return Reason.INVALID_GEOMETRY, "the position, matrix or field of view exceeds that of any scanner"
    try:
        if is_axial(instance, config.max_obliquity_deg):
            return None
    except Rejection as rejection:
        return rejection.reason, rejection.detail
    return Reason.NOT_AXIAL, f"more than {config.max_obliquity_deg:g} degrees from the long axis"
