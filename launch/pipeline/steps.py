"""The pipeline from an export to a report: one recipe, and its jobs.

The number of preprocessing tasks is known only after the scan. So the array has a configured size, and the
tasks of the plan are divided among its tasks: the whole chain can be submitted at once, and no job has to
submit others.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, Field

from fmct_hpc.config import TrainConfig
from fmct_hpc.fields import Positive
from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.checkpoint import newest_step
from fmct_hpc.train.deepspeed_keys import require_deepspeed_keys
from fmct_hpc.train.earlier_defaults import with_earlier_defaults
from fmct_hpc.train.start import require_start
from launch.config import Model, load
from launch.pipeline import stages
from launch.pipeline.holdout import Holdout
from launch.pipeline.inputs import kinds_of, require_inputs, require_measurable
from launch.scheduler import Job
from launch.site import Site
from preprocess.config import PreprocessConfig
from shards.errors import FmctError
from shards.parts import PARTS_NAME
from shards.section import Section
from shards.split import SPLIT_NAME

Place = Annotated[Path, AfterValidator(Path.absolute)]
"""A path, made absolute from the working directory."""

DONE = "done"
"""Subfolder of a pipeline's folder for the markers of jobs that have succeeded."""


class Recipe(Section):
    """A stage's recipe. Values that the pipeline sets itself, such as paths of data, are not needed in it."""

    config: Place | None = None
    """Its YAML file."""
    overrides: tuple[str, ...] = Field(default=(), alias="set")
    """Values that override the file's, each as section.key=value."""


class Preprocessing(Recipe):
    """The preprocessing array."""

    tasks: Positive | None = None
    """Its size; None: the site's `width`, the number of concurrent tasks. Each does an equal share."""


class Training(Recipe):
    """The training job."""

    nodes: Positive = 1
    ranks_per_node: Positive | None = None
    """None: the GPUs per node that the site file gives training, or one rank."""


class Sweeping(Recipe):
    """A grid of probes (docs/probes.md) over the trained encoder, the same untrained, and others."""

    tasks: Positive | None = None
    """Size of its array; None: the site's `width`."""
    encoders: tuple[EncoderSpec, ...] = ()
    """Further encoders, for example the reference's weights."""


class Pipeline(Section):
    """A pipeline's recipe."""

    export: Place
    """Folder of DICOM files."""
    key_file: Place
    """The HMAC key for pseudonyms (`fmct keygen`)."""
    labels: Place
    """Labels for the probes: the CSV input of `fmct labels`, or the Parquet file that it wrote."""
    out: Place
    """Folder for catalog, data, run, probe and report."""
    preprocess: Preprocessing = Preprocessing()
    holdout: Holdout | None = None
    """None: pretraining uses all patients, and probe and sweep report that it has seen the test patients."""
    train: Training = Training()
    probe: Recipe = Recipe()
    sweep: Sweeping | None = None
    """None: only the probe."""


@dataclass(frozen=True)
class Step:
    """A job of the pipeline, and how to determine whether it is done."""

    stage: str
    job: Job
    folder: Path
    """Folder of its log."""
    outputs: tuple[Path, ...]
    recipe: tuple[Path, str] | None = None
    """The file that its command reads, and its text: written at submission, never changed."""
    inputs: tuple[Path, ...] = ()
    """Files from outside the pipeline: the step is repeated when they are newer."""
    shape: str = ""
    """Other settings that determine its output."""


