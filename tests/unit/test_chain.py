"""The jobs that the pipeline submits, given finished and queued ones; without Slurm."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from small_training import small_encoder, write_dataset

from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from launch.config import load
from launch.pipeline.chain import Record, Submitted, decide
from launch.pipeline.steps import Pipeline, Step
from launch.pipeline.steps import steps as steps_of
from launch.scheduler import Queued
from launch.slurm.site import Site
from preprocess.privacy.deidentify import new_key
from shards.errors import FmctError

ORDER = ["scan", "labels", "plan", "preprocess", "collect", "train", "probe", "report"]
SITE = Site(width=3)
ALLOWED = "allow_pretraining_patients=true"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    new_key(tmp_path / "hmac.key")
    (tmp_path / "labels.csv").write_text("study_instance_uid,bleed,split\n1.2,1,train\n1.3,0,test\n")
    for name in ("hmac.key", "labels.csv"):
        os.utime(tmp_path / name, (1, 1))
    values = {
        "export": str(tmp_path / "export"),
        "key_file": str(tmp_path / "hmac.key"),
        "labels": str(tmp_path / "labels.csv"),
        "out": str(tmp_path / "out"),
        "train": {"nodes": 2, "set": ["run.batch=8"]},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def chain(recipe: Path, *overrides: str) -> list[Step]:
    return steps_of(load(Pipeline, recipe, list(overrides)), SITE)


def finish(steps: list[Step], *stages: str) -> None:
    """Write outputs and markers of these stages, one second apart."""
    for step in steps:
        if step.stage in stages:
            marks = [step.job.done]
            if len(step.job.commands) > 1:
                marks = [Path(f"{step.job.done}.{task}") for task in range(len(step.job.commands))]
            for path in (*step.outputs, *marks):
                assert path is not None
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.utime(path, (1000 + ORDER.index(step.stage),) * 2)


def submitted(steps: list[Step], queue: list[Queued] | None = None, again: str | None = None) -> list[str]:
    return [d.step.stage for d in decide(steps, queue or [], Record(), again) if d.submit]


def queued(steps: list[Step], **states: str) -> list[Queued]:
    return [Queued("7", s.job.name, states[s.stage], "", "/", "") for s in steps if s.stage in states]


def test_each_job_depends_on_the_jobs_whose_output_it_reads(recipe: Path) -> None:
    steps = chain(recipe)
    stage = {step.job.name: step.stage for step in steps}
    waits = {
        s.stage: ([stage[n] for n in s.job.after_success], [stage[n] for n in s.job.after_end]) for s in steps
    }
    assert waits == {
        "scan": ([], []),
        "labels": ([], []),
        "plan": (["scan"], []),
        "preprocess": (["plan"], []),
        "collect": (["plan"], ["preprocess"]),
        "train": (["collect"], []),
        "probe": (["train", "labels"], []),
        "report": (["probe"], []),
    }
    assert [step.stage for step in steps] == ORDER
    assert len(set(stage)) == len(ORDER)
    assert submitted(steps) == ORDER


def test_a_sweep_depends_on_the_training_like_the_probe(recipe: Path) -> None:
    theirs = "encoders: [{name: theirs, function: 'peer_encoder:tiny'}]"
    steps = chain(recipe, f"sweep={{set: [feature_tasks=2, {ALLOWED}], {theirs}}}")
    sweep = {step.job.name: step for step in steps if step.stage not in ORDER}
    stage = {step.job.name: step.stage for step in steps}
    assert {
        s.stage: [stage[n] for n in (*s.job.after_success, *s.job.after_end)] for s in sweep.values()
    } == {
        "sweep-plan": ["train", "labels"],
        "features": ["train", "labels"],
        "features-joined": ["features"],
        "sweep": ["features-joined", "sweep-plan"],
        "swept": ["sweep-plan", "sweep"],
    }
    sizes = {step.stage: len(step.job.commands) for step in sweep.values()}
    assert (sizes["features"], sizes["sweep"]) == (3 * 2, SITE.width)
    [text] = {step.recipe[1] for step in sweep.values() if step.recipe}
    assert [line.split()[-1] for line in text.splitlines() if "name:" in line] == [
        "trained",
        "untrained",
        "theirs",
    ]


def test_finished_stages_stay_until_an_input_is_newer(recipe: Path, tmp_path: Path) -> None:
    steps = chain(recipe)
    finish(steps, *ORDER)
    assert submitted(steps) == []
    assert submitted(steps, again="collect") == ["collect", "train", "probe", "report"]
    (tmp_path / "labels.csv").touch()
    assert submitted(steps) == ["labels", "probe", "report"]


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("out/report.html", ["report"]),
        ("out/catalog.parquet", ORDER[:1] + ORDER[2:]),
        ("out/done/fmct-preprocess-*.2", ORDER[3:]),
        ("out/run/encoder.safetensors", ["train", "probe", "report"]),
    ],
)
def test_missing_outputs_are_made_again_with_later_stages(
    recipe: Path, tmp_path: Path, gone: str, expected: list[str]
) -> None:
    steps = chain(recipe)
    finish(steps, *ORDER)
    [path] = tmp_path.glob(gone)
    path.unlink()
    assert submitted(steps) == expected


def test_queued_stages_are_not_submitted_again_and_later_ones_depend_on_them(recipe: Path) -> None:
    steps = chain(recipe)
    finish(steps, "scan", "labels", "plan")
    queue = queued(steps, preprocess="RUNNING", collect="PENDING", train="PENDING", probe="PENDING")
    assert submitted(steps, queue) == ["report"]


def test_a_job_that_waits_for_one_that_failed_is_replaced(recipe: Path) -> None:
    steps = chain(recipe)
    finish(steps, "scan", "labels", "plan", "preprocess")
    decisions = decide(steps, queued(steps, train="PENDING"), Record())
    replaced = {d.step.stage: d.queued.number for d in decisions if d.submit and d.queued}
    assert submitted(steps, queued(steps, train="PENDING")) == ["collect", "train", "probe", "report"]
    assert replaced == {"train": "7"}


def test_a_job_running_on_outputs_to_be_replaced_is_refused(recipe: Path) -> None:
    steps = chain(recipe)
    finish(steps, "scan", "labels", "plan", "preprocess", "collect")
    with pytest.raises(FmctError, match="train is running as job 7"):
        decide(steps, queued(steps, train="RUNNING"), Record(), again="collect")


def test_a_changed_recipe_redoes_its_stage_and_what_follows(recipe: Path) -> None:
    steps = chain(recipe)
    finish(steps, *ORDER)
    changed = chain(recipe, "train.set=[run.batch=8,run.steps=7]")
    assert submitted(changed) == ["train", "probe", "report"]
    assert "steps: 7" in next(step.recipe[1] for step in changed if step.stage == "train" and step.recipe)
    train = next(step for step in steps if step.stage == "train")
    record = Record(
        stages={
            "train": Submitted(
                name=train.job.name, number="7", at=datetime(2026, 1, 1, tzinfo=UTC), folder=train.folder
            )
        }
    )
    with pytest.raises(FmctError, match="train with another configuration is in the queue, as job 7"):
        decide(changed, queued(steps, train="PENDING"), record)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("export=/nowhere", "export: /nowhere"),
        ("key_file=/nowhere", "make it with `fmct keygen`"),
        ("train.set=[run.bach=8]", "did you mean batch"),
        ("train.set=[run.batch=7]", "not a multiple of 2 ranks"),
        ("train.node=2", "did you mean nodes"),
        ("preprocess.config=/nowhere.yaml", "/nowhere.yaml"),
        ("train.set=[run.batch=8,'run.start_from=/nowhere.safetensors']", "/nowhere.safetensors"),
        ("train.set=[run.batch=8,'engine.deepspeed={steps_per_prnt: 1}']", "mean steps_per_print"),
        ("probe.set=[folds=5]", "column split conflicts with folds=5"),
        ("probe.set=[allow_pretraining_patients=false]", "probe: .* allow_pretraining_patients=true"),
        ("sweep={set: []}", "sweep: .* allow_pretraining_patients=true"),
        (f"sweep={{set: [{ALLOWED}, 'tasks=[bleeds]']}}", "has no task bleeds, only bleed"),
        (f"sweep={{set: [{ALLOWED}, 'layers=[99]']}}", "layer 99.* trained has layers 0 to 11"),
        (f"sweep={{set: [{ALLOWED}], encoders: [{{name: a, weights: /nowhere}}]}}", "/nowhere"),
        (f"sweep={{set: [{ALLOWED}], encoders: [{{name: a, function: 'absent:f'}}]}}", "no module absent"),
    ],
)
def test_mistakes_are_reported_before_anything_is_submitted(
    recipe: Path, override: str, expected: str
) -> None:
    with pytest.raises(FmctError, match=expected):
        chain(recipe, override)


@pytest.fixture
def unsplit(recipe: Path, tmp_path: Path) -> Path:
    """The recipe, with labels without splits."""
    (tmp_path / "labels.csv").write_text("study_instance_uid,bleed\n1.2,1\n1.3,0\n")
    os.utime(tmp_path / "labels.csv", (1, 1))
    return recipe


def test_held_out_patients_are_tested_on_and_not_trained_on(unsplit: Path, tmp_path: Path) -> None:
    steps = chain(unsplit, "holdout={test: 0.3, seed: 5}", "sweep={set: []}")
    stage = {step.job.name: step.stage for step in steps}
    waits = {step.stage: [stage[name] for name in step.job.after_success] for step in steps}
    assert (waits["split"], waits["train"]) == (["collect"], ["split"])
    (split,) = (step.job for step in steps if step.stage == "split")
    words = split.commands[0]
    assert words[words.index("shards") + 1 :][:-2] == (
        *("split", str(tmp_path / "out/data/zarr"), "--out", str(tmp_path / "out/parts")),
        *("train=0.6", "validation=0.1", "test=0.3", "--seed", "5"),
    )
    given = {step.stage: yaml.safe_load(step.recipe[1]) for step in steps if step.recipe}
    assert given["train"]["data"]["path"] == str(tmp_path / "out/parts/train")
    for measured in ("probe", "sweep"):
        assert given[measured]["data"] == str(tmp_path / "out/data/zarr")
        assert given[measured]["parts"] == str(tmp_path / "out/parts/parts.parquet")
    ProbeConfig.model_validate(given["probe"])
    SweepConfig.model_validate(given["sweep"])
    other = chain(unsplit, "holdout={test: 0.4, seed: 5}")
    assert {step.job.name for step in other if step.stage == "split"}.isdisjoint(stage)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["holdout={test: 0.9}"], "test and validation leave no patient"),
        (["holdout={tets: 0.9}"], "did you mean test"),
        (["holdout={}", "probe.set=[folds=5]"], "probe: holdout .* folds=5"),
        (
            ["holdout={}", "sweep={set: [], encoders: [{name: a, function: 'peer_encoder:tiny'}]}"],
            "encoder a: .* pretraining .* allow_unknown_pretraining=true",
        ),
    ],
)
def test_an_impossible_hold_out_is_reported_before_anything_is_submitted(
    unsplit: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises(FmctError, match=expected):
        chain(unsplit, *overrides)


def test_labels_with_splits_exclude_a_hold_out(recipe: Path) -> None:
    with pytest.raises(FmctError, match=r"labels.csv: .* column split .* holdout"):
        chain(recipe, "holdout={}")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("labels.csv", "exam,bleed\n1.2,1\n", "labels.csv: no column study_instance_uid"),
        ("labels.csv", "study_instance_uid,split\n1.2,test\n", "labels.csv: no label column"),
        ("labels.csv", "study_instance_uid,bleed\n1.2,perhaps\n", "row 2, column bleed: not 0, 1 or empty"),
        ("labels.csv", "study_instance_uid,bleed\n", "labels.csv: no rows"),
        ("hmac.key", "no key", "hmac.key"),
        ("labels.parquet", "no parquet", "labels.parquet"),
    ],
)
def test_labels_and_key_are_read_before_anything_is_submitted(
    recipe: Path, tmp_path: Path, name: str, text: str, expected: str
) -> None:
    chain(recipe)
    (tmp_path / name).write_text(text)
    with pytest.raises(FmctError, match=expected):
        chain(recipe, *([f"labels={tmp_path / name}"] if name.startswith("labels") else []))


def test_an_encoder_of_another_preprocessing_is_reported_before_anything_is_submitted(
    recipe: Path, tmp_path: Path
) -> None:
    weights = small_encoder(write_dataset(tmp_path / "data", 2), tmp_path / "encoder")
    theirs = f"encoders: [{{name: theirs, weights: {weights}}}]"
    with pytest.raises(FmctError, match=r"encoder theirs: .* another preprocessing"):
        chain(recipe, f"sweep={{set: [{ALLOWED}], {theirs}}}")


def test_a_training_of_0_1_0_keeps_its_defaults(recipe: Path, tmp_path: Path) -> None:
    def kept() -> dict[str, dict[str, object]]:
        (text,) = [step.recipe[1] for step in chain(recipe) if step.stage == "train" and step.recipe]
        configuration: dict[str, dict[str, object]] = yaml.safe_load(text)
        return configuration

    newer = kept()
    assert newer["model"]["initialisation"] == "fan_in"
    record = {name: dict(section) for name, section in newer.items()}
    for key in ("input_mean", "input_std", "initialisation"):
        del record["model"][key]
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "config.json").write_text(json.dumps(record))
    model = kept()["model"]
    assert [model[key] for key in ("input_mean", "input_std", "initialisation")] == [0.0, 1.0, "fixed"]


def test_label_kinds_of_the_probe_reach_the_labels_job(unsplit: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("study_instance_uid,grade\n1.2,0\n1.3,2\n")
    steps = chain(unsplit, f"probe.set=['kinds={{grade: ordinal}}', {ALLOWED}]")
    (job,) = (step.job for step in steps if step.stage == "labels")
    assert job.commands[0][-2:] == ("--kinds", '{"grade": "ordinal"}')
    with pytest.raises(FmctError, match="row 3, column grade: not 0, 1 or empty"):
        chain(unsplit)
