"""The configuration of dense evaluation."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Device, Positive, Seed
from fmct_hpc.probe.encoders import EncoderSpec
from fmct_hpc.probe.splits import SplitConfig
from shards.section import Section
from shards.sharing_section import Sharing

HeadName = Literal["linear", "convolution"]


class SegmentConfig(Section):
    """All of `fmct segment`: encoders × heads × layers × seeds, every class of the masks at once."""

    data: Path
    """A shard dataset."""
    masks: Path
    """The masks of its volumes, from `fmct masks`."""
    features: Path
    """Folder of feature stores, one for each encoder by its name; patch tokens that are missing are
    extracted."""
    encoders: Annotated[tuple[EncoderSpec, ...], Field(min_length=1)]
    untrained: bool = True
    """Add the first encoder with weights drawn anew, as NAME-untrained: what its architecture alone gives."""
    classes: tuple[str, ...] | None = None
    """Of the masks; None: all."""
    parts: Path | None = None
    """Parquet of `fmct shards split`: the patients of `train` teach, of `validation` choose, of `test` and
    `ood` are tested on."""
    labels: Path | None = None
    """Parquet of `fmct labels` whose column `split` says the same by study, in place of `parts`."""
    split: SplitConfig = SplitConfig()
    """By hash of the patient's key, where neither says it."""
    heads: Annotated[tuple[HeadName, ...], Field(min_length=1)] = ("linear", "convolution")
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Of the encoders, from 0, or from the end by -1 and so on."""
    cells: Literal[1, 2, 4, 8] = 4
    """A head divides a patch's edge into as many cells and says each cell's share of a class; between cells'
    centres it is interpolated. 4: 7 mm of the reference's patches of 28 mm; `dice_ceiling` says what that
    can give."""
    hidden: Positive = 64
    """Channels of the convolutional head; each doubling of the resolution halves them, to 16 at least."""
    learning_rates: Annotated[tuple[Above0, ...], Field(min_length=1)] = (1e-3, 3e-3, 1e-2)
    """Of AdamW, as of attentive pooling; rate and step are chosen on validation."""
    weight_decay: AtLeast0 = 0.01
    """AdamW's own."""
    steps: Positive = 300
    batch: Positive = 8
    """Volumes of a step, and those that an encoder sees at once."""
    check_every: Positive = 50
    """Steps between looks at the validation volumes."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """For the heads' first weights and the order of volumes."""
    tolerance_mm: Above0 = 2.0
    """Of the normalised surface Dice: about a reader's own repeatability on head CT, and a voxel or two."""
    bootstrap: Positive = 2000
    """Resamples of patients for the intervals."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    allow_pretraining_patients: bool = False
    """Test on patients that an encoder has seen in pretraining, or may have, and have it reported."""
    allow_unknown_pretraining: bool = False
    """Test, and have it reported, where nobody can know whether an encoder has seen them."""
    device: Device = "cpu"
    """For the features and the heads, cpu, gpu or gpu:1."""
    privacy: Sharing = Sharing()

    @property
    def compared(self) -> tuple[EncoderSpec, ...]:
        """The encoders, with the untrained one."""
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
                raise ValueError(f"{key} is empty, or names one twice")
        names = [spec.name for spec in self.compared]
        if len(set(names)) < len(names):
            raise ValueError("two encoders have the same name; results are told apart by it")
        if self.parts and self.labels:
            raise ValueError("parts and labels both say who is tested; leave one out")
        return self
