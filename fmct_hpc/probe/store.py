"""A feature store: one encoder's features of the volumes of one dataset, on disk with digests.

features.json                  FeatureInfo, written last
<digest>/index.parquet         key, patient_key and study_key, a row per volume
<digest>/layer-11.cls.npy      float32 (N, width); also .mean.npy, and .tokens.npy float16 (N, patches, width)
parts/                         during extraction: files with some volumes each, and their markers
"""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import Field
from safetensors import safe_open
from safetensors.numpy import save

from fmct_hpc.train.checkpoint import FileFacts, file_facts
from shards import json_text, ledger
from shards.atomic import atomic_path, write_bytes, write_text
from shards.closed import Closed
from shards.errors import FmctError, raise_refusal
from shards.names import Component, inside
from shards.newer_version import read_error
from shards.section import Section

FORMAT_VERSION = 1
FILE_NAME = "features.json"
INDEX_NAME = "index.parquet"
KEYS = ("key", "patient_key", "study_key")

Pooling = Literal["cls", "mean"]
REMEDY = "delete the folder and extract the features again"


class FeatureRequest(Section):
    """The inputs that determine a store's content, apart from rounding."""

    format_version: int = FORMAT_VERSION
    encoder_digest: str
    dataset_digest: str
    keys_digest: str = Field(description="SHA-256 of the volumes' keys, one per line, in order")
    layers: tuple[int, ...] = Field(description="numbers of the encoder's layers, from 0")
    poolings: tuple[Pooling, ...]
    tokens: bool = Field(description="whether patch tokens are stored")

    @property
    def digest(self) -> str:
        """SHA-256 of the request."""
        return _digest(self.recorded())

    def arrays(self) -> list[str]:
        """Names of the stored arrays: layer-11.cls and so on."""
        kinds = [*self.poolings, *(["tokens"] if self.tokens else [])]
        return [array_name(layer, kind) for layer in self.layers for kind in kinds]


