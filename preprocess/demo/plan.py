"""The plan of the export: the series of each study, its scanner and its quirks.

Labels are balanced within every scanner and drawn independently of anatomy, pose and quirks, so that only the
bleed itself predicts them.
"""

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

from preprocess.demo.fractures import Fracture, draw_fracture
from preprocess.demo.head import Head, draw_anatomy
from preprocess.demo.lesions import Bleed, draw_lesion
from preprocess.demo.scanners import SCANNERS, Scanner
from preprocess.demo.streams import Stream, generator
from preprocess.reasons import Reason

VOLUME = "volume"
"""Expected outcome of a series that becomes a volume; other outcomes are `JOINED` or a `Reason`."""
JOINED = "joined"
"""Expected outcome of a series that becomes part of another one's volume."""


class Kind(StrEnum):
    """The kind of a series."""

    SOFT = "soft"
    BONE = "bone"
    LOCALIZER = "localizer"
    DOSE_REPORT = "dose_report"
    SCREEN_CAPTURE = "screen_capture"
    CORONAL = "coronal"
    MAGNETIC_RESONANCE = "magnetic_resonance"


class Quirk(StrEnum):
    """A deviation of a series from a textbook one."""

    TILT_POSITIVE = "tilt_positive"
    TILT_NEGATIVE = "tilt_negative"
    THIN = "thin"
    FINE = "fine"
    TWO_SLABS = "two_slabs"
    BASE = "base"
    VAULT = "vault"
    DUPLICATE_FILES = "duplicate_files"
    DUPLICATE_POSITIONS = "duplicate_positions"
    SHUFFLED_NUMBERS = "shuffled_numbers"
    JPEG2000 = "jpeg2000"
    RLE = "rle"
    DEFLATED = "deflated"
    ENHANCED = "enhanced"
    IMPLICIT_VR = "implicit_vr"
    BIG_ENDIAN = "big_endian"
    LARGE_INTERCEPT = "large_intercept"
    TRUNCATED_FILE = "truncated_file"
    TRUNCATED_RUN = "truncated_run"
    MISSING_SLICES = "missing_slices"
    FEW_SLICES = "few_slices"
    FEET_FIRST = "feet_first"
    PRONE = "prone"
    TURNED = "turned"


class Layout(StrEnum):
    """The arrangement of a study's files in the export."""

    FOLDERS = "folders"
    SCRAMBLED = "scrambled"
    MEDIA = "media"


@dataclass(frozen=True)
class SeriesPlan:
    """One series with its expected outcome."""

    kind: Kind
    expected: str = VOLUME
    quirks: tuple[Quirk, ...] = ()


@dataclass(frozen=True)
class StudyPlan:
    """One examination of one patient."""

    index: int
    patient: int
    scanner: Scanner
    layout: Layout
    head: Head
    """The head at its pose in the scanner, with its bleeds."""
    series: tuple[SeriesPlan, ...]
    matrix: int
    """Rows and columns of its images."""
    fracture: Fracture | None = None
    """The skull fracture, if fractures are requested."""

    @property
    def labels(self) -> dict[str, int]:
        """Label columns, 0 or 1."""
        kinds = {lesion.kind for lesion in self.head.lesions}
        return {"any_bleed": int(bool(kinds))} | {bleed.value: int(bleed in kinds) for bleed in Bleed}


def _soft(*quirks: Quirk) -> SeriesPlan:
    return SeriesPlan(Kind.SOFT, VOLUME, quirks)


def _bone(*quirks: Quirk) -> SeriesPlan:
    return SeriesPlan(Kind.BONE, Reason.BONE_KERNEL, quirks)


def _split(part: Quirk) -> SeriesPlan:
    """The thin base or the thick vault of a head stored in two series; the base is first."""
    return SeriesPlan(Kind.SOFT, VOLUME if part is Quirk.BASE else JOINED, (part,))


def _flawed(reason: Reason, *quirks: Quirk) -> SeriesPlan:
    return SeriesPlan(Kind.SOFT, reason, quirks)


_FINE_BONE = _bone(Quirk.FINE)
"""Added to every study if fractures are drawn, so that it does not reveal them."""
_LOCALIZER = SeriesPlan(Kind.LOCALIZER, Reason.LOCALIZER)
_DOSE_REPORT = SeriesPlan(Kind.DOSE_REPORT, Reason.DOSE_REPORT)
_CAPTURE = SeriesPlan(Kind.SCREEN_CAPTURE, Reason.SECONDARY_CAPTURE)
_CORONAL = SeriesPlan(Kind.CORONAL, Reason.DERIVED)
_RESONANCE = SeriesPlan(Kind.MAGNETIC_RESONANCE, Reason.NOT_CT)

