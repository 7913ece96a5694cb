"""Features of new scans: the CLS token, and patch tokens with their positions in patient coordinates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.inference.readers import Scan, Source, in_groups, read_source
from fmct_hpc.model.backbone import Backbone, summary
from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe.encoders import load_weights
from fmct_hpc.train.export import EncoderInfo

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ScanFeatures:
    """Features of one scan."""

    key: str
    """The key of a shard dataset's volume; for other scans the first digits of the source digest."""
    cls: NDArray[np.float32]
    """(width,); for an encoder without a CLS token, the mean of the patch tokens."""
    patches: NDArray[np.float32]
    """(N, width), for the patches kept by the encoder (model.keep_tokens; all by default), in C order of
    (D, H, W): from inferior, posterior, left."""
    centres_mm: NDArray[np.float64]
    """(N, 3): the patches' centres in patient coordinates (LPS), mm; some lie outside the scan."""
    study_key: str | None = None
    """HMAC of the study, as in label tables, from a shard dataset or computed with `key_file`; else None."""
    patient_key: str | None = None
    path: Path | None = None
    """The source, or the file in it; None for an array. It may contain a patient's name."""
    flags: tuple[str, ...] | None = None
    """Findings of the preprocessing checks; None for volumes of shard datasets, whose manifest has them."""

    @property
    def mean(self) -> NDArray[np.float32]:
        """(width,): mean of the patch tokens."""
        return self.patches.mean(axis=0)


def features(
    source: Source,
    encoder: Path | str | tuple[Backbone, EncoderInfo],
    *,
    affine: NDArray[np.float64] | None = None,
    batch: int = 4,
    device: str = "cpu",
    key_file: Path | str | None = None,
) -> Iterator[ScanFeatures]:
    """Yield features of the head CTs at `source`, with the preprocessing of the encoder's training.

    source: DICOM files in a folder (one or more exams), an archive or one multi-frame file, a NIfTI file or a
    folder of them, a shard dataset, or several of these; or an array of HU (D, H, W) with `affine`, (4, 4),
    which maps its index (d, h, w, 1) to patient LPS mm. encoder: a run folder, one of its checkpoints, an
    encoder.safetensors, a checkpoint file of the reference, or the result of `load_encoder`. batch: scans per
    forward pass. key_file: of `fmct keygen`, for the keys of studies and patients in DICOM.

    Raises FmctError with the reason for a source without a head CT that the encoder accepts, such as an MR, a
    chest, another spacing or preprocessing; for one of several sources or files, after all others.
    """
    model, info = encoder if isinstance(encoder, tuple) else load_weights(Path(encoder))
    scans = read_source(source, info, affine, Path(key_file) if key_file else None)
    place = usable_device(device)
    return of_scans(scans, model.to(place).eval(), info, batch, place)


@torch.inference_mode()
def of_scans(
    scans: Iterable[Scan],
    model: Backbone,
    info: EncoderInfo,
    batch: int = 1,
    device: torch.device = CPU,
) -> Iterator[ScanFeatures]:
    """Yield features of scans from `fmct_hpc.inference.readers`; model: on `device`."""
    for group in in_groups(scans, batch):
        views = torch.cat([info.view(scan.voxels, scan.spacing_mm) for scan in group])
        views = views.to(device)
        kept = model.kept(views)
        tokens = model(views, kept).float().cpu()
        wholes = summary(tokens, model.prefix).numpy().copy()  # a view would keep all tokens in memory
        places = [slice(None)] * len(group) if kept is None else kept.cpu().numpy()
        for scan, cls, of_scan, own in zip(group, wholes, tokens.numpy(), places, strict=True):
            yield ScanFeatures(
                key=scan.key,
                cls=cls,
                patches=of_scan[model.prefix :],
                centres_mm=info.patch_centres(scan.voxels, scan.spacing_mm, scan.affine)[own],
                flags=scan.flags,
                study_key=scan.study_key,
                patient_key=scan.patient_key,
                path=scan.path,
            )
