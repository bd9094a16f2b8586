"""ShardGroup: asks the shards of a folder, through their replicas, and knows what each shard holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

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

T = TypeVar("T")
_START = 120.0  # seconds that opening may take, including the first compilation of kernels


class ShardGroup:
    """The shards of a folder, each with replicas that answer for it.

    Attributes:
        shards: The content of shards.json.
        sets: {shard number: its replicas}.
        states: {shard number: what it holds}, for shards that answered the last refresh.
        patience: How long to wait for a query.
        allow_missing: Whether answers may lack shards.

    Args:
        shards: As above.
        sets: The replicas of each shard.
        patience: As above.
        allow_missing: As above.
    """

    def __init__(self, shards: Shards, sets: Sequence[ReplicaSet], patience: Patience, *, allow_missing: bool) -> None:
        self.shards, self.patience, self.allow_missing = shards, patience, allow_missing
        self.sets = dict(enumerate(sets))
        self.states: dict[int, ShardState] = {}
        self._made: tuple[object, dict[str, Any]] = None, {}  # cached values for the searched versions
        self._counted: dict[int, int] = {}  # document frequency of each term, over all shards
        for replicas in sets:
            for replica in replicas.replicas:
                replica.ask("state")  # makes each replica open its index now rather than during a query

    def __len__(self) -> int:
        return sum(state.documents for state in self.states.values())

    def close(self) -> None:
        """Stop all replicas."""
        close_all(self.sets.values())

    def refresh(self) -> bool:
        """Move to the latest commits; return whether anything changed.

        Raises:
            IndexFormatError: Shards are missing, damaged, or of another format; the message names each of them.
            EncoderMismatch: Shards of another encoder.
            ClusterError: A shard is lost, and `allow_missing` is off.
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
            # Lost shards have no state; requests to them ask for the latest commit.
            self._counted, self.states = {}, states
        return changed

    def version(self, n: int) -> str:
        """Return the version of a shard to search; "" means the latest, if the shard hasn't answered yet."""
        return self.states[n].version if n in self.states else ""

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Return a cached value; it is computed again only after a refresh has changed the searched versions."""
        now, (states, made) = self.states, self._made
        if states is not now:
            made = {}
            self._made = now, made
        if name not in made:
            made[name] = make()
        return cast(T, made[name])

    # --- asking -----------------------------------------------------------------------------------------------------

    def ask(self, method: str, args: Mapping[int, Sequence[Any]], *, times: int = 1) -> Outcome:
        """Ask shards.

        Args:
            method: Method of `lsr.index.distributed.shard_server.Shard`.
            args: {shard number: arguments}.
            times: Number of queries in the request; time limits are multiplied by it.
        """
        return ask(self.sets, method, args, self.patience.times(times))

    def answers(self, method: str, args: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """Return the answers of shards, in shard order.

        Raises:
            ClusterError: A shard is lost, and `allow_missing` is off.
        """
        outcome = self.ask(method, args)
        self.missing(outcome)
        return dict(sorted(outcome.answers.items()))

    def every(self, method: str, *args: Any) -> dict[int, Any]:
        """Call a method of every shard, on its searched version, and return the answers; errors as for `answers`."""
        return self.answers(method, {n: (self.version(n), *args) for n in self.sets})

    def one(self, n: int, method: str, *args: Any) -> Any:
        """Return the answer of one shard.

        Raises:
            ClusterError: The shard is lost.
        """
        outcome = self.ask(method, {n: args})
        if lost := self.lost(outcome):
            raise self.lost_error(lost)
        return outcome.answers[n]

    def any(self, method: str) -> Any:
        """Return the answer of the first shard that responds, for values that are the same in all shards."""
        lost: dict[int, str] = {}
        for n in sorted(self.states):
            outcome = self.ask(method, {n: ()})
            if n in outcome.answers:
                return outcome.answers[n]
            lost |= self.lost(outcome)
        raise self.lost_error(lost)

    def lost(self, outcome: Outcome) -> dict[int, str]:
        """Return {shard number: why there is no answer}.

        Raises:
            LsrError: A shard refused the request.
        """
        for error in outcome.refused.values():
            raise error
        return outcome.lost

    def missing(self, outcome: Outcome) -> dict[int, str]:
        """Return {shard number: why there is no answer}.

        Raises:
            ClusterError: A shard is lost, and `allow_missing` is off.
        """
        lost = self.lost(outcome)
        self._require_enough(outcome, lost)
        return lost

    def _require_enough(self, outcome: Outcome, lost: Mapping[int, str]) -> None:
        if lost and not (self.allow_missing and outcome.answers):
            raise self.lost_error(lost)

    def lost_error(self, lost: Mapping[int, str]) -> ClusterError:
        """Make the exception for lost shards, {shard number: why there is no answer}."""
        entries = self.shards.entries
        said = [f"{entries[n].path} ({entries[n].documents:,} documents): {why}" for n, why in sorted(lost.items())]
        return ClusterError(
            "\n".join(
                [
                    f"{self.shards.folder}: {len(lost)} of {len(entries)} shards can't be asked:",
                    *said,
                    "check their machines; replicas=2 keeps a spare of each shard, and allow_missing=True searches the "
                    "other shards",
                ]
            )
        )

    # --- contents ---------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """A function that maps (n,) terms to (n,) int64: how many documents of all shards contain each term.

        It counts the documents of the current versions, without lost shards.
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
        """The columns of all shards; None if a shard is lost, because it may have other columns."""
        if len(self.states) < len(self.sets):
            return None
        return [columns for state in self.states.values() for columns in state.columns]

    def require_known(self, where: Filter | None) -> None:
        """Refuse a filter on columns that no shard has.

        Raises:
            DataError: As for `Filter.require_known`.
        """
        if where is not None and (columns := self.columns) is not None:
            where.require_known(columns)

    def require_possible(self, options: Options, criteria: Criteria) -> None:
        """Refuse options on columns that no shard has, and operators if no texts are stored.

        Raises:
            DataError: An option or an operator isn't possible.
        """
        if (columns := self.columns) is not None:
            require_columns(options, columns)
            segments = [entry for state in self.states.values() for entry in state.manifest["segments"]]
            require_texts(criteria.conditions, segments)


def close_all(sets: Iterable[ReplicaSet]) -> None:
    """Stop all replicas."""
    for replicas in sets:
        for replica in replicas.replicas:
            replica.close()
