"""Series that are divided between two Patient IDs or studies: neither part is a complete head.

If a Patient ID (0010,0020) or Study Instance UID (0020,000D) is changed in an archive while it sends a
series, the remaining images get the new one and keep all other UIDs. Images with the same UIDs under another
ID may also be a complete copy of the series, or another patient's, because careless anonymisers reuse UIDs.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from preprocess.dicom.catalog import Series, SeriesKey, read_rows
from preprocess.reasons import Reason, Rejection


def several_patients(series: Iterable[Series]) -> dict[SeriesKey, Rejection]:
    """Rejections of the `series` whose missing images are in the same study under another Patient ID."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        groups.setdefault((one.study_uid, one.series_uid), []).append(one)
    return {
        one.key: Rejection(
            Reason.SEVERAL_PATIENTS,
            f"{len(one.instances)} images here, {more} more under another Patient ID (0010,0020): "
            "use one ID per series and scan again",
        )
        for one, more in _incomplete(groups)
    }


def several_studies(series: Iterable[Series]) -> dict[SeriesKey, Rejection]:
    """Rejections of the `series` whose missing images are in another study of the patient.

    Without a Patient ID it is unknown whether two studies are of one patient.
    """
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        if one.patient_id:
            groups.setdefault((one.patient_id, one.series_uid), []).append(one)
    return {one.key: in_several_studies(one) for one, _ in _incomplete(groups)}


def in_several_studies(one: Series) -> Rejection:
    """The rejection of a series of `several_studies`."""
    return Rejection(
        Reason.SEVERAL_STUDIES,
        f"{len(one.instances)} images here, more under another Study Instance UID (0020,000D): "
        "use one UID per series and scan again",
    )


def divided(series: Iterable[Series]) -> dict[SeriesKey, Rejection]:
    """`several_studies` and `several_patients`, for all series that can have images of each other.

    Images with an instance number or position that the series already has, or in another frame of reference,
    belong to another scan.
    """
    every = list(series)
    return several_studies(every) | several_patients(every)


def _incomplete(groups: Mapping[tuple[str, str], list[Series]]) -> Iterator[tuple[Series, int]]:
    """Series that others of their group complete, and by how many images."""
    for group in groups.values():
        for one in group:
            if more := sum(_lacking(one, other) for other in group if other is not one):
                yield one, more


def _lacking(one: Series, other: Series) -> int:
    """How many images of `other` complete `one`; 0 if they are of another scan."""
    held = {image.sop_uid for image in one.instances}
    numbers = {image.instance_number for image in one.instances} - {None}
    places = {image.position for image in one.instances} - {None}
    frames, others = ({image.frame_of_reference_uid for image in it.instances} - {""} for it in (one, other))
    new = [image for image in other.instances if image.sop_uid not in held]
    coincides = any(image.instance_number in numbers or image.position in places for image in new)
    return 0 if coincides or (frames and others and not frames & others) else len(new)


def divided_of(catalog: Path) -> Mapping[SeriesKey, Rejection]:
    """`divided` for a whole catalog, in which few series share UIDs; FmctError as `read_rows`."""
    rows = {*_repeated(catalog, "study_uid"), *_repeated(catalog, "patient_id")}
    return divided(read_rows(catalog, sorted(rows)))


def rows_in_several_studies(catalog: Path) -> list[int]:
    """Row numbers of the series of a catalog that `several_studies` rejects, ascending."""
    rows = _repeated(catalog, "patient_id")
    series = read_rows(catalog, rows)
    refused = several_studies(series)
    return [row for row, one in zip(rows, series, strict=True) if one.key in refused]


_BATCH = 2**14
"""Series whose UIDs are in memory at a time."""


def _repeated(catalog: Path, name: str) -> list[int]:
    """Rows of series whose UID occurs twice with one study, or with one patient who has an ID, ascending."""
    hashed = np.fromiter(_hashes(catalog, name), [("hash", "i8"), ("row", "i8")])
    hashed.sort(order="hash")
    same = hashed["hash"][1:] == hashed["hash"][:-1]  # so are, very rarely, those of other UIDs
    return sorted(hashed["row"][np.append(same, False) | np.insert(same, 0, False)].tolist())


def _hashes(catalog: Path, name: str) -> Iterator[tuple[int, int]]:
    row = 0
    for batch in pq.ParquetFile(catalog).iter_batches(_BATCH, columns=[name, "series_uid"]):
        for pair in zip(batch[name].to_pylist(), batch["series_uid"].to_pylist(), strict=True):
            if pair[0]:
                yield hash(pair), row
            row += 1
