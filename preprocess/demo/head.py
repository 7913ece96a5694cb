"""The parameters of one synthetic head, and their variation between patients."""

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from preprocess.demo.lesions import Lesion
from preprocess.demo.shapes import Coordinates
from preprocess.demo.streams import Stream, generator


@dataclass(frozen=True)
class Head:
    """One head in patient coordinates; lengths in mm, intensities in HU."""

    scale: tuple[float, float, float]
    """Size along left, posterior, superior, relative to the nominal head of 156 × 196 mm."""
    scalp: float
    skull: float
    skull_variation: float
    cortical_bone: float
    diploe: float
    grey: float
    white: float
    csf: float
    atrophy: float
    """Mean width of the CSF over the brain; sulci widen with it."""
    ventricles: float
    """Relative radius of the ventricles."""
    left_ventricle: float
    """Radius of the left lateral ventricle relative to the right one."""
    fold_wavelength: float
    phases: tuple[float, ...]
    """Nine angles that shift the folds, their warp and the air cells."""
    calcified_plexus: bool
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation of the head about x, y, z in degrees."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The head's centre in patient LPS mm."""
    head_rest: bool = False
    """Whether the scanner's head holder is in the images."""
    lesions: tuple[Lesion, ...] = field(default=())
    enhanced_hu: float | None = None
    """HU of enhanced blood in the vessels, 150 to 300; None without contrast."""

    def local(self, points_lps: np.ndarray) -> Coordinates:
        """Patient LPS mm (N, 3) to the nominal head's own axes, float32 mm each (N,)."""
        matrix = Rotation.from_euler("xyz", self.rotation, degrees=True).as_matrix()
        local = (points_lps - np.asarray(self.origin)) @ (matrix / np.asarray(self.scale))
        x, y, z = np.ascontiguousarray(local.T, dtype=np.float32)
        return x, y, z


def draw_anatomy(seed: int, patient: int) -> Head:
    """The head of a patient, upright at the origin, without lesions."""
    rng = generator(seed, Stream.PATIENT, patient)
    size = rng.normal(1.0, 0.035)
    breadth, length, height = size * (1 + rng.normal(0, 0.02, 3))
    grey = rng.normal(37.5, 1.0)
    return Head(
        scale=(float(breadth), float(length), float(height)),
        scalp=float(rng.uniform(4, 7)),
        skull=float(rng.uniform(5.5, 8)),
        skull_variation=float(rng.uniform(0.4, 1.2)),
        cortical_bone=float(rng.uniform(1100, 1500)),
        diploe=float(rng.uniform(350, 650)),
        grey=float(grey),
        white=float(grey - rng.uniform(7, 10)),
        csf=float(rng.uniform(4, 9)),
        atrophy=float(rng.uniform(1.2, 3.2)),
        ventricles=float(rng.uniform(0.75, 1.4)),
        left_ventricle=float(rng.uniform(1.05, 1.3)),
        fold_wavelength=float(rng.uniform(25, 31)),
        phases=tuple(float(p) for p in rng.uniform(0, 2 * np.pi, 9)),
        calcified_plexus=bool(rng.random() < 0.5),
    )
