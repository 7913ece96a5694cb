"""Check engine.deepspeed with DeepSpeed's own configuration reader.

DeepSpeed parses some sections with models that reject unknown keys. In others it looks up single keys, so
misspelt ones have no effect: these are found by a configuration that records which keys are looked up.
"""

import difflib
import logging
import os
from collections.abc import ItemsView, Iterable, Iterator, KeysView
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fmct_hpc.config import TrainConfig
from shards.errors import FmctError

_WHERE = "engine.deepspeed"


def require_deepspeed_keys(config: TrainConfig) -> None:
    """Raise FmctError where engine.deepspeed has a key or value that DeepSpeed does not accept."""
    over = config.engine.deepspeed
    if not over:
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # has no influence here; ranks set their own
    from deepspeed.runtime.config import DeepSpeedConfig

    from fmct_hpc.train.engine import deepspeed_settings

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    noted = _Noted({**deepspeed_settings(config, 1), "train_micro_batch_size_per_gpu": 1})
    try:
        DeepSpeedConfig(noted)
    except ValidationError as error:
        raise FmctError(_refused(error, over)) from None
    except Exception as error:  # DeepSpeed raises many types for invalid values
        _require_types(over, noted, _WHERE)
        raise FmctError(f"{_WHERE}: DeepSpeed rejects it: {' '.join(str(error).split())}") from None
    _require_known(over, noted, _WHERE)
    _require_types(over, noted, _WHERE)


class _Noted(dict[str, Any]):
    """A dictionary that records which keys are looked up, and their defaults; recursive."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__({k: _Noted(v) if isinstance(v, dict) else v for k, v in values.items()})
        self.lookups: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        self.lookups[key] = default
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.lookups.setdefault(key, None)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.lookups.setdefault(str(key), None)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:  # overridden so that ** looks each key up
        return super().__iter__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return ItemsView(self)

    def __copy__(self) -> "_Noted":
        return self


def _require_known(over: dict[str, Any], noted: _Noted, where: str) -> None:
    for key, value in over.items():
        if key not in noted.lookups:
            raise FmctError(f"{where}: DeepSpeed has no key {key}{_guess(key, list(noted.lookups))}")
        if isinstance(value, dict) and noted[key].lookups:  # else a model parsed the section
            _require_known(value, noted[key], f"{where}.{key}")


def _require_types(over: dict[str, Any], noted: _Noted, where: str) -> None:
    for key, value in over.items():
        default = noted.lookups.get(key)
        if isinstance(value, dict):
            _require_types(value, noted[key], f"{where}.{key}")
        elif not _is_like(value, default):
            raise FmctError(f"{where}.{key}: expected a value like {default!r}, not {value!r}")


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is a flag, number or text if the default is; a default of None allows any."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return not isinstance(default, str) or isinstance(value, str)


def _refused(error: ValidationError, over: dict[str, Any]) -> str:
    """A one-line message for the first error of one of DeepSpeed's models."""
    first = error.errors(include_url=False)[0]
    *above, key = map(str, first["loc"] or [""])
    top = above[0] if above else key
    if top not in over:  # the model is of a section, not of sections
        above = [name for name, inner in over.items() if isinstance(inner, dict) and top in inner][:1] + above
    where = ".".join([_WHERE, *above])
    if first["type"] == "extra_forbidden":
        return f"{where}: DeepSpeed has no key {key}{_guess(key, _fields(error.title, first['loc'][:-1]))}"
    return f"{where}.{key}: {first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"


def _fields(name: str, sections: Iterable[int | str]) -> list[str]:
    """The keys of the section at `sections` in the model `name`; empty if unknown."""
    models = [model for model in _models(BaseModel) if model.__name__ == name]
    for section in sections:
        annotations = [model.model_fields[str(section)].annotation for model in models[:1]]
        inner = [kind for one in annotations for kind in (one, *get_args(one))]
        models = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return list(models[0].model_fields) if models else []


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for inner in model.__subclasses__():
        yield inner
        yield from _models(inner)


def _guess(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
