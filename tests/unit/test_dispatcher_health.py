"""A dispatcher that was away gives every lease a fresh chance before it judges any."""

from services.dispatcher.health import Health

LEASE_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def answer_for(health: Health, clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds)):
        clock.now_s += 1
        health.note_answer()


def test_it_judges_only_after_a_whole_lease() -> None:
    clock = Clock()
    health = Health(LEASE_S, clock)
    answer_for(health, clock, LEASE_S - 1)
    assert not health.trusts_leases
    answer_for(health, clock, 1)
    assert health.trusts_leases


def test_an_outage_begins_the_count_anew() -> None:
    clock = Clock()
    health = Health(LEASE_S, clock)
    answer_for(health, clock, 100)
    health.note_outage()
    assert not health.trusts_leases
    answer_for(health, clock, LEASE_S)
    assert health.trusts_leases


def test_a_frozen_dispatcher_does_not_judge_when_it_wakes() -> None:
    clock = Clock()
    health = Health(LEASE_S, clock)
    answer_for(health, clock, 100)
    clock.now_s += 40  # stopped between two rounds
    assert not health.trusts_leases
    health.note_answer()
    assert not health.trusts_leases
    answer_for(health, clock, LEASE_S)
    assert health.trusts_leases


def test_a_short_gap_does_no_harm() -> None:
    clock = Clock()
    health = Health(LEASE_S, clock)
    answer_for(health, clock, 100)
    clock.now_s += LEASE_S / 3
    assert health.trusts_leases
