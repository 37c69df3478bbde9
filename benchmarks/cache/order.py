"""The order of a run that is configured as most are, on the benchmark's records."""

from benchmarks.cache.objects import BACKEND
from tests.unit.config_examples import import_small
from trainer_core.data.index import DataIndex
from trainer_core.data.orders import sampler_of
from trainer_core.data.sampler import Sampler


def sampler(index: DataIndex) -> Sampler:
    """One record a micro-batch."""
    options = {"id": BACKEND, "caption_strategy": "textfile", "minimum_image_size": 0}
    identity = import_small(backends=[options]).plan.identity
    return sampler_of(identity.model_copy(update={"micro_batch_size": 1}), index)
