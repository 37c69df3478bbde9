"""The newest preview of a picture that a run is sampling, as its training process reports it."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from services.domain.ledger import ChildEvent
from services.domain.samples import SAMPLE_PATH, first_mistake

PREVIEW: Final = "preview"
"""The event's type."""
MAX_PREVIEW_BYTES: Final = 1 << 20
MAX_PREVIEW_SIDE_PX: Final = 512

_Side = Annotated[int, Field(strict=True, ge=1, le=MAX_PREVIEW_SIDE_PX)]
_SamplerStep = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPreview:
    """A preview that an attempt has stored; it has replaced the one before."""

    step: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
    """Optimizer steps that were done; 0: before the first one."""
    picture: Annotated[str, Field(strict=True, pattern=f"^{SAMPLE_PATH}$")]
    """Path that the picture will have among the artifacts of the run."""
    name: Annotated[str, Field(strict=True, max_length=200)]
    """Of the prompt."""
    weights: Literal["trained", "ema", "base"]
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
    width_px: _Side
    """Of the preview."""
    height_px: _Side
    sampler_step: _SamplerStep
    """After which the preview was made, of ``sampler_steps``."""
    sampler_steps: _SamplerStep
    size_bytes: Annotated[int, Field(strict=True, ge=1, le=MAX_PREVIEW_BYTES)]


_STORED: Final = TypeAdapter(StoredPreview)
_FACTS: Final = frozenset(StoredPreview.__dataclass_fields__) - {"step"}


def preview_of(event: ChildEvent) -> StoredPreview:
    """The preview that the event tells of; raises ValueError, which says what is wrong with it."""
    facts = {name: value for name, value in event.data.items() if name in _FACTS}
    try:
        return _STORED.validate_python({"step": event.step, **facts})
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None
