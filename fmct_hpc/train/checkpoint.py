"""Checkpoints on disk: one directory per step, which gets its name only when all ranks' files are complete.

`checkpoints/step-00001000/` holds one file per rank (fmct_hpc.train.pieces) and manifest.json, with the size
and SHA-256 of each. `fmct_hpc.train.saver` writes them; this module reads, verifies and prunes them, without
torch or DeepSpeed.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt
from pydantic_core import to_json

from shards import json_text
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError, RefusedError, raise_refusal
from shards.names import Component, Sha256, inside
from shards.newer_version import newer_version_error

if TYPE_CHECKING:
    from shards import Dataset

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_NAME = re.compile("step-[0-9]{8}")
ASIDE = "damaged-"
"""Prefix of the names of damaged checkpoints."""


class DamagedCheckpointError(FmctError):
    """A checkpoint whose bytes differ from those that were written."""


class FileFacts(Closed):
    """Size and digest of a file of a checkpoint."""

    bytes: NonNegativeInt
    sha256: Sha256


class DataFacts(Closed):
    """Identifies the volumes that a run is trained on."""

    content_digest: str
    """Digest of the voxels (shards.Dataset.content_digest), independent of the shard format."""
    dataset_digest: str
    preprocess_digest: str
    """SHA-256 of the preprocessing configuration."""
    spacing_mm: tuple[float, float, float]
    shards_digest: str
    """SHA-256 of the shards' numbers of volumes, which determine the order in an epoch."""
    preprocessing: dict[str, Any] | None = None
    """The preprocessing configuration; None where the dataset does not have it."""

    @classmethod
    def of(cls, dataset: "Dataset") -> "DataFacts":
        """The facts of an open dataset."""
        sizes = " ".join(str(shard.volumes) for shard in dataset.info.shards)
        return cls(
            content_digest=dataset.content_digest(),
            dataset_digest=dataset.info.digest,
            preprocess_digest=dataset.info.config_digest,
            spacing_mm=dataset.info.spacing_mm,
            shards_digest=hashlib.sha256(sizes.encode()).hexdigest(),
            preprocessing=dataset.preprocessing(),
        )


class InitialWeights(Closed):
    """The weights that a run started from, where these were not random."""

    place: Path
    """An encoder.safetensors, or the folder of another run's checkpoint."""
    digest: Sha256
    """SHA-256 of that file, or the digest of that checkpoint's manifest."""
    origin: str
    """Origin of the weights, including what their own run started from."""


class Manifest(Closed):
    """Content and origin of a checkpoint."""

    format_version: int = FORMAT_VERSION
    step: int
    """Number of completed steps, which is the number of the next step."""
    updates: int
    """Number of steps that updated the weights."""
    world_size: int
    zero_stage: int
    configuration: dict[str, Any]
    """The complete TrainConfig."""
    versions: dict[str, str]
    """Versions of this code, torch and DeepSpeed."""
    data: DataFacts
    files: dict[Component, FileFacts]
    """The files of the checkpoint; others in its folder are ignored."""
    beginning: InitialWeights | None = None
    """None for random initial weights, and in checkpoints of 0.1.0."""
    digest: str = ""
    """`seal` of the other keys."""

    def sealed(self) -> "Manifest":
        """The same with its digest."""
        return self.model_copy(update={"digest": seal(self.model_dump(mode="json"))})

    @property
    def bytes(self) -> int:
        """Total size of all files."""
        return sum(facts.bytes for facts in self.files.values())


