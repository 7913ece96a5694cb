"""Relevance maps: attention as computed by blocks, gradients equal to differences, voxel positions."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from documents import REPOSITORY, blocks
from scipy.spatial import cKDTree
from scipy.special import logit
from small_sweep import bright_sweep
from typer.testing import CliRunner

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.predict import load_classifier
from fmct_hpc.data.config import DataConfig
from fmct_hpc.inference.readers import Scan, read_scans
from fmct_hpc.model.attention import explicit_attention
from fmct_hpc.model.block import Attention, Block
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.probe.attentive import AttentiveHead, StudyAttentiveHead
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.kinds.multiclass import Multiclass
from fmct_hpc.probe.kinds.ordinal import Ordinal
from fmct_hpc.probe.kinds.regression import Regression
from fmct_hpc.probe.kinds.survival import Survival
from fmct_hpc.probe.series import ROLES, Series, SeriesPool, over_series
from fmct_hpc.probe.series_attention import StudyLinearHead
from fmct_hpc.relevance.attention_gradient import attention_gradient
from fmct_hpc.relevance.gradient_input import gradient_input
from fmct_hpc.relevance.integrated_gradients import integrated_gradients
from fmct_hpc.relevance.maps import Explainer, open_explainer
from fmct_hpc.relevance.measure import Truth, means
from fmct_hpc.relevance.method_input import MethodInput
from fmct_hpc.relevance.methods import METHODS
from fmct_hpc.relevance.patch_grid import PatchGrid
from fmct_hpc.relevance.reading import Reading, reading_of_cls, readings_of
from fmct_hpc.relevance.rollout import rollout
from fmct_hpc.train.export import EncoderInfo
from launch.cli import app
from launch.report.masks import Masks
from launch.report.relevance_unit import Made
from shards import Dataset
from shards.errors import FmctError
from shards.nifti import nifti_bytes
from shards.schema import Role
from shards.split import sample

MODELS: dict[str, dict[str, Any]] = {
    "rope": {"positions": "rope", "register_tokens": 2, "keep_tokens": 0.6},
    "sincos": {"positions": "sincos", "register_tokens": 0, "keep_tokens": 1.0, "layer_scale": 0.3},
}
WIDTH, DEPTH = 24, 3


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> VisionTransformer:
    config = ModelConfig(patch_size=4, width=WIDTH, depth=DEPTH, heads=4, **MODELS[request.param])
    torch.manual_seed(0)
    made = VisionTransformer(config, channels=2, view_size=12).eval()
    for parameter in made.parameters():  # sharper than new weights, so that attention is not even
        torch.nn.init.normal_(parameter, std=0.25)
    return made.double()


def method_input(model: VisionTransformer, rows: list[str], layer: int = DEPTH - 1) -> MethodInput:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double()

    view = torch.rand(1, 2, 12, 12, 12, generator=generator).double()
    count = len(rows)
    read = [drawn(WIDTH) if row == "query" else row for row in rows]
    mean, scale, readout = drawn(count, WIDTH), drawn(count, WIDTH).abs() + 0.5, drawn(count, WIDTH)
    reading = Reading(model.prefix, read, mean, scale, readout, drawn(1)[0])
    return MethodInput(model, view, model.kept(view), layer, reading)


@torch.no_grad()
def plain_attention(model: VisionTransformer, inputs: MethodInput) -> tuple[list[np.ndarray], np.ndarray]:
    """Each block's weights (heads, T, T), query by query in NumPy, and the tokens after the last block."""
    width = WIDTH // 4
    x = model.embed_patches(inputs.view, inputs.kept, None)
    turns = model.turns(inputs.view, inputs.kept, None)
    collected = []
    for number, block in enumerate(model.blocks[: inputs.layer + 1]):
        assert isinstance(block, Block)
        normed = block.attention_norm(x)
        parts = block.attention.queries_keys_values(normed, None if turns is None else turns[number])
        query, key, value = (part[0].numpy() for part in parts)
        weights = np.empty((4, query.shape[1], query.shape[1]))
        mixed = np.empty((query.shape[1], 4 * width))
        for head in range(4):
            for token in range(query.shape[1]):
                scores = np.array([query[head, token] @ other for other in key[head]]) / np.sqrt(width)
                powers = np.exp(scores - scores.max())
                weights[head, token] = powers / powers.sum()
                mixed[token, head * width : (head + 1) * width] = weights[head, token] @ value[head]
        # The block's output with fused attention equals the weights times the values.
        own = block.attention(normed, None if turns is None else turns[number])
        again = block.attention.projection(torch.from_numpy(mixed))
        torch.testing.assert_close(own[0], again, atol=1e-5, rtol=0)
        collected.append(weights)
        x = block(x, None, None if turns is None else turns[number])
    return collected, model.norm(x)[0].numpy()


