"""The configuration of a run that an earlier version started: new keys keep that version's behaviour."""

from pathlib import Path
from typing import Any

from fmct_hpc.config import TrainConfig
from shards import json_text
from shards.section import Section


def with_earlier_defaults(config: TrainConfig, run: Path) -> TrainConfig:
    """`config` with a section's `earlier` values, for keys whose record in the folder `run` lacks or has
    them.

    The record has them once this version has resumed the run and recorded all keys. Keys that are set
    explicitly keep their value, so a mismatch is rejected as for any other key. Unchanged if the folder has
    no readable record.
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
