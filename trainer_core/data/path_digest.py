"""The digest of a run's data that belongs to the order by names; see ``path_order``.

Checkpoints of that order are guarded by it, and each key of the order has it in it.
"""

from pydantic import JsonValue

from trainer_core.config.plan.frozen import digest_of
from trainer_core.data.index import Caption, DataIndex, Picture


def path_digest(index: DataIndex) -> str:
    """SHA-256 of the names, images, masks and captions of every sample, in their order."""
    encoders = [digest_of(encoding.encoder) for encoding in index.encodings]

    def content(number: int) -> list[JsonValue]:
        entry = index.entries[number]
        match entry.content:
            case Caption(text=text):
                return [encoders[entry.encoding], text]
            case Picture(sha256=sha256, geometry=fit):
                box = [fit.resize_w, fit.resize_h, fit.crop_x, fit.crop_y]
                return [encoders[entry.encoding], sha256, *box, fit.width_px, fit.height_px]

    return digest_of(
        [
            [
                sample.backend,
                sample.path,
                sample.held_out,
                sample.width_px,
                sample.height_px,
                sample.repeats,
                content(sample.latents),
                None if sample.mask is None else content(sample.mask),
                [content(text) for text in sample.texts],
            ]
            for sample in index.samples
        ]
    )
