"""The record of a stored volume, which shards keep beside the voxels."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from shards.closed import Closed
from shards.names import HexKey, Sha256

FORMAT_VERSION = 1

KernelClass = Literal["soft", "bone", "unknown"]
Edge = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""The edge of a voxel, mm."""
Role = Literal["soft_thick", "soft_thin", "bone_thick", "bone_thin", "unknown_thick", "unknown_thin"]


class DecodeFacts(Closed):
    """Acquisition facts of a volume that do not identify the patient."""

    kernel_class: KernelClass = Field(description="from Convolution Kernel (0018,1210)")
    kvp: float | None = Field(description="KVP (0018,0060), kV")
    slice_thickness_mm: float | None = Field(description="Slice Thickness (0018,0050), mm")
    gantry_tilt_deg: float = Field(description="angle between slice normal and table travel, degrees")
    slices: int = Field(description="source slices that went into the volume")
    slice_gap_mm: tuple[float, float] = Field(description="least and greatest distance of neighbours, mm")
    matrix: tuple[int, int] = Field(description="Rows and Columns of the source slices")
    pixel_spacing_mm: tuple[float, float] = Field(description="Pixel Spacing (0028,0030) row, column, mm")
    manufacturer: str = Field(description="Manufacturer (0008,0070), normalised to a known vendor or 'other'")
    transfer_syntax: str = Field(description="UID of the source's transfer syntax, or its file's format")
    defaced: bool = Field(default=False, description="the face's soft tissue is blanked with air")


class VolumeRecord(Closed):
    """One volume: int16 HU, axes (D, H, W) towards superior, anterior, right (RAS-consistent)."""

    key: HexKey = Field(description="HMAC of the series identity, 32 hexadecimal digits")
    patient_key: HexKey = Field(description="HMAC of the patient identity; splits are made on it")
    study_key: HexKey = Field(description="HMAC of Study Instance UID; labels join on it")
    shape: tuple[int, int, int] = Field(description="(D, H, W) voxels")
    dtype: Literal["int16"] = "int16"
    spacing_mm: tuple[Edge, Edge, Edge] = Field(description="(D, H, W) mm")
    affine: tuple[float, ...] = Field(
        min_length=16, max_length=16, description="4×4 row-major, (d, h, w, 1) to patient LPS mm"
    )
    crc32: int = Field(description="CRC-32 (zlib) of the voxels as little-endian int16 in C order")
    source_digest: Sha256 = Field(description="SHA-256 over the source instances' pixel and geometry bytes")
    config_digest: Sha256 = Field(description="SHA-256 of the preprocessing configuration used")
    facts: DecodeFacts
    role: Role | None = Field(default=None, description="kernel and thickness among the series of its study")
    rank: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="0 for the best volume of its study, then 1 and so on"
    )

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit unset role and rank: datasets of one volume per study keep the bytes of earlier versions."""
        record: dict[str, Any] = serialize(self)
        return {name: value for name, value in record.items() if name not in OF_STUDY or value is not None}


OF_STUDY = ("role", "rank")
"""Record fields that exist only if several volumes of a study are kept (`keep: all`)."""
