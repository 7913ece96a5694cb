"""contents.json: facts of a dataset's index, computed once, so that `fmct shards info` reads no table."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeInt

from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import raise_refusal
from shards.info import DatasetInfo, require_index
from shards.names import Sha256

if TYPE_CHECKING:
    from shards.dataset import Dataset

FILE_NAME = "contents.json"


class Contents(Closed):
    """Facts of a dataset's index."""

    index_sha256: Sha256
    """Of the index.parquet that the facts were computed from."""
    content_digest: Sha256
    """`shards.Dataset.content_digest`."""
    patients: NonNegativeInt
    studies: NonNegativeInt
    voxels: int
    """Of all volumes together."""
    median_shape: tuple[float, float, float]
    """The median of each side: (D, H, W) voxels."""
    kernels: dict[str, NonNegativeInt]
    """Volumes of each kernel class that occurs."""


def of(dataset: "Dataset") -> Contents:
    """The facts of an open dataset."""
    import numpy as np
    import pyarrow.compute as pc

    from shards.index import numbers

    index = dataset.index
    shapes = numbers(pc.list_flatten(index["shape"])).reshape(-1, 3).astype(np.int64)
    depth, height, width = np.median(shapes, axis=0).tolist()
    return Contents(
        index_sha256=dataset.info.index_sha256,
        content_digest=dataset.content_digest(),
        patients=pc.count_distinct(index["patient_key"]).as_py(),
        studies=pc.count_distinct(index["study_key"]).as_py(),
        voxels=int(shapes.prod(axis=1).sum()),
        median_shape=(depth, height, width),
        kernels={pair["values"]: pair["counts"] for pair in index["kernel_class"].value_counts().to_pylist()},
    )


def text(contents: Contents) -> str:
    """The bytes of the file, as text."""
    return contents.model_dump_json(indent=1) + "\n"


def write(contents: Contents, directory: Path) -> None:
    """Write contents.json atomically."""
    write_text(directory / FILE_NAME, text(contents))


def read(directory: Path, info: DatasetInfo) -> Contents:
    """The facts of a dataset, from its file if that belongs to its index, otherwise from the index.

    Raises FmctError if the index is missing or damaged.
    """
    require_index(directory, info)
    try:
        found = Contents.model_validate_json((directory / FILE_NAME).read_bytes())
        if found.index_sha256 == info.index_sha256:
            return found
    except (OSError, ValueError) as error:
        raise_refusal(error, directory / FILE_NAME)
    from shards.dataset import Dataset

    return of(Dataset.open(directory, clipped=True))
