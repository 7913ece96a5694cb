"""No value ends its line of a batch script or is interpreted there; without Slurm."""

import copy
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from launch.config import load
from launch.scheduler import Job
from launch.slurm.site import Site
from launch.slurm.submit import describe, script
from shards.errors import FmctError

STAGE = {
    **{"partition": "p", "qos": "q", "constraint": "c", "time_minutes": 1, "cpus_per_task": 1},
    **{"gpus_per_node": 1, "mem_gb": 1, "directives": {"exclude": "n1"}},
}
WHOLE: dict[str, Any] = {
    **{"account": "a", "modules": ["m"], "environment": {"NAME": "v"}, "setup": ["true"]},
    "container": {"runtime": "apptainer", "image": "i", "binds": ["/data:/data:ro"]},
    **{"scratch": "/scratch", "cache": "/cache", "cache_gb": 1, "mail": {"user": "u", "type": ["END"]}},
    "privacy": {"share": "group"},
    "directives": {"reservation": "r"},
    **{stage: STAGE for stage in ("light", "scan", "preprocess", "train", "probe")},
    **{"width": 1, "array_size": 1, "backoff_seconds": 1, "warn_seconds": 1},
}
"""All keys of a site file."""
HIDDEN = ("\ntouch owned", "\r", "\x1b[2J", "\x00", "\u2028", "\udcff")


def sections(annotation: Any) -> list[type[BaseModel]]:
    candidates = (annotation, *get_args(annotation))
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def keys(model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a section, with those of nested sections."""
    inner = {name: sections(field.annotation) for name, field in model.model_fields.items()}
    return {name: keys(nested[0]) if nested else None for name, nested in inner.items()}


def keys_given(value: Any, model: type[BaseModel]) -> Any:
    inner = {name: sections(model.model_fields[name].annotation) for name in value}
    return {name: keys_given(value[name], nested[0]) if nested else None for name, nested in inner.items()}


def spoilt(value: Any, hidden: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the place, and `value` with `hidden` in one of its texts or free keys."""
    if isinstance(value, str):
        yield place, value + hidden
    elif isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            for where, inner in spoilt(value[key], hidden, f"{place}.{key}".lstrip(".")):
                changed = copy.deepcopy(value)
                changed[key] = inner
                yield where, changed
            if place.endswith(("environment", "directives")):
                yield f"{place}.{key}", {f"{key}{hidden}": value[key]}


def test_every_key_of_a_site_is_tested_here() -> None:
    assert keys_given(WHOLE, Site) == keys(Site)
    assert describe(Job("j", (("true",),), Site().light), Path("slurm"), Site.model_validate(WHOLE))


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
def test_a_site_refuses_unsafe_characters_in_every_value(hidden: str, tmp_path: Path) -> None:
    for place, values in spoilt(WHOLE, hidden):
        if place == "setup.0" and hidden == "\ntouch owned":
            assert Site.model_validate(values).setup == ("true", "touch owned")  # lines of shell
            continue
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(FmctError, match=place.split(".")[0]) as caught:
            load(Site, tmp_path / "site.yaml", [])
        assert str(caught.value).isprintable()


JOB = Job(
    "name",
    (("fmct", "train", "data.path=d"), ("fmct",)),
    Site().train,
    kept=("--run", "r"),
    after_success=("before",),
    after_end=("ended",),
    done=Path("done/name"),
)


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
def test_a_script_refuses_unsafe_characters_from_any_source(hidden: str) -> None:
    def refused(job: Job, folder: Path, site: Site) -> None:
        with pytest.raises(FmctError) as caught:
            script(job, folder, site)
        assert str(caught.value).isprintable()

    texts = [f.name for f in fields(Job) if f.name not in ("resources", "nodes", "tasks_per_node")]
    for name in texts:
        value = getattr(JOB, name)
        for changed in _each_spoilt(value, hidden):
            refused(replace(JOB, **{name: changed}), Path("slurm"), Site())
    if hidden != "\x00":  # impossible in a path
        refused(JOB, Path(f"run{hidden}/slurm"), Site())
    for place, values in spoilt({key: WHOLE[key] for key in ("account", "modules", "environment")}, hidden):
        unchecked = Site.model_construct(**{**dict(Site()), **values})
        if "." not in place or place.startswith("modules"):
            refused(JOB, Path("slurm"), unchecked)


def _each_spoilt(value: Any, hidden: str) -> Iterator[Any]:
    if isinstance(value, tuple):
        for number, inner in enumerate(value):
            for changed in _each_spoilt(inner, hidden):
                yield (*value[:number], changed, *value[number + 1 :])
    else:
        yield type(value)(f"{value}{hidden}")


PRINTING = st.characters(exclude_categories=["C", "Z"], include_characters=" ", exclude_characters="\\")


@given(text=st.text(PRINTING, min_size=1, max_size=20))
def test_printable_characters_stay_one_shell_word(text: str) -> None:
    plain = script(replace(JOB, name="n"), Path("slurm"), Site()).splitlines()
    site = Site(account=text, directives={"comment": text}, environment={"NAME": text})
    lines = script(replace(JOB, name=text, kept=("--run", text)), Path("slurm"), site).splitlines()
    assert len(lines) == len(plain) + 3
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if "#SBATCH" in line)
    for name in ("account", "comment", "job-name"):
        assert shlex.split(options[name]) == [text]
    [exported] = [line for line in lines if line.startswith("export NAME=")]
    assert shlex.split(exported) == ["export", f"NAME={text}"]
    hooks = [shlex.split(line) for line in lines if line.startswith("fmct_begin ")]
    assert [words[words.index("--run") + 1] for words in hooks] == [text]


@pytest.mark.parametrize(
    "values",
    [
        {"directives": {"comment=x --account": "other"}},
        {"directives": {"Account": "other"}},
        {
            "directives": {"comment": "\\'\\' --account=other"}
        },  # sbatch interprets the backslash in quotes too
        {"directives": {"comment": ""}},
        {"account": "a\\"},
        {"setup": ["true", " #SBATCH --account=other"]},
        {"modules": ["--force"]},
        {"container": {"runtime": "apptainer", "image": "--bind=/:/host"}},
        {"scratch": "/local:/etc"},
        {"cache": "/local,/etc:/etc"},
    ],
)
def test_no_value_becomes_another_option(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Site.model_validate(values)


@pytest.mark.parametrize("folder", ["50%j/slurm", "a\\b/slurm"])
def test_a_folder_is_not_a_pattern_to_slurm(folder: str) -> None:
    with pytest.raises(FmctError, match=r"output.*backslash"):
        script(JOB, Path(folder), Site())
