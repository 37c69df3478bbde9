"""Steps from CUDA graphs: the same bits as without, no wait for the device, and flat memory."""

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from tests.gpu.engine_steps import (
    SIZES,
    backend_of,
    batch_of,
    different,
    launch,
    lora_with_dropout,
    on_device,
    optimizer_of,
    snapshot,
)
from trainer_core.checkpoint.read import Checkpoint
from trainer_core.engine.batch import Batch
from trainer_core.engine.cuda_graphs import CudaRecorder
from trainer_core.engine.graphs import MAX_GRAPHS, Graphs, Work
from trainer_core.engine.pending import Pending
from trainer_core.engine.step import SingleProcess
from trainer_core.engine.transfer import Transfer
from trainer_core.engine.used_memory import used_memory
from trainer_core.errors import NonFiniteLossError

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)
CASES = ("512-bf16", "512-bf16-ckpt", "512-8bit-ckpt", "512-int8-ckpt")
FULL = "512-full"
CLIPS = ({"method": "value", "limit": 1e-3}, {"method": "norm", "limit": 1e-3})
ON_DEVICE = ("optimi-lion", "optimi-adamw", "adamw")


@pytest.fixture(autouse=True, scope="module")
def _fastest_kernels_afterwards() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def window(step: int, case: str = CASES[0]) -> list[Batch]:
    """Two micro-batches of different buckets; of three steps one has masks, one prior samples.

    Full rank has no prior samples: it changes the base itself.
    """
    sizes = SIZES[step % 3], SIZES[(step + 1) % 3]
    return [
        batch_of(10 * step + i, size, masked=step % 3 == 1, prior=step % 3 == 2 and case != FULL)
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("optimizer", [*ON_DEVICE, "prodigy"])
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip["method"])
@pytest.mark.parametrize("case", [*CASES, FULL])
def test_a_graph_computes_the_same_bits(case: str, clip: dict[str, Any], optimizer: str) -> None:
    fields = {"clip": clip, "optimizer": optimizer_of(optimizer)}
    graphs, without = (backend_of(case, with_graphs=each, **fields) for each in (True, False))
    assert not different(snapshot(graphs.tensors()), snapshot(without.tensors()))

    for step in range(1, 7):
        # The second bucket of the first step is captured while the first one's gradient waits.
        found, wanted = (
            launch(each, step, *window(step, case)).read() for each in (graphs, without)
        )
        assert found == wanted

    assert not different(snapshot(graphs.tensors()), snapshot(without.tensors()))
    assert not graphs.take_warnings()


@pytest.mark.parametrize("case", CASES)
def test_a_graph_drops_what_the_seed_of_each_batch_decides(case: str) -> None:
    fields = {**lora_with_dropout(), "optimizer": optimizer_of("adamw")}
    graphs, without = (backend_of(case, with_graphs=each, **fields) for each in (True, False))
    state = torch.cuda.get_rng_state()

    for step in range(1, 7):
        found, wanted = (launch(each, step, *window(step)).read() for each in (graphs, without))
        assert found == wanted

    assert not different(snapshot(graphs.tensors()), snapshot(without.tensors()))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert not graphs.take_warnings()


@pytest.mark.parametrize("optimizer", ON_DEVICE)
def test_fifty_steps_never_wait_for_the_device(optimizer: str) -> None:
    backend = backend_of(deterministic=False, optimizer=optimizer_of(optimizer))
    transfer = Transfer(torch.device("cuda"))

    def take(step: int, before: Pending | None) -> Pending:
        batches = [transfer.finish(transfer.start(batch)) for batch in window(step)]
        pending = backend.launch(batches, count=2, step=step, learning_rate=1e-3)
        if before is not None:
            before.read()
        return pending

    pending = None
    for step in range(1, 13):  # every shape is captured
        pending = take(step, pending)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(13, 63):
            pending = take(step, pending)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert pending is not None
    pending.read()


def test_memory_is_flat_over_mixed_buckets() -> None:
    backend = backend_of(deterministic=False, optimizer=optimizer_of("optimi-lion"))
    transfer = Transfer(torch.device("cuda"))
    batches = [batch_of(i, size) for i, size in enumerate(SIZES)]
    held: list[dict[str, int]] = []
    pending = None
    for step in range(1, 501):
        arriving = [transfer.start(batches[step % len(SIZES)])]
        given = map(transfer.finish, arriving)
        launched = backend.launch(given, count=1, step=step, learning_rate=1e-5)
        if pending is not None:
            pending.read()
        pending = launched
        if step % 50 == 0:
            del arriving, given
            pending.read()
            torch.cuda.synchronize()
            held.append(used_memory(torch.device("cuda")))

    allocated, reserved, peak = zip(*(each.values() for each in held), strict=True)
    assert set(allocated) == {torch.cuda.memory_allocated()}, allocated
    assert max(reserved[5:]) <= max(reserved[:5]), reserved
    assert reserved[-1] == torch.cuda.memory_reserved()
    assert peak[-1] == torch.cuda.max_memory_reserved()
    assert not backend.take_warnings()


