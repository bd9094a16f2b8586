"""Heads, losses and regularizers of other packages, found by their entry points.

A package names them in its pyproject.toml:

    [project.entry-points."lsr.heads"]        # or lsr.losses, lsr.regularizers
    my-head = "my_package.heads:MyHead"

- `lsr.heads`: a subclass of `lsr.encode.heads.Head` with `__init__(tensors, n_terms)` and a class method `start(hidden,
  n_terms, absent)`, which returns the initial tensors. Both queries and documents use this head. A training run selects
  it in `model.head`.
- `lsr.losses`: a function `loss(scores, batch, taught)`. A run sets its weight in `losses.plugins`.
- `lsr.regularizers`: a function `penalty(weights)`. A run selects it as the `kind` of a regularizer.

A loss gets the scores of all pairs of the batch, (n_queries, n_documents); the `lsr.train.batches.Batch`; and the
teachers' scores of each query's own documents, (n_teachers, n_queries, n_candidates) with NaN for missing scores, or
None without teachers. A penalty gets the weights of the queries or of the documents, (n_texts, n_terms); with
`sample_terms`, only for a sample of the terms. Losses and penalties return a tensor of one number with a gradient.

Only installed packages have entry points, so a name in a file of settings can't run other code. Packages can't replace
lsr's own heads, losses or regularizers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from lsr.errors import LsrError

HEADS, LOSSES, REGULARIZERS = "lsr.heads", "lsr.losses", "lsr.regularizers"


@dataclass(frozen=True)
class Names:
    """The allowed names of a setting: lsr's own, and those of installed packages.

    Attributes:
        group: The group of entry points.
        own: lsr's own names.
    """

    group: str
    own: Sequence[str] = ()

    def problem(self, value: Any) -> str | None:
        """Check a name, or the keys of a mapping.

        Returns:
            The problem, worded to follow the name of the setting; None if all names are known.
        """
        given = list(value) if isinstance(value, Mapping) else [value] if isinstance(value, str) else []
        if not (unknown := [name for name in given if name not in self.own]):
            return None
        known = [*self.own, *sorted({point.name for point in entry_points(group=self.group)} - set(self.own))]
        for name in unknown:
            if name not in known:
                if not known:
                    return f"must name an entry point of {self.group}, got {name!r}; no installed package has any"
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else "."
                return (
                    f"must be one of {', '.join(known)}, got {name!r}{hint} Packages add others by entry points of "
                    f"{self.group}"
                )
        return None


def load(group: str, name: str, error: type[LsrError]) -> Any:
    """Import what an entry point refers to.

    Args:
        group: The group of entry points.
        name: The entry point's name.
        error: The class of the error to raise.

    Raises:
        LsrError: No package or several packages have this entry point, or it can't be imported.
    """
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if not points:
        raise error(f"no installed package has the entry point {name!r} of {group}")
    if len(points) > 1:
        raise error(f"several packages have the entry point {name!r} of {group}: {', '.join(sorted(points))}")
    (point,) = points.values()
    try:
        return point.load()
    except Exception as problem:  # the package's own code runs here
        of = f" of the package {point.dist.name}" if point.dist else ""
        raise error(
            f"{name!r} of {group} is {point.value}{of}, which can't be imported: {type(problem).__name__}: {problem}"
        ) from problem
