"""Tells which buckets have fewer images than a batch takes."""

from collections.abc import Mapping
from typing import Final

from trainer_core.config.plan import Identity

_NAMED_AT_MOST: Final = 4


def small_bucket_warnings(
    identity: Identity, images: Mapping[tuple[str, int, int], int]
) -> list[str]:
    """Warnings that an image is in one batch, or one step, more than once.

    Args:
        identity: its batch, accumulation and number of GPUs are read.
        images: (backend, width, height) of a bucket in pixels → number of images to train on.
    """
    batch = identity.micro_batch_size
    step = batch * identity.accumulation_steps * identity.world_size
    small = sorted(bucket for bucket, number in images.items() if number < batch)
    total = sum(images.values())
    warnings = []
    if small:
        named = ", ".join(
            f"{backend} {w} x {h} px ({images[backend, w, h]})"
            for backend, w, h in small[:_NAMED_AT_MOST]
        )
        more = ", …" if len(small) > _NAMED_AT_MOST else ""
        have = "bucket has" if len(small) == 1 else "buckets have"
        warnings.append(
            f"A batch has {batch} images of one backend and bucket, and {len(small)} {have} fewer: "
            f"{named}{more}. Such a batch has the same image more than once: lower "
            "train_batch_size, or add images."
        )
    if batch < step and 0 < total < step:
        warnings.append(
            f"A step has {step} samples, and there are {total} images to train on: each is in a "
            f"step about {step / total:.2g} times. Lower gradient_accumulation_steps, or add "
            "images."
        )
    return warnings
