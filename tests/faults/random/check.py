"""The invariants after the faults, from the rows and from what the database saw.

Every breach is a sentence that names the run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise

from tests.faults.random.audit import Entry
from tests.faults.random.rows import AttemptRow, RunRow

_KILLED = ("lost", "failed")


_OVER = ("succeeded", "failed", "canceled")


def lost(runs: Sequence[RunRow], answered: Iterable[str]) -> list[str]:
    """Every answered run has a row, which is final."""
    found = {run.run_id for run in runs}
    breaches = [f"run {each} was answered and has no row" for each in answered if each not in found]
    return breaches + [
        f"run {run.run_id} is still {run.status}" for run in runs if run.status not in _OVER
    ]


def healthy_failed(runs: Sequence[RunRow]) -> list[str]:
    """Every run succeeds with all of its steps, for nothing is wrong with any of them."""
    breaches = []
    for run in runs:
        if run.status in ("failed", "canceled"):
            breaches.append(f"run {run.run_id} is {run.status} ({run.reason})")
        elif run.status == "succeeded" and run.step != run.max_steps:
            breaches.append(f"run {run.run_id} succeeded at step {run.step} of {run.max_steps}")
    return breaches


def submitted_twice(runs: Sequence[RunRow]) -> list[str]:
    """One run for each submission, however often it was sent."""
    return [
        f"submission {submission} made {times} runs"
        for submission, times in Counter(run.submission for run in runs).items()
        if times > 1
    ]


def committed_twice(runs: Sequence[RunRow], entries: Sequence[Entry]) -> list[str]:
    """One success for each succeeded run, under the fence of its row."""
    breaches = []
    successes: dict[str, list[int]] = {}
    results: Counter[str] = Counter()
    for entry in entries:
        if entry.what == "event" and entry.detail == "run.succeeded":
            successes.setdefault(entry.run_id, []).append(entry.fence)
        results[entry.run_id] += entry.what == "result"
    for run in runs:
        wanted = [run.fence] if run.status == "succeeded" else []
        if successes.get(run.run_id, []) != wanted:
            breaches.append(
                f"run {run.run_id} at fence {run.fence} has successes {successes.get(run.run_id)}"
            )
        if results[run.run_id] > 1:
            breaches.append(f"run {run.run_id} got {results[run.run_id]} results")
        prefix = run.result_key_prefix
        if prefix is not None and f"/attempts/{run.fence}/" not in prefix:
            breaches.append(f"run {run.run_id} at fence {run.fence} has the result {prefix}")
    return breaches


def stale_writes(entries: Sequence[Entry]) -> list[str]:
    """Writes of a former holder, fences that do not rise by one, valid leases that were taken.

    In the order of the database.
    """
    breaches: list[str] = []
    for run_id, of_run in groupby(sorted(entries, key=lambda e: (e.run_id, e.id)), _run_id):
        breaches += [f"run {run_id}: {wrong}" for wrong in _wrong_writes(list(of_run))]
    return breaches


def _wrong_writes(entries: Sequence[Entry]) -> list[str]:
    """The writes of a trainer that was not the holder when it wrote."""
    wrong: list[str] = []
    holder: str | None = None
    fence = 0
    for entry in entries:
        app = _writer(entry)
        where = f"{app} wrote {entry.what} {entry.detail} (entry {entry.id})"
        match entry.what:
            case "claim":
                if entry.fence != fence + 1:
                    wrong.append(f"fence {fence} was followed by {entry.fence}")
                if entry.valid_s is not None:
                    wrong.append(f"{app} claimed it while {holder} held it")
                fence, holder = entry.fence, app
            case "release" if app != holder:
                if (entry.valid_s or 0) > 0:
                    wrong.append(
                        f"{app} took it from {holder}, whose lease had {entry.valid_s:.1f} s"
                    )
                holder = None
            case "renew" | "checkpoint" | "result":
                if app != holder:
                    wrong.append(f"stale write accepted: {where}, the holder was {holder}")
            case "event" if app.startswith("trainer") or _is_of_box(entry):
                if app != holder:
                    wrong.append(f"stale write accepted: {where}, the holder was {holder}")
        if entry.what == "checkpoint" and f"/attempts/{fence}/" not in entry.detail:
            wrong.append(f"stale write accepted: {where} under fence {fence}")
    return wrong


def _writer(entry: Entry) -> str:
    """The process; all boxes are one here, whichever process of the API wrote for them.

    What tells them apart is the fence in the names of their files.
    """
    return "a box" if entry.app.startswith("api") else entry.app


def claims_over_https(entries: Sequence[Entry]) -> int:
    """How many attempts boxes made."""
    return sum(entry.what == "claim" and entry.app.startswith("api") for entry in entries)


def _is_of_box(entry: Entry) -> bool:
    """Whether the API wrote this event for a box, and not for a tenant."""
    return entry.app.startswith("api") and not entry.detail.startswith("run.")


def resumed_elsewhere(entries: Sequence[Entry], attempts: Sequence[AttemptRow]) -> list[str]:
    """Each claim starts from the newest checkpoint that was committed before it."""
    breaches = []
    newest: Counter[str] = Counter()
    started = {(each.run_id, each.fence): each.from_step for each in attempts}
    for entry in entries:
        if entry.what == "checkpoint":
            newest[entry.run_id] = max(newest[entry.run_id], entry.step)
        elif entry.what == "claim":
            from_step = started.get((entry.run_id, entry.fence))
            if from_step != newest[entry.run_id]:
                breaches.append(
                    f"run {entry.run_id} fence {entry.fence} started from step {from_step}, "
                    f"not from {newest[entry.run_id]}"
                )
    return breaches


def steps_lost(attempts: Sequence[AttemptRow]) -> Mapping[str, list[int]]:
    """Steps that were reported and trained again: ``kill`` and ``term`` → one number an attempt."""
    lost: dict[str, list[int]] = {"kill": [], "term": []}
    for _, of_run in groupby(attempts, lambda each: each.run_id):
        for ended, following in pairwise(of_run):
            kind = "kill" if ended.outcome in _KILLED else "term"
            lost[kind].append(max(0, ended.last_step - following.from_step))
    return lost


def overlap_steps(
    attempts: Sequence[AttemptRow], refused: Mapping[tuple[str, int], int]
) -> Mapping[tuple[str, int], int]:
    """Steps of each former holder that the database refused, because the run was another's by then.

    Args:
        refused: run and fence of a former holder → the last step of its training process.
    """
    stored = {(each.run_id, each.fence): each.last_step for each in attempts}
    return {claim: max(0, step - stored[claim]) for claim, step in refused.items()}


def _run_id(entry: Entry) -> str:
    return entry.run_id
