"""ShardGroup: the shards of a folder as their replicas answer for them, asked together by what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode.lexicon import Counts
from lsr.errors import ClusterError, IndexFormatError
from lsr.index.distributed.hedging import Outcome, Patience, ReplicaSet, ask
from lsr.index.distributed.shard_server import ColumnKinds, ShardState
from lsr.index.search.column_values import require_columns
from lsr.index.search.matches import require_texts
from lsr.index.search.options import Options
from lsr.index.search.request import Criteria
from lsr.index.segment.filters import Filter
from lsr.index.sharding.manifest import Shards

_START = 120.0  # seconds that opening may take, kernels compiled for the first time and all


class ShardGroup:
    """Shards, each with replicas that answer for it.

    Attributes:
        shards: What shards.json says.
        sets: {number of a shard: its replicas}.
        states: {number: what it holds}, of those that answered when they were asked last.
        patience: How long to wait for a query.
        allow_missing: Whether an answer may lack shards.

    Args:
        shards: As above.
        sets: The replicas of each.
        patience: As above.
        allow_missing: As above.
    """

    def __init__(self, shards: Shards, sets: Sequence[ReplicaSet], patience: Patience, *, allow_missing: bool) -> None:
        self.shards, self.patience, self.allow_missing = shards, patience, allow_missing
        self.sets = dict(enumerate(sets))
        self.states: dict[int, ShardState] = {}
        self._counted: dict[int, int] = {}  # how many documents have a term
        for replicas in sets:
            for replica in replicas.replicas:
                replica.ask("state")  # so that none opens its index when a query waits for it

    def __len__(self) -> int:
        return sum(state.documents for state in self.states.values())

    def close(self) -> None:
        """End those who answer."""
        close_all(self.sets.values())

    def refresh(self) -> bool:
        """Move on to what was committed last; tells whether there was anything new.

        Raises:
            IndexFormatError: Shards are missing, damaged, or of another format; all of them are named.
            EncoderMismatch: Shards of another encoder.
            ClusterError: A shard is lost, and none may be missing.
        """
        outcome = ask(self.sets, "state", dict.fromkeys(self.sets, ()), Patience(_START, _START))
        if outcome.refused:
            messages = [str(error) for _, error in sorted(outcome.refused.items())]
            raise IndexFormatError("\n".join([f"{len(messages)} shards can't be opened:", *messages]))
        self._require_enough(outcome, outcome.lost)
        states: dict[int, ShardState] = dict(sorted(outcome.answers.items()))
        self.shards.require_fit({self.shards.entries[n].path: state.manifest for n, state in states.items()})
        before = {n: state.version for n, state in self.states.items()}
        changed = before != {n: state.version for n, state in states.items()}
        if changed:
            self._counted, self.states = {}, states  # a shard that is lost now is asked for what it has when it is back
        return changed

    def version(self, n: int) -> str:
        """What is searched of a shard; a shard that didn't answer yet takes what it has."""
        return self.states[n].version if n in self.states else ""

    # --- asking -----------------------------------------------------------------------------------------------------

    def ask(self, method: str, args: Mapping[int, Sequence[Any]], *, times: int = 1) -> Outcome:
        """Ask shards.

        Args:
            method: Of `lsr.index.distributed.shard_server.Shard`.
            args: {number of a shard: arguments}.
            times: So many queries are one request, which may take as many times as long.
        """
        return ask(self.sets, method, args, self.patience.times(times))

    def answers(self, method: str, args: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """What shards answer, in their order.

        Raises:
            ClusterError: One is lost, and none may be missing.
        """
        outcome = self.ask(method, args)
        self.missing(outcome)
        return dict(sorted(outcome.answers.items()))

    def every(self, method: str, *args: Any) -> dict[int, Any]:
        """What all shards answer, each of what is searched of it; errors are those of `answers`."""
        return self.answers(method, {n: (self.version(n), *args) for n in self.sets})

    def one(self, n: int, method: str, *args: Any) -> Any:
        """What a shard answers.

        Raises:
            ClusterError: It is lost.
        """
        outcome = self.ask(method, {n: args})
        if lost := self.lost(outcome):
            raise self.lost_error(lost)
        return outcome.answers[n]

    def any(self, method: str) -> Any:
        """What any shard knows, as all know the same."""
        lost: dict[int, str] = {}
        for n in sorted(self.states):
            outcome = self.ask(method, {n: ()})
            if n in outcome.answers:
                return outcome.answers[n]
            lost |= self.lost(outcome)
        raise self.lost_error(lost)

    def lost(self, outcome: Outcome) -> dict[int, str]:
        """{number of a shard: why nobody answered}.

        Raises:
            LsrError: The request was wrong.
        """
        for error in outcome.refused.values():
            raise error
        return outcome.lost

    def missing(self, outcome: Outcome) -> dict[int, str]:
        """The same, of shards that an answer may lack.

        Raises:
            ClusterError: One is lost, and none may be missing.
        """
        lost = self.lost(outcome)
        self._require_enough(outcome, lost)
        return lost

    def _require_enough(self, outcome: Outcome, lost: Mapping[int, str]) -> None:
        if lost and not (self.allow_missing and outcome.answers):
            raise self.lost_error(lost)

    def lost_error(self, lost: Mapping[int, str]) -> ClusterError:
        """What to raise for {number of a shard: why nobody answered}."""
        entries = self.shards.entries
        said = [f"{entries[n].path} ({entries[n].documents:,} documents): {why}" for n, why in sorted(lost.items())]
        return ClusterError(
            "\n".join(
                [
                    f"{self.shards.folder}: {len(lost)} of {len(entries)} shards can't be asked:",
                    *said,
                    "see to their machines; replicas=2 has others ready, allow_missing=True takes what the rest has",
                ]
            )
        )

    # --- what they hold ---------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """Gives, of (n,) terms, (n,) int64: how many documents of all shards have each, as of now; those of lost shards
        don't count.
        """
        return partial(self._frequencies, self._counted)

    def _frequencies(self, counted: dict[int, int], terms: NDArray[Any]) -> NDArray[np.int64]:
        new = np.array([term for term in terms.tolist() if term not in counted], np.int64)
        known = dict(counted)
        if len(new):
            outcome = self.ask("frequencies", {n: (self.version(n), new) for n in self.sets})
            lost = self.missing(outcome)
            counts = sum(outcome.answers.values(), np.zeros(len(new), np.int64))
            known |= zip(new.tolist(), counts.tolist(), strict=True)
            if not lost:
                counted.update(known)
        return np.array([known[term] for term in terms.tolist()], np.int64)

    @property
    def columns(self) -> list[ColumnKinds] | None:
        """The columns of all shards; None where shards are lost, who may have some alone."""
        if len(self.states) < len(self.sets):
            return None
        return [columns for state in self.states.values() for columns in state.columns]

    def require_known(self, where: Filter | None) -> None:
        """Refuse a filter on columns that no shard has.

        Raises:
            DataError: As of `Filter.require_known`.
        """
        if where is not None and (columns := self.columns) is not None:
            where.require_known(columns)

    def require_possible(self, options: Options, criteria: Criteria) -> None:
        """Refuse options on columns that no shard has, and conditions on texts where none are stored.

        Raises:
            DataError: Such options.
        """
        if (columns := self.columns) is not None:
            require_columns(options, columns)
            if criteria.conditions.text is not None:
                require_texts([entry for state in self.states.values() for entry in state.manifest["segments"]])


def close_all(sets: Iterable[ReplicaSet]) -> None:
    """End all replicas."""
    for replicas in sets:
        for replica in replicas.replicas:
            replica.close()
