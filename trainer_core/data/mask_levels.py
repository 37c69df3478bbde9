"""Masks of which nothing counts, by what is known of their pixels; reads no picture."""

from typing import Final, Literal

from trainer_core.config.plan import MaskKind
from trainer_core.errors import BadImageError

Lit = Literal["red", "other", "nothing"]
"""What of a mask is above black: its red channel, only another one, or nothing."""


BLACK_CROP: Final = "the mask is black on the whole crop of its image"


def check_lit(kind: MaskKind, lit: Lit | None, *, name: str) -> None:
    """Raise BadImageError, which names the mask, if nothing of its image would count.

    ``lit`` is None where nobody has looked; then nothing is raised.
    """
    if lit == "nothing":
        message = "the mask is black everywhere; paint in white what is to be learnt"
    elif lit == "other" and kind == "mask":
        message = (
            "the red channel of the mask, which is the one that counts, is black everywhere; with "
            "conditioning_type segmentation every colour counts"
        )
    else:
        return
    raise BadImageError(f"{name}: {message}", "black_mask")
