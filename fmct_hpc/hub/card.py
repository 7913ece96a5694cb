"""Model card (README.md) of an exported encoder: intended use, training data, training, and loading."""

import re

from fmct_hpc.fields import size_text
from fmct_hpc.hub.counts import Counts
from fmct_hpc.train.export import EncoderInfo
from shards.errors import FmctError

FOR = (
    "Research: features of head CT volumes without contrast, for classifiers that are trained and tested on "
    "labelled scans of the site where they are used, and as a start for fine-tuning."
)
NOT_FOR = (
    "Diagnosis, triage or any other decision about a patient: it is no medical device, and has not been "
    "tested as one.",
    "Other body parts, MR, CT with contrast, bone kernels or populations that the data below does not hold.",
    "Finding out who a patient is, or linking scans of one.",
)
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .()+-]{0,79}")


def require_licence(licence: str | None) -> str:
    """The name of the weights' licence as given by the user; raises FmctError if missing or invalid."""
    if licence is None or not _LICENCE.fullmatch(licence):
        raise FmctError(
            f"--licence {licence or 'is missing'}: expected the name of the weights' licence (an SPDX "
            "identifier such as CC-BY-NC-4.0, or other); there is no default"
        )
    return licence


def card(info: EncoderInfo, parameters: int, licence: str, counts: Counts | None) -> str:
    """The card as Markdown, with the YAML header of model hubs."""
    model, data = info.model, info.data
    windows = "; ".join(f"level {level:g}, width {width:g} HU" for level, width in data.windows)
    field = (
        f"{data.field_mm:g} mm around the volume's centre" if data.field == "isotropic" else "the head's box"
    )
    facts = {
        "Parameters": f"{parameters:,}",
        "Network": f"ViT, width {model.width}, {model.depth} blocks, {model.heads} heads",
        "Patches": f"{size_text(model.patch_size)} voxels of a view of {size_text(data.view_size)}",
        "Positions": model.positions,
        "Register tokens": str(model.register_tokens),
        "Share of patches encoded": f"{model.keep_tokens:g}",
        "Training step": f"{info.step:,}",
        "Origin of the weights": info.origin,
        "Written by": f"fmct-hpc {info.code_version}",
        "SHA-256 of the training dataset": info.dataset_digest or "unknown",
        "SHA-256 of its preprocessing": info.preprocess_digest or "unknown",
    }
    amount = (
        {name.capitalize(): f"{number:,}" for name, number in counts._asdict().items()}
        if counts
        else {"Volumes, studies, patients": "unknown: the training dataset was not available at export"}
    )
    expected = {
        "Axes": "(D, H, W), growing towards superior, anterior and right",
        "Values": "HU",
        "Spacing": " x ".join(f"{edge:g}" for edge in info.spacing_mm) + " mm",
        "Windows": windows,
        "Field": f"{data.field}: {field}, air (-1000 HU) outside",
        "View": f"{size_text(data.view_size)} voxels, by averaging the windowed values",
    }
    return f"""---
license: {licence}
library_name: transformers
tags: [medical, ct, head, fmct-hpc]
---

# Encoder of head CT

## Intended use

* {FOR}

## Out of scope

{chr(10).join(f"* {one}" for one in NOT_FOR)}

## Data

{_table(amount)}
Age, sex, origin and diagnosis are not recorded; differences of features between groups are unknown.

## Limits

* The head must be in the centre of the volume, as cropped by `fmct preprocess`; this code does not locate it.
* This folder has no results. Evaluate the encoder on patients that were not in the training data.
* Values other than HU, or a wrong spacing or affine, give wrong features without an error.

## Input

{_table(expected)}
`config.json` has the same information for programs, with the preprocessing configuration under `fmct`.

## Training

{_table(facts)}
## Use

With transformers (this runs the code in this folder; review it first):

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)
views = model.prepare(hu, affine)  # affine: the array's index to patient mm, LPS; frame="RAS" for nibabel's
tokens = model(views).last_hidden_state  # CLS, registers, patches
```

With only PyTorch, NumPy and safetensors, in this folder:

```python
from fmct_encoder import load, prepare

encoder, preprocessing = load("FOLDER")
tokens = encoder(prepare(hu, affine, preprocessing))
```

## Licence

Weights: {licence}, as stated at export. Code in this folder: Apache-2.0 (fmct-hpc).
"""


def _table(rows: dict[str, str]) -> str:
    return "|  |  |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())
