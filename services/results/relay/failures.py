"""What goes wrong at Weights & Biases, in words for the tenant."""

import re
from typing import Final

from services.logs.setup import redacted
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

_STATUS: Final = re.compile(r"\b(?:error|status|code|HTTP)\D{0,10}\b([45]\d\d)\b", re.IGNORECASE)
"""The SDK's errors have the server's answer in their text only."""
_TRY_LATER: Final = frozenset({408, 409, 423, 425, 429})  # besides all of 5xx
_REASONS: Final = {
    401: ("wandb_key_refused", "Weights & Biases does not accept the key of the secret {secret}."),
    403: (
        "wandb_forbidden",
        "Weights & Biases gives the key of the secret {secret} no right to write to {project}.",
    ),
    404: (
        "wandb_project_missing",
        "Weights & Biases has no project {project} that the key of the secret {secret} can see.",
    ),
}
_SHOWN_CHARACTERS: Final = 300


def failure_of_wandb(error: Exception, secret: str, project: str) -> Failure:
    """Why the SDK raised ``error``."""
    text = str(error)
    found = _STATUS.search(text)
    if type(error).__name__ == "UsageError" and found is None:  # a name that it does not take
        return _refused("wandb_refused", f"Weights & Biases refuses: {_short(text)}")
    if found is None:
        return _down("Weights & Biases cannot be reached.")
    status = int(found[1])
    if status >= 500 or status in _TRY_LATER:
        return _down(f"Weights & Biases answered {status}.")
    if status in _REASONS:
        code, message = _REASONS[status]
        return _refused(code, message.format(secret=secret, project=project))
    return _refused("wandb_refused", f"Weights & Biases refuses ({status}): {_short(text)}")


def unconfirmed() -> Failure:
    """What was sent is not there."""
    return _down("Weights & Biases has not stored the newest metrics yet.")


def died() -> Failure:
    return Failure(
        code="relay_died",
        category=Category.INFRA,
        message="The process that relays the metrics ended early, or took too long.",
        retryable=True,
    )


def unexpected() -> Failure:
    return Failure(
        code="relay_failed",
        category=Category.PLATFORM,
        message="The metrics could not be relayed; this is a fault of the service.",
        retryable=True,
    )


def not_installed() -> Failure:
    return Failure(
        code="wandb_not_installed",
        category=Category.PLATFORM,
        message="This service cannot relay to Weights & Biases: its operator has to install wandb.",
        retryable=True,
    )


def _short(text: str) -> str:
    return redacted(" ".join(text.split()))[:_SHOWN_CHARACTERS]


def _refused(code: str, message: str) -> Failure:
    return Failure(code=code, category=Category.USER, message=message, retryable=False)


def _down(message: str) -> Failure:
    return Failure(code="wandb_down", category=Category.INFRA, message=message, retryable=True)
