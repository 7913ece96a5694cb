"""Maps of scans: for each label and method a value a patch, and where the patches lie."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.classifier.predict import Answer, Classifier, load_classifier
from fmct_hpc.inference.readers import Scan
from fmct_hpc.model.attention import on_grid
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.execution import usable_device
from fmct_hpc.model.kinds import KINDS
from fmct_hpc.model.tissue import tissue
from fmct_hpc.probe.encoders import OurEncoder, load_weights
from fmct_hpc.probe.methods.registry import METHODS as PROBE_METHODS
from fmct_hpc.relevance.methods import METHODS, WITHOUT_HEAD, require_methods
from fmct_hpc.relevance.place import PatchGrid
from fmct_hpc.relevance.question import Question
from fmct_hpc.relevance.reading import Reading, reading_of, reading_of_cls
from shards.errors import FmctError

CLS = "cls"
"""What stands for a label in the maps of an encoder without a head."""


@dataclass(frozen=True)
class ScanMaps:
    """Of one scan."""

    scan: Scan
    grid: PatchGrid
    maps: dict[tuple[str, str], NDArray[np.float32]]
    """By label and method, a value a patch (d, h, w); 0 for patches that are not encoded."""
    answers: dict[str, Answer]
    """The classifier's, by label; none of an encoder without a head."""
    tissue: NDArray[np.float32]
    """How much tissue each patch holds (d, h, w); see `fmct_hpc.model.tissue`."""


class Explainer:
    """A kept classifier, or an encoder alone, with the methods that are asked of it."""

    def __init__(
        self,
        source: Classifier | OurEncoder,
        methods: Sequence[str] = (),
        tasks: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        """methods: all by default; tasks: label columns, all of the classifier's by default.

        Raises FmctError for a method or label that there is not, for one that needs a classifier where there
        is none, for a classifier of neighbours, and for an encoder without attention.
        """
        self.place = usable_device(device)
        self.classifier = source if isinstance(source, Classifier) else None
        self.encoder = source.encoder if isinstance(source, Classifier) else source
        kind = self.encoder.info.model.kind
        if not KINDS[kind].attends:
            raise FmctError(f"model.kind={kind}: maps are of encoders with attention alone")
        self.model: Backbone = self.encoder.module.to(self.place).eval()
        with_head = self.classifier is not None
        self.methods = require_methods(list(methods or (METHODS if with_head else WITHOUT_HEAD)), with_head)
        self.readings = self._readings(list(tasks))
        record = self.classifier.record if self.classifier else None
        self.layer = self.encoder.depth - 1 if record is None else record.layer
        self._halved = record is not None and PROBE_METHODS[record.method].reads == "volumes"

    def _readings(self, tasks: list[str]) -> dict[str, Reading]:
        if self.classifier is None:
            if tasks:
                raise FmctError(f"task {tasks[0]}: an encoder has no labels; give --classifier")
            return {CLS: reading_of_cls(self.model.prefix, self.encoder.info.model.width, self.place)}
        record, heads = self.classifier.record, self.classifier.heads
        there = {task.task: head for task, head in zip(record.tasks, heads, strict=True)}
        for task in tasks:
            if task not in there:
                raise FmctError(f"task {task}: the classifier has {', '.join(there)}")
        return {
            task: reading_of(record, there[task], self.model.prefix, self.place) for task in tasks or there
        }

    def of_scans(self, scans: Iterable[Scan]) -> Iterator[ScanMaps]:
        """Maps of scans as `fmct_hpc.inference.readers` gives them, one at a time."""
        for scan in scans:
            view = self.encoder.transform(scan.voxels, scan.spacing_mm)[None]
            view = (view.half().float() if self._halved else view).to(self.place)
            kept = self.model.kept(view)
            grid = PatchGrid.of(scan, self.encoder.info)
            answers = {}
            if self.classifier is not None:
                (prediction,) = self.classifier.of_scans([scan], 1, str(self.place).replace("cuda", "gpu"))
                answers = {task: prediction.answers[task] for task in self.readings}
            yield ScanMaps(
                scan, grid, self._maps(view, kept, grid.shape), answers, self._tissue(view, grid.shape)
            )

    def _maps(
        self, view: torch.Tensor, kept: torch.Tensor | None, shape: tuple[int, int, int]
    ) -> dict[tuple[str, str], NDArray[np.float32]]:
        found = {}
        patches = int(np.prod(shape))
        for task, reading in self.readings.items():
            question = Question(self.model, view, kept, self.layer, reading)
            for method in self.methods:
                values = on_grid(METHODS[method](question)[None], kept, patches)
                found[task, method] = values[0].reshape(shape).float().cpu().numpy()
        return found

    def _tissue(self, view: torch.Tensor, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        held = tissue(view, self.model.patch_size)[0]
        return held.reshape(shape).cpu().numpy().astype(np.float32)


def open_explainer(
    classifier: Path | None,
    encoder: Path | None,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    device: str = "cpu",
) -> Explainer:
    """Of a classifier's folder, or of an encoder as `load_weights` takes it.

    Raises FmctError unless one of them is given, and as `Explainer` does.
    """
    if (classifier is None) == (encoder is None):
        raise FmctError("give one of --classifier and --encoder")
    source = load_classifier(classifier) if classifier else OurEncoder(*load_weights(encoder))  # type: ignore[arg-type]
    return Explainer(source, methods, tasks, device)
