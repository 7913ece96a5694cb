"""The supported body parts, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator

from preprocess.anatomy.head import HEAD
from preprocess.anatomy.profile import Anatomy

ANATOMIES: Mapping[str, Anatomy] = MappingProxyType({one.name: one for one in (HEAD,)})


def _known(name: str) -> str:
    if name not in ANATOMIES:
        raise ValueError(f"expected one of {', '.join(ANATOMIES)}")
    return name


AnatomyName = Annotated[str, AfterValidator(_known)]
