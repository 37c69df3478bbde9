"""Tensors on the device that stay where they are, from which a graph reads its batch."""

from collections.abc import Hashable
from itertools import count

import torch

from trainer_core.engine.batch import Batch


class StaticBatches:
    """One tensor for each field and shape; batches of other image sizes share the text's."""

    def __init__(self) -> None:
        self._tensors: dict[Hashable, torch.Tensor] = {}

    def filled(self, batch: Batch) -> Batch:
        """A batch that stays where it is, with the values of ``batch``.

        It is valid until the next one is filled. Batches of equal ``shapes_of`` get the same one.
        """
        fields = count()

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            key = next(fields), tensor.shape, tensor.dtype
            if key not in self._tensors:
                self._tensors[key] = torch.empty_like(tensor)
            return self._tensors[key].copy_(tensor)

        return batch.map(copied)


def shapes_of(batch: Batch) -> Hashable:
    """What decides which operations a batch needs: shapes, and whether it has masks and priors."""
    shapes = tuple(tensor.shape for tensor in batch.tensors())
    return shapes, batch.mask_B1HW is None, batch.is_prior_B is None
