from pathlib import Path

import pytest
import yaml
from slurm_cluster import Cluster

from launch.doctor.site import check_site

pytestmark = pytest.mark.slurm
SITE = Path(__file__).parents[2] / "launch" / "recipes" / "site-test.yaml"


def test_a_real_cluster_agrees_with_its_site_file(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.chdir(tmp_path)
    findings = {finding.name: finding for finding in check_site(SITE)}
    assert [finding for finding in findings.values() if finding.level != "ok"] == []
    assert "low" in findings["controller"].message
    assert "sbatch accepts it" in findings["train"].message
    assert "test" in findings["account"].message


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({"account": "nobody"}, "account", "not one of yours"),
        ({"array_size": 100_000}, "array_size", "MaxArraySize is 1001"),
        ({"train": {"partition": "low", "gpus_per_node": 3}}, "train", "no node of low has 3 GPUs"),
        ({"probe": {"partition": "low", "time_minutes": 3000}}, "probe", "low allows 1440"),
        ({"scan": {"directives": {"licenses": "none-such:1"}}}, "scan", "sbatch rejects it: "),
    ],
)
def test_settings_that_a_cluster_cannot_satisfy_are_named(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    name: str,
    message: str,
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SITE.read_text()) | change))
    faults = {finding.name: finding.message for finding in check_site(path) if finding.level == "fault"}
    assert message in faults[name]
