"""Secrets as JSON: a value goes in and never comes out."""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path
from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from services.api.shapes import Body, Shape

_NAME: Final = "^[a-z0-9][a-z0-9.-]{0,31}$"
"""No value of any kind matches it, so that none is stored as a name by mistake."""
NAME_IN_WORDS: Final = "1 to 32 lower-case letters, digits, dots and dashes, no dot or dash first"
SecretName = Annotated[str, Field(pattern=_NAME)]
"""Where a body names a secret."""
SecretPath = Annotated[
    str,
    Path(description=f"{NAME_IN_WORDS}.", json_schema_extra={"pattern": _NAME}),
]
"""Where an address names one."""
SecretId = Annotated[str, Field(json_schema_extra={"pattern": "^sec_[0-9a-f]{32}$"})]
Kind = Literal["hub", "s3", "wandb"]
_VALUES: Final[dict[str, tuple[str, str]]] = {
    "hub": (
        "^hf_[A-Za-z0-9._-]{16,2000}$",
        "a token of the Hugging Face Hub: hf_ and 16 characters or more",
    ),
    "s3": ("^[!-9;-~]{3,128}:[!-~]{8,512}$", "an access key id, a colon, and its secret key"),
    "wandb": ("^[A-Za-z0-9_-]{40,256}$", "an API key of Weights & Biases: 40 characters or more"),
}
"""What a value of each kind has to be: as a pattern, and in words."""


def is_secret_name(text: str) -> bool:
    """Whether a secret can have this name."""
    return re.fullmatch(_NAME, text) is not None


class SecretRequest(Body):
    """A secret of one of three kinds; where its value is wrong, errors do not quote it."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"properties": {"kind": {"const": kind}, "value": {"pattern": pattern}}}
                for kind, (pattern, _) in _VALUES.items()
            ]
        }
    )

    kind: Kind
    """``hub``: publishes results. ``wandb``: relays metrics. ``s3``: nothing uses it yet."""
    value: SecretStr

    @field_validator("value")
    @classmethod
    def check_value(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        kind: Any = info.data.get("kind")
        if kind is None:
            return value  # which kinds there are is the problem
        pattern, words = _VALUES[kind]
        if re.fullmatch(pattern, value.get_secret_value()) is None:
            raise PydanticCustomError("bad_value", "Input should be {words}", {"words": words})
        return value


class Secret(Shape):
    """What is known of a secret; nobody can read its value."""

    id: str
    object: Literal["secret"] = "secret"
    name: str
    kind: Kind
    version: int
    """Rises with each new value."""
    warning: str | None
    """Such as that the token may do more than it is needed for; found out when it is used."""
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    """When this version was used last."""
