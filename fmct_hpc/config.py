"""The configuration of a training: typed, closed, with a reason for each default."""

from pydantic import model_validator

from fmct_hpc.data.config import DataConfig
from fmct_hpc.engine_config import EngineConfig
from fmct_hpc.fields import edges
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.kinds import KINDS, NEEDS
from fmct_hpc.objective.part import Part
from fmct_hpc.objective.registry import ObjectiveConfig
from fmct_hpc.train.config import HealthConfig, OptimConfig, RunConfig
from shards.errors import FmctError
from shards.section import Section
from shards.sharing_section import Sharing


class TrainConfig(Section):
    """The configuration of `fmct train`."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    engine: EngineConfig = EngineConfig()
    run: RunConfig = RunConfig()
    health: HealthConfig = HealthConfig()
    privacy: Sharing = Sharing()

    @property
    def parts(self) -> list[Part]:
        """The objective's parts with a weight above 0, in the order in which they are built and summed."""
        return [kind(self) for kind in self.objective.built]

    def with_absolute_paths(self) -> "TrainConfig":
        """The same with absolute paths, as records need: they are read from other working directories."""
        data, start = self.data, self.run.start_from
        places = {"path": data.path.absolute(), "cache": data.cache and data.cache.absolute()}
        run = self.run.model_copy(update={"start_from": start and start.absolute()})
        probed = {key: getattr(self.health, key) for key in ("labels", "data")}
        health = self.health.model_copy(update={k: path and path.absolute() for k, path in probed.items()})
        update = {"data": data.model_copy(update=places), "run": run, "health": health}
        return self.model_copy(update=update)

    def accumulation(self, ranks: int) -> int:
        """Micro-batches per step: the smallest number of equal ones within engine.micro_batch.

        Raises FmctError where `ranks` does not divide run.batch, or a part has no volumes to compare.
        """
        share, rest = divmod(self.run.batch, ranks)
        if rest:
            raise FmctError(f"run.batch={self.run.batch} is not a multiple of {ranks} ranks: change either")
        limit = self.engine.micro_batch or share
        count = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= limit)
        comparing = [part.name for part in self.parts if part.compares_volumes]
        if comparing and self.run.batch < 2 * count:
            raise FmctError(
                f"objective.{comparing[0]}_weight compares the volumes of a micro-batch over all ranks, "
                "but it has only one: raise run.batch or engine.micro_batch"
            )
        return count

    @model_validator(mode="after")
    def _patch_divides_view(self) -> "TrainConfig":
        for key in ("view_size", "local_view_size"):
            views, patches = edges(getattr(self.data, key) or 0), edges(self.model.patch_size)
            if any(view % patch for view, patch in zip(views, patches, strict=True)):
                raise ValueError(f"data.{key} must be a multiple of model.patch_size along each axis")
        return self

    @model_validator(mode="after")
    def _constants_fit_windows(self) -> "TrainConfig":
        for key in ("input_mean", "input_std"):
            value, windows = getattr(self.model, key), len(self.data.windows)
            if isinstance(value, tuple) and len(value) != windows:
                raise ValueError(
                    f"model.{key} needs one value, or one for each of the {windows} data.windows"
                )
        return self

    @model_validator(mode="after")
    def _encoder_does_what_parts_need(self) -> "TrainConfig":
        kind = KINDS[self.model.kind]
        for part in self.parts:
            for need in part.needs:
                if not getattr(kind, need):
                    raise ValueError(
                        f"objective.{part.name}_weight needs an encoder that {NEEDS[need]}, which "
                        f"model.kind={self.model.kind} does not: set it to 0"
                    )
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "TrainConfig":
        for part in self.parts:
            part.require()
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.compile needs engine.zero_stage 0 to 2: stage 3 gathers weights inside blocks"
            )
        return self
