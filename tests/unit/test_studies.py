"""Sweeps of studies with several series, and exported classifiers: one row per study, with its roles."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import axial
from preprocess_export import KEY, Export, run_inline, write_series
from small_training import small_encoder
from study_series import STUDIES, TORN, study_keys, study_sweep

import fmct_hpc
from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.record import StudyRecord
from fmct_hpc.classifier.table import Predictions
from fmct_hpc.inference.readers import Scan
from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.probe.run import as_sweep
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.export import load_encoder
from launch.report.document import Table
from launch.report.probe import Probes
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.explain import explain
from preprocess.select.rules import SelectConfig
from shards import Dataset
from shards.errors import FmctError
from shards.roles import study_roles


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    return study_sweep(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def swept(grid: SweepConfig) -> Path:
    out = grid.features.parent / "out"
    Sweep(grid, out).run()
    return out


def test_study_samples_beat_best_series_and_are_compared(
    grid: SweepConfig, swept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = Sweep(grid, swept).collect()
    assert summary.torn_studies == len(TORN)
    assert sum("several_patients" in record.getMessage() for record in caplog.records) == 2  # one per sample
    rows = pq.read_table(swept / "results.parquet").to_pylist()
    results = {(row["method"], row["sample"]): row for row in rows}
    assert len(results) == 6
    assert len({row["n"] for row in results.values()}) == 1
    for method in ("logistic", "attentive", "finetune"):
        assert results[method, "study"]["auc"] > 0.8, method
        assert results[method, "best"]["auc"] < 0.75, method
    index = Dataset.open(grid.data).index.to_pylist()
    best = {row["key"]: row["study_key"] for row in index if row["rank"] == 0}
    rows = pq.read_table(swept / "predictions.parquet").to_pylist()
    tested = {best[row["key"]] for row in rows}
    assert not tested & {study_keys()[number] for number in TORN}
    compared = pq.read_table(swept / "comparisons.parquet").to_pylist()
    assert {(row["sample"], row["versus_sample"], row["method"]) for row in compared} == {
        ("best", "study", method) for method in ("logistic", "attentive", "finetune")
    }
    for row in compared:
        of = results[row["method"], "best"]["auc"], results[row["method"], "study"]["auc"]
        assert row["difference"] == pytest.approx(of[0] - of[1])
        assert row["p"] <= row["p_holm"] <= 1


def test_labels_of_studies_with_several_patients_only_are_refused(grid: SweepConfig, tmp_path: Path) -> None:
    labels = pq.read_table(grid.labels).slice(TORN[0], len(TORN))
    pq.write_table(labels, tmp_path / "labels.parquet")
    config = grid.model_copy(update={"labels": tmp_path / "labels.parquet"})
    with pytest.raises(FmctError, match=r"sample best: all 2 labelled studies have several Patient IDs"):
        Sweep(config, tmp_path / "out").plan()


@pytest.mark.parametrize(
    ("method", "sample"),
    [("logistic", "best"), ("logistic", "study"), ("attentive", "study"), ("finetune", "study")],
)
def test_scores_are_those_of_the_sweep_with_the_roles_of_each_study(
    method: str,
    sample: str,
    grid: SweepConfig,
    swept: Path,
    tmp_path: Path,
) -> None:
    config = grid.model_copy(update={"samples": (sample,)})
    write_classifier(fit(config, method=method), tmp_path / "kept")
    predictions = Predictions([grid.data], tmp_path / "kept", tmp_path / "out", batch=3)
    predictions.run()
    predictions.collect()
    rows = pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()
    refused = [row for row in rows if row["reason"]]
    assert {row["study_key"] for row in refused} == {study_keys()[number] for number in TORN}
    assert all(row["reason"].startswith("several_patients") for row in refused)
    predicted = [row for row in rows if not row["reason"]]
    assert len(predicted) == STUDIES - len(TORN)
    scored = pq.read_table(swept / "predictions.parquet").to_pylist()
    theirs = {
        row["key"]: row["score"] for row in scored if (row["method"], row["sample"]) == (method, sample)
    }
    ours = {row["key"]: row["score"] for row in predicted}
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-6)
    by_study = {row["study_key"]: row for row in predicted}
    for number, key in enumerate(study_keys()):
        if number in TORN:
            continue
        there = ["soft_thick"]
        if sample == "study":
            there += ["bone_thin"] * (number % 4 < 3) + ["soft_thin"] * (number % 8 == 2)
        assert by_study[key]["roles"] == there
        trained = {"soft_thick", "soft_thin", "bone_thin"} if sample == "study" else {"soft_thick"}
        assert set(by_study[key]["missing_roles"]) == trained - set(there)


def test_a_probe_reads_one_sample_kind(grid: SweepConfig, tmp_path: Path) -> None:
    config = ProbeConfig(data=grid.data, labels=grid.labels, sample="study", series_pool="max")
    actual = as_sweep(tmp_path, config, tmp_path)
    assert (actual.samples, actual.series_pool) == (("study",), "max")


def test_fitting_from_two_sample_kinds_needs_a_choice(grid: SweepConfig) -> None:
    with pytest.raises(FmctError, match=r"choose one: .* samples="):
        fit(grid, method="logistic")


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Two studies with a thick soft and a thin bone series, and one whose series are of two patients."""
    folder = tmp_path_factory.mktemp("exams")
    for study in range(3):
        start = (-70 + study, -60, 0)
        thick, thin = axial(slices=22, gap=6.0, start=start), axial(slices=64, gap=2.0, start=start)
        write_series(folder / "dicom", study, 1, thick, SliceThickness=6)
        files = write_series(folder / "dicom", study, 2, thin, SliceThickness=2, ConvolutionKernel="H70h")
        if study == 2:
            rewrite_patient(files)
    key_file = folder / "hmac.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    export = Export(folder / "dicom", folder / "catalog.parquet", key_file)
    export.rescan()
    return export