@pytest.mark.parametrize("with_graphs", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", [*ON_DEVICE, "prodigy"])
def test_a_bad_step_and_those_after_it_change_no_bit(
    optimizer: str, bad: float, with_graphs: bool
) -> None:
    fields = {"optimizer": optimizer_of(optimizer)}
    backend = backend_of(with_graphs=with_graphs, **fields)
    for step in (1, 2):
        launch(backend, step, *window(step)).read()
    before = snapshot(backend.tensors())
    spoiled = window(3)
    spoiled[1].target_BCHW[0, 0, 0, 0] = bad

    pending = [launch(backend, 3, *spoiled), launch(backend, 4, *window(4))]

    assert not different(before, snapshot(backend.tensors()))
    with pytest.raises(NonFiniteLossError, match="step 3: loss"):
        pending[0].read()
    with pytest.raises(NonFiniteLossError, match="step 4: no update"):
        pending[1].read()
    clean = backend_of(with_graphs=with_graphs, **fields)
    for step in (1, 2):
        launch(clean, step, *window(step)).read()
    for each in (backend, clean):
        launch(each, 3, *window(3)).read()
    assert not different(snapshot(clean.tensors()), snapshot(backend.tensors()))


@pytest.mark.parametrize("with_graphs", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_found_although_the_loss_is(
    bad: float, with_graphs: bool
) -> None:
    backend = backend_of(with_graphs=with_graphs)
    launch(backend, 1, batch_of(1)).read()
    before = snapshot(backend.tensors())
    (leaf,) = backend._parameters.leaves
    assert leaf.grad is not None
    leaf.grad[7] = bad  # what a backward pass adds to it stays so

    with pytest.raises(NonFiniteLossError, match=r"step 2: loss [0-9.]+, largest gradient"):
        launch(backend, 2, batch_of(2)).read()

    assert not different(before, snapshot(backend.tensors()))
    launch(backend, 2, batch_of(2)).read()


@pytest.mark.parametrize("optimizer", [*ON_DEVICE, "prodigy", "bnb-lion8bit-paged"])
@pytest.mark.parametrize("case", [*CASES, "512-fp32", FULL])
def test_a_resumed_run_has_the_same_bits(case: str, optimizer: str) -> None:
    if optimizer.startswith("bnb"):
        pytest.importorskip("bitsandbytes")
    check_resumed(case, {"optimizer": optimizer_of(optimizer)})


@pytest.mark.parametrize("case", [*CASES, "512-fp32"])
def test_a_resumed_run_with_dropout_has_the_same_bits(case: str) -> None:
    fields = {**lora_with_dropout(), "optimizer": optimizer_of("adamw")}
    check_resumed(case, fields)


@pytest.mark.parametrize("case", [*CASES, "512-fp32"])
def test_a_measurement_between_steps_changes_no_bit(case: str) -> None:
    fields = {**lora_with_dropout(), "optimizer": optimizer_of("adamw")}
    plain, measured = (backend_of(case, **fields) for _ in range(2))

    for step in range(1, 7):
        found, wanted = (launch(each, step, *window(step)).read() for each in (measured, plain))
        assert found == wanted
        if step == 4:
            measured.free_memory()  # graphs are captured again
        first, again = (squared_error(measured, step) for _ in range(2))
        assert torch.equal(first, again)
        assert first.isfinite().all()

    assert not different(snapshot(measured.tensors()), snapshot(plain.tensors()))


def squared_error(backend: SingleProcess, step: int) -> torch.Tensor:
    """The loss of the means' velocity, in eval mode, as an evaluation computes it."""
    transformer = backend._network.transformer
    objective = backend._objective.model_copy(update={"loss": "l2"})
    batch = on_device(batch_of(step, SIZES[step % 3]), backend)
    transformer.eval()
    try:
        with backend.with_means(), torch.no_grad():
            return backend.losses(batch, objective)
    finally:
        transformer.train()


def check_resumed(case: str, fields: dict[str, Any]) -> None:
    whole, broken = (backend_of(case, **fields) for _ in range(2))
    for step in range(1, 7):
        launch(whole, step, *window(step, case)).read()
    for step in range(1, 4):
        launch(broken, step, *window(step, case)).read()
    saved = broken.tensors()
    checkpoint = Checkpoint(
        manifest=cast(Any, None),
        parameters={name: each.cpu() for name, each in saved.parameters.items()},
        optimizer_state={name: each.cpu() for name, each in saved.optimizer_state.items()},
        ema={name: each.cpu() for name, each in saved.ema.items()},
    )

    resumed = backend_of(case, **fields)
    resumed.load(checkpoint)
    for step in range(4, 7):
        launch(resumed, step, *window(step, case)).read()

    assert not different(snapshot(whole.tensors()), snapshot(resumed.tensors()))


def test_too_many_shapes_run_without_a_graph_and_say_so_once() -> None:
    sizes = [(8, 2 * columns) for columns in range(4, 4 + MAX_GRAPHS + 2)]
    graphs, without = (backend_of(with_graphs=each) for each in (True, False))

    for step, size in enumerate(sizes, start=1):
        batch = batch_of(step, size)
        assert launch(graphs, step, batch).read() == launch(without, step, batch).read()

    (warning,) = graphs.take_warnings()
    assert "without a CUDA graph" in warning
    assert not different(snapshot(graphs.tensors()), snapshot(without.tensors()))


def test_nothing_of_a_shape_stays_in_the_memory_that_graphs_share() -> None:
    """Graphs of other shapes write there."""
    backend = backend_of()
    launch(backend, 1, batch_of(1, SIZES[0])).read()
    kept = kept_in_pool(backend)

    for step, size in enumerate(SIZES[1:], start=2):
        launch(backend, step, batch_of(step, size, masked=step % 2 == 0)).read()

    assert kept_in_pool(backend) == kept


def kept_in_pool(backend: SingleProcess) -> int:
    """Bytes of the graphs' memory that a living tensor holds."""
    recorder = backend._graphs._recorder  # type: ignore[union-attr]
    assert isinstance(recorder, CudaRecorder)
    return sum(
        block["size"]
        for segment in recorder._memory.snapshot()  # type: ignore[no-untyped-call]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    )


def test_work_that_cannot_be_captured_runs_without_a_graph() -> None:
    warnings: list[str] = []
    graphs = Graphs(CudaRecorder(torch.device("cuda")), warnings.append)
    total = torch.zeros((), device="cuda")
    stream = torch.cuda.current_stream()

    def add() -> None:
        total.add_(1 + 0 * total.item())  # a capture forbids to ask the device

    for _ in range(3):
        graphs.run(Work(key="add", run=add, rehearse=add, changed=[total]))

    assert total.item() == 3
    assert torch.cuda.current_stream() == stream
    (warning,) = warnings
    assert "a capture failed" in warning
    torch.randn(1, device="cuda")
    # Where torch knows of a capture, it does not free what another stream has used.
    held, tensor = active_bytes(), torch.empty(1 << 20, device="cuda")
    tensor.record_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]
    del tensor
    assert active_bytes() == held


def test_a_rehearsal_gets_memory_that_was_used_before_it() -> None:
    graphs = Graphs(CudaRecorder(torch.device("cuda")), pytest.fail)
    free_bytes, _ = torch.cuda.mem_get_info()
    most = free_bytes * 6 // 10
    total = torch.zeros((), device="cuda")
    torch.empty(most, dtype=torch.uint8, device="cuda")  # torch keeps it for the next one

    def add() -> None:
        total.add_(torch.zeros(most, dtype=torch.uint8, device="cuda")[0] + 1)

    graphs.run(Work(key="add", run=add, rehearse=add, changed=[total]))

    assert total.item() == 1
    graphs.clear()


def active_bytes() -> int:
    """Memory that torch's allocator cannot give away, after it was asked for some."""
    torch.cuda.synchronize()
    torch.empty(1, device="cuda")
    return int(torch.cuda.memory_stats()["active_bytes.all.current"])


def test_graphs_are_freed_for_what_follows_the_last_step() -> None:
    backend = backend_of()
    launch(backend, 1, batch_of(1)).read()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()

    backend.free_memory()
    with backend.with_means(), torch.no_grad():
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() < held
        assert torch.isfinite(backend.losses(on_device(batch_of(2), backend))).all()

    launch(backend, 2, batch_of(2)).read()


def test_batches_arrive_whole_while_the_device_is_busy() -> None:
    transfer = Transfer(torch.device("cuda"))
    work = torch.randn(4096, 4096, device="cuda")
    for seed in range(20):
        batch = batch_of(seed)
        arriving = transfer.start(batch)
        work = work @ work / 64
        found = transfer.finish(arriving)
        copies = [tensor.clone() for tensor in found.tensors()]
        del arriving, found
        for copy, tensor in zip(copies, batch.tensors(), strict=True):
            assert torch.equal(copy.cpu(), tensor)
