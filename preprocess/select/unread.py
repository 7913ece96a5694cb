"""The texts of series that no term understood: what a site's table lacks."""

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


class NotUnderstood(Closed):
    """Counts over series; no text itself, which may hold a name."""

    texts: dict[str, int] = Field(default_factory=dict)
    """CT series with a text that no term understood, by attribute."""
    contrast: int = 0
    """Series in volumes for which no text states whether an agent was given."""

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], lexicon: Lexicon) -> "NotUnderstood":
        """What selection did not understand of these series."""
        texts: Counter[str] = Counter()
        contrast = 0
        for outcome in outcomes:
            images = outcome.judged.instances
            texts.update({attribute for attribute, _ in unread_texts(images, lexicon)})
            if outcome.candidate:
                contrast += any_contrast(texts_of(images), lexicon) is None
        return cls(texts=texts, contrast=contrast)

    def __add__(self, other: "NotUnderstood") -> "NotUnderstood":
        """The counts of both."""
        texts = Counter(self.texts) + Counter(other.texts)
        return NotUnderstood(texts=texts, contrast=self.contrast + other.contrast)


def unread_texts(images: Iterable[Instance], lexicon: Lexicon) -> set[tuple[str, str]]:
    """(Attribute, text) of the CT images' texts in which there is no term.

    A Contrast/Bolus Agent without one counts as an agent's name, a kernel is of the class "unknown".
    """
    images = [image for image in images if image.modality == "CT"]
    said = texts_of(images)
    found = {(name, getattr(texts, name)) for name in _WORDED for texts in said}
    found |= {("contrast", texts.contrast) for texts in said}
    found = {(name, text) for name, text in found if not lexicon.understands(text)}
    kernels = {image.kernel for image in images}
    return found | {("kernel", name) for name in kernels if name and kernel_class(name, lexicon) == "unknown"}