def steps(pipeline: Pipeline, site: Site) -> list[Step]:
    """Every job of the pipeline, each after those that it depends on.

    Raises FmctError if an input is missing or of the wrong kind, or a recipe is invalid.
    """
    require_inputs(pipeline.export, pipeline.key_file, pipeline.labels)
    out, key = pipeline.out, pipeline.key_file
    catalog, data, run, probe = out / "catalog.parquet", out / "data", out / "run", out / "probe"
    keyed = pipeline.labels.suffix == ".parquet"
    labels = pipeline.labels if keyed else out / "labels.parquet"

    preparing = _resolved("preprocess", PreprocessConfig, pipeline.preprocess, [f"key_file={key}"])
    volumes = data / preparing.output.formats[0]
    held = pipeline.holdout
    parts = out / "parts"
    seen = parts / "train" if held else volumes
    tested = [f"data={volumes}", f"labels={labels}", *([f"parts={parts / PARTS_NAME}"] if held else [])]
    # The recorded recipe has every key, including those that a run of an earlier version lacked.
    training = with_earlier_defaults(
        _resolved("train", TrainConfig, pipeline.train, [f"data.path={seen}"]), run
    )
    probing = _resolved("probe", ProbeConfig, pipeline.probe, tested)
    sweeping = _sweep_config(pipeline.sweep, out, tested) if pipeline.sweep else None
    if not newest_step(run):
        require_start(training, run)
    others = pipeline.sweep.encoders if pipeline.sweep else ()
    require_measurable(
        probing, sweeping, others, pipeline.labels, training.model.depth, preparing.digest(), held is not None
    )
    nodes, ranks = pipeline.train.nodes, pipeline.train.ranks_per_node or max(1, site.train.gpus_per_node)
    training.accumulation(nodes * ranks)
    require_deepspeed_keys(training)
    shares = min(pipeline.preprocess.tasks or site.width, site.array_size)
    recipes = {
        stage: _kept(settings, out, stage)
        for stage, settings in (("preprocess", preparing), ("train", training), ("probe", probing))
    }
    arguments = {stage: ["--config", str(path)] for stage, (path, _) in recipes.items()}

    scan = stages.scan_job(pipeline.export, catalog, site)
    kinds = kinds_of(probing, sweeping)
    key_labels = stages.labels_job(pipeline.labels, key, labels, kinds, site)
    plan = stages.plan_job(catalog, data, arguments["preprocess"], site)
    array = stages.preprocess_array(catalog, data, arguments["preprocess"], shares, site)
    collect = stages.collect_job(catalog, data, arguments["preprocess"], site)
    split = stages.split_job(volumes, parts, held.arguments, site) if held else None
    train = stages.train_job(run, arguments["train"], nodes, ranks, site)
    measure = stages.probe_job([run], probe, arguments["probe"], site)
    report = stages.report_job(out / "report.html", data, run, probe, labels, site)

    plan = replace(plan, after_success=(scan.name,))
    array = replace(array, after_success=(plan.name,))
    # Collecting runs even if the array failed: it reports what is missing, and fails if anything is.
    collect = replace(collect, after_success=(plan.name,), after_end=(array.name,))
    if split:
        split = replace(split, after_success=(collect.name,))
    train = replace(train, after_success=((split or collect).name,))
    measure = replace(measure, after_success=(train.name, *(() if keyed else (key_labels.name,))))
    report = replace(report, after_success=(measure.name,))

    preprocess = recipes["preprocess"]
    steps_ = [
        Step("scan", scan, out / "slurm", (catalog,), shape=str(pipeline.export)),
        Step(
            "labels",
            key_labels,
            out / "slurm",
            (labels,),
            inputs=(pipeline.labels, key),
            shape=str(kinds) if kinds else "",
        ),
        Step("plan", plan, data / "slurm", (data / "tasks/plan.json",), preprocess, inputs=(key,)),
        Step("preprocess", array, data / "slurm", (), preprocess),
        Step(
            "collect", collect, data / "slurm", (data / "summary.json", volumes / "dataset.json"), preprocess
        ),
        *([Step("split", split, parts / "slurm", (parts / SPLIT_NAME,), shape=str(held))] if split else []),
        Step("train", train, run / "slurm", (run / "encoder.safetensors",), recipes["train"]),
        Step("probe", measure, probe / "slurm", (probe / "results.json",), recipes["probe"]),
        Step("report", report, out / "slurm", (out / "report.html",)),
    ]
    if pipeline.sweep and sweeping:
        steps_ += _sweep(pipeline.sweep, sweeping, out, site, measure.after_success)
    return _named([step for step in steps_ if step.stage != "labels" or not keyed], out)


def _sweep_config(sweep: Sweeping, out: Path, tested: list[str]) -> SweepConfig:
    """The configuration of a sweep over the trained encoder, the same untrained, and others.

    tested: overrides for data, labels and parts.
    """
    run = out / "run"
    encoders = [
        EncoderSpec(name="trained", weights=run),
        EncoderSpec(name="untrained", weights=run, untrained=0),
        *sweep.encoders,
    ]
    given = json.dumps([spec.model_dump(mode="json") for spec in encoders])
    own = [f"features={out / 'features'}", f"encoders={given}"]
    return _resolved("sweep", SweepConfig, sweep, [*tested, *own])


def _sweep(
    sweep: Sweeping, settings: SweepConfig, out: Path, site: Site, needed: tuple[str, ...]
) -> list[Step]:
    """The jobs of a sweep; `needed` names the jobs that make weights and labels."""
    swept = out / "sweep"
    recipe = _kept(settings, out, "sweep")
    shares = min(sweep.tasks or site.width, site.array_size)
    named = any(spec.function for spec in settings.encoders)  # in the pipeline's file, checked on loading
    plan = replace(stages.sweep_plan_job(recipe[0], swept, site, named), after_success=needed)
    jobs = stages.sweep_chain(recipe[0], swept, [], Sweep(settings, swept).extractions, shares, site, named)
    *features, grid, collect = jobs
    if features:
        features[0] = replace(features[0], after_success=needed)
    grid = replace(grid, after_success=(*grid.after_success, plan.name))
    collect = replace(collect, after_success=(plan.name,))
    outputs = {plan.name: (swept / "plan.json",), collect.name: (swept / "results.parquet",)}
    return [
        Step(job.name.removeprefix("fmct-"), job, swept / "slurm", outputs.get(job.name, ()), recipe)
        for job in (plan, *features, grid, collect)
    ]


def _named(steps: list[Step], out: Path) -> list[Step]:
    """Give each job a unique name with a digest of the output folder and of what its output depends on.

    So a job that an earlier call submitted, and the marker of a finished one, are found by name, even if that
    call died before it could record anything.
    """
    names = {}
    for step in steps:
        recipe = step.recipe[1] if step.recipe else ""
        parts = (
            str(out),
            step.stage,
            recipe,
            step.shape,
            *map(str, step.inputs),
            str(len(step.job.commands)),
        )
        names[step.job.name] = f"{step.job.name}-{_digest(*parts)}"
    return [
        replace(
            step,
            job=replace(
                step.job,
                name=names[step.job.name],
                after_success=tuple(names[name] for name in step.job.after_success),
                after_end=tuple(names[name] for name in step.job.after_end),
                done=out / DONE / names[step.job.name],
            ),
        )
        for step in steps
    ]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _resolved(stage: str, model: type[Model], recipe: Recipe, own: list[str]) -> Model:
    """A stage's complete configuration, with the values that the pipeline sets."""
    try:
        return load(model, recipe.config, [*recipe.overrides, *own])
    except FmctError as error:
        raise FmctError(f"{stage}: {error}") from None


def _kept(settings: BaseModel, out: Path, stage: str) -> tuple[Path, str]:
    """Path and text of a stage's recorded configuration; another configuration gets another file."""
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    return out / "recipes" / f"{stage}-{_digest(text)}.yaml", text
