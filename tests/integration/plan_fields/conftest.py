"""One environment for each test process, with one thread and deterministic kernels."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.plan_fields.environment import Environment
from tests.support import few_samples
from tests.support.forked_training import ALL_SAMPLES
from tests.support.zygote import Zygote


@pytest.fixture(scope="package")
def environment(
    zygote: Zygote, tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    import torch

    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    few_samples.choose({})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        folder = tmp_path_factory.mktemp("plan-fields")
        yield Environment(folder, tiny_models_dir, zygote)
    few_samples.choose({ALL_SAMPLES: "1"})
    torch.use_deterministic_algorithms(exact)
    torch.set_num_threads(threads)
