"""Pictures that a run makes while it trains, as its training process reports them."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from services.domain.ledger import ChildEvent

SAMPLE: Final = "sample"
"""The event's type; without a ``sha256`` it tells of the picture in the result, which is no row."""
SAMPLE_PATH: Final = r"samples/step-[0-9]{1,10}/[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,199}\.png"
"""Below the output folder of the training process, and among the artifacts of the run. The name has
letters of any script."""
MAX_SAMPLE_BYTES: Final = 32 << 20
"""Of one picture."""
MAX_SAMPLES: Final = 2000
"""Pictures of a run that are stored."""
MAX_SAMPLES_BYTES: Final = 4 << 30
"""Of all of them; the one that exceeds it is the last."""
SAMPLES_FULL: Final = (
    f"The run has {MAX_SAMPLES:,} pictures or {MAX_SAMPLES_BYTES >> 30} GiB of them, which is the "
    "limit: later ones are not stored. A larger validation_step_interval makes fewer."
)

_Side = Annotated[int, Field(strict=True, ge=1, le=65_536)]
_Sha256 = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSample:
    """A picture that an attempt has stored."""

    step: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
    """Optimizer steps that were done; 0: before the first one."""
    path: Annotated[str, Field(strict=True, pattern=f"^{SAMPLE_PATH}$")]
    name: Annotated[str, Field(strict=True, max_length=200)]
    """Of the prompt."""
    prompt: Annotated[str, Field(strict=True, max_length=20_000)] | None
    weights: Literal["trained", "ema", "base"]
    width_px: _Side
    height_px: _Side
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
    sampler_steps: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
    guidance: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    size_bytes: Annotated[int, Field(strict=True, ge=1, le=MAX_SAMPLE_BYTES)]
    sha256: _Sha256
    clip_score: Annotated[float, Field(strict=True, ge=-2, le=2)] | None = None
    """None: it was not scored."""
    similarity: Annotated[float, Field(strict=True, ge=-2, le=2)] | None = None
    """To the nearest training picture; None: it was not measured."""
    clip_model_digest: _Sha256 | None = None
    """Of the model that gave the score."""


_STORED: Final = TypeAdapter(StoredSample)
_FACTS: Final = frozenset(StoredSample.__dataclass_fields__) - {"step"}


def is_picture(type_: str, data: Any) -> bool:
    """Whether an event tells of a picture that was made while the run trains."""
    return type_ == SAMPLE and "sha256" in data


def sample_of(event: ChildEvent) -> StoredSample:
    """The picture that the event tells of; raises ValueError, which says what is wrong with it."""
    facts = {name: value for name, value in event.data.items() if name in _FACTS}
    try:
        sample = _STORED.validate_python({"step": event.step, **facts})
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None
    # Lists are ordered by step, and pages of them begin behind a path.
    if int(sample.path.split("/")[1].removeprefix("step-")) != sample.step:
        raise ValueError("path: is of another step")
    return sample


def first_mistake(error: ValidationError) -> str:
    """Which fact of an event is wrong, and why; without its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'/'.join(map(str, first['loc']))}: {first['msg']}"


def without_file(event: ChildEvent) -> ChildEvent:
    """The event of a picture that is not stored: nothing can be fetched by it."""
    data = {name: value for name, value in event.data.items() if name not in ("path", "sha256")}
    return replace(event, data=data)
