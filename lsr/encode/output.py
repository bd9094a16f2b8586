"""The vocabulary table of an exported model: input embeddings of tokens, and output weights of terms.

    weight_j = saturation(relu(factor_j max_t(state_t . row_j) + bias_j + frequency_j tf_j))
    tf_j     = n_j / (n_j + k1 (1 - b + b length / typical_length))      n_j: how often the text has the term

The rows are the input embeddings in 8-bit integers, so one table serves input and output. This module needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.encode.projection import Projection
from lsr.errors import EncoderError

_COLUMNS = ("scale", "factor", "bias", "frequency")
_SETTINGS = b"lsr.output"
_SATURATIONS = ("log1p", "log1p_log1p")


@dataclass(frozen=True)
class OutputSettings:
    """Settings that all terms share.

    Attributes:
        saturation: "log1p" or "log1p_log1p".
        k1, b, typical_length: Parameters of a term's frequency.
    """

    saturation: str
    k1: float = 1.0
    b: float = 1.0
    typical_length: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.k1, self.b, self.typical_length)
        good = all(isinstance(number, int | float) and 0 <= number < 1e9 for number in numbers)
        if self.saturation not in _SATURATIONS or not good or not self.typical_length:
            raise ValueError(f"not the settings of an output layer: {self}")


class OutputLayer:
    """The table of a model's vocabulary.

    Args:
        rows: (n_terms, width) int8, without -128.
        columns: (n_terms,) float32 by name: "scale" turns rows into embeddings; the others are "factor", "bias" and
            "frequency" of the formula above.
        settings: Settings that all terms share.

    Raises:
        EncoderError: The shapes don't fit each other.

    Attributes:
        n_terms: Size of the vocabulary.
        width: Dimensions of a state.
    """

    def __init__(
        self, rows: NDArray[np.int8], columns: dict[str, NDArray[np.float32]], settings: OutputSettings
    ) -> None:
        self.n_terms, self.width = rows.shape
        self._rows, self._columns, self._settings = rows, columns, settings
        self._projection = Projection(rows, columns["factor"])

    @classmethod
    def of(
        cls,
        embeddings: NDArray[np.float32],
        *,
        projection: NDArray[np.float32],
        bias: NDArray[np.float32],
        frequency: NDArray[np.float32],
        settings: OutputSettings,
    ) -> OutputLayer:
        """Make the table of a model.

        Args:
            embeddings: (n_terms, width) float32, the input embeddings.
            projection: (n_terms, width) float32, the output layer: the rows of `embeddings`, each multiplied by a
                factor.
            bias: (n_terms,) float32.
            frequency: (n_terms,) float32.
            settings: As for the class.

        Raises:
            EncoderError: The rows of the output layer aren't multiples of the embeddings.
        """
        factor = row_factors(projection, embeddings)
        rows, scale = quantized(embeddings)
        columns = {"scale": scale, "factor": factor * scale, "bias": bias, "frequency": frequency}
        return cls(rows, {name: values.astype(np.float32) for name, values in columns.items()}, settings)

    def embeddings(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Input of the graph, (n_tokens, width) float32."""
        places = np.array(ids, np.int64)
        return self._rows[places] * self._columns["scale"][places, None]

    def weights(self, states: NDArray[np.float32], ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The terms of a text and their weights.

        Args:
            states: (n_tokens, width) float32, output of the graph.
            ids: The text's token ids.

        Returns:
            (n,) int64, ascending, and (n,) float32, above zero.
        """
        logits = self._projection.largest(states) + self._columns["bias"]
        own, counts = np.unique(np.array(ids, np.int64), return_counts=True)
        s = self._settings
        slow = s.k1 * (1 - s.b + s.b * len(ids) / s.typical_length)
        logits[own] += self._columns["frequency"][own] * (counts / (counts + slow)).astype(np.float32)
        terms = np.flatnonzero(~(logits <= 0))  # keeps NaN, so that it is noticed
        weights = np.log1p(logits[terms])
        return terms, np.log1p(weights) if s.saturation == "log1p_log1p" else weights

    def logits(self, states: NDArray[np.float32], terms: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of terms for each token, up to a constant for each term; (n_tokens, n) float32."""
        return self._projection.logits(states, terms)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the table as an Arrow file."""
        width = pa.list_(pa.field("item", pa.int8(), nullable=False), self.width)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(self._rows.reshape(-1)), type=width)
        columns = {"row": rows} | {name: pa.array(self._columns[name]) for name in _COLUMNS}
        schema = pa.schema(
            [pa.field(name, values.type) for name, values in columns.items()],
            metadata={_SETTINGS: json.dumps(asdict(self._settings))},
        )
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))

    @classmethod
    def open(cls, path: Path) -> OutputLayer:
        """Read a file written by `save`.

        Raises:
            EncoderError: The file can't be read, or is of another kind.
        """
        try:
            table = pa.ipc.open_file(path.read_bytes()).read_all().combine_chunks()
            table.validate(full=True)  # a damaged file must not cause reads out of bounds
            settings = OutputSettings(**json.loads((table.schema.metadata or {})[_SETTINGS]))
            width = table.schema.field("row").type.list_size
            nulls = [column.null_count for column in table.columns]
            row = table["row"].combine_chunks()
            rows = np.array(row.flatten().to_numpy()).reshape(len(table), width)
            columns = {name: np.array(table[name].to_numpy()) for name in _COLUMNS}
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
            raise EncoderError(f"{path}: not the output layer of a model: {error}") from None
        kinds = {values.dtype for values in columns.values()} | {rows.dtype}
        if any(nulls) or kinds != {np.dtype(np.float32), np.dtype(np.int8)} or rows.min(initial=0) < -127:
            raise EncoderError(f"{path}: not the output layer of a model: {table.schema}")
        if not all(np.isfinite(values).all() for values in columns.values()):
            raise EncoderError(f"{path}: weights that are not numbers")
        return cls(rows, columns, settings)


def quantized(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows as integers from -127 to 127, and their scales; (n, m) int8, (n,) float32."""
    scale = np.maximum(np.abs(weight).max(1), 1e-12) / 127
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def row_factors(projection: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n_terms,) float32, the factors that turn the rows of the embeddings into those of the output layer.

    Raises:
        EncoderError: The rows of the output layer aren't multiples of the embeddings.
    """
    squares = np.maximum((embeddings**2).sum(1), 1e-12)
    factors = (projection * embeddings).sum(1) / squares
    if not np.allclose(factors[:, None] * embeddings, projection, rtol=1e-3, atol=1e-4):
        raise EncoderError("the output layer isn't made of the input embeddings; such a model can't be exported")
    return np.asarray(factors, np.float32)
