"""The ranks that train an adapter together: how they join, and what they exchange.

Numbers of the host go over Gloo, so that nothing waits for a device. Tensors of a device go over
NCCL, in order with its stream.
"""

import os
from typing import Final

import torch
import torch.distributed

from trainer_core.errors import DeviceError


def ranks_started() -> int:
    """How many ranks the launcher has started, this one included; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Ranks:
    """All ranks call the same methods in the same order, because each waits for the others."""

    def __init__(self, device: torch.device) -> None:
        """Join the other ranks.

        ``device``: what this rank computes on, the only one of its kind that it uses. Raises
        DeviceError, on all ranks, where some have a GPU and others have none.
        """
        if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # one machine
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.distributed.init_process_group("gloo")
        self.rank: Final = torch.distributed.get_rank()
        self.count: Final = torch.distributed.get_world_size()
        self._group: torch.distributed.ProcessGroup | None = None
        has_card = device.type == "cuda"
        with_card = int(self.sum(torch.tensor([float(has_card)])).item())
        if with_card not in (0, self.count):
            raise DeviceError(
                f"{self.count} ranks were started, and {with_card} of them have a GPU of their "
                "own: start one rank for each GPU"
            )
        if has_card:
            self._group = torch.distributed.new_group(backend="nccl")
            # NCCL takes its memory now, before the rest of the card is planned.
            self.add_up(torch.zeros(1, device=device))

    def add_up(self, tensor: torch.Tensor) -> None:
        """Replace a tensor of the device by its sum over the ranks: the same bits on each.

        The host does not wait: the sum is in order with the work of the current stream.
        """
        torch.distributed.all_reduce(tensor, group=self._group)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of the ranks' numbers, which are on the CPU."""
        total = numbers.clone()
        torch.distributed.all_reduce(total)
        return total

    def max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        largest = torch.tensor(number)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return int(largest.item())

    def agree(self, number: int) -> bool:
        """Whether all ranks pass the same number, of at most 62 bits."""
        return self.max(number) == -self.max(-number)

    def leave(self) -> None:
        """Leave the others, once nothing more is exchanged with them."""
        # Threads of Gloo that still run when the process ends abort it now and then.
        torch.distributed.destroy_process_group()
