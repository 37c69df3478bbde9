from trainer_core.process.cuda_memory import let_segments_grow


def test_reserved_memory_may_grow() -> None:
    env: dict[str, str] = {}

    let_segments_grow(env)

    assert env == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def test_a_configuration_of_the_user_stays() -> None:
    env = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}

    let_segments_grow(env)

    assert env == {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
