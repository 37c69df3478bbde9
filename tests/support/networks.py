"""Networks around a transformer that a test made itself, without a plan."""

from diffusers import HiDreamImageTransformer2DModel

from trainer_core.adapters.attach import Adapter
from trainer_core.hidream.balance import replace_gates
from trainer_core.hidream.network import Network
from trainer_core.hidream.plain_blocks import PlainBlocks
from trainer_core.optim.flat import FlatParameters
from trainer_core.precision.compute import Compute


def network_of(
    transformer: HiDreamImageTransformer2DModel,
    adapter: Adapter | None = None,
    *,
    compute: Compute,
    balanced: bool = False,
    gradient_checkpointing_interval: int | None = None,
) -> Network:
    """As ``prepare`` makes it of a transformer that is quantised and adapted already."""
    replace_gates(transformer, has_loss=balanced)
    trained = dict(transformer.named_parameters()) if adapter is None else adapter.parameters()
    return Network(
        transformer=transformer,
        blocks=PlainBlocks(
            transformer=transformer,
            gradient_checkpointing_interval=gradient_checkpointing_interval,
        ),
        adapter=adapter,
        trained=trained,
        flat=FlatParameters(trained),
        compute=compute,
        has_balance=balanced,
    )
