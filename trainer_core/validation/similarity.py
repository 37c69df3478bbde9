"""How near a picture is to those that a run trains on, by the embeddings of a CLIP model.

The similarity of a picture is the cosine of the angle between its embedding and the nearest one of
the training pictures: 1 is a copy. The nearest and not the mean, so that it reads the same for
photographs of one thing and for a dataset of many, and shows what was learned by heart.
"""

from typing import Final

import torch

from trainer_core.config.plan import Identity
from trainer_core.data.index import DataIndex, Picture

MOST: Final = 64
"""Training pictures that others are compared with."""


def compared_entries(identity: Identity, index: DataIndex) -> tuple[str, ...]:
    """Digests of the latents of at most ``MOST`` pictures that the run trains on.

    Those whose files have the lowest SHA-256: the same ones on every rank and machine, at every
    start, and whatever order the files have. Equal pictures with the same crop count once, only the
    first crop of a picture counts, and those that teach the base's own predictions count where
    there are no others.
    """
    regularisation = {each.id for each in identity.backends if each.is_regularisation}
    trained = [each for each in index.samples if not each.held_out]
    own = [each for each in trained if each.backend not in regularisation]
    found: dict[tuple[str, str], str] = {}
    for sample in own or trained:
        entry = index.entries[sample.latents]
        assert isinstance(entry.content, Picture)
        found[entry.content.sha256, entry.content.geometry.model_dump_json()] = entry.digest
    return tuple(found[key] for key in sorted(found)[:MOST])


def similarity(image_D: torch.Tensor, training_ND: torch.Tensor) -> float:
    """Of a picture; the embeddings have length 1, and there is at least one of training."""
    return float((training_ND @ image_D).max())
