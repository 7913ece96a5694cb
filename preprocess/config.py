"""The configuration of preprocessing: what is kept, and what a stored volume looks like."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from preprocess.anatomy.head import HEAD
from preprocess.reasons import Reason
from preprocess.select.rules import Range, SelectConfig, anatomy_of
from shards.info import preprocessing_digest
from shards.preprocessing import BESIDE
from shards.schema import ShardFormat
from shards.section import Section
from shards.sharing_section import Sharing

Spacing = Annotated[float, Field(ge=0.1, le=20)]
"""mm: no scanner resolves less, and a head of less than ten voxels shows nothing."""


class GridConfig(Section):
    """The canonical grid on which volumes are stored."""

    spacing_mm: tuple[Spacing, Spacing, Spacing] = (1.0, 1.0, 1.0)
    """(D, H, W). 1 mm isotropic is the reference's spacing."""
    crop_margin_mm: Annotated[float, Field(ge=0)] = 5.0
    """Air kept around the head, so that smoothing and small rotations see no edge."""
    air_threshold_hu: float = -500.0
    """Half-way between air (-1000) and soft tissue (0): the head is what is denser."""


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
"""What a volume is checked for, in the order in which findings are listed."""


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
"""The finding that each limit of `CheckConfig` is of. One that is not rejected only marks a volume, so its
limit has no part in the digest of what shapes the volumes."""


class CheckConfig(Section):
    """Limits of what a volume may measure (preprocess.volume.measure); beyond one it is flagged or rejected.

    The figures called "still heads" are those of the demo's synthetic heads on four scanners.
    """

    reject: tuple[Reason, ...] = (
        Reason.HU_OUT_OF_RANGE,
        Reason.AFFINE_MISMATCH,
        Reason.HEAD_TOO_SHORT,
        Reason.NOT_A_HEAD,
    )
    """Findings that send a volume to the quarantine; every other finding is a flag in the manifest. These
    four are no head CT whatever one wants it for; the rest is for a person, or a loader, to decide."""
    hu_error: Annotated[float, Field(gt=0)] = 200.0
    """Air farther than this from -1000, or brain from +35, is not in HU: a forgotten Rescale Intercept
    puts both 1024 off, while no scanner in service is 50 off."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Correlation of voxels with their source where the affine says: 1.00, but 0.93 after a shift of
    4 mm; a volume that fits better with left and right exchanged counts as 0."""
    min_head_height_mm: Annotated[float, Field(ge=0)] = HEAD.check["min_head_height_mm"]
    """Half of an adult head's height, as `select.min_coverage_mm`, of the head and not of the scan."""
    max_vertex_share: Annotated[float, Field(ge=0, le=1)] = HEAD.check["max_vertex_share"]
    """Head area in the topmost plane over the largest: 20 mm cut off a sphere of 80 mm radius leave 0.44."""
    max_edge_share: Annotated[float, Field(ge=0, le=1)] = HEAD.check["max_edge_share"]
    """A nose or an ear that touches the field's edge takes up 1 %; a head that is cut, much more."""
    max_table_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A head rest takes 1 to 3 % of the box; more is a table, a second object, or a bad crop."""
    max_air_share: Annotated[float, Field(ge=0, le=1)] = HEAD.check["max_air_share"]
    """An ellipsoid fills 52 % of its box, so with the margin about half is air."""
    air_hu: Range = (-1030.0, -940.0)
    """ACR's CT accreditation wants -1005 to -970 in its phantom; beside a head, scatter adds some."""
    brain_hu: Range = HEAD.check["brain_hu"]
    """The brain window (level 40, width 80): a brain whose median lies outside is seen by no one."""
    bone_hu: Range = HEAD.check["bone_hu"]
    """The head's 99th percentile: an adult's skull gives 1000 to 1500, a neonate's thin one 500; what lies
    above is metal or a wrong slope."""
    max_noise_hu: Annotated[float, Field(ge=0)] = 20.0
    """Soft kernels have 3 to 8 HU, thin slices up to 15, bone kernels 30: twice the 8 HU by which grey and
    white matter differ hides both."""
    max_jump_mm: Annotated[float, Field(ge=0)] = 1.5
    """Between two slices of the vault, still heads jump by 0.5 mm at most, one that moved by 3 to 5."""
    max_jump_hu: Annotated[float, Field(ge=0)] = 20.0
    """A quarter of the brain window; still heads stay under 7."""

    def marks(self) -> tuple[str, ...]:
        """The limits whose findings only mark a volume."""
        return tuple(key for key, finding in LIMITS.items() if finding not in self.reject)

    @field_validator("reject")
    @classmethod
    def _only_checks(cls, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        unknown = [str(reason) for reason in reasons if reason not in CHECKS]
        if unknown:
            raise ValueError(
                f"{unknown[0]} is not a finding of the checks; expected some of {', '.join(CHECKS)}"
            )
        return reasons


class PrivacyConfig(Sharing):
    """What is hidden beyond identifiers, which always are; docs/privacy.md has the limits."""

    deface: bool = False
    """Blank the face's soft tissue (preprocess.anatomy.deface). Off by default: it costs about a second a
    volume, and what lies in front of the brain is data where no volume leaves the hospital."""
    show_defacing: bool = True
    """Show slices of some volumes before and after defacing in the QC report, for a person to judge it;
    turn it off where the report is to leave with the volumes."""
    date_shift_days: Annotated[int, Field(ge=1)] | None = None
    """Keep Study Date (0008,0020) in the manifest, moved into the past by 1 to this many days, the same for
    all studies of a patient, so that intervals stay. None keeps no date at all."""


class OutputConfig(Section):
    """How volumes are written."""

    formats: Annotated[tuple[ShardFormat, ...], Field(min_length=1)] = ("zarr", "webdataset")
    shard_mib: Annotated[int, Field(ge=1)] = 2048
    """Uncompressed MiB of source pixels per task and shard; 1 to 4 GiB keeps files to thousands."""


_SHAPING = ("select", "grid", "check", "privacy")


class PreprocessConfig(Section):
    """All of `fmct preprocess`."""

    key_file: Path
    """The secret of the identifiers' HMAC (made by `fmct keygen`); it never leaves this file."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Processes; one volume at a time each."""
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
                f"privacy.deface: a {self.select.anatomy} (select.anatomy) has no face; expected false"
            )
        return self

    def shaping(self) -> dict[str, Any]:
        """What decides which volumes there are and what is in them, as it is kept beside them.

        Limits that only mark volumes, and what changes only what stands beside them, are as in 0.1.0's
        default whatever they are; keys that came after 0.1.0 are there where they are not at their default.
        """
        return self._sections({"check": self.check.marks(), **BESIDE})

    def everything(self) -> dict[str, Any]:
        """`shaping` with the limits that only mark and what changes only what stands beside the volumes."""
        return self._sections({"privacy": ("share",)})

    def _sections(self, uncovered: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        found = {name: getattr(self, name).recorded(uncovered.get(name, ())) for name in _SHAPING}
        return {name: section for name, section in found.items() if section}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "PreprocessConfig":
        """The configuration of which `shaping` or `everything` is `record`; the rest is at its default.

        Raises ValidationError for anything else.
        """
        return cls.model_validate({**record, "key_file": ""})

    def digest(self) -> str:
        """SHA-256 of what shapes the volumes: of `shaping`, and so of no mark, path or number of workers."""
        return preprocessing_digest(self.shaping())
