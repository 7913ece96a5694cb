"""Recomputed activations and compiled blocks give the same losses and gradients."""

import os
from functools import partialmethod

import pytest
import torch
from small_model import ROTARY, config, forward, gradient_of
from torch._inductor import cpp_builder

from fmct_hpc.engine_config import EngineConfig
from fmct_hpc.model.execution import require_compiler, set_execution
from fmct_hpc.objective.student import Student
from shards.errors import FmctError


@pytest.mark.parametrize("positions", [{}, ROTARY], ids=["added", "rotary"])
def test_recomputing_activations_changes_neither_losses_nor_gradients(positions: dict[str, object]) -> None:
    settings = config({"drop_path": 0.3, **positions}, ibot_weight=1, koleo_weight=0.1)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        student = Student(settings)
        set_execution(student, EngineConfig(activation_checkpointing=checkpointing))
        forward(student, settings).total.backward()
        gradients.append({name: gradient_of(p) for name, p in student.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("positions", [{}, ROTARY], ids=["added", "rotary"])
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # TorchDynamo reads it while it traces
def test_compiled_blocks_compute_the_same(
    monkeypatch: pytest.MonkeyPatch, positions: dict[str, object]
) -> None:
    if "FMCT_LONG_TESTS" not in os.environ:  # without C++: what is traced, forward and backward, is the same
        traced = partialmethod(torch.nn.Module.compile, backend="aot_eager", fullgraph=True)
        monkeypatch.setattr(torch.nn.Module, "compile", traced)
    settings = config({"drop_path": 0.2, **positions})
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        student = Student(settings)
        names = list(student.state_dict())
        set_execution(student, EngineConfig(compile=compiled))
        assert list(student.state_dict()) == names
        forward(student, settings, size=8).total.backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler(EngineConfig())
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(FmctError, match=r"engine\.compile: no C\+\+ compiler"):
        require_compiler(EngineConfig(compile=True))


def test_local_views_of_fewer_voxels_train_everything_with_or_without_recomputing() -> None:
    weights = dict.fromkeys(("ibot_weight", "koleo_weight", "dino_weight", "mae_weight"), 0.5)
    settings = config({"drop_path": 0.2, "positions": "learned"}, **weights, ibot_mask_probability=1)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        student = Student(settings)
        set_execution(student, EngineConfig(activation_checkpointing=checkpointing))
        small = forward(student, settings, size=8)
        small.total.backward()
        gradients.append({name: gradient_of(p) for name, p in student.named_parameters()})
        whole = forward(student, settings)
        assert small.parts["dino"] != whole.parts["dino"]
        for part in ("ibot", "koleo", "mae"):  # which read global views
            torch.testing.assert_close(small.parts[part], whole.parts[part])
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.equal(gradient, gradients[1][name]), name
