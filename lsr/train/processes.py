"""Several processes work on one batch: each runs the model on its share of the texts, and all share the results.

Losses and regularizers see all texts, as if one process had run them. Gradients with respect to a share's term weights
go to the process that computed the share; gradients of parameters are averaged at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from lsr.train.teachers import PairTeacher, Teacher


class Processes:
    """The processes of a run: this one alone, unless torchrun started several.

    Args:
        device: Device of the tensors that are exchanged.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
    """

    def __init__(self, device: str) -> None:
        together = dist.is_initialized()
        self.rank: int = dist.get_rank() if together else 0
        self.count: int = dist.get_world_size() if together else 1
        self.device = device

    def share(self, n: int) -> slice:
        """This process's share of n items."""
        return slice(*self._bounds(n)[self.rank : self.rank + 2])

    def _bounds(self, n: int) -> list[int]:
        return [n * i // self.count for i in range(self.count + 1)]

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """Gather all rows from the processes' shares, with gradients.

        Args:
            rows: (share of n, width).
            n: Total number of rows of all processes.

        Returns:
            (n, width), the same in every process.
        """
        if self.count == 1:
            return rows
        return cast(Tensor, _Gather.apply(rows, self._bounds(n), self.rank))

    def total(self, value: Tensor) -> Tensor:
        """The sum of all processes' values, without gradients."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.count

    def agree(self, value: bool) -> bool:
        """The value of the first process; the others wait for it."""
        if self.count == 1:
            return value
        flag = torch.tensor([int(value)], device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag.item())


class SharedTeacher(Teacher):
    """A teacher for several processes; each process scores its share of the documents.

    Args:
        teacher: The teacher.
        processes: Processes of the run.
    """

    def __init__(self, teacher: Teacher, processes: Processes) -> None:
        self._teacher, self._processes = teacher, processes

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """See `Teacher`."""
        own = documents[self._processes.share(len(documents))]
        scores = self._teacher.scores(queries, own).T if own else np.empty((0, len(queries)), np.float32)
        rows = torch.from_numpy(np.ascontiguousarray(scores)).to(self._processes.device)
        return np.ascontiguousarray(self._processes.gather(rows, len(documents)).cpu().numpy().T)


class SharedPairTeacher(PairTeacher):
    """A teacher of pairs; each process scores its share of the pairs. Arguments are those of `SharedTeacher`."""

    def __init__(self, teacher: PairTeacher, processes: Processes) -> None:
        self._teacher, self._processes = teacher, processes

    def pair_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """See `PairTeacher`."""
        own = self._teacher.pair_scores(pairs[self._processes.share(len(pairs))])
        rows = torch.from_numpy(own[:, None]).to(self._processes.device)
        return np.asarray(self._processes.gather(rows, len(pairs)).cpu().numpy()[:, 0])


def shared(teacher: Teacher, processes: Processes) -> Teacher:
    """A teacher whose work is divided among the processes."""
    if isinstance(teacher, PairTeacher):
        return SharedPairTeacher(teacher, processes)
    return SharedTeacher(teacher, processes)


class _Gather(torch.autograd.Function):
    """Gather with gradients. Every process computes the same loss, so no gradients are exchanged."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bounds: list[int], rank: int) -> Tensor:
        sizes = [stop - start for start, stop in pairwise(bounds)]
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.own, ctx.count = slice(bounds[rank], bounds[rank + 1]), len(sizes)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # Multiply by the count, because gradients of parameters are averaged over the processes later.
        return grads[0][ctx.own] * ctx.count, None, None