STUDY_SERIES: tuple[tuple[SeriesPlan, ...], ...] = (
    (_LOCALIZER, _soft(), _DOSE_REPORT),
    (_soft(Quirk.TILT_POSITIVE), _bone(Quirk.TILT_POSITIVE)),
    (_split(Quirk.VAULT), _split(Quirk.BASE)),
    (_LOCALIZER, _soft(Quirk.DUPLICATE_FILES)),
    (_soft(Quirk.TWO_SLABS, Quirk.SHUFFLED_NUMBERS), _CAPTURE, _DOSE_REPORT),
    (_soft(Quirk.JPEG2000), _flawed(Reason.TRUNCATED_PIXEL_DATA, Quirk.THIN, Quirk.TRUNCATED_RUN)),
    (_soft(Quirk.TILT_NEGATIVE, Quirk.RLE), _bone(Quirk.TILT_NEGATIVE)),
    (_soft(Quirk.DEFLATED, Quirk.ENHANCED), _CORONAL),
    (_soft(Quirk.FEET_FIRST), _flawed(Reason.MISSING_SLICES, Quirk.MISSING_SLICES)),
    (_soft(Quirk.IMPLICIT_VR, Quirk.LARGE_INTERCEPT, Quirk.TRUNCATED_FILE), _RESONANCE),
    (_soft(Quirk.PRONE, Quirk.DUPLICATE_POSITIONS), _bone(Quirk.PRONE)),
    (_soft(Quirk.BIG_ENDIAN, Quirk.TURNED), _flawed(Reason.TOO_FEW_SLICES, Quirk.FEW_SLICES)),
)
"""The series of twelve consecutive studies; in every study exactly one becomes a volume."""


def plan_studies(seed: int, studies: int, matrix: int, fractures: float = 0.0) -> list[StudyPlan]:
    """The first `studies` studies of the export of `seed`; study i does not depend on their number.

    fractures: share of the studies with a fracture; above 0 every study has one more series, of thin
    slices and a bone kernel, after those that it has without.
    """
    plans = []
    on_scanner: Counter[int] = Counter()
    bleeding = 0
    for index in range(studies):
        # The scanner shifts by one each round, so that all pairs of quirks and scanners occur.
        scanner = (index + index // len(STUDY_SERIES)) % len(SCANNERS)
        bleeds = _bleeds(seed, scanner, on_scanner[scanner], bleeding)
        on_scanner[scanner] += 1
        bleeding += bool(bleeds)
        plan = _study(seed, index, SCANNERS[scanner], bleeds, matrix)
        plans.append(_with_fracture(seed, plan, fractures) if fractures else plan)
    return plans


def _with_fracture(seed: int, plan: StudyPlan, share: float) -> StudyPlan:
    rng = generator(seed, Stream.FRACTURE, plan.index)
    fracture = draw_fracture(rng) if rng.random() < share else None
    return replace(plan, series=(*plan.series, _FINE_BONE), fracture=fracture)


def _bleeds(seed: int, scanner: int, rank: int, bleeding: int) -> tuple[Bleed, ...]:
    """One of every two studies of a scanner has a bleed; kinds alternate, some with a second one."""
    first_bleeds = bool(generator(seed, Stream.LABEL, scanner, rank // 2).integers(2))
    if first_bleeds != (rank % 2 == 0):
        return ()
    kinds = list(Bleed)
    main = kinds[bleeding % len(kinds)]
    rng = generator(seed, Stream.LABEL, len(SCANNERS), bleeding)
    if rng.random() < 0.25:
        return main, kinds[(kinds.index(main) + int(rng.integers(1, len(kinds)))) % len(kinds)]
    return (main,)


def _study(seed: int, index: int, scanner: Scanner, bleeds: tuple[Bleed, ...], matrix: int) -> StudyPlan:
    # Every sixth study is a second one of the previous patient.
    patient = index - (index % 6 == 5)
    pose = generator(seed, Stream.POSE, index)
    pitch, roll, yaw = pose.normal(0, 4, 3)
    origin = pose.normal(0, 3, 3) + scanner.origin
    lesions = tuple(
        draw_lesion(generator(seed, Stream.LESION, index, turn), kind) for turn, kind in enumerate(bleeds)
    )
    head = replace(
        draw_anatomy(seed, patient),
        rotation=(float(pitch), float(roll), float(yaw)),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        head_rest=scanner.head_rest,
        lesions=lesions,
    )
    layout = list(Layout)[index % len(Layout)]
    return StudyPlan(index, patient, scanner, layout, head, STUDY_SERIES[index % len(STUDY_SERIES)], matrix)
