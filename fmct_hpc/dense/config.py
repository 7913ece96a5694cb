"""Configuration of dense evaluation."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Device, Positive, Seed
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.splits import SplitConfig
from shards.section import Section
from shards.sharing_section import Sharing

HeadName = Literal["linear", "convolution"]


class SegmentConfig(Section):
    """All of `fmct segment`: encoders × heads × layers × seeds, with all classes of the masks together."""

    data: Path
    """A shard dataset."""
    masks: Path
    """The masks of its volumes, from `fmct masks`."""
    features: Path
    """Folder of feature stores, one per encoder, by name; missing patch tokens are extracted."""
    encoders: Annotated[tuple[EncoderSpec, ...], Field(min_length=1)]
    untrained: bool = True
    """Add the first encoder with random weights as NAME-untrained, the baseline of its architecture."""
    classes: tuple[str, ...] | None = None
    """Classes of the masks; None: all."""
    parts: Path | None = None
    """Parquet of `fmct shards split`: `train` and `validation` are for training and validation, `test` and
    `ood` are test sets."""
    labels: Path | None = None
    """Parquet of `fmct labels` with the splits of studies in its column `split`, instead of `parts`."""
    split: SplitConfig = SplitConfig()
    """Split by hash of the patient's key, without parts and labels."""
    heads: Annotated[tuple[HeadName, ...], Field(min_length=1)] = ("linear", "convolution")
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the encoders, from 0, or from the end with -1 and so on."""
    cells: Literal[1, 2, 4, 8] = 4
    """Cells along each edge of a patch. A head predicts each cell's share of a class, interpolated between
    the cells' centres. 4: cells of 7 mm for the reference's patches of 28 mm; `dice_ceiling` is the Dice that
    this resolution permits."""
    hidden: Positive = 64
    """Channels of the convolutional head, halved with each doubling of the resolution, at least 16."""
    learning_rates: Annotated[tuple[Above0, ...], Field(min_length=1)] = (1e-3, 3e-3, 1e-2)
    """For AdamW, as in attentive pooling; rate and step are chosen on validation."""
    weight_decay: AtLeast0 = 0.01
    """PyTorch's default for AdamW."""
    steps: Positive = 300
    batch: Positive = 8
    """Volumes per training step and per forward pass of an encoder."""
    check_every: Positive = 50
    """Steps between evaluations on the validation volumes."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """For the heads' initial weights and the order of volumes."""
    tolerance_mm: Above0 = 2.0
    """For the normalised surface Dice: about a reader's repeatability on head CT, and one or two voxels."""
    bootstrap: Positive = 2000
    """Resamples of patients for the intervals."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    allow_pretraining_patients: bool = False
    """Accept test patients that are, or may be, in an encoder's pretraining data, and report them."""
    allow_unknown_pretraining: bool = False
    """Accept, and report, an encoder whose pretraining patients are unknown."""
    device: Device = "cpu"
    """Device for features and heads: cpu, gpu or gpu:1."""
    privacy: Sharing = Sharing()

    @property
    def compared(self) -> tuple[EncoderSpec, ...]:
        """The encoders, including the untrained one."""
        first = self.encoders[0]
        if not self.untrained or first.weights is None or any(e.untrained is not None for e in self.encoders):
            return self.encoders
        twin = first.model_copy(update={"name": f"{first.name}-untrained", "untrained": 0})
        return (*self.encoders, twin)

    @model_validator(mode="after")
    def _one_of_each(self) -> "SegmentConfig":
        for key in ("heads", "layers", "seeds", "classes", "learning_rates"):
            values = getattr(self, key)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{key} is empty or has a duplicate value")
        names = [spec.name for spec in self.compared]
        if len(set(names)) < len(names):
            raise ValueError("two encoders have the same name, which must identify results")
        if self.parts and self.labels:
            raise ValueError("parts and labels both define the split; remove one")
        return self
