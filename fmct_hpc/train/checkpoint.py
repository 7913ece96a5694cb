"""Checkpoints on disk: a directory a step that has its name only when every rank's part is there.

`checkpoints/step-00001000/` holds one file a rank (fmct_hpc.train.pieces) and manifest.json, with the size
and SHA-256 of each. `fmct_hpc.train.saver` writes them; this module reads, checks and prunes them, and
needs neither torch nor DeepSpeed.
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
from shards.info import read_preprocessing
from shards.names import Component, Sha256, inside
from shards.newer import newer

if TYPE_CHECKING:
    from shards import Dataset

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_NAME = re.compile("step-[0-9]{8}")
ASIDE = "damaged-"
"""Before the name of a checkpoint that is one no more."""


class DamagedCheckpointError(FmctError):
    """A checkpoint whose bytes are not those that were written."""


class FileFacts(Closed):
    """What a file of a checkpoint must be."""

    bytes: NonNegativeInt
    sha256: Sha256


class DataFacts(Closed):
    """What identifies the volumes that a run is trained on."""

    content_digest: str
    """Of the voxels (shards.Dataset.content_digest), whatever the shard format."""
    dataset_digest: str
    preprocess_digest: str
    """SHA-256 of the preprocessing configuration."""
    spacing_mm: tuple[float, float, float]
    shards_digest: str
    """SHA-256 of the shards' numbers of volumes, on which their order in an epoch depends."""
    preprocessing: dict[str, Any] | None = None
    """The configuration itself; None where the dataset does not keep it."""

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
            preprocessing=read_preprocessing(dataset.path, dataset.info.config_digest),
        )


class Beginning(Closed):
    """The weights that a run began with in place of drawn ones."""

    place: Path
    """An encoder.safetensors, or the folder of another run's checkpoint."""
    digest: Sha256
    """SHA-256 of that file, or the digest of that checkpoint's manifest."""
    origin: str
    """Where they come from, with what those began with."""


class Manifest(Closed):
    """What a checkpoint holds and what it was made by."""

    format_version: int = FORMAT_VERSION
    step: int
    """Steps that are done; the next one to do has this number."""
    updates: int
    """How many of them changed the weights."""
    world_size: int
    zero_stage: int
    configuration: dict[str, Any]
    """The whole TrainConfig."""
    versions: dict[str, str]
    """Of this code, torch and DeepSpeed."""
    data: DataFacts
    files: dict[Component, FileFacts]
    """All that belongs to it: another file in its folder is not read."""
    beginning: Beginning | None = None
    """None where the run's weights were drawn, and in checkpoints of 0.1.0."""
    digest: str = ""
    """`seal` of all above."""

    def sealed(self) -> "Manifest":
        """The same with its digest."""
        return self.model_copy(update={"digest": seal(self.model_dump(mode="json"))})

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(facts.bytes for facts in self.files.values())


