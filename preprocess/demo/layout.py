"""Layouts of a study's files in the export: sorted, scrambled in one folder, or as on a CD."""

import hashlib
from pathlib import PurePosixPath

from preprocess.demo.identity import Identity
from preprocess.demo.job import File
from preprocess.demo.plan import Layout


def study_folder(layout: Layout, identity: Identity, study: int) -> PurePosixPath:
    """The folder of a study; raw exports name it after the patient."""
    if layout is Layout.FOLDERS:
        return PurePosixPath(identity.patient_id, identity.study_date)
    if layout is Layout.SCRAMBLED:
        return PurePosixPath("unsorted")
    return PurePosixPath("MEDIA", f"PA{study:06d}")


def file_path(layout: Layout, folder: PurePosixPath, series_number: int, file: File) -> PurePosixPath:
    """The path of one file of a series (numbered from 1) in its study's folder."""
    if layout is Layout.FOLDERS:
        return folder / f"{series_number:03d}" / f"IM{file.number:06d}.dcm"
    if layout is Layout.SCRAMBLED:
        return folder / hashlib.sha256(f"{file.sop_uid}/{file.number}".encode()).hexdigest()[:16]
    return folder / "ST000000" / f"SE{series_number:06d}" / f"{file.number:08d}"
