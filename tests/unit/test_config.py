from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from typer.testing import CliRunner

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from fmct_hpc.probe.sweep.grid import units
from launch.cli import app
from launch.config import load
from launch.pipeline.steps import Pipeline
from launch.slurm.site import Site
from launch.study.config import StudyConfig
from preprocess.config import PreprocessConfig
from shards.errors import FmctError

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {path: shards}\noptim: {base_lr: 1e-3, clip: 1}\n")
    config = load(TrainConfig, path, ["optim.clip=2", "data.windows=[[40, 80]]"])
    assert config.optim.base_lr == 1e-3
    assert config.optim.clip == 2
    assert config.data.windows == ((40, 80),)
    assert config.objective.ema == (0.994, 1.0)


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        (
            "data: {path: d}\noptim: {base_rl: 1}",
            [],
            ["recipe.yaml", "optim.base_rl", "did you mean base_lr"],
        ),
        ("data: {path: d}", ["run.steps=none"], ["override run.steps", "valid integer", "'none'"]),
        ("data: {path: d}", ["engine.zero_stage=4"], ["override engine.zero_stage", "0, 1, 2 or 3"]),
        ("data: {path: d}", ["steps"], ["'steps'", "section.key=value"]),
        ("data: {path: d}", ["data.view_size=95"], ["view_size", "multiple of model.patch_size"]),
        (
            "data: {path: d}",
            ["data.local_view_size=50"],
            ["data.local_view_size", "multiple of model.patch_size"],
        ),
        ("data: {path: d}", ["data.local_view_size=108"], ["local_view_size", "at most data.view_size"]),
        ("data: {path: d}", ["data.view_size=[1, 2]"], ["override data.view_size", "or three, [D, H, W]"]),
        ("data: {path: d}", ["model.patch_size=[4, 0, 4]"], ["override model.patch_size", "above 0"]),
        (
            "data: {path: d}",
            ["data.view_size=[56, 224, 226]", "model.patch_size=[4, 16, 16]"],
            ["data.view_size", "multiple of model.patch_size"],
        ),
        (
            "data: {path: d}",
            ["data.local_view_size=[24, 108, 96]"],
            ["local_view_size", "at most data.view_size"],
        ),
        ("data: {path: d}", ["model.keep_tokens=0"], ["override model.keep_tokens", "greater than 0"]),
        ("data: {path: d}", ["model.keep_tokens=0.001"], ["objective.mask_ratio", "model.keep_tokens"]),
        ("data: {path: d}", ["objective.mae_weight=0", "objective.dino_weight=0"], ["nothing to learn"]),
        (
            "data: {path: d}",
            ["objective.final_weights={koleo: 1}"],
            ["final_weights", "koleo", "only dino, mae"],
        ),
        (
            "data: {path: d}",
            ["objective.weight_warmups={koleo: 0.1}"],
            ["weight_warmups", "koleo", "only dino, mae"],
        ),
        ("data: {path: d}", ["objective.weight_warmups={mae: 2}"], ["weight_warmups.mae", "1"]),
        ("data: {path: d}", ["model.width=96"], ["model", "depth", "heads", "give model.size"]),
        ("data: {path: d}", ["model.size=L", "model.width=96"], ["model.width=96", "size=L", "1024"]),
        ("data: {path: d}", ["model.size=XL"], ["override model.size", "'S', 'B' or 'L'", "'XL'"]),
        (
            "data: {path: d}",
            ["objective.dino_weight=0", "objective.ibot_weight=1", "objective.ibot_shared_head=true"],
            ["ibot_shared_head", "dino_weight"],
        ),
        (
            "data: {path: d}\nrun: {steps: 1}\ndata: {workers: 1}",
            [],
            ["recipe.yaml", "line 3", "data is given twice"],
        ),
        ("data: {path: d}", ["run.steps=2026-99-99"], ["override 'run.steps=2026-99-99'", "not valid YAML"]),
        ("data: {path: 2026-99-99}", [], ["recipe.yaml", "month must be in"]),
        ("data: {path: d}", ["runn.steps=3"], ["override runn", "unknown key", "did you mean run?"]),
        ("data: {path: d}", ["data.windows=[[40, .nan]]"], ["override data.windows", "finite"]),
        (
            "data: {path: d}",
            ["objective.ema=[1, 2]"],
            ["override objective.ema.1", "than or equal to 1"],
        ),
        ("data: {path: d}", ["optim.betas=[2, 3]"], ["override optim.betas.0", "less than 1"]),
        ("data: {path: d}", ["optim.base_lr=.inf"], ["override optim.base_lr", "finite"]),
        (
            "data: {path: d}",
            ["optim.weight_decay=[-1, 0]"],
            ["optim.weight_decay.0", "greater than"],
        ),
        ("data: {path: d}", ["objective.teacher_temperature=[0, 0]"], ["teacher_temperature.0", "than 0"]),
        (
            "data: {path: d}",
            ["engine.deepspeed={zero_optimization: {round_robin_gradients: true}}"],
            ["must not set round_robin_gradients", "checkpoints"],
        ),
        ("data: {path: d}", ["data.global_views=1"], ["dino_weight", "data.global_views=2"]),
        (
            "data: {path: d}",
            ["engine.compile=true", "engine.zero_stage=3"],
            ["engine.compile", "zero_stage 0 to 2"],
        ),
        ("{}", [], ["data", "missing"]),
        ("- a\n- b", [], ["recipe.yaml", "key: value"]),
        ("a: [", [], ["recipe.yaml", "line", "YAML"]),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    tmp_path: Path, text: str, overrides: list[str], parts: list[str]
) -> None:
    with pytest.raises(FmctError) as caught:
        load(TrainConfig, write(tmp_path, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_three_equal_edges_are_recorded_as_one_number() -> None:
    overrides = ["data.path=d", "data.view_size=[56, 224, 224]", "model.patch_size=[4, 16, 16]"]
    config = load(TrainConfig, None, overrides)
    assert (config.data.view_size, config.model.patch_size) == ((56, 224, 224), (4, 16, 16))
    assert config.model.recorded()["patch_size"] == [4, 16, 16]
    assert TrainConfig.from_record_json(config.model_dump_json()) == config
    same = load(TrainConfig, None, ["data.path=d", "data.view_size=[96, 96, 96]"])
    assert same == load(TrainConfig, None, ["data.path=d"])
    assert same.model_dump(mode="json")["data"]["view_size"] == 96


@pytest.mark.parametrize(
    "name",
    ["2024", "0123", "1e5", "1_000", "2024-01-02", "12:30:00", "0x1F", "on", "runs/a=b", "a #1", "a: b"],
)
def test_a_path_is_kept_as_written(tmp_path: Path, name: str) -> None:
    assert load(TrainConfig, None, [f"data.path={name}"]).data.path == Path(name)
    written = write(tmp_path, f"data: {{path: d}}\nrun:\n  start_from: {name}\n")
    if name not in ("a #1", "a: b"):  # not plain values in YAML
        assert load(TrainConfig, written, []).run.start_from == Path(name)


def test_a_text_is_kept_as_written_and_null_stays_none() -> None:
    site = load(
        Site,
        None,
        [
            "account=0123",
            "environment={DAY: 2024-01-02}",
            "directives={time: 1:30:00, nice: 1, exclusive: on}",
        ],
    )
    assert (site.account, site.environment) == ("0123", {"DAY": "2024-01-02"})
    assert site.directives == {"time": "1:30:00", "nice": "1", "exclusive": True}
    config = load(TrainConfig, None, ["data.path='it''s #1'", "data.cache=null", "run.steps=1e3 # few"])
    assert (config.data.path, config.data.cache, config.run.steps) == (Path("it's #1"), None, 1000)


def test_closed_models_are_declared_once() -> None:
    root = Path(__file__).parents[2]
    sources = [
        file
        for name in ("shards", "preprocess", "fmct_hpc", "launch")
        for file in (root / name).rglob("*.py")
    ]
    declared = [str(file.relative_to(root)) for file in sources if 'extra="forbid"' in file.read_text()]
    assert declared == ["shards/closed.py"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FmctError, match=r"absent\.yaml"):
        load(TrainConfig, tmp_path / "absent.yaml", [])


def test_an_optional_section_lists_its_keys(tmp_path: Path) -> None:
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        depth: int = 1

    class Outer(BaseModel):
        inner: Inner | None = None

    with pytest.raises(FmctError, match="expected one of depth"):
        load(Outer, None, ["inner.dpeth=1"])


@pytest.mark.parametrize(
    ("model", "recipe", "override", "parts"),
    [
        (
            SweepConfig,
            "sweep-example",
            "encoders=[{name: a, weight: b}]",
            ["0.weight", "mean weights"],
        ),
        (StudyConfig, "study", "train.model.widht=64", ["objectives.mae.train: model.widht"]),
        (StudyConfig, "study", "objectives.mae.foo=1", ["objectives.mae.foo", "one of train, pretrainings"]),
        (Pipeline, "pipeline-example", "sweep={encoders: [{name: a, weight: b}]}", ["encoders.0.weight"]),
        (PreprocessConfig, "quickstart-preprocess", "grid.spacing_mm=[1, 1, 0]", ["spacing_mm.2", "0.1"]),
        (
            PreprocessConfig,
            "quickstart-preprocess",
            "output.formats=[]",
            ["output.formats", "expected at least 1"],
        ),
        (
            PreprocessConfig,
            "quickstart-preprocess",
            "select.min_slices=1501",
            ["max_slices=1500"],
        ),
        (PreprocessConfig, "quickstart-preprocess", "check.air_hu=[0, -1]", ["check.air_hu"]),
        (PreprocessConfig, "quickstart-preprocess", "selct.keep=all", ["override selct", "mean select?"]),
    ],
)
def test_a_mistake_in_any_recipe_is_reported_in_one_line(
    model: type[BaseModel], recipe: str, override: str, parts: list[str]
) -> None:
    with pytest.raises(FmctError) as caught:
        load(
            model, RECIPES / f"{recipe}.yaml", [*(["key_file=k"] if "preprocess" in recipe else []), override]
        )
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_tilde_expands_as_in_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    actual = load(PreprocessConfig, write(tmp_path, "key_file: ~/hmac.key"), [])
    assert actual.key_file == tmp_path / "hmac.key"


def test_a_size_sets_width_depth_and_heads() -> None:
    for size, shape in {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}.items():
        model = load(TrainConfig, None, ["data.path=d", f"model.size={size}"]).model
        assert (model.width, model.depth, model.heads) == shape
        assert ModelConfig.model_validate(model.model_dump()) == model
    assert ModelConfig().size == "B"
    given = ModelConfig.model_validate({"width": 96, "depth": 2, "heads": 4})
    assert given.size is None
    assert ModelConfig.model_validate(given.model_dump()) == given


def test_koleo_requires_several_volumes() -> None:
    values = ["data.path=d", "objective.koleo_weight=0.1", "run.batch=4", "engine.micro_batch=1"]
    config = load(TrainConfig, None, values)
    assert config.accumulation(2) == 2
    with pytest.raises(FmctError, match=r"koleo_weight.*engine\.micro_batch"):
        config.accumulation(1)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*-train.yaml")), ids=lambda path: path.stem)
def test_the_training_recipes_are_valid(recipe: Path) -> None:
    micro_batches = 4 if recipe.stem.endswith("highres-train") else 1
    assert load(TrainConfig, recipe, ["data.path=d"]).accumulation(4) == micro_batches


def test_the_sweep_recipe_is_valid_with_its_full_grid() -> None:
    sweep = load(SweepConfig, RECIPES / "sweep-example.yaml", [])
    assert len(units(sweep, ["bleed"])) == 2 * 3 * 3 * (5 + 9)


def test_run_folders_with_an_equals_sign_are_no_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=3", "runs/a=b", "2024"):
        Path(name).mkdir(parents=True)
    Path("site.yaml").write_text("{}")
    given = ["lr=3", "runs/a=b", "runs/c=d", "2024", "data=d", "labels=0123", "folds=4"]
    result = CliRunner().invoke(
        app, ["launch", "probe", *given, "--out", "out", "--site", "site.yaml", "--dry-run"]
    )
    assert result.exit_code == 0, result.output
    probed = [line.split(" probe ")[1].split() for line in result.output.splitlines() if " probe " in line]
    assert probed == [
        [run, "--out", f"out/{Path(run).name}", "data=d", "labels=0123", "folds=4"]
        for run in ("lr=3", "runs/a=b", "runs/c=d", "2024")
    ]


def test_a_configuration_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with path.open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(FmctError, match="larger than 16 MiB") as refused:
        load(TrainConfig, path, [])
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [0]\nb: &b [*a, *b]\n",
        "a0: &a0 [0]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60)),
        "a0: &a0 {x: 0}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(60)),
        "data: " + "[" * 50_000,
        "? [a]\n: 1\n",
        "? {a: b}\n: 1\n",
        f"run: {{steps: 1{'0' * 400}}}\n",
    ],
    ids=["holds itself", "aliases", "merges", "nested", "a list as key", "a mapping as key", "a number"],
)
def test_yaml_bombs_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FmctError, match="not valid YAML") as refused:
        load(TrainConfig, path, [])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "name"), [("cpu", "cpu"), ("gpu:1", "gpu:1"), ("cuda", "gpu"), ("cuda:1", "gpu:1")]
)
def test_devices_have_one_vocabulary_and_older_names_are_read(given: str, name: str) -> None:
    required = {"data": "d", "labels": "l"}
    assert ProbeConfig.model_validate({**required, "device": given}).device == name
    encoder = {"name": "a", "weights": "w"}
    grid = {**required, "features": "f", "encoders": [encoder], "device": given}
    assert SweepConfig.model_validate(grid).device == name


@pytest.mark.parametrize("given", ["CPU", "gpu:", "mps", "cpu:0", 1, "gpu:1 "])
def test_an_invalid_device_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="must be cpu, gpu, or gpu:1"):
        ProbeConfig.model_validate({"data": "d", "labels": "l", "device": given})
