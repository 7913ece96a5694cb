"""Synthetic identities of the export. All identifying texts contain `MARK`."""

from dataclasses import dataclass

from pydicom.uid import generate_uid

MARK = "ZZFAKE"
"""Part of every name, ID, accession number, free text and folder, so that a search finds any leak."""

FAKE_YEAR = 2087
UID_ROOT = "1.2.826.0.1.3680043.8.498."
"""pydicom's root for generated UIDs (free for use); every UID of the export starts with it."""


@dataclass(frozen=True)
class Identity:
    """Patient and date of one study."""

    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    study_date: str
    study_time: str
    accession_number: str
    study_uid: str
    frame_of_reference_uid: str


def identity(seed: int, study: int, patient: int) -> Identity:
    """The identity of a study: a pure function of its position in the export."""
    month, day = 1 + study % 12, 1 + (study // 12) % 28
    return Identity(
        patient_id=f"{MARK}-{seed}-{patient:05d}",
        patient_name=f"{MARK}^PERSON{patient:05d}",
        birth_date=f"19{patient % 100:02d}0228",
        sex="MFO"[patient % 3],
        study_date=f"{FAKE_YEAR}{month:02d}{day:02d}",
        study_time=f"{study % 24:02d}5859",
        accession_number=f"{MARK}{study:06d}",
        study_uid=uid(seed, study, "study"),
        frame_of_reference_uid=uid(seed, study, "frame of reference"),
    )


def uid(*parts: object) -> str:
    """A UID that is a pure function of `parts`."""
    return str(generate_uid(prefix=UID_ROOT, entropy_srcs=[repr(parts)]))
