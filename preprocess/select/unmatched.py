"""Texts of series that no term matched, as candidates for a site's own terms."""

from collections import Counter
from collections.abc import Iterable

from pydantic import Field

from preprocess.dicom.catalog import Instance, texts_of
from preprocess.select.contrast import any_contrast
from preprocess.select.kernels import kernel_class
from preprocess.select.lexicon import Lexicon
from preprocess.select.outcome import Outcome
from shards.closed import Closed

_WORDED = ("study_description", "series_description", "protocol", "body_part")


class UnmatchedTexts(Closed):
    """Counts of series, without the texts, which may contain names."""

    texts: dict[str, int] = Field(default_factory=dict)
    """CT series with a text that no term matched, by attribute."""
    contrast: int = 0
    """Series in volumes for which no text states whether contrast was given."""

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], lexicon: Lexicon) -> "UnmatchedTexts":
        """The counts for these series."""
        texts: Counter[str] = Counter()
        contrast = 0
        for outcome in outcomes:
            images = outcome.judged.instances
            texts.update({attribute for attribute, _ in unmatched_texts(images, lexicon)})
            if outcome.candidate:
                contrast += any_contrast(texts_of(images), lexicon) is None
        return cls(texts=texts, contrast=contrast)

    def __add__(self, other: "UnmatchedTexts") -> "UnmatchedTexts":
        """The sum of both counts."""
        texts = Counter(self.texts) + Counter(other.texts)
        return UnmatchedTexts(texts=texts, contrast=self.contrast + other.contrast)


def unmatched_texts(images: Iterable[Instance], lexicon: Lexicon) -> set[tuple[str, str]]:
    """(Attribute, text) for the texts of CT images that contain no term.

    A Contrast/Bolus Agent without a term counts as an agent's name, a kernel as class "unknown".
    """
    images = [image for image in images if image.modality == "CT"]
    distinct = texts_of(images)
    texts_ = {(name, getattr(texts, name)) for name in _WORDED for texts in distinct}
    texts_ |= {("contrast", texts.contrast) for texts in distinct}
    texts_ = {(name, text) for name, text in texts_ if not lexicon.understands(text)}
    kernels = {image.kernel for image in images}
    return texts_ | {
        ("kernel", name) for name in kernels if name and kernel_class(name, lexicon) == "unknown"
    }
