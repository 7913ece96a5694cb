"""Features of new scans: the CLS token, and each patch's token with where the patch lies in the patient."""

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
    """What an encoder makes of one scan."""

    key: str
    """A shard dataset's volume's; of other scans the head of their source's digest."""
    cls: NDArray[np.float32]
    """(width,); of an encoder without a CLS token the mean of the patches' tokens."""
    patches: NDArray[np.float32]
    """(N, width), of the patches that the encoder keeps (model.keep_tokens; all by default), in C order of
    (D, H, W): from inferior, posterior, left."""
    centres_mm: NDArray[np.float64]
    """(N, 3): the patches' centres in patient coordinates (LPS), mm; some lie outside the scan."""
    study_key: str | None = None
    """HMAC of the study, as labels have it: a shard dataset's, or by `key_file`; None where neither is."""
    patient_key: str | None = None
    path: Path | None = None
    """The source, or the file in it; None of an array. It may spell a name."""
    flags: tuple[str, ...] | None = None
    """What the checks of preprocessing found; None of a shard dataset's volume, whose manifest has them."""

    @property
    def mean(self) -> NDArray[np.float32]:
        """(width,): mean of the patches' tokens."""
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
    """Features of the head CTs at `source`, preprocessed as the encoder's training volumes were.

    source: DICOM files in a folder (one exam or many), an archive or one multi-frame file, a NIfTI file or a
    folder of them, a shard dataset, or several of these; or an array of HU (D, H, W) with `affine`, (4, 4),
    which maps its index (d, h, w, 1) to patient LPS mm. encoder: a run folder, one of its checkpoints, an
    encoder.safetensors, a checkpoint file of the reference, or what `load_encoder` gave. batch: scans that
    pass the encoder at once. key_file: of `fmct keygen`, for the keys of DICOM's studies and patients.

    Raises FmctError, with the reason, for a source that holds no head CT that the encoder takes: an MR, a
    chest, a wrong spacing, volumes of another preprocessing; of several sources or files after all others.
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
    """Features of scans as `fmct_hpc.inference.readers` gives them, by a model on `device`."""
    for group in in_groups(scans, batch):
        views = torch.cat([info.view(scan.voxels, scan.spacing_mm) for scan in group])
        views = views.to(device)
        kept = model.kept(views)
        tokens = model(views, kept).float().cpu()
        wholes = summary(tokens, model.prefix).numpy()
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