def _digest(document: dict[str, Any]) -> str:
    """SHA-256 of compact JSON with sorted keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(document: dict[str, Any]) -> str:
    """The expected `digest` of features.json, over the keys in the file, including unknown ones."""
    return _digest({key: value for key, value in document.items() if key != "digest"})


def array_name(layer: int, kind: str) -> str:
    """Name of one array of a store; kind: a pooling, or "tokens"."""
    return f"layer-{layer:02d}.{kind}"


class FeatureInfo(Closed):
    """The content of a finished store."""

    request: FeatureRequest
    name: str = Field(description="the encoder's name in tables")
    step: int | None = Field(description="training step of the encoder")
    depth: int = Field(description="layers of the encoder")
    width: int
    patches: int = Field(description="patch tokens per volume")
    volumes: int
    spec_digest: str = Field(description="EncoderSpec.digest of a sweep's encoder; else empty")
    files: dict[Component, FileFacts] = Field(description="by name in the folder")
    digest: str = Field(default="", description="SHA-256 of all above")

    def write(self, out: Path) -> None:
        """Write features.json with a new digest."""
        info = self.model_copy(update={"digest": _seal(self.model_dump(mode="json"))})
        write_text(out / FILE_NAME, info.model_dump_json(indent=1) + "\n")

    @property
    def encoder_digest(self) -> str:
        """Digest of the encoder's weights and input."""
        return self.request.encoder_digest

    @property
    def dataset_digest(self) -> str:
        """Digest of the shard dataset."""
        return self.request.dataset_digest

    @property
    def source_digest(self) -> str:
        """Digest of encoder and dataset, which determine a volume's features at a layer."""
        return _digest({"encoder": self.encoder_digest, "dataset": self.dataset_digest})

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the stored layers, from 0."""
        return self.request.layers

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """The poolings stored for each layer."""
        return self.request.poolings


class FeatureStore:
    """A finished store, read-only; each array's digest is checked when it is first read."""

    def __init__(self, path: Path, info: FeatureInfo):
        self.path = path
        self.info = info
        self._whole: set[str] = set()
        index = pq.read_table(self._file(INDEX_NAME))
        self.keys, self.patient_keys, self.study_keys = (
            np.asarray(index[name].to_pylist(), dtype=np.str_) for name in KEYS
        )

    @classmethod
    def open(cls, path: Path) -> "FeatureStore":
        """Open a finished store; raises FmctError if missing, unfinished, damaged or of another version."""
        file = path / FILE_NAME
        try:
            document = json_text.parse(file.read_bytes())
            version = document["request"]["format_version"]
            if version != FORMAT_VERSION:
                raise FmctError(
                    f"{file}: format version {version}, this fmct reads {FORMAT_VERSION}; {REMEDY}"
                )
            info = FeatureInfo.model_validate(document)
            if info.digest != _seal(document):
                raise ValueError("digest mismatch")
        except FileNotFoundError:
            raise FmctError(
                f"{path}: no finished feature store; complete the extraction of features"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise_refusal(error, file)
            raise read_error(file, error, f"damaged; {REMEDY}") from None
        return cls(path, info)

    def __len__(self) -> int:
        return self.info.volumes

    def vectors(self, layer: int = -1, pool: Literal["cls", "mean", "both"] = "both") -> NDArray[np.float32]:
        """Features of all volumes in the order of `keys`: (N, width), for `both` (N, 2 · width), CLS first.

        layer: from 0, or from the end with -1 and so on. For an encoder with one vector per volume, `both` is
        that vector. Raises FmctError if the features are not stored or damaged.
        """
        return np.asarray(np.concatenate(self.mapped(layer, pool), axis=1))

    def mapped(
        self, layer: int = -1, pool: Literal["cls", "mean", "both"] = "both"
    ) -> list[NDArray[np.float32]]:
        """The arrays that `vectors` concatenates, memory-mapped."""
        kinds = self.info.poolings if pool == "both" else (pool,)
        return [np.load(self._array(layer, kind), mmap_mode="r") for kind in kinds]

    def tokens(self, layer: int = -1) -> NDArray[np.float16]:
        """Patch tokens of all volumes, memory-mapped: float16 (N, patches, width)."""
        mapped: NDArray[np.float16] = np.load(self._array(layer, "tokens"), mmap_mode="r")
        return mapped

    def verify(self) -> None:
        """Check the digests of all files; raises FmctError that names the first mismatch."""
        for name in self.info.files:
            self._file(name)

    def _array(self, layer: int, kind: str) -> Path:
        number = layer if layer >= 0 else self.info.depth + layer
        name = f"{array_name(number, kind)}.npy"
        if name not in self.info.files:
            stored = ", ".join(self.info.request.arrays())
            raise FmctError(f"{self.path}: no {name.removesuffix('.npy')}; found {stored}; extract it too")
        return self._file(name)

    def _file(self, name: str) -> Path:
        """The path of a file of the store, whose digest is checked at the first call."""
        file = inside(self.path / self.info.request.digest[:8], name)
        if name not in self._whole:
            if name not in self.info.files or file_facts(file) != self.info.files[name]:
                raise FmctError(f"{file}: missing, or its digest does not match; {REMEDY}")
            self._whole.add(name)
        return file


class PartMarker(Closed):
    """Marks a part as finished; written after it."""

    request_digest: str
    file: FileFacts
    patches: int


def part_path(out: Path, request: FeatureRequest, start: int, stop: int) -> Path:
    """The file with features of the volumes [start, stop) of a request."""
    return out / "parts" / f"{start:07d}-{stop:07d}-{request.digest[:8]}.safetensors"


def write_part(
    path: Path, request: FeatureRequest, arrays: dict[str, NDArray[np.generic]], patches: int
) -> None:
    """Write a part, and its marker last; patches: patch tokens per volume."""
    write_bytes(path, save(arrays))  # not with save_file, which raises no OSError if the disk is full
    facts = file_facts(path)
    assert facts is not None
    marker = PartMarker(request_digest=request.digest, file=facts, patches=patches)
    ledger.mark(path.with_suffix(".json"), marker)


def part_is_done(path: Path, request: FeatureRequest) -> bool:
    """Whether a part has a marker of this request and a file of the recorded size.

    Raises RefusedError if the files cannot be accessed, and FmctError if a newer version wrote the marker.
    """
    marker = ledger.marked(path.with_suffix(".json"), PartMarker)
    try:
        whole = marker is not None and path.stat().st_size == marker.file.bytes
    except OSError as error:
        raise_refusal(error, path)
        return False
    return whole and marker is not None and marker.request_digest == request.digest


def held(
    out: Path, encoder_digest: str, dataset_digest: str, poolings: tuple[Pooling, ...]
) -> FeatureStore | None:
    """The finished store in `out`, if it matches encoder and dataset and its files have the recorded sizes.

    Raises RefusedError if the files cannot be accessed.
    """
    try:
        store = FeatureStore.open(out)
        folder = out / store.info.request.digest[:8]
        sizes = all((folder / name).stat().st_size == facts.bytes for name, facts in store.info.files.items())
    except (FmctError, OSError) as error:
        raise_refusal(error, out)
        return None
    request = store.info.request
    wanted = (encoder_digest, dataset_digest, poolings)
    same = (request.encoder_digest, request.dataset_digest, request.poolings) == wanted
    return store if same and sizes else None


def collect(
    out: Path,
    request: FeatureRequest,
    parts: Sequence[Path],
    index: pa.Table,
    name: str,
    step: int | None,
    depth: int,
    spec_digest: str,
) -> FeatureStore:
    """Join the parts, in order, to the store `out`, and remove them; an earlier store there is removed last.

    index: columns `KEYS`, a row per volume. Raises FmctError for a damaged part, whose marker is removed.
    """
    patches = 0
    for part in parts:
        marker = PartMarker.model_validate_json(part.with_suffix(".json").read_bytes())
        if file_facts(part) != marker.file:
            part.with_suffix(".json").unlink()
            raise FmctError(f"{part}: its digest does not match; run the same command again to recompute it")
        patches = marker.patches
    folder = out / request.digest[:8]
    with atomic_path(folder / INDEX_NAME) as temporary:
        pq.write_table(index.select(KEYS), temporary)
    width = 0
    for array in request.arrays():
        with atomic_path(folder / f"{array}.npy") as temporary:
            width = _join(temporary, array, parts, index.num_rows)
    files = [INDEX_NAME, *(f"{array}.npy" for array in request.arrays())]
    info = FeatureInfo(
        request=request,
        name=name,
        step=step,
        depth=depth,
        width=width,
        patches=patches,
        volumes=index.num_rows,
        spec_digest=spec_digest,
        files={file: facts for file in files if (facts := file_facts(folder / file))},
    )
    info.write(out)
    shutil.rmtree(out / "parts", ignore_errors=True)
    for left_over in out.iterdir():
        if left_over.is_dir() and left_over != folder and _STORE_FOLDER.fullmatch(left_over.name):
            shutil.rmtree(left_over, ignore_errors=True)
    return FeatureStore.open(out)


_STORE_FOLDER = re.compile("[0-9a-f]{8}")


def _join(path: Path, array: str, parts: Sequence[Path], volumes: int) -> int:
    """Concatenate the parts' arrays of that name to one .npy; returns the width of its rows."""
    joined, row = None, 0
    for part in parts:
        with safe_open(part, "numpy") as file:
            rows = file.get_tensor(array)
        if joined is None:
            joined = open_memmap(path, "w+", rows.dtype, (volumes, *rows.shape[1:]))
        joined[row : row + len(rows)] = rows
        row += len(rows)
    assert joined is not None
    joined.flush()
    return int(joined.shape[-1])
