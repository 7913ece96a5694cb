"""The texts of a series that no term understood: what a site's table lacks."""

from collections.abc import Iterable

from preprocess.dicom.catalog import Instance, texts_of
from preprocess.select.kernels import kernel_class
from preprocess.select.lexicon import Lexicon

_WORDED = ("study_description", "series_description", "protocol", "body_part")


def unread_texts(images: Iterable[Instance], lexicon: Lexicon) -> set[tuple[str, str]]:
    """(Attribute, text) of the images' texts in which there is no term.

    A Contrast/Bolus Agent without one is taken for an agent's name, a kernel is of the class "unknown".
    """
    images = list(images)
    said = texts_of(images)
    found = {(name, getattr(texts, name)) for name in _WORDED for texts in said}
    found |= {("contrast", texts.contrast) for texts in said}
    found = {(name, text) for name, text in found if not lexicon.understands(text)}
    kernels = {image.kernel for image in images}
    return found | {("kernel", name) for name in kernels if name and kernel_class(name, lexicon) == "unknown"}
