"""Runs the cases: ours, then each peer, with as few models built as possible."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from benchmarks.step.card import card_of
from benchmarks.step.cases import Adapter, Case, PeerName, Precision
from benchmarks.step.kernels import Kernels, kernels_of_one_step
from benchmarks.step.measure import GIB, Failure, Gradient, Timing, attempt, free_memory, time_steps
from benchmarks.step.ours import Ours
from benchmarks.step.peers import Peer
from benchmarks.step.setting import Setting

_OUR_WARM_UP: Final = 5
_OUR_BUDGET_S: Final = 40.0
_PEER_WARM_UP: Final = 2
_PEER_LEAST: Final = 5
_PEER_BUDGET_S: Final = 12.0
_FP32_TOKENS: Final = 1024
"""Cases of at most so many image tokens are compared with an fp32 model too: 64 GiB of weights."""


@dataclass(kw_only=True, slots=True)
class Row:
    """The results of one case; None: not measured."""

    case: Case
    ours: Timing | Failure | None = None
    foretold_gib: float | None = None
    """The reserved memory that the plan of the run foretells; None on a CPU."""
    gradient: Gradient | Failure | None = None
    reference: Gradient | Failure | None = None
    """Of diffusers' model with LyCORIS, in the type of the setting."""
    exact: Gradient | Failure | None = None
    """The same in fp32."""
    peers: dict[PeerName, Timing | Failure] = field(default_factory=dict)
    kernels: Kernels | Failure | None = None


Report = Callable[[Sequence[Row]], None]
"""Called with all rows after each measurement."""


def run(
    cases: Sequence[Case],
    setting: Setting,
    *,
    steps: int,
    peers: Iterable[PeerName],
    profile: bool,
    report: Report,
) -> list[Row]:
    """Measure every case.

    Args:
        cases: in the order of the rows.
        setting: device and size.
        steps: of ours that count; a slow peer takes fewer.
        peers: those that may be timed; without any, no gradient is compared either.
        profile: take the kernels of one step of ours, too.
        report: receives the rows as they grow.
    """
    rows = [Row(case=case) for case in cases]
    for row in rows:
        failure = attempt(_ours, row, setting, steps, profile)
        if isinstance(failure, Failure):
            row.ours = row.ours or failure
        free_memory()
        report(rows)
    for build in _builds(rows, tuple(peers), setting):
        failure = attempt(build.measure, setting, steps, partial(report, rows))
        if isinstance(failure, Failure):
            build.fail(failure)
        free_memory()
        report(rows)
    return rows


def _ours(row: Row, setting: Setting, steps: int, profile: bool) -> None:
    with card_of(row.case.card_gib):
        ours = Ours(row.case, setting)
        row.foretold_gib = None if ours.card is None else ours.card.peak_bytes / GIB
        free_memory()
        batch = setting.batch(row.case)
        row.ours = time_steps(
            ours, batch, warm_up=_OUR_WARM_UP, least=steps, most=steps, budget_s=_OUR_BUDGET_S
        )
        if profile:
            row.kernels = attempt(kernels_of_one_step, ours, batch)
        row.gradient = attempt(ours.gradient, batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Build:
    """One model of a peer, and the rows that it serves."""

    peer: PeerName
    precision: Precision | None
    """None: fp32."""
    adapter: Adapter
    timed: Sequence[Row]
    compared: Sequence[Row]
    """Rows whose gradient is compared with this model's."""

    def measure(self, setting: Setting, steps: int, report: Callable[[], None]) -> None:
        peer = Peer(self.peer, self.precision, self.adapter, setting)
        free_memory()
        times: dict[tuple[str, int, bool], Timing | Failure] = {}
        for row in self.timed:
            case = row.case
            key = case.res, case.batch, case.checkpointing
            if key not in times:
                peer.set_checkpointing(on=case.checkpointing)
                times[key] = attempt(_time, peer, case, setting, steps)
            row.peers[self.peer] = times[key]
            report()
        peer.set_checkpointing(on=True)
        gradients: dict[tuple[str, int], Gradient | Failure] = {}
        for row in self.compared:
            key_of_inputs = row.case.res, row.case.batch
            if key_of_inputs not in gradients:
                gradients[key_of_inputs] = attempt(_gradient, peer, row.case, setting)
            self._keep(row, gradients[key_of_inputs])
            report()

    def fail(self, failure: Failure) -> None:
        """The model could not be built: none of its rows has a result."""
        for row in self.timed:
            row.peers.setdefault(self.peer, failure)
        for row in self.compared:
            self._keep(row, failure)

    def _keep(self, row: Row, gradient: Gradient | Failure) -> None:
        if self.precision is None:
            row.exact = gradient
        else:
            row.reference = gradient


def _builds(rows: Sequence[Row], peers: Sequence[PeerName], setting: Setting) -> Iterator[_Build]:
    """diffusers first, because importing SimpleTuner changes classes of diffusers."""
    if not peers:
        return
    adapted = [row for row in rows if row.case.adapter != "lora"]
    adapters = list(dict.fromkeys(row.case.adapter for row in adapted))
    for adapter in adapters:
        same = [row for row in adapted if row.case.adapter == adapter]
        timed = [row for row in same if _is_timed(row, "diffusers", "bf16", peers)]
        yield _Build(
            peer="diffusers", precision="bf16", adapter=adapter, timed=timed, compared=same
        )
    small = [
        row
        for row in adapted
        if row.case.adapter == "attention" and setting.image_tokens(row.case) <= _FP32_TOKENS
    ]
    if small:
        yield _Build(
            peer="diffusers", precision=None, adapter="attention", timed=[], compared=small
        )
    for precision in ("bf16", "8bit"):
        timed = [row for row in adapted if _is_timed(row, "simpletuner", precision, peers)]
        if timed:
            yield _Build(
                peer="simpletuner",
                precision=precision,
                adapter="attention",
                timed=timed,
                compared=[],
            )


def _is_timed(row: Row, peer: PeerName, precision: Precision, peers: Sequence[PeerName]) -> bool:
    case = row.case
    return peer in peers and peer in case.peers and case.precision == precision


def _time(peer: Peer, case: Case, setting: Setting, steps: int) -> Timing:
    return time_steps(
        peer,
        setting.batch(case),
        warm_up=_PEER_WARM_UP,
        least=min(_PEER_LEAST, steps),
        most=steps,
        budget_s=_PEER_BUDGET_S,
    )


def _gradient(peer: Peer, case: Case, setting: Setting) -> Gradient:
    batch = setting.batch(case, peer.dtype)
    with peer.without_padding(setting.image_tokens(case)):
        return peer.gradient(batch)
