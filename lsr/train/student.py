"""The encoder in training: model, tokenizer and query weights, and how they are saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lsr.durable import replace_folder
from lsr.encode import model_files as files
from lsr.encode import portable
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.heads import Head
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.load import token_table
from lsr.encode.model import SparseModel, start_model
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.encode.tower import Tower
from lsr.errors import EncoderError, OutputError
from lsr.sparse import SparseMatrix
from lsr.train import collapse_check
from lsr.train.network import Network, merged_weights
from lsr.train.query_table import QueryTable, inverse_frequencies
from lsr.train.run_folder import tell_on_card
from lsr.train.settings import TrainSettings

_QUERY_HEADS = {"epic": "epic-query"}  # other heads serve both sides
_START = 256  # documents from which a new head is initialised
_IDF_SAMPLE = 20_000  # documents from which the queries' IDF is counted


class Student:
    """The model in training, with its tokenizer and the weights of query terms.

    Args:
        settings: Settings of the run.
        sample: Function that returns n documents of the training data.
        device: Device of the tensors.
        cache: Folder for the states of frozen layers.

    Attributes:
        tokenizer: Tokenizer of documents, and of queries without a model of their own.
        vocabulary: The token of each term.
        absent: Terms that no vector may have: special and unused tokens.
        model: Turns documents' tokens into term weights.
        network: Runs the model in training.
        query_tokenizer, query_model, query_network: The same for queries of the kind "encoded". They are the documents'
            objects, unless queries have a model or a head of their own.
        table: Weights of query terms, for queries that need no model.
        idf: (n_terms,) float32 on `device`.
        names: {trained parameter: name in checkpoints}.

    Raises:
        EncoderError: The checkpoint to start from can't be used.
    """

    def __init__(
        self, settings: TrainSettings, sample: Callable[[int], list[str]], device: torch.device | str, cache: Path
    ) -> None:
        self._settings = settings
        how = settings.model
        checkpoint = files.locate(how.checkpoint)
        _check_length(checkpoint, how.head, how.max_length, "model")
        own = settings.queries.checkpoint
        asking = checkpoint if own is None else files.locate(own)
        _check_length(asking, how.head, settings.queries.max_length, "queries")
        self.tokenizer, n_terms = _open_tokenizer(checkpoint)
        self.vocabulary = self.tokenizer.vocabulary(n_terms)
        unused = {term for term, token in enumerate(self.vocabulary) if token.startswith("[unused")}
        self.absent = sorted({term for term in self.tokenizer.special if term < n_terms} | unused)
        torch.manual_seed(settings.seed)
        first = self.tokenizer.ids(sample(_START), min(how.max_length, 128), special=True)
        first = [row for row in first if row]
        self.model = self._start(checkpoint, how.head, first)
        self.network = Network(self.model, settings, str(device), cache)
        self.query_tokenizer, self.query_model, self.query_network = self.tokenizer, self.model, self.network
        if own is not None:
            self.query_tokenizer, size = _open_tokenizer(asking)
            if size != n_terms or self.query_tokenizer.vocabulary(size) != self.vocabulary:
                raise EncoderError(
                    f"queries.checkpoint {own}: its vocabulary is not that of {how.checkpoint}, so their vectors would "
                    "have no terms in common"
                )
            self.query_model = self._start(asking, _QUERY_HEADS.get(how.head, how.head), first)
            apart = replace(settings, model=replace(how, checkpoint=own, freeze=0))
            self.query_network = Network(self.query_model, apart, str(device), cache)
        elif (head := self.model.head.queries()) is not self.model.head:
            self.query_model = SparseModel(self.model.backbone, head).train()
            self.query_network = self.network.with_model(self.query_model)
        table, idf = self._first_table(n_terms, sample)
        table[self.absent] = 0
        self.idf = idf.to(device)
        kind = settings.queries.kind
        embeddings = None
        if kind == "projected":
            embeddings = self.model.backbone.get_input_embeddings().weight.detach()[:n_terms].cpu().clone()
        learned = kind in ("table", "projected")
        self.table = QueryTable(table, learned=learned, lexical=settings.lexical, embeddings=embeddings).to(device)
        queries = self.query_model.named_parameters(prefix="queries") if own is not None else ()
        parameters = [*self.model.named_parameters(), *queries, *self.table.named_parameters(prefix="table")]
        self.names: dict[nn.Parameter, str] = {p: name for name, p in parameters if p.requires_grad}
        if not self.names:
            raise EncoderError("nothing is left to train: all layers are frozen and the head has no weights of its own")

    @property
    def heads(self) -> list[Head]:
        """The heads of documents and queries, each once."""
        return list(dict.fromkeys((self.model.head, self.query_model.head)))

    def _start(self, checkpoint: Path, head: str, first: list[list[int]]) -> SparseModel:
        how, never = self._settings.model, self.absent
        if head == "deepct":  # a word's weight is that of its first piece
            never = never + [term for term, token in enumerate(self.vocabulary) if token.startswith("##")]
        model = start_model(checkpoint, head, how.pooling, how.saturation, len(self.vocabulary), first, never)
        if how.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = how.dropout
        return model

    @torch.no_grad()
    def share_pretraining(self) -> None:
        """Copy the documents' pre-trained model to the queries' model, if both started from the same checkpoint."""
        same = self._settings.queries.checkpoint == self._settings.model.checkpoint
        if same and self.query_model is not self.model:
            self.query_model.load_state_dict(self.model.state_dict())

    def _first_table(self, n_terms: int, sample: Callable[[int], list[str]]) -> tuple[Tensor, Tensor]:
        """Initial weights of query terms and their IDF, (n_terms,) float32 each; ones where they aren't needed."""
        queries, length = self._settings.queries, self._settings.model.max_length
        kinds = self._settings.documents_regularizer.kind, self._settings.queries_regularizer.kind
        ones = torch.ones(n_terms)
        if queries.weights is not None:
            path = Path(queries.weights)
            if not path.is_file():
                raise EncoderError(f"queries.weights: no such file: {path}")
            given = token_table(path, self.tokenizer)
            if not np.isfinite(given).all():
                raise EncoderError(f"queries.weights: {path} has weights that are not finite")
            table = torch.from_numpy(np.pad(given, (0, max(0, n_terms - len(given))))[:n_terms])
            return table, table.clone()
        if queries.kind not in ("table", "idf") and "idf_flops" not in kinds:
            return ones, ones
        rows = self.tokenizer.ids(sample(_IDF_SAMPLE), length, special=False)
        idf, mean = inverse_frequencies(rows, n_terms)
        return {"idf": idf.clone(), "table": idf / mean}.get(queries.kind, ones), idf

    @torch.no_grad()
    def examine(self, texts: list[str]) -> collapse_check.Findings | None:
        """Check the vectors of some documents for a collapse; None if they aren't even finite."""
        self.model.eval()
        how = self._settings.model
        ids = self.tokenizer.ids([how.prompt + text for text in texts], how.max_length, special=True)
        dense = torch.cat([self.network.forward([row], None) for row in ids])
        self.model.train()
        if not bool(torch.isfinite(dense).all()):
            return None
        vectors = SparseMatrix.from_dense(dense.cpu().numpy())
        if how.top_k:
            vectors = vectors.top_k(how.top_k)
        return collapse_check.examine(vectors, self.vocabulary, self.tokenizer.special)

    def save(self, folder: Path, step: int) -> None:
        """Write the current encoder; an existing folder is replaced as a whole.

        Args:
            folder: The folder to write.
            step: The step, for the model card.

        Raises:
            OutputError: The encoder can't be written, for example because the disk is full.
        """
        work = folder.with_name(folder.name + ".partial")
        shutil.rmtree(work, ignore_errors=True)
        try:
            asking = self._settings.queries.checkpoint is not None
            for name in ("model", *(["queries"] if asking else [])):
                (work / name).mkdir(parents=True)
            self.model.save(work / "model", self.tokenizer.content, merged_weights(self.model))
            if asking:
                content = self.query_tokenizer.content
                self.query_model.save(work / "queries", content, merged_weights(self.query_model))
            encoder = self._encoder(work)
            if self._settings.lexical:
                # BM25 isn't fitted yet: it will be fitted to the corpus that the encoder is used on.
                weight = max(self.table.lexical.item(), 1e-6)
                HybridEncoder(encoder, BM25Encoder(), weight).save(work / "encoder")
            else:
                encoder.save(work / "encoder")
            tell_on_card(work / "encoder" / portable.CARD, self._settings, step)
            replace_folder(work / "encoder", folder)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{folder}: the encoder can't be written ({error})") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _encoder(self, work: Path) -> SpladeEncoder | InferenceFreeEncoder:
        how, queries = self._settings.model, self._settings.queries
        tower = Tower(
            str(work / "model"),
            pooling=how.pooling,
            saturation=how.saturation,
            max_length=how.max_length,
            prompt=how.prompt,
            top_k=how.top_k or None,
            head=how.head,
        )
        if queries.kind == "encoded":
            asking = replace(
                tower,
                checkpoint=tower.checkpoint if queries.checkpoint is None else str(work / "queries"),
                max_length=queries.max_length,
                prompt=queries.prompt,
                top_k=queries.top_k or None,
                head=_QUERY_HEADS.get(how.head, how.head),
            )
            return SpladeEncoder(tower, asking)
        table = self.table.weights().detach().cpu().numpy()
        return InferenceFreeEncoder(SpladeEncoder(tower), table, self.tokenizer, max_length=queries.max_length)


def _open_tokenizer(checkpoint: Path) -> tuple[TextTokenizer, int]:
    """The tokenizer, and the model's number of terms."""
    tokenizer = TextTokenizer.open(checkpoint)
    n_terms = int(files.model_config(checkpoint)["vocab_size"])
    if tokenizer.size > n_terms:
        raise EncoderError(
            f"{checkpoint}: the tokenizer has {tokenizer.size} tokens, the model knows {n_terms}; they don't "
            "belong together"
        )
    return tokenizer, n_terms


def _check_length(checkpoint: Path, head: str, length: int, name: str) -> None:
    """Refuse a length that the model can't read."""
    limit = files.position_limit(checkpoint)
    if limit is not None and head == "causal-lm":
        limit //= 2  # the text is read twice
    if limit is not None and length > limit:
        raise EncoderError(f"{name}.max_length {length}: the model in {checkpoint} reads {limit} tokens at most")
