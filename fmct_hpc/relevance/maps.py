"""Relevance maps of scans: one value per patch for each label and method, with the patches' positions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.classifier import studies
from fmct_hpc.classifier.predict import Answer, Classifier, load_classifier
from fmct_hpc.inference.readers import Scan
from fmct_hpc.model.attention import on_grid
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.execution import usable_device
from fmct_hpc.model.kinds import KINDS
from fmct_hpc.model.tissue import tissue
from fmct_hpc.probe.encoders import OurEncoder, load_weights
from fmct_hpc.probe.methods.registry import METHODS as PROBE_METHODS
from fmct_hpc.relevance.method_input import MethodInput
from fmct_hpc.relevance.methods import METHODS, WITHOUT_HEAD, require_methods
from fmct_hpc.relevance.patch_grid import PatchGrid
from fmct_hpc.relevance.reading import Reading, reading_of_cls, readings_of
from fmct_hpc.train.export import EncoderInfo
from shards.errors import FmctError

CLS = "cls"
"""Used instead of a label in the maps of an encoder without a head."""


@dataclass(frozen=True)
class ScanMaps:
    """The maps of one scan."""

    scan: Scan
    grid: PatchGrid
    maps: dict[tuple[str, str], NDArray[np.float32]]
    """By label and method, one value per patch (d, h, w); 0 for patches that are not encoded."""
    answers: dict[str, Answer]
    """The classifier's answers by label, for the scan or its study; empty for an encoder without a head."""
    tissue: NDArray[np.float32]
    """Amount of tissue in each patch (d, h, w); see `fmct_hpc.model.tissue`."""


class Explainer:
    """Computes maps with given methods for an exported classifier, or for an encoder without a head."""

    def __init__(
        self,
        source: Classifier | OurEncoder,
        methods: Sequence[str] = (),
        tasks: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        """methods: all by default; tasks: label columns, all of the classifier's by default.

        Raises FmctError for an unknown method or label, for a method that requires a classifier if there is
        none, for a classifier of neighbours, and for an encoder without attention. A classifier of studies
        has maps of all series of a study, or of the best one, depending on its input.
        """
        self.place = usable_device(device)
        self.classifier = source if isinstance(source, Classifier) else None
        self.encoder = source.encoder if isinstance(source, Classifier) else source
        kind = self.encoder.info.model.kind
        if not KINDS[kind].attends:
            raise FmctError(f"model.kind={kind}: maps require an encoder with attention")
        self.model: Backbone = self.encoder.module.to(self.place).eval()
        with_head = self.classifier is not None
        self.methods = require_methods(list(methods or (METHODS if with_head else WITHOUT_HEAD)), with_head)
        self.readings = self._readings(list(tasks))
        record = self.classifier.record if self.classifier else None
        self.layer = self.encoder.depth - 1 if record is None else record.layer
        self._halved = record is not None and PROBE_METHODS[record.method].reads == "volumes"
        self.sample = record.of_studies.sample if record is not None and record.of_studies else "volume"

    @property
    def reads(self) -> EncoderInfo:
        """The preprocessing for new exams."""
        return self.encoder.info if self.classifier is None else self.classifier.reads

    def _readings(self, tasks: list[str]) -> dict[str, dict[int | None, Reading]]:
        """The readings of each label, by class."""
        if self.classifier is None:
            if tasks:
                raise FmctError(f"task {tasks[0]}: an encoder has no labels; use --classifier")
            return {CLS: {None: reading_of_cls(self.model.prefix, self.encoder.info.model.width, self.place)}}
        record, heads = self.classifier.record, self.classifier.heads
        there = {task.task: (head, task.of_kind()) for task, head in zip(record.tasks, heads, strict=True)}
        for task in tasks:
            if task not in there:
                raise FmctError(f"task {task}: the classifier has {', '.join(there)}")
        return {
            task: readings_of(record, *there[task], self.model.prefix, self.place) for task in tasks or there
        }

    def samples(self, scans: Iterable[Scan]) -> Iterator[list[Scan]]:
        """Yield the classifier's samples: single scans, or the series of each study, the best one first.

        scans: from `fmct_hpc.inference.readers`, grouped by study for classifiers of studies.
        """
        if self.sample == "volume":
            yield from ([scan] for scan in scans)
            return
        chosen = studies.studies(scans, self.sample == "best")
        for study in studies.by_study(studies.Encoded(scan, np.empty(0)) for scan in chosen):
            yield [one.scan for one in study]

    def of_scans(self, scans: Iterable[Scan]) -> Iterator[ScanMaps]:
        """Yield the maps of all samples of these scans, one per scan."""
        for sample in self.samples(scans):
            yield from self.of_sample(sample)

    def of_sample(self, scans: list[Scan]) -> list[ScanMaps]:
        """Maps of each scan of a sample, with the classifier's answers for the sample.

        Raises FmctError for a study whose series have several Patient IDs.
        """
        if self.sample != "volume" and any(scan.several_patients for scan in scans):
            raise FmctError(studies.SEVERAL_PATIENTS)
        views = torch.stack([self.encoder.transform(scan.voxels, scan.spacing_mm) for scan in scans])
        views = (views.half().float() if self._halved else views).to(self.place)
        kept = self.model.kept(views)
        grids = [PatchGrid.of(scan, self.encoder.info) for scan in scans]
        answers: dict[str, Answer] = {}
        if self.classifier is not None:
            device = str(self.place).replace("cuda", "gpu")
            (prediction,) = self.classifier.of_scans(scans, len(scans), device)
            answers = {task: prediction.answers[task] for task in self.readings}
        roles = tuple(scan.role or studies.DEFAULT_ROLE for scan in scans)
        maps = self._maps(views, kept, grids[0].shape, answers, roles)
        held = tissue(views, self.model.patch_size).cpu().numpy().astype(np.float32)
        return [
            ScanMaps(
                scan,
                grid,
                {name: values[number] for name, values in maps.items()},
                answers,
                held[number].reshape(grid.shape),
            )
            for number, (scan, grid) in enumerate(zip(scans, grids, strict=True))
        ]

    def _maps(
        self,
        views: torch.Tensor,
        kept: torch.Tensor | None,
        shape: tuple[int, int, int],
        answers: dict[str, Answer],
        roles: tuple[str, ...],
    ) -> dict[tuple[str, str], NDArray[np.float32]]:
        """Maps by label and method, (S, d, h, w) for the S scans of a sample."""
        maps = {}
        patches = int(np.prod(shape))
        for task, readings in self.readings.items():
            # For labels with classes, the reading of the predicted class.
            reading = readings[None] if None in readings else readings[_class(answers[task])]
            inputs = MethodInput(self.model, views, kept, self.layer, reading.of_series(roles))
            for method in self.methods:
                values = on_grid(METHODS[method](inputs), kept, patches)
                maps[task, method] = values.unflatten(1, shape).float().cpu().numpy()
        return maps


def _class(answer: Answer) -> int:
    assert answer.value is not None
    return int(answer.value)


def open_explainer(
    classifier: Path | None,
    encoder: Path | None,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    device: str = "cpu",
) -> Explainer:
    """The explainer of a classifier's folder, or of an encoder given as for `load_weights`.

    Raises FmctError unless exactly one of them is given, and as `Explainer` does.
    """
    if (classifier is None) == (encoder is None):
        raise FmctError("give one of --classifier and --encoder")
    source = load_classifier(classifier) if classifier else OurEncoder(*load_weights(encoder))  # type: ignore[arg-type]
    return Explainer(source, methods, tasks, device)
