"""Entities as terms of an encoder's vectors (after DyVo, arXiv 2410.07722).

    weight of an entity = log1p(number of mentions); in queries, multiplied by `weight`

A mention is the longest sequence of words that is the name or an alias of an entity; if n entities share an alias, a
mention counts 1/n for each. So two spellings of a place give the same term, and explanations show it. In the
vocabulary, entities are named "entity:NAME" and precede the encoder's terms.

Unlike in DyVo, mentions are found by their words alone, without dense candidates, and nothing is trained.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode import portable
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.lexicon import Lexicon
from lsr.errors import DataError, EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

ENTITIES_FILE = "entities.json"
PREFIX = "entity:"
_WORD = re.compile(r"\w+")
WEIGHT = 0.1  # chosen with BM25 on the World Factbook's training queries; a larger weight finds more, but ranks worse
_MOST = 20  # further mentions of an entity don't count


@dataclass(frozen=True)
class Entity:
    """An entity.

    Attributes:
        name: Unique name.
        aliases: Other names.
    """

    name: str
    aliases: tuple[str, ...] = ()


def read_entities(path: str | PathLike[str]) -> list[Entity]:
    """Read entities from JSON lines, {"name": ..., "aliases": [...]}.

    Raises:
        DataError: A line has another form.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            name, aliases = row["name"], row.get("aliases", [])
            if not all(isinstance(one, str) for one in (name, *aliases)) or isinstance(aliases, str):
                raise TypeError("names are texts")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f'not {{"name": ..., "aliases": [...]}}: {error}', f"{path}:{number}") from None
        found.append(Entity(name, tuple(aliases)))
    return found


class Linker:
    """Finds mentions of entities in texts, by the longest match of whole words, ignoring case.

    Args:
        entities: The entities.

    Raises:
        EncoderError: Two entities have the same name, or a name has no word.
    """

    def __init__(self, entities: Sequence[Entity]) -> None:
        self._known: dict[tuple[str, ...], list[int]] = {}
        self._longest: dict[str, int] = {}  # first word: number of words of the longest name that begins with it
        if len({entity.name for entity in entities}) != len(entities):
            raise EncoderError("two entities have the same name")
        for number, entity in enumerate(entities):
            for name in dict.fromkeys((entity.name, *entity.aliases)):
                words = tuple(_WORD.findall(name.lower()))
                if not words:
                    raise EncoderError(f"the entity {entity.name!r} has a name without words: {name!r}")
                numbers = self._known.setdefault(words, [])
                numbers += [] if number in numbers else [number]
                self._longest[words[0]] = max(self._longest.get(words[0], 0), len(words))

    def mentions(self, text: str) -> Iterator[tuple[list[int], int, int]]:
        """Yield (numbers of entities, start, end) of each mention, in characters."""
        found = [(match[0].lower(), *match.span()) for match in _WORD.finditer(text)]
        at = 0
        while at < len(found):
            for size in range(min(self._longest.get(found[at][0], 0), len(found) - at), 0, -1):
                if numbers := self._known.get(tuple(word for word, _, _ in found[at : at + size])):
                    yield numbers, found[at][1], found[at + size - 1][2]
                    at += size
                    break
            else:
                at += 1


