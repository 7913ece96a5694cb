"""Select from another run's weights those for this run's model, after checking that the models match."""

from collections.abc import Iterable

from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.patches import grid_of, resize_positions
from fmct_hpc.objective.student import Student
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.source import Source
from shards.errors import FmctError

_SAME = ("kind", "width", "depth", "patch_size", "heads", "positions", "input_mean", "input_std")
"""Model keys that must equal the source's: shapes do not determine all of them."""


def matching_weights(source: Source, config: TrainConfig, student: Student) -> Source:
    """The source's weights, averages and targets of the parts that `student`, of `config`, has too.

    Learned positions are interpolated to the grid of this run's views. Raises FmctError where a common part
    differs.
    """
    built = dict(student.named_parameters())
    common = parts_of(built) & parts_of(source.weights)
    _require_same(source, config, common)
    weights = _of_parts(source.weights, common, source, config)
    averages = _of_parts(source.averages, common, source, config)
    required = {name for name in built if _part(name) in common}
    for name in sorted(required | set(weights)):
        ours, theirs = built.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [None if t is None else tuple(t.shape) for t in (theirs, ours)]
            problem = f"{name} has shape {shapes[0]}, this run's configuration needs {shapes[1]}"
            raise FmctError(f"{source.description}: {problem}")
    kept = Targets(config).state_dict() if config.objective.distils else {}
    same = _same_heads(config, common, parts_of(source.weights))
    targets = {
        name: tensor
        for name, tensor in source.targets.items()
        if name in kept and tensor.shape == kept[name].shape and _part(name) in same
    }
    return source._replace(weights=weights, averages=averages, targets=targets)


def parts_of(names: Iterable[str]) -> set[str]:
    """Parts of the student (encoder, head, ...) by the names of their weights."""
    return {_part(name) for name in names}


def _same_heads(config: TrainConfig, common: set[str], theirs: set[str]) -> set[str]:
    """Names of the targets that are computed from the same head here and in the source.

    A centre is a mean of one head's outputs: it means nothing for a new head, or for the head of another part
    that is shared in only one of the two runs (objective.ibot_shared_head).
    """
    return {
        part.target_name
        for part in config.parts
        if part.target_head in common and not ({*part.taught} - {part.target_head}) & theirs
    }


def _part(name: str) -> str:
    return name.partition(".")[0]


def _require_same(source: Source, config: TrainConfig, common: set[str]) -> None:
    if source.data.windows != config.data.windows:
        theirs, ours = source.data.windows, config.data.windows
        raise FmctError(f"{source.description}: has data.windows={theirs}, not {ours}")
    for key in (*_SAME, *(("decoder_heads",) if "decoder" in common else ())):
        value, required = getattr(source.model, key), getattr(config.model, key)
        if value != required:
            raise FmctError(f"{source.description}: has model.{key}={value}, not {required}")


def _of_parts(
    tensors: dict[str, Tensor], parts: set[str], source: Source, config: TrainConfig
) -> dict[str, Tensor]:
    selected = {name: tensor for name, tensor in tensors.items() if _part(name) in parts}
    if (positions := selected.get("encoder.positions")) is not None:
        sizes = (source.data.view_size, config.data.view_size)
        theirs, ours = (grid_of(size, config.model.patch_size) for size in sizes)
        selected["encoder.positions"] = resize_positions(positions, theirs, ours)
    return selected
