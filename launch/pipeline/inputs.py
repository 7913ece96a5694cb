"""Checks of a pipeline's inputs before submission, so that jobs do not fail on them hours later."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.encoders import load_weights, open_encoder
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.splits import require_no_folds
from preprocess.labels import plain
from preprocess.privacy.deidentify import Pseudonymizer
from shards.errors import FmctError
from shards.label_kinds import Kinds


def require_inputs(export: Path, key_file: Path, labels: Path) -> None:
    """Raise FmctError if an input is missing or of the wrong kind."""
    if not export.is_dir():
        raise FmctError(f"export: {export} is not a folder; expected the folder of the DICOM export")
    if not key_file.is_file():
        raise FmctError(f"key_file: no file {key_file}; make it with `fmct keygen`")
    Pseudonymizer(key_file)
    if not labels.is_file():
        raise FmctError(f"labels: no file {labels}")


def _read_labels(labels: Path, kinds: Kinds) -> tuple[tuple[str, ...], bool]:
    """The label columns of a table, and whether it has a column split.

    labels: an input of `fmct labels`, or the Parquet file that it wrote; raises FmctError for anything else.
    """
    if labels.suffix == ".parquet":
        keyed = LabelTable.read(labels, kinds)
        return keyed.tasks, keyed.gives_splits
    given = plain.read(labels, kinds)
    return given.names, given.splits is not None


def kinds_of(probe: ProbeConfig, sweep: SweepConfig | None) -> Kinds:
    """The kinds of label columns in both configurations; FmctError if they differ."""
    kinds = dict(probe.kinds)
    for task, kind in (sweep.kinds if sweep else {}).items():
        if kinds.setdefault(task, kind) != kind:
            raise FmctError(f"sweep: kinds.{task}: differs from probe; give the same kind in both")
    return kinds


def require_measurable(
    probe: ProbeConfig,
    sweep: SweepConfig | None,
    others: Iterable[EncoderSpec],
    labels: Path,
    depth: int,
    preprocess_digest: str,
    held_out: bool,
) -> None:
    """Raise FmctError if probe or sweep will reject the trained encoder, one of `others`, or the labels.

    depth: blocks of the trained encoder. preprocess_digest: of the volumes for training and probing.
    held_out: whether the pipeline holds out patients for testing.
    """
    tasks, gives_splits = _read_labels(labels, kinds_of(probe, sweep))
    if held_out and gives_splits:
        raise FmctError(f"{labels}: both its column split and holdout define the test patients: remove one")
    for stage, config in (("probe", probe), ("sweep", sweep)):
        if config and held_out and config.folds is not None:
            raise FmctError(
                f"{stage}: holdout defines the test patients, but folds={config.folds} requests "
                "cross-validation: remove one"
            )
        if config and gives_splits:
            require_no_folds(labels, config.folds)
        if config and not (held_out or config.allow_pretraining_patients):
            raise FmctError(
                f"{stage}: the test patients are also used for pretraining (without labels); "
                "set holdout, or allow_pretraining_patients=true to have this reported with the results"
            )
    if sweep is None:
        return
    if unknown := set(sweep.tasks or ()) - set(tasks):
        raise FmctError(f"sweep: {labels} has no task {min(unknown)}, only {', '.join(tasks)}")
    _require_layers("trained", sweep.layers, depth)
    allowed = sweep.allow_pretraining_patients or sweep.allow_unknown_pretraining
    for spec in others:
        if not allowed and spec.pretraining_patients is None:
            raise FmctError(
                f"encoder {spec.name}: the patients of its pretraining are unknown; set its `pretraining`, "
                "or the sweep's allow_unknown_pretraining=true to have this reported"
            )
        _require_encoder(spec, sweep.layers, preprocess_digest)


def _require_encoder(spec: EncoderSpec, layers: Iterable[int], preprocess_digest: str) -> None:
    """Load an encoder; of a function only find the module, since loading may need a job's resources."""
    if spec.pretraining is not None:
        _ = spec.pretraining_patients
    if spec.function is not None:
        module = spec.function.split(":")[0]
        try:
            module_spec = find_spec(module)
        except ImportError:  # of a package above it
            module_spec = None
        if module_spec is None:
            raise FmctError(f"encoder {spec.name}: no module {module}; put its folder on PYTHONPATH")
    elif spec.peer is not None:
        open_encoder(spec)
        _require_layers(spec.name, layers, 1)
    elif spec.weights is not None:
        _, info = load_weights(spec.weights)
        _require_layers(spec.name, layers, info.model.depth)
        if info.preprocess_digest not in (None, preprocess_digest):
            raise FmctError(
                f"encoder {spec.name}: trained on volumes with another preprocessing than this pipeline's"
            )


def _require_layers(name: str, layers: Iterable[int], depth: int) -> None:
    for layer in layers:
        if not -depth <= layer < depth:
            raise FmctError(f"sweep: layer {layer}, but encoder {name} has layers 0 to {depth - 1}")
