"""Of another run's weights, those that this run's model takes; and what must be the same for that."""

from collections.abc import Iterable

from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.patches import grid_of, resize_positions
from fmct_hpc.objective.student import Student
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.source import Source
from shards.errors import FmctError

_SAME = ("kind", "width", "depth", "patch_size", "heads", "positions", "input_mean", "input_std")
"""Keys of the model that must be the source's: not all of them show in the shapes."""


def fitted(source: Source, config: TrainConfig, student: Student) -> Source:
    """The source's weights, averages and targets of those parts that `student`, of `config`, has too.

    Learned positions are interpolated to the grid of this run's views, as they are for a view of another
    size. Raises FmctError where a part of both is not the same in both.
    """
    built = dict(student.named_parameters())
    common = parts_of(built) & parts_of(source.weights)
    _require_same(source, config, common)
    weights = _of_parts(source.weights, common, source, config)
    averages = _of_parts(source.averages, common, source, config)
    wanted = {name for name in built if _part(name) in common}
    for name in sorted(wanted | set(weights)):
        ours, theirs = built.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [None if t is None else tuple(t.shape) for t in (theirs, ours)]
            what = f"{name} is {shapes[0]} there and {shapes[1]} by this run's model and data"
            raise FmctError(f"{source.description}: {what}")
    kept = Targets(config).state_dict() if config.objective.distils else {}
    targets = {
        name: tensor
        for name, tensor in source.targets.items()
        if name in kept and tensor.shape == kept[name].shape
    }
    return source._replace(weights=weights, averages=averages, targets=targets)


def parts_of(names: Iterable[str]) -> set[str]:
    """Parts of the student, encoder, head, …, by the names of their weights."""
    return {_part(name) for name in names}


def _part(name: str) -> str:
    return name.partition(".")[0]


def _require_same(source: Source, config: TrainConfig, common: set[str]) -> None:
    if source.data.windows != config.data.windows:
        theirs, ours = source.data.windows, config.data.windows
        raise FmctError(f"{source.description}: has data.windows={theirs}, not {ours}")
    for key in (*_SAME, *(("decoder_heads",) if "decoder" in common else ())):
        value, wanted = getattr(source.model, key), getattr(config.model, key)
        if value != wanted:
            raise FmctError(f"{source.description}: has model.{key}={value}, not {wanted}")


def _of_parts(
    tensors: dict[str, Tensor], parts: set[str], source: Source, config: TrainConfig
) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if _part(name) in parts}
    if (positions := found.get("encoder.positions")) is not None:
        sizes = (source.data.view_size, config.data.view_size)
        theirs, ours = (grid_of(size, config.model.patch_size) for size in sizes)
        found["encoder.positions"] = resize_positions(positions, theirs, ours)
    return found
