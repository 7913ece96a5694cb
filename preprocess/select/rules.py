"""The configuration of series selection; docs/recipes.md explains each rule."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from preprocess.anatomy.head import HEAD
from preprocess.anatomy.profile import BESIDE, Anatomy
from preprocess.anatomy.registry import ANATOMIES, AnatomyName
from preprocess.select.combinations import Table
from preprocess.select.lexicon import Lexicon, lexicon
from preprocess.select.terms import Terms
from shards.schema import KernelClass
from shards.section import Section


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    return pattern


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("expected [minimum, maximum]")
    return limits


def _distinct(criteria: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(criteria)) < len(criteria):
        raise ValueError("expected each criterion once")
    return criteria


Pattern = Annotated[str, AfterValidator(_compiles)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Criterion = Literal["kernel", "thinnest", "widest"]

# This pattern of 0.1.0, part of stored digests, is now the name of the rule that replaced it.
OTHER_BODY_PART = (
    r"^(?!.*(head|brain|skull|crani|neuro|cerebr|stroke|trauma|kopf|sch[aä]del))"
    r".*(chest|thora|lung|cardiac|heart|coronar(y|ies)|aort|abdom|pelvi|liver|renal|kidney|urogra|colono"
    r"|spine|spinal|cervical|lumbar|sacr|shoulder|elbow|wrist|\bhands?\b|\bhips?\b|femur|knee|ankle"
    r"|\bfoot\b|extremit)"
)
"""Texts that name another body part and no part of the head, by the table of terms."""


class Patterns(Section):
    """Regular expressions searched in one header text, ignoring case."""

    include: tuple[Pattern, ...] = ()
    """If given, one of them must match. A missing text is empty and matches `^$`."""
    exclude: tuple[Pattern, ...] = ()
    """None of these may match."""

    def objection(self, text: str) -> str | None:
        """Why `text` is rejected, in one line that does not quote it, or None."""
        for pattern in self.exclude:
            if pattern != OTHER_BODY_PART and re.search(pattern, text, re.IGNORECASE):
                return f"exclude: {_short(pattern)}"
        if self.include and not any(re.search(pattern, text, re.IGNORECASE) for pattern in self.include):
            return f"matches none of {len(self.include)} include patterns"
        return None


def _short(pattern: str, length: int = 60) -> str:
    return pattern if len(pattern) <= length else f"{pattern[: length - 3]}..."


class HeadPatterns(Patterns):
    """Patterns for a text that names a body part."""

    exclude: tuple[Pattern, ...] = (OTHER_BODY_PART,)
    """Head protocols are filed under many names, but "chest" alone never names a head."""

    def described(self, text: str, lexicon: Lexicon, of_a_series: bool) -> str | None:
        """As `objection`, for a text in any language of the table."""
        meanings = lexicon.meanings(text, "body")
        elsewhere = {"other", BESIDE} if of_a_series else {"other"}
        if OTHER_BODY_PART in self.exclude and meanings & elsewhere and not meanings - {"other", BESIDE}:
            return "names another body part"
        return self.objection(text)


def anatomy_of(select: Any) -> Anatomy:
    """The anatomy named in a recipe's section `select`, or HEAD; the section need not be valid."""
    name = select.get("anatomy", HEAD.name) if isinstance(select, dict) else getattr(select, "anatomy", None)
    return ANATOMIES.get(name, HEAD) if isinstance(name, str) else HEAD


