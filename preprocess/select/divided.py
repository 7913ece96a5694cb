"""Series that are divided between two Patient IDs: neither part is a complete head.

If a Patient ID (0010,0020) is changed in an archive while it sends a series, the remaining images get the new
ID and keep all UIDs. Images with the same UIDs under another ID may also be a complete copy of the series, or
another patient's, because careless anonymisers reuse UIDs.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.dicom.catalog import SERIES_KEY, Series, SeriesKey, read_rows
from preprocess.reasons import Reason, Rejection


def divided(series: Iterable[Series]) -> dict[SeriesKey, Rejection]:
    """Rejections of the `series` whose missing images have the same UIDs under another Patient ID.

    Images with an instance number or position that the series already has belong to another scan.
    """
    alike: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        alike.setdefault((one.study_uid, one.series_uid), []).append(one)
    divided_ = {}
    for group in alike.values():
        for one in group:
            lacking = sum(_lacking(one, other) for other in group if other is not one)
            if lacking:
                divided_[one.key] = Rejection(
                    Reason.SEVERAL_PATIENTS,
                    f"{len(one.instances)} images here, {lacking} more under another Patient ID (0010,0020): "
                    "use one ID per series and scan again",
                )
    return divided_


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
    rows = numbered.group_by(["study_uid", "series_uid"]).aggregate([("row", "list")])["row_list"]
    shared: Collection[int] = [row for group in rows.to_pylist() if len(group) > 1 for row in group]
    return divided(read_rows(catalog, sorted(shared)))
