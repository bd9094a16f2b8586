"""Requests to replicas: the first answer counts, failed and slow replicas are replaced, lost shards are reported."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from lsr.errors import CorruptIndex, DataError
from lsr.index.distributed.hedging import Patience, ReplicaSet, ask

SOON = Patience(hedge_after=0.02, time_limit=0.3)
NEVER = Patience(hedge_after=60, time_limit=120)


class Fake:
    """A replica that answers with its name or an error. If `slow`, it answers only when the test sets a result."""

    def __init__(self, name, error=None, slow=False):
        self.name, self.error, self.slow, self.asked = name, error, slow, []
        self.future = None

    def ask(self, method, *args):
        self.asked.append((method, args))
        self.future = Future()
        if isinstance(self.error, ConnectionError):
            raise self.error
        if self.error:
            self.future.set_exception(self.error)
        elif not self.slow:
            self.future.set_result(self.name)
        return self.future

    def close(self):
        pass


def asked(*fakes):
    return [len(fake.asked) for fake in fakes]


def test_each_shard_is_asked_once_and_replicas_take_turns():
    fakes = [[Fake("a0"), Fake("a1")], [Fake("b0")]]
    sets = {n: ReplicaSet(replicas) for n, replicas in enumerate(fakes)}
    for _ in range(4):
        outcome = ask(sets, "search", {0: ("x",), 1: ("y",)}, NEVER)
        assert (outcome.refused, outcome.lost, outcome.hedged, outcome.retried) == ({}, {}, 0, 0)
        assert outcome.answers[1] == "b0"
    assert asked(*fakes[0], *fakes[1]) == [2, 2, 4]
    assert fakes[1][0].asked[0] == ("search", ("y",))
    assert ask(sets, "search", {}, NEVER).answers == {}


@pytest.mark.parametrize(
    "error", [RuntimeError("gone"), ConnectionError("gone"), OSError("gone"), CorruptIndex("gone")]
)
def test_a_failed_replica_is_replaced_immediately_and_then_avoided(error):
    bad, good = Fake("bad", error), Fake("good")
    sets = {7: ReplicaSet([good, bad])}
    outcomes = [ask(sets, "search", {7: ()}, NEVER) for _ in range(6)]
    assert {outcome.answers[7] for outcome in outcomes} == {"good"}
    assert asked(bad, good) == [1, 6]
    assert sum(outcome.retried for outcome in outcomes) == 1


def test_a_slow_replica_is_hedged_and_then_avoided():
    slow, fast = Fake("slow", slow=True), Fake("fast")
    sets = {0: ReplicaSet([fast, slow])}
    outcomes = [ask(sets, "search", {0: ()}, SOON) for _ in range(4)]
    assert {outcome.answers[0] for outcome in outcomes} == {"fast"}
    assert asked(slow, fast) == [1, 4]
    assert sum(outcome.hedged for outcome in outcomes) == 1


def test_a_hedged_replica_may_still_answer_first():
    slow, slower = Fake("slow", slow=True), Fake("slower", slow=True)
    threading.Timer(0.06, lambda: slow.future.set_result("slow")).start()
    outcome = ask({0: ReplicaSet([slower, slow])}, "search", {0: ()}, Patience(0.01, 60))
    assert (outcome.answers, outcome.hedged, asked(slow, slower)) == ({0: "slow"}, 1, [1, 1])


def test_a_failure_of_a_hedged_replica_is_ignored():
    slow, other = Fake("slow", slow=True), Fake("other", slow=True)
    threading.Timer(0.05, lambda: slow.future.set_exception(RuntimeError("gone"))).start()
    threading.Timer(0.1, lambda: other.future.set_result("other")).start()
    outcome = ask({0: ReplicaSet([other, slow])}, "search", {0: ()}, Patience(0.01, 60))
    assert (outcome.answers, outcome.lost) == ({0: "other"}, {})


def test_lost_shards_are_reported_with_the_reason():
    sets = {
        0: ReplicaSet([Fake("a")]),
        1: ReplicaSet([Fake("b", RuntimeError("its machine\n is gone"))]),
        2: ReplicaSet([Fake("c", OSError("x")), Fake("d", OSError("x"))]),
        3: ReplicaSet([Fake("e", slow=True)]),
        4: ReplicaSet([Fake("f", slow=True), Fake("g", RuntimeError("no room"))]),
    }
    outcome = ask(sets, "search", dict.fromkeys(sets, ()), SOON)
    assert outcome.answers == {0: "a"}
    assert outcome.lost == {
        1: "its only replica failed (RuntimeError: its machine is gone)",
        2: "all of its 2 replicas failed (OSError: x)",
        3: "no answer within 0.3 s",
        4: "no answer within 0.3 s; earlier, RuntimeError: no room",
    }


def test_a_wrong_request_is_not_retried():
    error = DataError("no such column", "where")
    fakes = [Fake("a", error), Fake("b", error)]
    outcome = ask({0: ReplicaSet(fakes)}, "search", {0: ()}, NEVER)
    assert outcome.refused == {0: error}
    assert sum(asked(*fakes)) == 1


def test_a_cancelled_request_counts_as_lost():
    fake = Fake("a", slow=True)
    threading.Timer(0.02, lambda: fake.future.cancel()).start()
    assert "CancelledError" in ask({0: ReplicaSet([fake])}, "search", {0: ()}, NEVER).lost[0]


def test_a_request_can_ask_a_thousand_shards():
    sets = {n: ReplicaSet([Fake(n), Fake(n)]) for n in range(1000)}
    assert ask(sets, "search", dict.fromkeys(sets, ()), NEVER).answers == {n: n for n in sets}


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "1"])
def test_invalid_time_limits_are_refused(value):
    with pytest.raises(ValueError, match="hedge_after must be a number of seconds above 0"):
        Patience(hedge_after=value)
    with pytest.raises(ValueError, match="time_limit must be"):
        Patience(time_limit=value)