def test_attention_weights_times_values_equal_the_output_of_blocks(model: VisionTransformer) -> None:
    inputs = method_input(model, ["cls"])
    plain, tokens = plain_attention(model, inputs)
    with torch.no_grad(), explicit_attention(model.blocks) as seen:
        again = inputs.tokens(inputs.view)
    assert len(seen) == DEPTH
    for weights, expected in zip(seen, plain, strict=True):
        np.testing.assert_allclose(weights[0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(again[0].numpy(), tokens, atol=1e-5)
    fused = inputs.tokens(inputs.view)
    torch.testing.assert_close(fused, again, atol=1e-5, rtol=0)
    with torch.no_grad():  # as trained, in float32
        single = model.float()
        view = inputs.view.float()
        with explicit_attention(single.blocks):
            by_weights = single(view, inputs.kept)
        torch.testing.assert_close(single(view, inputs.kept), by_weights, atol=1e-5, rtol=0)
    model.double()


@pytest.mark.parametrize("layer", [0, DEPTH - 1])
def test_rollout_equals_a_plain_loop(model: VisionTransformer, layer: int) -> None:
    inputs = method_input(model, ["cls", "mean"], layer)
    plain, _ = plain_attention(model, inputs)
    product = np.eye(plain[0].shape[1])
    for weights in plain:
        mixed = weights.mean(axis=0) + np.eye(len(product))
        product = mixed / mixed.sum(axis=1, keepdims=True) @ product
    prefix = model.prefix
    expected = (product[0, prefix:] + product[prefix:, prefix:].mean(axis=0)) / 2
    np.testing.assert_allclose(rollout(inputs)[0].numpy(), expected, atol=1e-9)
    bare = replace(inputs, reading=reading_of_cls(prefix, WIDTH, torch.device("cpu")))
    np.testing.assert_allclose(rollout(bare)[0].numpy(), product[0, prefix:], atol=1e-9)
    assert product.sum(axis=1) == pytest.approx(1)


ROWS = [["cls"], ["cls", "mean"], ["mean", "max"], ["query", "query"]]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_gradient_times_input_equals_differences(model: VisionTransformer, rows: list[str]) -> None:
    """The derivative along a patch's own voxels, by central differences."""
    inputs = method_input(model, rows)
    actual = gradient_input(inputs)[0].numpy()
    number = range(27) if inputs.kept is None else inputs.kept[0].tolist()
    for place in range(0, len(actual), 5):
        d, h, w = (slice(4 * int(n), 4 * int(n) + 4) for n in np.unravel_index(number[place], (3, 3, 3)))
        alone = torch.zeros_like(inputs.view)
        alone[..., d, h, w] = inputs.view[..., d, h, w]
        with torch.no_grad():
            up, down = (inputs.logits(inputs.view + step * alone) for step in (1e-5, -1e-5))
        assert actual[place] == pytest.approx(((up - down) / 2e-5).item(), rel=1e-4, abs=1e-7)


def test_integrated_gradients_sum_to_the_difference_from_air(model: VisionTransformer) -> None:
    inputs = method_input(model, ["cls", "mean"])
    with torch.no_grad():
        both = inputs.logits(torch.cat([inputs.view, torch.zeros_like(inputs.view)]))
    difference = (both[0] - both[1]).item()
    assert integrated_gradients(inputs, 100).sum().item() == pytest.approx(difference, rel=5e-2)
    # One step is the gradient at the middle of the path.
    half = replace(inputs, view=inputs.view / 2)
    expected = 2 * gradient_input(half)
    torch.testing.assert_close(integrated_gradients(inputs, 1), expected)


@pytest.mark.parametrize("rows", [["cls"], ["query", "query"]], ids=str)
def test_attention_gradients_equal_differences_and_a_plain_loop(
    model: VisionTransformer, rows: list[str]
) -> None:
    inputs = method_input(model, rows)
    plain, tokens = plain_attention(model, inputs)
    gradients = [differences(model, inputs, number, weights) for number, weights in enumerate(plain)]
    product = np.eye(len(tokens))
    for weights, gradient in zip(plain, gradients, strict=True):
        raised = np.maximum(weights * gradient, 0).mean(axis=0)
        product = product + raised @ product
    prefix, reading = model.prefix, inputs.reading
    if rows == ["cls"]:
        expected = product[0, prefix:]
    else:
        expected = np.zeros(len(tokens) - prefix)
        for row, query in enumerate(reading.rows):
            mean, scale, readout = (
                part[row].numpy() for part in (reading.mean, reading.scale, reading.readout)
            )
            standard = (tokens - mean) * scale
            powers = np.exp(standard[prefix:] @ np.asarray(query))
            own = powers / powers.sum() * (standard[prefix:] @ readout)
            expected += np.maximum(own, 0) @ product[prefix:, prefix:]
    np.testing.assert_allclose(attention_gradient(inputs)[0].numpy(), expected, rtol=1e-3, atol=1e-6)


def differences(
    model: VisionTransformer, inputs: MethodInput, number: int, weights: np.ndarray
) -> np.ndarray:
    """∂logit/∂weight of a block for each of the weights, by central differences of the block's attention."""
    block = model.blocks[number]
    assert isinstance(block, Block)
    step = 1e-4
    actual = np.zeros_like(weights)

    def logit(changed: torch.Tensor) -> float:
        def by_weights(
            module: Attention, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor:
            value = module.queries_keys_values(*inputs)[2]
            mixed: torch.Tensor = module.projection((changed @ value).transpose(1, 2).flatten(2))
            return mixed

        hook = block.attention.register_forward_hook(by_weights)
        with torch.no_grad():
            logit = inputs.logits(inputs.view).item()
        hook.remove()
        return logit

    base = torch.from_numpy(weights)[None]
    generator = np.random.default_rng(number)
    # All heads, keys and queries would be thousands of passes; the others are autograd's.
    with torch.enable_grad(), explicit_attention(model.blocks) as seen:
        tokens = inputs.tokens(inputs.view.detach().requires_grad_())
        logits = inputs.reading.logits(tokens, inputs.reading.weights(tokens))
        (own,) = torch.autograd.grad(logits.sum(), seen[number], materialize_grads=True, allow_unused=True)
    actual[:] = own[0].numpy()
    for _ in range(12):
        place = tuple(int(generator.integers(n)) for n in weights.shape)
        nudge = torch.zeros_like(base)
        nudge[(0, *place)] = step
        slope = (logit(base + nudge) - logit(base - nudge)) / (2 * step)
        assert actual[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    return actual


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    grid = bright_sweep(tmp_path_factory.mktemp("sweep"))
    finetune = {"steps": 4, "batch": 4, "check_every": 4, "pool": ("cls", "max")}
    return SweepConfig.model_validate(grid.model_dump() | {"finetune": finetune, "attentive": {"steps": 20}})


@pytest.fixture(scope="module")
def kept(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for method in ("logistic", "attentive", "finetune", "neighbours"):
        folders[method] = tmp_path_factory.mktemp(method)
        write_classifier(fit(grid, method=method), folders[method])
    return folders


@pytest.fixture(scope="module")
def exam(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exam") / "data"
    sample(grid.data, out, 3, seed=1)
    return out


@pytest.mark.parametrize("method", ["logistic", "attentive", "finetune"])
def test_the_explained_score_equals_the_exported_classifiers(
    method: str, kept: dict[str, Path], exam: Path
) -> None:
    """Also the sum of integrated gradients, so that every method's logit is the classifier's."""
    classifier = load_classifier(kept[method])
    explainer = Explainer(classifier)
    for explained in explainer.of_scans(read_scans(exam, classifier.encoder.info)):
        view = classifier.encoder.transform(explained.scan.voxels, explained.scan.spacing_mm)[None]
        reading = explainer.readings["bright"][None]
        inputs = MethodInput(classifier.encoder.module, view, None, classifier.record.layer, reading)
        with torch.no_grad():
            score, air = inputs.logits(torch.cat([view, torch.zeros_like(view)]))
        assert torch.sigmoid(score).item() == pytest.approx(explained.answers["bright"].score, abs=2e-3)
        assert {method for _, method in explained.maps} == set(METHODS)
        total = explained.maps["bright", "integrated-gradients"].sum()
        assert total == pytest.approx((score - air).item(), rel=0.3, abs=0.05)
        assert all(np.isfinite(values).all() for values in explained.maps.values())
        assert explained.maps["bright", "rollout"].min() > 0
        assert explained.maps["bright", "attention-gradient"].min() >= 0  # 0 without evidence for the label


KINDS = {
    "third": Multiclass((0, 1, 7)),
    "grade": Ordinal((0, 1, 2)),
    "value": Regression(),
    "died": Survival(),
    "bright": BINARY,
}
SERIES = np.array([1, 3, 0])


def wanted(kind: Kind, raw: np.ndarray) -> dict[int | None, float]:
    """The scalar of a head's raw outputs, of one sample, that is explained."""
    if kind.name == "multiclass":
        return {number: raw[0, k] - raw[0].mean() for k, number in enumerate(kind.classes)}
    return {None: float(raw.mean())}


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("head", ["linear", "attentive", "mean", "max", "attention", "patches"])
def test_a_reading_equals_the_head_output_for_every_kind_of_scans_and_studies(task: str, head: str) -> None:
    kind, rng, patches = KINDS[task], np.random.default_rng(5), 4
    tokens = rng.normal(size=(3 if head in ("mean", "max", "attention", "patches") else 1, 1 + patches, 6))
    queries = head in ("attentive", "patches")
    rows = (2, 6) if queries else (12,)
    shape = rows if kind == BINARY else (*rows, kind.directions)
    bias = rng.normal(size=() if kind == BINARY else kind.outputs)
    scaling = rng.normal(size=(2, *rows[-1:])), rng.uniform(0.5, 2, (2, *rows[-1:]))
    mean, scale = scaling[0][0], scaling[1][0]
    parts = [mean, scale, *([rng.normal(size=rows)] if queries else []), rng.normal(size=shape), bias]
    added = {"attention": [rng.normal(size=12), rng.normal(size=6)], "patches": [rng.normal(size=(6, 6))]}
    kinds = {"attention": StudyLinearHead, "patches": StudyAttentiveHead, "attentive": AttentiveHead}
    parts = [part.astype(np.float32) for part in (*parts, *added.get(head, []))]
    made = kinds.get(head, LinearHead)(*parts)
    read = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    series = Series(tokens[:, 1:] if queries else read, SERIES, np.zeros(1, np.int64))
    if head in ("linear", "attentive"):
        raw = made.raw(series.values)
    elif head in ("mean", "max"):
        raw = made.raw(over_series(series, cast(SeriesPool, head)))
    else:
        raw = made.raw_of_studies(series)
    of_studies = (
        None if head in ("linear", "attentive") else SimpleNamespace(sample="study", series_pool=head)
    )
    record: Any = SimpleNamespace(pools=("cls", "mean"), of_studies=of_studies, method="m")
    collected = {}
    for number, reading in readings_of(record, made, kind, 1, torch.device("cpu")).items():
        reading = reading.of_series(tuple(ROLES[role] for role in SERIES))
        given = torch.from_numpy(tokens).float()
        weights = reading.weights(given)
        assert all(w.sum(dim=(0, 1)).numpy() == pytest.approx(1, abs=1e-5) for w in weights)
        collected[number] = reading.logits(given, weights).item()
        twice = torch.cat([given, given])
        assert reading.logits(twice, reading.weights(twice)).tolist() == pytest.approx(
            [collected[number]] * 2
        )
    assert collected == pytest.approx(wanted(kind, np.asarray(raw).reshape(1, -1)), abs=1e-4)


@pytest.fixture(scope="module")
def of_kinds(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported logistic classifier of every kind of label."""
    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(1)
    table = pq.read_table(grid.labels)
    bright = table["bright"].to_numpy()
    for name, column in {
        "third": np.where(bright, 7, rng.integers(0, 2, 60)),
        "grade": np.where(bright, 2, rng.integers(0, 2, 60)),
        "value": 30 + 20.0 * bright + rng.normal(0, 2, 60),
        "died": rng.integers(0, 2, 60),
        "days": np.ceil(rng.exponential(10 + 200 * (1 - bright))),
    }.items():
        table = table.append_column(name, pa.array(column))
    pq.write_table(table, folder / "labels.parquet")
    kinds = {name: kind.name for name, kind in KINDS.items()} | {"died": {"survival": "days"}}
    settings = {"labels": folder / "labels.parquet", "kinds": kinds, "tasks": tuple(KINDS)}
    config = SweepConfig.model_validate(grid.model_dump() | settings)
    write_classifier(fit(config, method="logistic"), folder / "kept")
    return folder / "kept"


def test_maps_of_other_kinds_explain_the_documented_score(of_kinds: Path, exam: Path, tmp_path: Path) -> None:
    classifier = load_classifier(of_kinds)
    explainer = Explainer(classifier, ["integrated-gradients"])
    for explained in explainer.of_scans(read_scans(exam, explainer.reads)):
        view = classifier.encoder.transform(explained.scan.voxels, explained.scan.spacing_mm)[None]
        for task, answer in explained.answers.items():
            expected = answer.score
            if answer.kind == "binary":
                expected = logit(answer.score)
            if answer.kind == "multiclass":
                assert answer.probabilities is not None
                expected = float(np.log(answer.score) - np.mean(np.log(answer.probabilities)))
            if answer.kind == "ordinal":
                assert answer.probabilities is not None
                expected = float(np.mean(logit(1 - np.cumsum(np.array(answer.probabilities))[:-1])))
            readings = explainer.readings[task]
            assert set(readings) == ({0, 1, 7} if task == "third" else {None})
            number = None if task != "third" or answer.value is None else int(answer.value)
            reading = readings[number]
            inputs = MethodInput(explainer.model, view, None, explainer.layer, reading)
            with torch.no_grad():
                score, air = inputs.logits(torch.cat([view, torch.zeros_like(view)])).tolist()
            assert score == pytest.approx(expected, rel=2e-3, abs=2e-3), task
            total = explained.maps[task, "integrated-gradients"].sum()
            assert total == pytest.approx(score - air, rel=0.3, abs=0.05 * abs(score - air) + 0.05), task
    out = tmp_path / "why"
    words = ["relevance", str(exam), "--classifier", str(of_kinds), "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--method", "gradient-input"])
    assert result.exit_code == 0, result.output
    rows = pq.read_table(out / "relevance.parquet").to_pylist()
    assert {row["task"]: row["kind"] for row in rows} == {name: kind.name for name, kind in KINDS.items()}
    assert {row["value"] for row in rows if row["task"] == "third"} <= {0, 1, 7}
    assert "third, gradient-input, class " in (out / "relevance.html").read_text()


@pytest.mark.parametrize("method", ["logistic", "attentive", "finetune"])
def test_maps_of_a_study_explain_the_score_of_its_series(
    grid: SweepConfig, exam: Path, method: str, tmp_path: Path
) -> None:
    config = grid.model_copy(update={"samples": ("study",), "series_pool": "max"})
    write_classifier(fit(config, method=method), tmp_path / "kept")
    explainer = open_explainer(tmp_path / "kept", None)
    read = read_scans(exam, explainer.reads, by_study=True)
    roles: tuple[Role, ...] = ("bone_thin", "soft_thick", "soft_thin")
    scans = [scan._replace(study=0, role=role) for scan, role in zip(read, roles, strict=True)]
    explained = list(explainer.of_scans(scans))
    assert [one.scan.key for one in explained] == [scan.key for scan in scans]
    assert len({one.answers["bright"].score for one in explained}) == 1
    views = torch.stack([explainer.encoder.transform(s.voxels, s.spacing_mm) for s in scans])
    reading = explainer.readings["bright"][None].of_series(roles)
    inputs = MethodInput(explainer.model, views, None, explainer.layer, reading)
    with torch.no_grad():
        score, air = inputs.logits(torch.cat([views, torch.zeros_like(views)])).tolist()
    assert torch.sigmoid(torch.tensor(score)).item() == pytest.approx(
        explained[0].answers["bright"].score, abs=2e-3
    )
    total = sum(one.maps["bright", "integrated-gradients"].sum() for one in explained)
    assert total == pytest.approx(score - air, rel=0.3, abs=0.05)
    assert all(np.isfinite(values).all() for one in explained for values in one.maps.values())
    assert sum(one.maps["bright", "rollout"].max() > 0 for one in explained) == 3
    torn = [scan._replace(several_patients=True) for scan in scans]
    with pytest.raises(FmctError, match="several_patients"):
        explainer.of_sample(torn)


def test_neighbours_and_unknown_names_are_refused(kept: dict[str, Path], grid: SweepConfig) -> None:
    encoder = grid.features.parent / "ours"
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((kept["neighbours"], None), "a classifier of neighbours has no map"),
        ((kept["logistic"], encoder), "one of --classifier and --encoder"),
        ((None, None), "one of --classifier and --encoder"),
        ((kept["logistic"], None, ["occlusion"]), "method occlusion: expected one of"),
        ((kept["logistic"], None, [], ["dark"]), "task dark: the classifier has bright"),
        ((None, encoder, ["gradient-input"]), "requires a classifier"),
        ((None, encoder, [], ["bright"]), "an encoder has no labels"),
    ]
    for arguments, message in cases:
        with pytest.raises(FmctError, match=message):
            open_explainer(*arguments)


@pytest.mark.parametrize("spacing", [12.0, 7.0])
def test_a_voxel_has_the_value_of_the_patch_with_the_nearest_centre(
    spacing: float, grid: SweepConfig, tmp_path: Path
) -> None:
    """In patient coordinates: by the volume's affine, and by nibabel's affine of the map."""
    explainer = open_explainer(None, grid.features.parent / "ours")
    shape = (14, 20, 17)
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[0, np.sin(turn), -np.cos(turn)], [0, -np.cos(turn), -np.sin(turn)], [1, 0, 0]]
    )
    affine[:3, :3] *= spacing
    affine[:3, 3] = [31.0, -17.0, 400.0]
    scan = Scan(32 * "a", np.random.default_rng(0).integers(0, 80, shape).astype(np.int16), affine)
    (explained,) = explainer.of_scans([scan])
    values = np.arange(1, 1 + np.prod(explained.grid.shape), dtype=np.float32).reshape(explained.grid.shape)
    (tmp_path / "map.nii.gz").write_bytes(nifti_bytes(explained.grid.on_volume(values, shape), scan.affine))
    image = nibabel.load(tmp_path / "map.nii.gz")
    assert isinstance(image, nibabel.Nifti1Image)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.allclose(image.get_qform(), image.affine, atol=1e-4)
    stored = np.asarray(image.dataobj)
    index = np.argwhere(np.ones(stored.shape, bool))
    ras = nibabel.affines.apply_affine(image.affine, index)
    lps = ras * [-1, -1, 1]
    # The volume's own affine gives the same position of each voxel.
    own = nibabel.affines.apply_affine(scan.affine, index[:, ::-1])
    np.testing.assert_allclose(lps, own, atol=1e-3)
    centres = explainer.encoder.info.patch_centres(scan.voxels, scan.spacing_mm, scan.affine)
    np.testing.assert_allclose(explained.grid.centres_lps().reshape(-1, 3), centres, atol=1e-6)
    _, nearest = cKDTree(centres).query(lps)
    edge = np.linalg.norm(centres[1] - centres[0])
    along = (lps - centres[nearest]) @ (affine[:3, :3] / spacing)
    inside = (np.abs(along) < edge / 2 - 1e-6).all(axis=1)
    outside = (np.abs(along) > edge / 2 + 1e-6).any(axis=1)
    got = stored[tuple(index.T)]
    np.testing.assert_array_equal(got[inside], values.reshape(-1)[nearest[inside]])
    assert (got[outside] == 0).all()
    assert inside.sum() > 200
    assert (spacing != 12) or outside.any()


def test_figures_of_a_map_against_a_mask() -> None:
    """Computed by voxels on a fine grid: a lesion in one and a half patches."""
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])[:, [2, 1, 0, 3]]
    patches = PatchGrid(np.full(3, -0.5), np.full(3, 12.0), (3, 3, 3), affine)
    mask = np.zeros((12, 12, 12), bool)
    mask[4:8, 4:8, 4:10] = True
    points: np.ndarray = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    truth = Truth.of(points, 8.0, patches)
    assert truth.filled[1, 1].tolist() == pytest.approx([0, 1, 0.5])
    assert truth.filled.sum() == pytest.approx(1.5)
    values = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    blocks = np.maximum(patches.on_volume(values, (12, 12, 12)), 0)
    share, pointed = truth.measure(values, 4.0)
    assert share == pytest.approx(blocks[mask].sum() / blocks.sum())
    at = np.unravel_index(values.argmax(), values.shape)
    middle = np.array(at) * 4 + 1.5
    away = np.linalg.norm(np.argwhere(mask) - middle, axis=1).min() * 2
    assert truth.distance_mm[at] == pytest.approx(away)
    assert pointed == (away <= 4.0)
    random = truth.of_random(4.0)
    drawn = [
        truth.measure(np.random.default_rng(i).random((3, 3, 3)).astype(np.float32), 4.0) for i in range(400)
    ]
    assert random == pytest.approx(np.mean(drawn, axis=0), abs=0.06)
    assert truth.greatest(4.0) == (1, 1)
    assert truth.measure(-np.ones((3, 3, 3), np.float32), 4.0) == (0, 0)


def test_means_resample_patients() -> None:
    generator = np.random.default_rng(0)
    figures, other = generator.random(40), generator.random(40)
    patients = np.arange(40) // 2
    own, others = means(np.stack([figures, other], axis=1), patients, 4000)
    value, gain = own.interval(0.95), (own - others).interval(0.95)
    by_patient = (figures - other).reshape(20, 2).mean(axis=1)
    deviation = by_patient.std() / np.sqrt(20)
    assert value.value == pytest.approx(figures.mean())
    assert gain.value == pytest.approx((figures - other).mean())
    assert [gain.low, gain.high] == pytest.approx(gain.value + 1.96 * deviation * np.array([-1, 1]), abs=0.02)


def masks_of(exam: Path, folder: Path) -> Path:
    """A table of two volumes' masks, each on a separate finer grid."""
    lines = ["key,task,mask"]
    for number, scan in enumerate(read_scans(exam, open_info(exam))):
        if number < 2:
            marked = np.zeros((8, 8, 8), np.uint8)
            marked[3:6, 2:5, 4:7] = 1
            affine = scan.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
            affine[:3, 3] += scan.affine[:3, :3] @ [4, 5, 6]
            (folder / f"{number}.nii.gz").write_bytes(nifti_bytes(marked.astype(np.float32), affine))
            lines.append(f"{scan.key},bright,{number}.nii.gz")
    (folder / "masks.csv").write_text("\n".join(lines) + "\n")
    return folder / "masks.csv"


def open_info(exam: Path) -> EncoderInfo:
    dataset = Dataset.open(exam)
    model = ModelConfig(patch_size=4, width=24, depth=1, heads=4)
    return EncoderInfo(
        step=0, model=model, data=DataConfig(path=exam), spacing_mm=dataset.info.spacing_mm, code_version=""
    )


def test_the_command_writes_maps_a_page_and_figures(
    kept: dict[str, Path], exam: Path, tmp_path: Path
) -> None:
    out = tmp_path / "why"
    (tmp_path / "Doe John").mkdir()
    words = ["relevance", str(exam), str(tmp_path / "Doe John"), "--out", str(out)]
    words += ["--classifier", str(kept["logistic"]), "--masks", str(masks_of(exam, tmp_path))]
    words += ["--beside", str(kept["attentive"])]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, FmctError), result.output
    assert str(result.exception).startswith("path 1: ")
    table = pq.read_table(out / "relevance.parquet").to_pylist()
    assert len(table) == 3 * 4 + 1
    assert [row["path"] for row in table if row["reason"]] == [1]
    dataset = Dataset.open(exam)
    for row in table[:-1]:
        image = nibabel.load(out / row["file"])
        assert isinstance(image, nibabel.Nifti1Image)
        record = dataset.record(dataset.position(row["key"]))
        assert image.shape == record.shape[::-1]
        corner = nibabel.affines.apply_affine(image.affine, [1, 2, 3]) * [-1, -1, 1]
        assert corner == pytest.approx(np.reshape(record.affine, (4, 4))[:3] @ [3, 2, 1, 1], abs=1e-3)
        assert row["study_key"] == record.study_key
    page = (out / "relevance.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 12
    assert "Maps compared with masks" in page
    for file in (page, str(table)):
        assert "Doe John" not in file
        assert str(tmp_path) not in file
    measures = pq.read_table(out / "measures.parquet").to_pylist()
    whole = [row for row in measures if row["group"] == "all"]
    assert {row["map"] for row in whole} == {
        *("classifier", "beside", "random", "tissue", "centre", "greatest")
    }
    assert {(row["volumes"], row["patients"]) for row in whole} == {(2, 2)}
    for row in whole:
        own = next(o for o in whole if o["method"] == row["method"] and o["map"] == "classifier")
        assert row["map"] == "classifier" or row["share_gain"] == pytest.approx(own["share"] - row["share"])
    again = [file.read_bytes() for file in sorted(out.glob("*.nii.gz"))]
    assert CliRunner().invoke(app, words).exit_code
    assert again == [file.read_bytes() for file in sorted(out.glob("*.nii.gz"))]
    with pytest.raises(FmctError, match="contains 9 maps that were not requested now"):
        CliRunner().invoke(app, [*words, "--method", "rollout"], catch_exceptions=False)
    # Another classifier's maps do not replace them.
    words[words.index(str(kept["logistic"]))] = str(kept["attentive"])
    with pytest.raises(FmctError, match="holds results of the classifier"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_shares_give_the_bytes_of_one_process_and_a_killed_one_resumes(
    kept: dict[str, Path], exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.report.relevance.PART_VOLUMES", 1)
    monkeypatch.setattr("launch.report.relevance.MAX_SHOWN", 2)
    masks, files = masks_of(exam, tmp_path), ("relevance.parquet", "measures.parquet", "relevance.html")
    words = ["relevance", str(exam), "--classifier", str(kept["logistic"]), "--masks", str(masks)]
    words += ["--method", "gradient-input", "--method", "rollout", "--out"]

    def output(*more: str) -> str:
        result = CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output(str(whole))
    assert (whole / "relevance.html").read_text().count("<img src=") == 2 * 2
    for share, so_far in (("2/3", " (1 of 3 parts)"), ("0/3", " (2 of 3 parts)"), ("1/3", " scans;")):
        output(str(parts), "--share", share)
        assert so_far in output(str(parts), "--collect")
    made = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert made == {path.relative_to(parts): path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    # Killed before a marker, or with a lost map, only that unit is computed again.
    units = sorted((parts / "units").glob("*.json"))
    lost = Made.model_validate_json(units[1].read_bytes()).rows[0].file
    assert lost
    units[0].unlink()
    (parts / lost).unlink()
    times = units[2].stat().st_mtime_ns
    assert "2 parts mapped" in output(str(parts), "--share", "0/1")
    assert units[2].stat().st_mtime_ns == times
    output(str(parts), "--collect")
    assert all((parts / name).read_bytes() == made[Path(name)] for name in (*files, lost))
    # Other masks are measured again.
    masks.write_text(masks.read_text().rsplit("\n", 2)[0] + "\n")
    assert "3 parts mapped" in output(str(parts), "--share", "0/1")


def test_the_documents_commands_run(
    kept: dict[str, Path], grid: SweepConfig, exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = grid.features.parent / "ours"
    places = {"exams/new": exam, "classifiers/first": kept["logistic"], "runs/first": ours}
    for name, there in places.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(there)
    monkeypatch.chdir(tmp_path)
    block, _ = blocks(REPOSITORY / "docs/probes.md", "bash", "Why")
    for line in block.splitlines():
        result = CliRunner().invoke(app, line.split()[1:])
        assert result.exit_code == 0, result.output
    table = pq.read_table("looked-at/relevance.parquet")
    assert set(table["method"].to_pylist()) == {"rollout"}
    assert table["score"].null_count == table.num_rows == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,mask\n", "has no column task"),
        ("key,task,mask\n", "no rows"),
        ("key,task,mask\na,bright,none.nii\n", "row 2, column mask: no such file"),
        ("key,task,mask\nKEY,bright,masks.csv\n", "row 2, column mask: "),
        ("key,task,mask\nKEY,bright,empty.nii.gz\n", "the mask is empty"),
        ("key,task,mask\nKEY,bright,empty.nii.gz\nKEY,bright,empty.nii.gz\n", "row 3: key"),
    ],
)
def test_wrong_masks_are_refused_by_their_row(text: str, message: str, exam: Path, tmp_path: Path) -> None:
    (scan, *_) = read_scans(exam, open_info(exam))
    file = tmp_path / "masks.csv"
    file.write_text(text.replace("KEY", scan.key))
    (tmp_path / "empty.nii.gz").write_bytes(nifti_bytes(np.zeros((2, 2, 2), np.float32), scan.affine))
    with pytest.raises(FmctError, match=message):
        Masks.read(file).truth(scan.key, "bright", PatchGrid.of(scan, open_info(exam)))
