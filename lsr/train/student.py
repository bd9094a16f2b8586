"""The encoder that training changes: model, tokenizer and query weights, and how they are saved."""

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
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.load import token_table
from lsr.encode.model import start_model
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

_START = 256  # documents from which a new head is initialised
_IDF_SAMPLE = 20_000  # documents from which the queries' IDF is counted


class Student:
    """The model in training, with its tokenizer and the weights of query terms.

    Args:
        settings: Those of the run.
        sample: Returns n documents of the training data.
        device: Where tensors are.
        cache: Folder for the states of frozen layers.

    Attributes:
        tokenizer: Of documents and queries.
        vocabulary: The token of each term.
        absent: Terms that no vector may have: special and unused tokens.
        model: Makes term weights of tokens.
        network: Runs the model in training.
        table: Weights of query terms, for queries that need no model.
        idf: (n_terms,) float32 on `device`.
        names: {trained parameter: its name in checkpoints}

    Raises:
        EncoderError: The checkpoint to start from can't be used.
    """

    def __init__(
        self, settings: TrainSettings, sample: Callable[[int], list[str]], device: torch.device | str, cache: Path
    ) -> None:
        self._settings = settings
        how = settings.model
        checkpoint = files.locate(how.checkpoint)
        _check_lengths(checkpoint, settings)
        self.tokenizer = TextTokenizer.open(checkpoint)
        n_terms = int(files.model_config(checkpoint)["vocab_size"])
        if self.tokenizer.size > n_terms:
            raise EncoderError(
                f"{checkpoint}: the tokenizer has {self.tokenizer.size} tokens, the model knows {n_terms}; they don't "
                "belong together"
            )
        self.vocabulary = self.tokenizer.vocabulary(n_terms)
        unused = {term for term, token in enumerate(self.vocabulary) if token.startswith("[unused")}
        self.absent = sorted({term for term in self.tokenizer.special if term < n_terms} | unused)
        torch.manual_seed(settings.seed)
        first = self.tokenizer.ids(sample(_START), min(how.max_length, 128), special=True)
        self.model = start_model(
            checkpoint, how.head, how.pooling, how.saturation, n_terms, [row for row in first if row], self.absent
        )
        if how.dropout is not None:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = how.dropout
        self.network = Network(self.model, settings, str(device), cache)
        table, idf = self._first_table(n_terms, sample)
        table[self.absent] = 0
        self.idf = idf.to(device)
        kind = settings.queries.kind
        embeddings = None
        if kind == "projected":
            embeddings = self.model.backbone.get_input_embeddings().weight.detach()[:n_terms].cpu().clone()
        learned = kind in ("table", "projected")
        self.table = QueryTable(table, learned=learned, lexical=settings.lexical, embeddings=embeddings).to(device)
        parameters = [*self.model.named_parameters(), *self.table.named_parameters(prefix="table")]
        self.names: dict[nn.Parameter, str] = {p: name for name, p in parameters if p.requires_grad}
        if not self.names:
            raise EncoderError("nothing is left to train: all layers are frozen and the head has no weights of its own")

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
        """What is wrong with the vectors of some documents; None if they are not even finite."""
        self.model.eval()
        ids = self.tokenizer.ids(texts, self._settings.model.max_length, special=True)
        dense = torch.cat([self.network.forward([row], None) for row in ids])
        self.model.train()
        if not bool(torch.isfinite(dense).all()):
            return None
        return collapse_check.examine(
            SparseMatrix.from_dense(dense.cpu().numpy()), self.vocabulary, self.tokenizer.special
        )

    def save(self, folder: Path, step: int) -> None:
        """Write the encoder as it is now; the folder is replaced as a whole.

        Args:
            folder: Where.
            step: For the model card.

        Raises:
            OutputError: The disk is full, or the like.
        """
        work = folder.with_name(folder.name + ".partial")
        shutil.rmtree(work, ignore_errors=True)
        try:
            (work / "model").mkdir(parents=True)
            self.model.save(work / "model", self.tokenizer.content, merged_weights(self.model))
            encoder = self._encoder(work / "model")
            if self._settings.lexical:
                # BM25 is not fitted yet: that needs the corpus on which the encoder is used.
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

    def _encoder(self, checkpoint: Path) -> SpladeEncoder | InferenceFreeEncoder:
        how, queries = self._settings.model, self._settings.queries
        tower = Tower(
            str(checkpoint),
            pooling=how.pooling,
            saturation=how.saturation,
            max_length=how.max_length,
            head=how.head,
        )
        if queries.kind == "encoded":
            return SpladeEncoder(tower, replace(tower, max_length=queries.max_length))
        table = self.table.weights().detach().cpu().numpy()
        return InferenceFreeEncoder(SpladeEncoder(tower), table, self.tokenizer, max_length=queries.max_length)


def _check_lengths(checkpoint: Path, settings: TrainSettings) -> None:
    """Refuse lengths that the model can't read."""
    limit = files.position_limit(checkpoint)
    if limit is not None and settings.model.head == "causal-lm":
        limit //= 2  # the text is read twice
    for name, length in (("model", settings.model.max_length), ("queries", settings.queries.max_length)):
        if limit is not None and length > limit:
            raise EncoderError(f"{name}.max_length {length}: the model in {checkpoint} reads {limit} tokens at most")
