"""Run a document model as an ONNX graph: token ids in, sparse weights out, without torch."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lsr.encode import model_files as files
from lsr.encode import onnx_graph
from lsr.encode.output import OutputLayer
from lsr.encode.processor import adds_bytes_exactly
from lsr.errors import EncoderError
from lsr.forks import cached_property, in_child
from lsr.sparse import SparseMatrix

LEXICAL = "lexical document encoder"  # name of a graph that weights only a text's own tokens
TRACED = "traced document encoder"  # name of a graph that PyTorch traced; all others are written node by node
_Result = TypeVar("_Result")
_abandoned: list[Any] = []  # sessions in use at a fork: must never be touched or destroyed


class OnnxRunner:
    """A loaded graph that turns token ids into sparse weights.

    Args:
        folder: The folder of the graph and its output layer.
        n_terms: Number of terms that the graph must output.
        threads: Texts encoded at a time; 0 for the value of OMP_NUM_THREADS (which Ray sets to a worker's share) or, if
            it isn't set, for all cores.

    Raises:
        EncoderError: A file can't be opened, or is another kind of graph.
    """

    def __init__(self, folder: Path, n_terms: int, threads: int = 0) -> None:
        self._path, self._n_terms = folder / files.ONNX_FILE, n_terms
        self._sessions: dict[tuple[str, ...], Any] = {}  # {names of outputs: session}
        self._running: set[int] = set()  # threads that are using a session
        output = folder / files.OUTPUT_FILE
        self._output = OutputLayer.open(output) if output.is_file() else None
        self._version: tuple[int, ...] = ()  # identifies the graph's file
        self._outputs = self._read(onnx_graph.output_names)
        if self._output is None and self._outputs != ["weights"]:
            raise EncoderError(f"{self._path}: outputs {', '.join(self._outputs)}, not weights")
        if self._output is not None:
            if self._output.n_terms != n_terms:
                raise EncoderError(f"{output}: {self._output.n_terms} terms; the encoder has {n_terms}")
            if self._outputs not in (["states"], ["states", "dense"]):
                found = ", ".join(self._outputs)
                raise EncoderError(f"{self._path}: outputs {found}, not states for the layer in {output.name}")
        self.has_dense = len(self._outputs) > 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        share = os.environ.get("OMP_NUM_THREADS", "")
        self._threads = threads or (int(share) if share.isdecimal() else 0) or cores
        self._pool = self._new_pool()
        in_child(self)

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="lsr-encode")

    def after_fork(self) -> None:
        """See `lsr.forks`: the parent's threads don't exist here, and a session that was in use may stay locked."""
        self._pool = self._new_pool()
        if self._running:
            others = [self.__dict__.pop(name, None) for name in ("_opened_up", "_for_all_tokens")]
            _abandoned.append((self._sessions, others))
            self._sessions, self._running = {}, set()

    def _read(self, how: Callable[[bytes], _Result]) -> _Result:
        """Apply a function to the content of the graph's file."""
        self._check_version()
        try:
            return how(self._path.read_bytes())
        except OSError as error:
            raise self._unreadable(error) from None
        except ValueError as error:
            raise EncoderError(f"{self._path}: can't be opened: not an ONNX graph, it {error}") from None

    def _check_version(self) -> None:
        """Refuse a file that was replaced since the first call: sessions are opened lazily and must all read the same
        file.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        version = found.st_ino, found.st_size, found.st_mtime_ns
        self._version = self._version or version
        if version != self._version:
            raise EncoderError(f"{self._path}: the model was replaced while it was open: open the encoder again")

    def _unreadable(self, error: OSError) -> EncoderError:
        return EncoderError(f"{self._path}: can't be read: {error.strerror}")

    def _session(self, *outputs: str) -> Any:
        """A session that computes only these outputs."""
        if outputs not in self._sessions:
            whole = set(outputs) == set(self._outputs)
            self._check_version()
            model = str(self._path) if whole else self._read(lambda content: onnx_graph.with_outputs(content, outputs))
            session = self._open(model)
            width = 0 if self._output is None else self._output.width
            wanted = {"weights": [self._n_terms], "states": ["tokens", width], "dense": [1, width]}
            for out in session.get_outputs():
                if out.shape != wanted[out.name]:
                    raise EncoderError(f"{self._path}: {out.name} has the shape {out.shape}, not {wanted[out.name]}")
            self._sessions[outputs] = session
        return self._sessions[outputs]

    def _open(self, model: str | bytes, constants: Mapping[str, Any] | None = None) -> Any:
        """Open a session for a file or its content; `constants` replaces the values of some of its constants."""
        import onnxruntime  # slow to import

        options = onnxruntime.SessionOptions()
        # One text on each core is faster than one text on all cores.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not adds_bytes_exactly():  # use a slower, exact multiplication; only x86 needs it
            options.add_session_config_entry("session.x64quantprecision", "1")
        for name, value in (constants or {}).items():
            options.add_initializer(name, value)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen exception types
            raise EncoderError(f"{self._path}: can't be opened: {str(error).splitlines()[0]}") from None
        session.constants = constants  # kept alive: the session reads their memory
        return session

    def weights(self, ids: Sequence[list[int]]) -> SparseMatrix:
        """Weights of texts, each given as a non-empty list of token ids.

        Raises:
            EncoderError: The model doesn't know a token, or gives weights that are not numbers.
        """
        return self._matrix(self._run(self._one, ids, self._outputs[0]))

    def weights_and_dense(self, ids: Sequence[list[int]]) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """Weights of texts and their dense vectors, (n_texts, width) float32 of length 1, in one pass.

        Raises:
            EncoderError: As for `weights`, or the graph has no dense vectors.
        """
        found = self._run(self._both, ids, "states", "dense")
        return self._matrix([row for row, _ in found]), self._unit([vector for _, vector in found])

    def dense(self, ids: Sequence[list[int]]) -> NDArray[np.float32]:
        """Dense vectors alone, (n_texts, width) float32 of length 1.

        Raises:
            EncoderError: As for `weights_and_dense`.
        """
        self._dense_output()
        return self._unit(self._run(self._dense_one, ids, "dense"))

    def _run(self, one: Callable[[Any, list[int]], _Result], ids: Sequence[list[int]], *outputs: str) -> list[_Result]:
        """For each text, call a function with a session and the text's token ids; return the results."""
        self._check(max(map(max, ids)))
        with self._in_use():
            session = self._session(*outputs)
            return list(self._pool.map(partial(one, session), ids))

    def _matrix(self, rows: list[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> SparseMatrix:
        try:
            return SparseMatrix.from_rows(rows, self._n_terms)
        except ValueError as error:
            raise EncoderError(f"{self._path}: the model gives weights that are not numbers: {error}") from None

    def _unit(self, vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        found = np.concatenate(vectors)
        if not np.isfinite(found).all():
            raise EncoderError(f"{self._path}: the model gives dense vectors that are not numbers")
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.maximum(length, 1e-12), np.float32)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self._running.add(threading.get_ident())
        try:
            yield
        finally:
            self._running.discard(threading.get_ident())

    def _one(self, session: Any, ids: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if self._output is not None:
            return self._output.weights(self._states(session, ids), ids)
        dense = session.run(["weights"], {"ids": np.array(ids, np.int64)})[0]
        terms = dense.nonzero()[0]
        return terms, dense[terms]

    def _both(
        self, session: Any, ids: list[int]
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]:
        output = self._dense_output()
        states, dense = session.run(["states", "dense"], {"words": output.embeddings(ids)})
        return output.weights(states, ids), dense

    def _dense_one(self, session: Any, ids: list[int]) -> NDArray[np.float32]:
        return np.asarray(session.run(["dense"], {"words": self._dense_output().embeddings(ids)})[0])

    def _dense_output(self) -> OutputLayer:
        if self._output is None or not self.has_dense:
            raise EncoderError(f"{self._path}: this model has no dense vectors")
        return self._output

    def _states(self, session: Any, ids: list[int]) -> NDArray[np.float32]:
        assert self._output is not None
        return np.asarray(session.run(["states"], {"words": self._output.embeddings(ids)})[0])

    def origins(self, ids: list[int], terms: list[int]) -> list[int]:
        """For each term, the position of the token with its largest logit; -1 for a term without weight.

        The graph takes the maximum over the same integers, so the token is exact. The term's own frequency is ignored.
        An alternative is to run the model again without each word in turn, and to take the word whose removal lowers
        the weight most. On 83 expansions of Cranfield's abstracts with lsr-mini, both methods give the same word for
        50; for 66, the word chosen here is among the alternative's first three. Removing the word chosen here lowers
        the weight 92 % as much as removing the alternative's word.

        Raises:
            EncoderError: The model doesn't know a token, or lsr didn't make the graph.
        """
        self._check(max(ids))
        if self._output is not None:
            with self._in_use():
                states, wanted = self._states(self._session("states"), ids), np.array(terms, np.int64)
            there = np.isin(wanted, self._output.weights(states, ids)[0])
            return [int(p) for p in np.where(there, self._output.logits(states, wanted).argmax(0), -1)]
        if self._name == LEXICAL:  # a term's weight comes from its own token
            with self._in_use():
                dense = self._session("weights").run(["weights"], {"ids": np.array(ids, np.int64)})[0]
            return [ids.index(term) if term in ids and dense[term] > 0 else -1 for term in terms]
        if self._name == TRACED:
            return [-1] * len(terms)
        session, names = self._opened_up
        with self._in_use():
            weights, states, zero, words = session.run(["weights", *names], {"ids": np.array(ids, np.int64)})
        logits = (states - np.float64(zero)) @ words[terms].T.astype(np.float64)  # integers, so exact
        return [int(place) for place in np.where(weights[terms] > 0, logits.argmax(0), -1)]

    def by_token(self, ids: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """A text's terms and weights, and the logits of these terms for each token, up to a constant per term.

        Returns:
            (n,) int64 terms, (n,) float32 weights above zero, and (n_tokens, n) float32 logits.

        Raises:
            EncoderError: The model doesn't know a token, or the graph has no token states.
        """
        self._check(max(ids))
        if self._output is None:
            raise EncoderError(f"{self._path}: this graph gives weights of whole texts, not of tokens")
        with self._in_use():
            states = self._states(self._session("states"), ids)
        terms, weights = self._output.weights(states, ids)
        return terms, weights, self._output.logits(states, terms)

    def dense_states(self, ids: list[int]) -> NDArray[np.float32]:
        """(n_tokens, width) float32, the dense model's last states of a text's tokens; the first is the dense vector.

        Raises:
            EncoderError: The model doesn't know a token, or the graph has no dense vectors.
        """
        self._check(max(ids))
        words = self._dense_output().embeddings(ids)
        session = self._for_all_tokens
        with self._in_use():
            return np.asarray(session.run(["dense"], {"words": words})[0], np.float32)

    @cached_property
    def _for_all_tokens(self) -> Any:
        """A session whose last dense layer computes all tokens, not only the first."""
        import onnxruntime

        end = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([np.iinfo(np.int64).max]))
        return self._open(self._read(lambda content: onnx_graph.with_outputs(content, ["dense"])), {"to first": end})

    @cached_property
    def _name(self) -> str:
        """LEXICAL or TRACED if the graph has that name; "" otherwise."""
        content = self._read(bytes)
        return next((name for name in (LEXICAL, TRACED) if name.encode() in content), "")

    @cached_property
    def _opened_up(self) -> tuple[Any, list[str]]:
        """A session whose graph also outputs the operands of its output layer; only `origins` needs it."""

        def opened(content: bytes) -> tuple[bytes, list[str]]:
            found = re.search(rb"DynamicQuantizeLinear_\d{1,9}", content)
            if found is None:
                raise EncoderError(f"{self._path}: its output layer isn't one that lsr wrote")
            names = [f"{found[0].decode()}_0", f"{found[0].decode()}_2", "words"]
            return onnx_graph.with_outputs(content, ["weights", *names]), names

        model, names = self._read(opened)
        return self._open(model), names

    def _check(self, largest: int) -> None:
        if largest >= self._n_terms:
            raise EncoderError(f"{self._path}: the tokenizer gives token {largest}, the model knows {self._n_terms}")
