"""The configuration of a run that an earlier version began: keys that it did not know keep what it did."""

from pathlib import Path
from typing import Any

from fmct_hpc.config import TrainConfig
from shards import json_text
from shards.section import Section


def as_begun(config: TrainConfig, run: Path) -> TrainConfig:
    """`config` with the earlier values of keys that the record in the folder `run` lacks, or has them of.

    It has them once this version has gone on with the run, and recorded all keys. Only of keys that are not
    given, so that a value which is given and differs is refused as any other. As it is where the folder holds
    no record, or a damaged one.
    """
    try:
        record = json_text.parse((run / "config.json").read_bytes())
    except (OSError, ValueError):
        return config
    if not isinstance(record, dict):
        return config
    changed: dict[str, Any] = {}
    for name in type(config).model_fields:
        section, recorded = getattr(config, name), record.get(name, {})
        if not isinstance(section, Section) or not isinstance(recorded, dict):
            continue
        kept = {
            key: earlier
            for key, earlier in section.earlier.items()
            if key not in section.model_fields_set and recorded.get(key, earlier) == earlier
        }
        if kept:
            changed[name] = section.model_copy(update=kept)
    return config.model_copy(update=changed)
