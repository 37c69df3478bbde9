"""The tensors of an adapter file from trained parameters."""

from collections.abc import Iterable, Mapping

import torch

from trainer_core.export.file_tensors import FileTensor


def folded(
    parameters: Mapping[str, torch.Tensor], layout: Iterable[FileTensor]
) -> dict[str, torch.Tensor]:
    """Each tensor in fp32 on the CPU, with its scale multiplied in. Raises KeyError."""
    return {
        each.name: (parameters[each.parameter].detach().double().cpu() * each.scale)
        .float()
        .contiguous()
        for each in layout
    }
