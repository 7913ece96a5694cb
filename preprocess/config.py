"""The configuration of preprocessing: which series are kept, and the form of stored volumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from preprocess.anatomy.head import HEAD
from preprocess.reasons import Reason
from preprocess.select.rules import Range, SelectConfig, anatomy_of
from shards.format_names import ShardFormat
from shards.info import preprocessing_digest
from shards.preprocessing import BESIDE
from shards.section import Section
from shards.sharing_section import Sharing

Spacing = Annotated[float, Field(ge=0.1, le=20)]
"""mm: no scanner resolves less, and a head of fewer than ten voxels shows nothing."""


class GridConfig(Section):
    """The canonical grid on which volumes are stored."""

    spacing_mm: tuple[Spacing, Spacing, Spacing] = (1.0, 1.0, 1.0)
    """(D, H, W). 1 mm isotropic is the spacing of the reference."""
    crop_margin_mm: Annotated[float, Field(ge=0)] = 5.0
    """Air kept around the head, so that smoothing and small rotations do not reach the edge."""
    air_threshold_hu: float = -500.0
    """Halfway between air (-1000) and soft tissue (0): denser voxels are the head."""


CHECKS = (
    Reason.HU_OUT_OF_RANGE,
    Reason.AFFINE_MISMATCH,
    Reason.HEAD_TOO_SHORT,
    Reason.VERTEX_MISSING,
    Reason.HEAD_CUT_BY_FIELD,
    Reason.TABLE_IN_VOLUME,
    Reason.MOSTLY_AIR,
    Reason.AIR_OUT_OF_RANGE,
    Reason.BRAIN_OUT_OF_RANGE,
    Reason.BONE_OUT_OF_RANGE,
    Reason.NOISY,
    Reason.MOTION,
    Reason.INTENSITY_STEP,
    Reason.NOT_A_HEAD,
    Reason.VESSELS_ENHANCED,
)
"""The checks of a volume, in the order in which findings are listed."""


LIMITS = {
    "hu_error": Reason.HU_OUT_OF_RANGE,
    "min_agreement": Reason.AFFINE_MISMATCH,
    "min_head_height_mm": Reason.HEAD_TOO_SHORT,
    "max_vertex_share": Reason.VERTEX_MISSING,
    "max_edge_share": Reason.HEAD_CUT_BY_FIELD,
    "max_table_share": Reason.TABLE_IN_VOLUME,
    "max_air_share": Reason.MOSTLY_AIR,
    "air_hu": Reason.AIR_OUT_OF_RANGE,
    "brain_hu": Reason.BRAIN_OUT_OF_RANGE,
    "bone_hu": Reason.BONE_OUT_OF_RANGE,
    "max_noise_hu": Reason.NOISY,
    "max_jump_mm": Reason.MOTION,
    "max_jump_hu": Reason.INTENSITY_STEP,
}
"""The finding of each limit of `CheckConfig`. A finding that does not reject only flags a volume, so its
limit is not part of the digest of the volumes."""


class CheckConfig(Section):
    """Limits on a volume's measures (preprocess.volume.measure); a volume beyond one is flagged or rejected.

    Figures of "still heads" are from the demo's synthetic heads on four scanners.
    """

    reject: tuple[Reason, ...] = (
        Reason.HU_OUT_OF_RANGE,
        Reason.AFFINE_MISMATCH,
        Reason.HEAD_TOO_SHORT,
        Reason.NOT_A_HEAD,
    )
    """Findings that send a volume to the quarantine; every other finding is a flag in the manifest. With
    these four, a volume is not a head CT for any purpose; a person or a loader decides on the others."""
    hu_error: Annotated[float, Field(gt=0)] = 200.0
    """If air differs by more than this from -1000, or brain from +35, the values are not HU: a missing
    Rescale Intercept shifts both by 1024, while no scanner in service is off by 50."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Correlation of the voxels with the source at the positions given by the affine: 1.00, but 0.93 after a
    shift of 4 mm; a volume that fits better with left and right exchanged counts as 0."""
    min_head_height_mm: Annotated[float, Field(ge=0)] = HEAD.check["min_head_height_mm"]
    """Half of an adult head's height, as `select.min_coverage_mm`, but of the head, not of the scan."""
    max_vertex_share: Annotated[float, Field(ge=0, le=1)] = HEAD.check["max_vertex_share"]
    """Head area in the topmost plane over the largest: 20 mm cut off a sphere of 80 mm radius leave 0.44."""
    max_edge_share: Annotated[float, Field(ge=0, le=1)] = HEAD.check["max_edge_share"]
    """A nose or ear that touches the field's edge gives 1 %; a truncated head, much more."""
    max_table_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A head rest takes 1 to 3 % of the box; more is a table, a second object, or a bad crop."""
    max_air_share: Annotated[float, Field(ge=0, le=1)] = HEAD.check["max_air_share"]
    """An ellipsoid fills 52 % of its box, so with the margin about half is air."""
    air_hu: Range = (-1030.0, -940.0)
    """ACR's CT accreditation requires -1005 to -970 in its phantom; beside a head, scatter adds some."""
    brain_hu: Range = HEAD.check["brain_hu"]
    """The brain window (level 40, width 80): a brain whose median is outside is not visible in it."""
    bone_hu: Range = HEAD.check["bone_hu"]
    """The head's 99th percentile: an adult's skull gives 1000 to 1500, a neonate's thin one 500; higher
    values are metal or a wrong slope."""
    max_noise_hu: Annotated[float, Field(ge=0)] = 20.0
    """Soft kernels have 3 to 8 HU, thin slices up to 15, bone kernels 30: noise of twice the 8 HU between
    grey and white matter hides the difference."""
    max_jump_mm: Annotated[float, Field(ge=0)] = 1.5
    """Between two slices of the vault, still heads shift by 0.5 mm at most, moving ones by 3 to 5."""
    max_jump_hu: Annotated[float, Field(ge=0)] = 20.0
    """A quarter of the brain window; still heads stay under 7."""

    def marks(self) -> tuple[str, ...]:
        """The limits whose findings only flag a volume."""
        return tuple(key for key, finding in LIMITS.items() if finding not in self.reject)

    @field_validator("reject")
    @classmethod
    def _only_checks(cls, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        unknown = [str(reason) for reason in reasons if reason not in CHECKS]
        if unknown:
            raise ValueError(
                f"{unknown[0]} is not a finding of the checks; expected any of {', '.join(CHECKS)}"
            )
        return reasons


class PrivacyConfig(Sharing):
    """What is removed besides identifiers, which always are; docs/privacy.md has the limits."""

    deface: bool = False
    """Blank the face's soft tissue (preprocess.anatomy.deface). Off by default: it costs about a second per
    volume, and if no volume leaves the hospital, the tissue in front of the brain is useful data."""
    show_defacing: bool = True
    """Show slices of some volumes before and after defacing in the QC report, for visual review; turn it off
    if the report leaves the hospital with the volumes."""
    date_shift_days: Annotated[int, Field(ge=1)] | None = None
    """Keep Study Date (0008,0020) in the manifest, moved into the past by 1 to this many days, by the same
    shift for all studies of a patient, so that intervals are preserved. None: no date is kept."""


class OutputConfig(Section):
    """Output formats and shard size."""

    formats: Annotated[tuple[ShardFormat, ...], Field(min_length=1)] = ("zarr", "webdataset")
    shard_mib: Annotated[int, Field(ge=1)] = 2048
    """Uncompressed MiB of source pixels per task and shard; 1 to 4 GiB keeps the files to thousands."""


_SHAPING = ("select", "grid", "check", "privacy")


class PreprocessConfig(Section):
    """All of `fmct preprocess`."""

    key_file: Path
    """The secret key of the identifiers' HMAC (made by `fmct keygen`); it never leaves this file."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Worker processes; each holds one volume at a time."""
    select: SelectConfig = SelectConfig()
    grid: GridConfig = GridConfig()
    check: CheckConfig = CheckConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_anatomy(cls, values: Any) -> Any:
        profile = anatomy_of(values.get("select")) if isinstance(values, dict) else HEAD
        if profile is HEAD or not isinstance(values.get("check", {}), dict):
            return values
        return {**values, "check": {**profile.check, **values.get("check", {})}}

    @model_validator(mode="after")
    def _has_a_face(self) -> "PreprocessConfig":
        if self.privacy.deface and not self.select.profile.deface:
            raise ValueError(
                f"privacy.deface: select.anatomy is {self.select.anatomy}, which has no face; expected false"
            )
        return self

    def shaping(self) -> dict[str, Any]:
        """The record of all settings that decide which volumes exist and their voxels, stored beside them.

        Limits that only flag volumes, and settings that affect only files beside them, are recorded with the
        defaults of 0.1.0; keys newer than 0.1.0 are recorded only if they are not at their default.
        """
        return self._sections({"check": self.check.marks(), **BESIDE})

    def everything(self) -> dict[str, Any]:
        """`shaping` with the limits that only flag and the settings of files beside the volumes."""
        return self._sections({"privacy": ("share",)})

    def _sections(self, uncovered: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        sections = {name: getattr(self, name).recorded(uncovered.get(name, ())) for name in _SHAPING}
        return {name: section for name, section in sections.items() if section}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "PreprocessConfig":
        """The configuration whose `shaping` or `everything` is `record`; other keys have their defaults.

        Raises ValidationError for anything else.
        """
        return cls.model_validate({**record, "key_file": ""})

    def digest(self) -> str:
        """SHA-256 of `shaping`: independent of flags, paths and the number of workers."""
        return preprocessing_digest(self.shaping())