def seal(document: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its digest, as compact JSON.

    Computed from the keys in the file, not from those that this version knows: manifests stay valid when a
    later version adds a key.
    """
    return hashlib.sha256(to_json({k: v for k, v in document.items() if k != "digest"})).hexdigest()


def checkpoint_path(run: Path, step: int) -> Path:
    """The directory of the checkpoint at `step` in a run folder."""
    return run / "checkpoints" / f"step-{step:08d}"


def part_name(rank: int) -> str:
    """The file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


def parts(path: Path, manifest: Manifest) -> list[Path]:
    """All ranks' files of the checkpoint `path`, as listed in its manifest."""
    return [inside(path, name) for name in sorted(manifest.files)]


def newest(run: Path) -> tuple[Path, Manifest] | None:
    """The newest intact checkpoint of a run folder and its manifest; None for a folder without checkpoints.

    Verifies every file's size and SHA-256. A damaged checkpoint, or one that the disk cannot read (EIO), is
    named in a warning and skipped; raises FmctError where all are damaged, as a run is never restarted
    silently. Raises RefusedError where the system denies access to one that may be intact.
    """
    damaged: list[str] = []
    for path in reversed(checkpoints(run)):
        try:
            manifest = verify(path)
        except FmctError as error:
            if isinstance(error, RefusedError) and error.number != errno.EIO:
                raise
            damaged.append(str(error))
            continue
        for damage in damaged:
            log.warning("%s", damage)
        if damaged:
            log.warning("resuming from %s instead", path)
        return path, manifest
    if damaged:
        raise FmctError(
            f"no intact checkpoint is left: {damaged[0]}; restore that file, or remove {run / 'checkpoints'} "
            "to start over"
        )
    return None


def checkpoint_of(place: Path, digest: str | None) -> Path | None:
    """The checkpoint whose manifest has that digest: `place` itself, or one in the run folder `place`.

    None if no readable manifest has it; other files are not read.
    """
    for path in [place] if (place / MANIFEST).is_file() else checkpoints(place):
        with suppress(FmctError):
            if read_manifest(path).digest == digest:
                return path
    return None


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint, without checking its other files; raises as `verify` does."""
    try:
        document = json_text.parse((path / MANIFEST).read_bytes())
        version = document["format_version"]
        manifest = Manifest.model_validate(document) if version == FORMAT_VERSION else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_refusal(error, path / MANIFEST)
        if refusal := newer_version_error(path / MANIFEST, error):
            raise refusal from None
        raise DamagedCheckpointError(
            f"{path / MANIFEST}: missing or damaged; the checkpoint is unusable"
        ) from None
    if manifest is None:
        raise FmctError(f"{path}: checkpoint format {version}, this code reads {FORMAT_VERSION}")
    if manifest.digest != seal(document):
        raise DamagedCheckpointError(f"{path / MANIFEST}: changed or damaged; the checkpoint is unusable")
    return manifest


def verify(path: Path) -> Manifest:
    """Verify a checkpoint against its manifest.

    Raises DamagedCheckpointError that names the first damaged file; RefusedError where the system denies
    access to one; FmctError for another format.
    """
    manifest = read_manifest(path)
    with ThreadPoolExecutor() as threads:  # hashing releases the GIL
        read = threads.map(file_facts, (path / name for name in manifest.files))
        for (name, facts), actual in zip(manifest.files.items(), read, strict=True):
            if actual is None:
                raise DamagedCheckpointError(f"{path / name}: missing; the checkpoint is unusable")
            if actual != facts:
                raise DamagedCheckpointError(f"{path / name}: changed or damaged; the checkpoint is unusable")
    return manifest


def set_damaged_aside(run: Path, step: int) -> None:
    """Rename damaged checkpoints after `step`, from which the run resumes, so that they no longer count.

    Those that cannot be read at the moment keep their name. `prune` removes the renamed ones when the run
    reaches their step.
    """
    for path in checkpoints(run):
        if path <= checkpoint_path(run, step):
            continue
        try:
            verify(path)
        except DamagedCheckpointError:
            aside = path.with_name(f"{ASIDE}{path.name}")
            try:
                shutil.rmtree(aside, ignore_errors=True)  # from an earlier attempt
                log.warning("%s: damaged; renamed to %s", path, path.rename(aside).name)
            except OSError as error:
                log.warning("%s: can't be renamed: %s", path, error)
        except FmctError:
            continue


def file_facts(file: Path) -> FileFacts | None:
    """Size and SHA-256 of a file; None if it is missing; raises RefusedError if access is denied."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return FileFacts(bytes=stream.tell(), sha256=digest)
    except OSError as error:
        raise_refusal(error, file)
        return None


def newest_step(run: Path) -> int:
    """Step of the newest complete checkpoint, whose bytes are not verified; 0 without one."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(run)), default=0)


PROBED, ONLINE = "score", "online"
"""Kinds of score notes beside a checkpoint: from `fmct probe`, and from the run's online probe. They measure
different volumes and classifiers, so scores are compared only within a kind."""


def mark_score(path: Path, score: float, what: str, kind: str = PROBED) -> None:
    """Record a score of a checkpoint's features (higher is better); pruning keeps the best one of each kind.

    The note is a file beside the checkpoint, which itself is never modified.
    """
    write_text(_note(path, kind), json.dumps({"score": score, "what": what}))


def best(run: Path, kind: str) -> tuple[Path, float] | None:
    """The checkpoint with the best score of a kind, the newest of equals; None without scores."""
    return _best(checkpoints(run), kind)


def prune(run: Path, step: int, keep_last: int, keep_every: int | None) -> None:
    """Remove checkpoints up to that of `step`, which has just been completed.

    Keeps the last `keep_last`, those of every `keep_every`-th step, and the best of each kind of score. Later
    checkpoints could not be read when the run resumed before them: they are neither counted nor removed until
    the run reaches their step again, and neither are renamed damaged ones. Failed removals are logged as
    warnings and retried at the next call.
    """
    written = checkpoint_path(run, step)
    present = [path for path in checkpoints(run) if path <= written]
    try:
        scored = {top[0] for kind in (PROBED, ONLINE) if (top := _best(present, kind))}
    except OSError as error:
        log.warning("%s: can't read scores, so no checkpoint is removed now: %s", run, error)
        return
    kept = {*present[-keep_last:], *scored}
    for path in present:
        regular = keep_every is not None and int(path.name.removeprefix("step-")) % keep_every == 0
        if path not in kept and not regular:
            _remove(path)
    for path in written.parent.glob(f"{ASIDE}step-*"):
        if path.name.removeprefix(ASIDE) <= written.name:
            _remove(path)


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
        for kind in (PROBED, ONLINE):
            _note(path, kind).unlink(missing_ok=True)
    except OSError as error:  # for example on NFS, while a file is being read
        log.warning("%s: can't be removed now: %s", path, error)


def checkpoints(run: Path) -> list[Path]:
    """All complete checkpoints of a run folder, oldest first; they may be damaged."""
    folder = run / "checkpoints"
    try:
        names = os.listdir(folder)  # Path.glob would ignore a folder without read permission
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if _NAME.fullmatch(name))


def _note(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}.json")


def _best(paths: list[Path], kind: str) -> tuple[Path, float] | None:
    scores: list[tuple[float, Path]] = []
    for path in paths:
        note = _note(path, kind)
        with suppress(FileNotFoundError):
            try:
                scores.append((float(json_text.parse(note.read_text())["score"]), path))
            except (ValueError, KeyError, TypeError):
                log.warning("%s: damaged; its checkpoint counts as one without a score", note)
    return max(scores)[::-1] if scores else None