class SelectConfig(Section):
    """Which series become volumes; DICOM tags are in brackets."""

    anatomy: AnatomyName = HEAD.name
    """The body part (preprocess.anatomy): its terms, sizes and checks, and the defaults of other keys."""
    modality: Literal["CT"] = "CT"
    """(0008,0060). Everything else is in Hounsfield units, which only CT has."""
    body_part: HeadPatterns = HeadPatterns()
    """Body Part Examined (0018,0015): often empty or a scanner's preset, so nothing is required of it."""
    study_description: HeadPatterns = HeadPatterns()
    """(0008,1030)."""
    series_description: HeadPatterns = HeadPatterns()
    """(0008,103E)."""
    protocol: HeadPatterns = HeadPatterns()
    """Protocol Name (0018,1030)."""
    image_type: Patterns = Patterns()
    """Image Type (0008,0008), its values joined by backslashes; the kinds below do not need a pattern."""
    allow_derived: bool = False
    """Reformats, projections and averages repeat an acquisition; allow them if nothing else was archived."""
    contrast: Literal["without", "with", "any"] = "without"
    """The reference's volumes are non-contrast. By series description and Contrast/Bolus attributes."""
    unknown_contrast: Literal["without", "neither"] = "without"
    """How to treat a series if no text states its contrast. Most texts of plain heads do not, so "neither"
    leaves few series; `fmct select` lists the texts that no term matched at the end."""
    terms: Terms = ()
    """A site's terms in addition to preprocess/select/terms.csv, listed or as the path of such a CSV."""
    kvp_range: Range = (80.0, 150.0)
    """The filter of the reference (KVP 0018,0060)."""
    kev_range: Range = (60.0, 100.0)
    """Virtual monoenergetic images: in this range soft tissue has about its values at 120 kV, and iodine
    less than twice its value (images without an energy are rejected). Other scans of the study rank first."""
    kernels: Annotated[tuple[KernelClass, ...], Field(min_length=1)] = ("soft", "unknown")
    """Best first. Bone kernels amplify noise in brain; nearly all studies have a soft reconstruction too."""
    table: Table | None = None
    """A CSV of accepted study_description, kvp, kernel, like the reference's 408 rows; required if given."""
    thickness_range_mm: Range = (0.2, 10.0)
    """Slice Thickness (0018,0050): from the finest detector to the coarsest clinical head; more is a slab."""
    min_slices: Annotated[int, Field(ge=2)] = HEAD.select["min_slices"]
    """A head at the coarsest clinical spacing, 10 mm, still has over 10 slices."""
    max_slices: Annotated[int, Field(ge=2)] = HEAD.select["max_slices"]
    """300 mm at 0.2 mm; each slice of 512² takes 0.5 MiB of a worker's memory during decoding."""
    max_slice_gap_mm: Annotated[float, Field(gt=0)] = 10.0
    """Interpolating across more than one thick slice invents anatomy."""
    min_coverage_mm: Annotated[float, Field(gt=0)] = HEAD.select["min_coverage_mm"]
    """Half of an adult head's height; less is a partial scan."""
    max_coverage_mm: Annotated[float, Field(gt=0)] = HEAD.select["max_coverage_mm"]
    """A head with the whole neck; more is a body scan."""
    max_obliquity_deg: Annotated[float, Field(ge=0, le=90)] = 90.0
    """Largest angle of the slice normal to the long axis: 90 accepts any plane, as the resampler does,
    because reformats are detected within the study (preprocess.select.study); 45 is axial only."""
    join: bool = True
    """Skull base and vault stored as separate series become one volume (preprocess.select.join)."""
    keep: Literal["best", "all"] = "best"
    """Volumes kept per study: reconstructions of one scan are near copies and would overweight patients."""
    prefer: Annotated[tuple[Criterion, ...], AfterValidator(_distinct)] = ("kernel", "thinnest", "widest")
    """Criteria for the best series of a study, most important first (preprocess.select.candidate)."""

    @property
    def lexicon(self) -> Lexicon:
        """The built-in terms and the site's."""
        return lexicon(self.terms, self.anatomy)

    @property
    def profile(self) -> Anatomy:
        """The profile of its anatomy."""
        return ANATOMIES[self.anatomy]

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_anatomy(cls, values: Any) -> Any:
        profile = anatomy_of(values)
        if profile is HEAD or not isinstance(values, dict):
            return values
        return {**profile.select, **values}

    @model_validator(mode="after")
    def _something_passes(self) -> "SelectConfig":
        for what in ("slices", "coverage_mm"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low > high:
                raise ValueError(f"min_{what}={low:g} is above max_{what}={high:g}: no series could pass")
        return self