def rewrite_patient(files: list[Path]) -> None:
    import pydicom

    for path in files:
        data = pydicom.dcmread(path)
        data.PatientID = "another"
        data.save_as(path)


def test_new_exams_are_read_by_study(exams: Export, tmp_path: Path) -> None:
    """By Study Instance UID, with the selection of the classifier's training volumes."""
    config = PreprocessConfig(
        key_file=exams.key_file,
        select=SelectConfig(keep="all", kernels=("soft", "unknown", "bone")),
        grid=GridConfig(spacing_mm=(4, 4, 4)),
        output=OutputConfig(formats=("zarr",)),
    )
    run_inline(exams, tmp_path / "data", config)
    dataset = Dataset.open(tmp_path / "data/zarr")
    assert sorted(study_roles(dataset.index).roles.tolist()) == ["bone_thin"] * 3 + ["soft_thick"] * 3
    explained = explain(exams.catalog, config).table.to_pylist()
    assert sorted(row["role"] for row in explained) == ["bone_thin"] * 3 + ["soft_thick"] * 3
    of_best = explain(exams.catalog, config.model_copy(update={"select": SelectConfig()})).table.to_pylist()
    assert (
        sorted(row["role"] or row["decision"] for row in of_best) == ["bone_kernel"] * 3 + ["soft_thick"] * 3
    )
    kept = fmct_hpc.load_classifier("tests/data/classifiers/logistic")
    encoder = OurEncoder(*load_encoder(small_encoder(dataset.path, tmp_path / "encoder")))
    weights = np.random.default_rng(0).normal(size=(3, 48)).astype(np.float32)
    head = LinearHead(weights[0], abs(weights[1]), weights[2], np.array(0.1, np.float32))
    studied = StudyRecord(
        sample="study",
        series_pool="max",
        roles=("soft_thick", "soft_thin", "bone_thin"),
        preprocessing=dataset.preprocessing(),
        preprocess_digest=dataset.info.config_digest,
    )
    record = kept.record.model_copy(update={"of_studies": studied})
    # The encoder was trained on the best series alone, as usual.
    alone = PreprocessConfig(key_file=exams.key_file, grid=config.grid)
    info = encoder.info.model_copy(
        update={"preprocessing": alone.everything(), "preprocess_digest": alone.digest()}
    )
    classifier = fmct_hpc.Classifier(record, OurEncoder(encoder.module, info), (head,))
    stored, fresh = (
        {one.study_key: one for one in classifier.predict(source, key_file=exams.key_file)}
        for source in (dataset.path, exams.folder)
    )
    assert stored.keys() == fresh.keys()
    assert len(fresh) == 3
    torn = [one for one in fresh.values() if one.reason]
    assert len(torn) == sum(one.reason is not None for one in stored.values()) == 1
    for key, one in fresh.items():
        if one.reason:
            continue
        assert one.roles == stored[key].roles == ("soft_thick", "bone_thin")
        assert one.missing_roles == ("soft_thin",)
        ours, theirs = one.answers["bright"].score, stored[key].answers["bright"].score
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_scans_without_a_study_are_separate_and_precede_a_refusal(grid: SweepConfig, tmp_path: Path) -> None:
    config = grid.model_copy(update={"samples": ("study",)})
    write_classifier(fit(config, method="logistic"), tmp_path)
    classifier = fmct_hpc.load_classifier(tmp_path)
    dataset = Dataset.open(grid.data)

    def scans() -> Iterator[Scan]:
        for number in range(3):
            affine = np.array(dataset.record(number).affine).reshape(4, 4)
            yield Scan(f"{number}", dataset.read(number), affine)
        raise FmctError("the fourth one is no head")

    collected: list[tuple[str, tuple[str, ...] | None]] = []

    def all_of_them() -> None:
        collected.extend((one.key, one.roles) for one in classifier.of_scans(scans(), batch=2))

    with pytest.raises(FmctError, match="fourth"):
        all_of_them()
    assert collected == [(f"{number}", ("unknown_thick",)) for number in range(3)]


def test_the_report_distinguishes_samples(swept: Path) -> None:
    section = Probes(swept).section()
    tables = [block for block in section.blocks if isinstance(block, Table)]
    cells = [{one.text for row in block.rows for one in row} for block in tables]
    assert {"last layer, best series of a study", "last layer, all series of a study"} <= cells[0]
    assert {"ours, best series of a study", "ours, all series of a study"} <= cells[1]
    assert any("best series of a study vs ours, all series" in line for line in Probes(swept).limits())
