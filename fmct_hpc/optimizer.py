"""AdamW without torch's compiler, whose import takes longer than the rest of a short command."""

import inspect
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW, with equal updates, for steps that are not compiled.

    torch's `add_param_group`, `zero_grad` and `step` are wrapped to keep torch.compile out of them, for which
    they import torch._dynamo (1.2 s of CPU time). The wrapped functions, which `functools.wraps` keeps, are
    called instead; `inspect.unwrap` returns its argument where it has no wrapper.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        inspect.unwrap(torch.optim.AdamW.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        inspect.unwrap(torch.optim.AdamW.zero_grad)(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """As torch's, without `differentiable` or gradients of what it computes."""
        return inspect.unwrap(torch.optim.AdamW.step)(self, closure)