class EntityEncoder(Encoder):
    """An encoder with additional terms for entities.

    Args:
        base: BM25, or a learned encoder. A hybrid encoder isn't accepted: pass its learned part.
        entities: The entities.
        weight: Weight of an entity in a query; with BM25 as base, it is multiplied by the entity's IDF. 0 leaves
            entities out.

    Raises:
        EncoderError: The base is a hybrid encoder, the weight is negative, or two entities have the same name.
    """

    type = "entities"

    def __init__(self, base: Encoder, entities: Sequence[Entity], *, weight: float = WEIGHT) -> None:
        if base.living and not isinstance(base, BM25Encoder):
            raise EncoderError("entities need bm25 or a learned encoder, not a hybrid of both: take its learned part")
        if not 0 <= weight < math.inf:
            raise EncoderError(f"the weight of entities must be at least 0, got {weight}")
        self.base, self.entities, self.weight = base, tuple(entities), float(weight)
        self.linker = Linker(self.entities)
        self._tokens = [PREFIX + entity.name for entity in self.entities]
        self._lexicon: Lexicon | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        counts = None
        if self.living and self._lexicon is not None and self._lexicon.counted:
            counts = self._lexicon.counts(np.arange(len(self.entities))).tolist(), int(self._lexicon.n_docs)
        return _made, (type(self), self.base, self.entities, self.weight, counts)

    # --- the terms of an index ----------------------------------------------------------------------------------------

    @property
    def living(self) -> bool:  # type: ignore[override]
        """Whether the base is BM25."""
        return self.base.living

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """Whether the base needs `fit`."""
        return self.base.needs_fit

    def fit(self, texts: Iterable[str]) -> None:
        """Fit BM25, and count the documents of each entity."""
        counts, n_docs = np.zeros(len(self.entities), np.int64), 0

        def counted() -> Iterator[str]:
            nonlocal n_docs
            for text in texts:
                counts[list(self._mentioned(text))] += 1
                n_docs += 1
                yield text

        if self.base.needs_fit:
            self.base.fit(counted())
            self._lexicon = Lexicon.of_counts(self._tokens, counts.tolist(), n_docs)

    def over(self, lexicon: Lexicon | None) -> EntityEncoder:
        """Return a copy in which BM25 has the terms and counts of `lexicon`; None gives a copy without BM25's terms.

        With another base, return the encoder itself.
        """
        if not self.living:
            return self
        other = object.__new__(type(self))
        part = None if lexicon is None else lexicon.part(len(self.entities), "")
        other.__dict__.update(self.__dict__, base=self.base.over(part), _lexicon=lexicon)
        return other

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64: the base's factors; for entities the IDF if the base is BM25, else 1."""
        terms, first = np.asarray(terms, np.int64), len(self.entities)
        factors = np.ones(len(terms))
        factors[terms >= first] = self.base.query_factors(terms[terms >= first] - first)
        if self._lexicon is not None and self.living:
            df = self._lexicon.counts(terms[terms < first]).astype(np.float64)
            idf = np.log1p((np.maximum(self._lexicon.n_docs - df, 0) + 0.5) / (df + 0.5))
            factors[terms < first] = np.where(df > 0, idf, 0)
        return factors

    @property
    def vocabulary(self) -> Sequence[str]:
        """The entities, then the base's tokens."""
        return [*self._tokens, *self.base.vocabulary]

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return len(self.entities) + self.base.n_terms

    # --- encoding -----------------------------------------------------------------------------------------------------

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """The base's queries, and the entities that they mention."""
        texts, numbers = as_texts(texts), np.arange(len(self.entities))
        factors = self.weight * self.query_factors(numbers)
        rows = [{e: w * factors[e] for e, w in self._mentioned(text).items() if factors[e] > 0} for text in texts]
        return self._with(rows, self.base.encode_query(texts))

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """The base's documents, and the entities that they mention."""
        texts = as_texts(texts)
        rows = [self._mentioned(text) if self.weight else {} for text in texts]
        return self._with(rows, self.base.encode_document(texts))

    def _mentioned(self, text: str) -> dict[int, float]:
        counts: dict[int, float] = {}
        for numbers, _, _ in self.linker.mentions(text):
            for number in numbers:
                counts[number] = counts.get(number, 0.0) + 1 / len(numbers)
        return {number: math.log1p(min(count, _MOST)) for number, count in counts.items()}

    def _with(self, rows: list[dict[int, float]], base: SparseMatrix) -> SparseMatrix:
        first = len(self.entities)
        pairs = [
            (np.concatenate(([*row], terms.astype(np.int64) + first)), np.concatenate(([*row.values()], weights)))
            for row, (terms, weights) in zip(rows, base.rows(), strict=True)
        ]
        return SparseMatrix.from_rows([(t.astype(np.int64), w) for t, w in pairs], first + base.shape[1])

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Mentions of entities, and the base's terms."""
        found = [(number, a, b) for numbers, a, b in self.linker.mentions(text) for number in numbers]
        first = len(self.entities)
        found += [(first + term, a, b) for term, a, b in self.base.spans(text)]
        return sorted(found, key=lambda span: (span[1], span[0]))

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """Provided by the base; see `Encoder`."""
        return self.base.fillers(text)

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by the base; see `Encoder`."""
        return self.base.tokens(text)

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Provided by the base; see `Encoder`. Entities have no origin, because the text itself mentions them."""
        first = len(self.entities)
        found = self.base.origins(text, [term - first for term in terms if term >= first])
        return {term + first: span for term, span in found.items()}

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """Provided by the base; see `Encoder`. Entities are found in the whole text."""
        return self.base.room(texts, queries=queries)

    @property
    def query_fingerprint(self) -> Fingerprint | None:
        """Provided by the base; see `Encoder`."""
        return self.base.query_fingerprint

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the base and the entities."""
        base = self.base.fingerprint
        state = json.dumps([base.weights, self.weight, [[e.name, *e.aliases] for e in self.entities]])
        return replace(
            base,
            model=f"{base.model} + {len(self.entities)} entities",
            weights=digest([state.encode()]),
            tokenizer=digest([f"{base.tokenizer} entities".encode()]),
            vocabulary_size=None if self.living or base.vocabulary_size is None else self.n_terms,
            max_weight=None if base.max_weight is None else max(base.max_weight, math.log1p(_MOST) * 1.001),
        )

    # --- on disk ------------------------------------------------------------------------------------------------------

    def query_files(self) -> dict[str, bytes]:
        """The base's files, and the entities with their counts."""
        return self._with_entities(self.base.query_files())

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the base and the entities."""
        folder = Path(folder)
        self.base.save(folder)
        if not isinstance(self.base, BM25Encoder):
            portable.refuse(folder)
        write_files(folder, self._with_entities({CONFIG_FILE: (folder / CONFIG_FILE).read_bytes()}))

    def _with_entities(self, written: Mapping[str, bytes]) -> dict[str, bytes]:
        rows: dict[str, Any] = {"entities": [[entity.name, *entity.aliases] for entity in self.entities]}
        if self.living and self._lexicon is not None and self._lexicon.counted:
            counts = self._lexicon.counts(np.arange(len(self.entities))).tolist()
            rows |= {"df": counts, "n_docs": int(self._lexicon.n_docs)}
        config = config_bytes(self.type, weight=self.weight, base=json.loads(written[CONFIG_FILE]))
        return {**written, CONFIG_FILE: config, ENTITIES_FILE: json.dumps(rows, ensure_ascii=False).encode()}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], base: Encoder) -> EntityEncoder:
        """Open the files of `save` or `query_files`.

        Args:
            folder: The folder of the files.
            config: Content of `encoder.json`.
            base: The opened base encoder.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        try:
            rows = json.loads((folder / ENTITIES_FILE).read_bytes())
            names = [[str(one) for one in row] for row in rows["entities"]]
            made = cls(base, [Entity(name, tuple(aliases)) for name, *aliases in names], weight=config["weight"])
            if "df" in rows and made.living:
                df, n_docs = rows["df"], rows["n_docs"]
                if len(df) != len(names) or not all(
                    type(count) is int and 0 <= count < 2**62 for count in [*df, n_docs]
                ):
                    raise ValueError("counts are whole numbers, one for each entity")
                made._lexicon = Lexicon.of_counts(made._tokens, df, n_docs)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise EncoderError(f"{folder}: not a whole encoder of entities: {error!r}") from None
        return made


def _made(kind: Any, base: Encoder, entities: Any, weight: float, counts: Any) -> EntityEncoder:
    made: EntityEncoder = kind(base, entities, weight=weight)
    if counts is not None:
        made._lexicon = Lexicon.of_counts(made._tokens, *counts)
    return made
