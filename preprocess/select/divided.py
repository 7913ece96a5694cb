"""Series that are divided between two Patient IDs or studies: neither part is a complete head.

If a Patient ID (0010,0020) or Study Instance UID (0020,000D) is changed in an archive while it sends a
series, the remaining images get the new one and keep all other UIDs. Images with the same UIDs under another
ID may also be a complete copy of the series, or another patient's, because careless anonymisers reuse UIDs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocess.dicom.catalog import SERIES_KEY, Series, SeriesKey, read_rows
from preprocess.reasons import Reason, Rejection

_BATCH = 2**16
"""Series whose keys are in memory at a time."""
_Same = Callable[[SeriesKey], tuple[str, str] | None]


def _of_study(key: SeriesKey) -> tuple[str, str]:
    return key[1:]


def _of_patient(key: SeriesKey) -> tuple[str, str] | None:
    """None without a Patient ID: the patients of two such studies are unknown."""
    return (key[0], key[2]) if key[0] else None


_DIVISIONS: tuple[tuple[_Same, Reason, str], ...] = (
    (_of_study, Reason.SEVERAL_PATIENTS, "Patient ID (0010,0020): use one ID"),
    (_of_patient, Reason.SEVERAL_STUDIES, "Study Instance UID (0020,000D): use one UID"),
)
"""What the parts of a series have in common, and what differs."""


def divided(series: Iterable[Series]) -> dict[SeriesKey, Rejection]:
    """Rejections of the `series` whose missing images have the same UIDs under another patient or study.

    Images with an instance number or position that the series already has belong to another scan.
    """
    every = list(series)
    divided_: dict[SeriesKey, Rejection] = {}
    for same, reason, other_id in _DIVISIONS:
        for group in _alike(every, same):
            for one in group:
                lacking = sum(_lacking(one, other) for other in group if other is not one)
                if lacking:
                    detail = f"{len(one.instances)} images here, {lacking} more under another {other_id}"
                    divided_.setdefault(one.key, Rejection(reason, f"{detail} per series and scan again"))
    return divided_


def _alike(series: Iterable[Series], same: _Same) -> Iterator[list[Series]]:
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        if shared := same(one.key):
            groups.setdefault(shared, []).append(one)
    return (group for group in groups.values() if len(group) > 1)


def _lacking(one: Series, other: Series) -> int:
    """How many images of `other` complete `one`; 0 if any of them coincides with an image of `one`."""
    held = {image.sop_uid for image in one.instances}
    numbers = {image.instance_number for image in one.instances} - {None}
    places = {image.position for image in one.instances} - {None}
    new = [image for image in other.instances if image.sop_uid not in held]
    if any(image.instance_number in numbers or image.position in places for image in new):
        return 0
    return len(new)


def divided_of(catalog: Path) -> Mapping[SeriesKey, Rejection]:
    """`divided` for a whole catalog, in which few series share UIDs; FmctError as `read_rows`."""
    keys = pq.read_table(catalog, columns=list(SERIES_KEY))
    numbered = keys.append_column("row", pa.array(range(len(keys)), pa.int64()))
    rows: set[int] = set()
    for name, kept in (
        ("study_uid", numbered),
        ("patient_id", numbered.filter(pc.field("patient_id") != "")),
    ):
        groups = kept.group_by([name, "series_uid"]).aggregate([("row", "list")])["row_list"]
        rows.update(row for group in groups.to_pylist() if len(group) > 1 for row in group)
    return divided(read_rows(catalog, sorted(rows)))


def divided_among(series: Sequence[Series], catalog: Path) -> Mapping[SeriesKey, Rejection]:
    """`divided` for `series` of a catalog, among which are all patients' series of their studies."""
    own, shared = {one.key for one in series}, {_of_patient(one.key) for one in series} - {None}
    uids = pa.array({one.series_uid for one in series}, pa.string())
    others: list[int] = []
    start = 0
    for batch in pq.ParquetFile(catalog).iter_batches(_BATCH, columns=list(SERIES_KEY)):
        there = np.flatnonzero(pc.is_in(batch["series_uid"], uids).to_numpy(zero_copy_only=False))
        keys = zip(*(batch[name].take(pa.array(there)).to_pylist() for name in SERIES_KEY), strict=True)
        others += [
            start + int(row)
            for row, key in zip(there, keys, strict=True)
            if key not in own and _of_patient(key) in shared
        ]
        start += len(batch)
    return divided([*series, *(read_rows(catalog, others) if others else [])])
