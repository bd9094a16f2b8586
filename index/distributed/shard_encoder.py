"""ShardEncoder: the encoder and vocabulary that the shards of a group store."""

from __future__ import annotations

from collections.abc import Mapping

from lsr.index.distributed.shard_group import ShardGroup
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.sharding.manifest import n_grown, require_one_line


class ShardEncoder:
    """Fetches the encoder of a group's shards once, and the tokens again whenever commits have appended new ones.

    Args:
        group: The shards.
    """

    def __init__(self, group: ShardGroup) -> None:
        self._group = group
        self._cached: tuple[Mapping[int, int], IndexEncoder] | None = None  # with the numbers of appended tokens

    def latest(self) -> IndexEncoder:
        """Return the encoder with all tokens that the current versions of the shards have.

        Raises:
            ClusterError: No shard answers.
        """
        group = self._group
        grown = {n: count for n, state in group.states.items() if (count := n_grown(state.manifest))}
        if self._cached is None:
            files = group.any("encoder_files")
            base = IndexEncoder(group.shards.folder, group.shards.fingerprint, files, lambda: group.any("vocabulary"))
            self._cached = grown, self._with_tokens(base, grown)
        elif self._cached[0] != grown:
            self._cached = grown, self._with_tokens(self._cached[1].base, grown)
        return self._cached[1]

    def _with_tokens(self, base: IndexEncoder, grown: Mapping[int, int]) -> IndexEncoder:
        """Add the tokens that commits have appended; the shard with the most tokens has all of them."""
        if not grown:
            return base
        group = self._group

        def tokens() -> list[str]:
            asked = group.ask("vocabulary", dict.fromkeys(grown, ()))
            if lost := group.lost(asked):
                raise group.lost_error(lost)
            longest: list[str] = max(asked.answers.values(), key=len)
            require_one_line(group.shards.folder, longest, asked.answers.values())
            return longest

        return IndexEncoder(group.shards.folder, base.fingerprint, base.encoder_files, tokens, base=base)