def seal(document: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest as it is written, but for its digest, as compact JSON.

    Of what is written, whatever keys this version knows: a later one's new key makes no old manifest damaged.
    """
    return hashlib.sha256(to_json({k: v for k, v in document.items() if k != "digest"})).hexdigest()


def checkpoint_path(run: Path, step: int) -> Path:
    """The directory of the checkpoint at `step` in a run folder."""
    return run / "checkpoints" / f"step-{step:08d}"


def part_name(rank: int) -> str:
    """The file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


def parts(path: Path, manifest: Manifest) -> list[Path]:
    """All ranks' files of the checkpoint `path`: those that its manifest lists, whatever else is there."""
    return [inside(path, name) for name in sorted(manifest.files)]


def newest(run: Path) -> tuple[Path, Manifest] | None:
    """The newest whole checkpoint of a run folder and its manifest; None where it has none at all.

    Every file's size and SHA-256 is checked. A damaged checkpoint, or one that the disk has lost (EIO), is
    named in a warning and the one before it is taken; raises FmctError where all are damaged: a run is never
    begun again in silence. Raises RefusedError where the system does not give one that may well be whole.
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
        for what in damaged:
            log.warning("%s", what)
        if damaged:
            log.warning("going on from %s instead", path)
        return path, manifest
    if damaged:
        raise FmctError(
            f"no whole checkpoint is left: {damaged[0]}; restore that file, or remove {run / 'checkpoints'} "
            "to begin again"
        )
    return None


def checkpoint_of(place: Path, digest: str | None) -> Path | None:
    """The checkpoint whose manifest has that digest: `place` itself, or one of the run folder `place`.

    None where there is none to be read; only manifests are.
    """
    for path in [place] if (place / MANIFEST).is_file() else checkpoints(place):
        with suppress(FmctError):
            if read_manifest(path).digest == digest:
                return path
    return None


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint, whose other files are not looked at; raises as `verify` does."""
    try:
        document = json_text.parse((path / MANIFEST).read_bytes())
        version = document["format_version"]
        manifest = Manifest.model_validate(document) if version == FORMAT_VERSION else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_refusal(error, path / MANIFEST)
        if refusal := newer(path / MANIFEST, error):
            raise refusal from None
        raise DamagedCheckpointError(
            f"{path / MANIFEST}: missing or damaged; the checkpoint can't be used"
        ) from None
    if manifest is None:
        raise FmctError(f"{path}: checkpoint format {version}, this code reads {FORMAT_VERSION}")
    if manifest.digest != seal(document):
        raise DamagedCheckpointError(
            f"{path / MANIFEST}: not as it was written; the checkpoint can't be used"
        )
    return manifest


def verify(path: Path) -> Manifest:
    """Check a checkpoint against its manifest.

    Raises DamagedCheckpointError that names the first damaged file; RefusedError where the system
    does not give one; FmctError for another format.
    """
    manifest = read_manifest(path)
    with ThreadPoolExecutor() as threads:  # hashing holds no lock
        found = threads.map(file_facts, (path / name for name in manifest.files))
        for (name, facts), actual in zip(manifest.files.items(), found, strict=True):
            if actual is None:
                raise DamagedCheckpointError(f"{path / name}: missing; the checkpoint can't be used")
            if actual != facts:
                raise DamagedCheckpointError(
                    f"{path / name}: not as it was written; the checkpoint can't be used"
                )
    return manifest


def set_damaged_aside(run: Path, step: int) -> None:
    """Give damaged checkpoints after `step`, from which the run goes on, another name: they count no more.

    Those that just can't be read now keep theirs. `prune` removes the others when the run is at their step.
    """
    for path in checkpoints(run):
        if path <= checkpoint_path(run, step):
            continue
        try:
            verify(path)
        except DamagedCheckpointError:
            aside = path.with_name(f"{ASIDE}{path.name}")
            try:
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
                log.warning("%s: damaged, so it is %s now", path, path.rename(aside).name)
            except OSError as error:
                log.warning("%s: can't be renamed: %s", path, error)
        except FmctError:
            continue


def file_facts(file: Path) -> FileFacts | None:
    """Size and SHA-256 of a file; None where there is none, RefusedError where it is not to be had."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return FileFacts(bytes=stream.tell(), sha256=digest)
    except OSError as error:
        raise_refusal(error, file)
        return None


def newest_step(run: Path) -> int:
    """Steps done at the newest checkpoint that has its name, whose bytes are not checked; 0 without one."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(run)), default=0)


PROBED, ONLINE = "score", "online"
"""Kinds of notes beside a checkpoint: of `fmct probe`, and of the run's own online probe. Their scores are of
other volumes and classifiers, and are compared with their own kind alone."""


def mark_score(path: Path, score: float, what: str, kind: str = PROBED) -> None:
    """Note how good a checkpoint's features are (higher is better): pruning keeps the best one of a kind.

    The note lies beside the checkpoint, which itself is never written again.
    """
    write_text(_note(path, kind), json.dumps({"score": score, "what": what}))


def best(run: Path, kind: str) -> tuple[Path, float] | None:
    """The checkpoint of the best score of a kind, the newest of equals; None where none has one."""
    return _best(checkpoints(run), kind)


def prune(run: Path, step: int, keep_last: int, keep_every: int | None) -> None:
    """Remove checkpoints up to the one of `step`, which has just been written whole.

    The last `keep_last` stay, those of every `keep_every`-th step, and the best of each kind of score. Later
    ones could not be read when the run went on from before them: they neither count nor are removed, until
    the run comes to their step again, nor are those that were set aside. What the system refuses is warned
    of, and left to the next call.
    """
    written = checkpoint_path(run, step)
    present = [path for path in checkpoints(run) if path <= written]
    try:
        scored = {found[0] for kind in (PROBED, ONLINE) if (found := _best(present, kind))}
    except OSError as error:
        log.warning("%s: all checkpoints stay for now: %s", run, error)
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
    except OSError as error:  # on NFS for one, while somebody reads a file
        log.warning("%s: can't be removed for now: %s", path, error)


def checkpoints(run: Path) -> list[Path]:
    """All of a run folder that have their name, oldest first; they may be damaged."""
    folder = run / "checkpoints"
    try:
        names = os.listdir(folder)  # Path.glob would be silent about one that may not be listed
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
                log.warning("%s: damaged, so its checkpoint counts as one without a score", note)
    return max(scores)[::-1] if scores else None
