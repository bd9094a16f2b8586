"""load_encoder: open an encoder by its name, whatever the layout of its files.

    "bm25", "lsr-mini", …       the built-in encoders
    "ease"                      BM25 with queries expanded by a term-term matrix
    "csr:lsr-mini", "ncl:…"     sparse codes over a model's dense vectors, learned from the documents
    "latent:lsr-mini"           latents of a dense model's token states as terms of BM25, learned from the documents
    "late:lsr-mini"             fused vectors of a model's token vectors, for late interaction
    a folder with encoder.json  files written by an encoder's `save`
    ... with modules.json       sentence-transformers: Transformer + SpladePooling, or a Router with a tower
                                or a SparseStaticEmbedding for queries
    ... with idf.json           OpenSearch: a masked-LM checkpoint and a table of query weights by token
    ... with config.json        a plain masked-LM checkpoint

A name "organisation/name" that is not a folder is looked up on the Hugging Face hub. Only the files of other libraries
are read; their code isn't run.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from lsr.console import warn
from lsr.encode import model_files as files
from lsr.encode.autoencoder import CodeSettings
from lsr.encode.base import CONFIG_FILE, Encoder, read_config
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.codes import CsrEncoder
from lsr.encode.ease import EaseEncoder
from lsr.encode.entities import EntityEncoder, read_entities
from lsr.encode.hybrid import HybridEncoder, open_parts
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.late import LateEncoder
from lsr.encode.latent_terms import SETTINGS, LatentTermsEncoder
from lsr.encode.reading import POOLING, TransformerSettings, require_known, transformer_settings
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TOKENIZER_FILE, TextTokenizer
from lsr.encode.tower import ModelOptions, Tower
from lsr.errors import CheckpointWarning, EncoderError

_BM25_SETTINGS = ("k1", "b", "language", "stop_words", "pivot")
_TOWER_SETTINGS = ("pooling", "saturation", "max_length")
_MODEL_SETTINGS = (*_TOWER_SETTINGS, "top_k", "max_ratio", "device", "batch_tokens", "query_model", "lexical")
_CODE_SETTINGS = ("top_k", "latents")
# Encoders over another model, with the settings that may replace the stored ones.
_OVER_A_MODEL: dict[str, tuple[type[CsrEncoder | LateEncoder | LatentTermsEncoder], tuple[str, ...]]] = {
    CsrEncoder.type: (CsrEncoder, ("top_k",)),
    LateEncoder.type: (LateEncoder, (*_TOWER_SETTINGS, "top_k")),
    LatentTermsEncoder.type: (LatentTermsEncoder, ()),
}
_ACTIVATIONS = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
_TRANSFORMER_CONFIGS = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]


class EncoderOptions(ModelOptions, total=False):
    """Settings of `load_encoder`, which explains them."""

    query_model: str | PathLike[str] | None
    lexical: float | None
    k1: float
    b: float
    language: str
    stop_words: str
    pivot: float | Literal["mean"]
    latents: int
    entities: str | PathLike[str]


def load_encoder(name: str | PathLike[str], **settings: Unpack[EncoderOptions]) -> Encoder:
    """Open an encoder.

    Args:
        name: "bm25", "lsr-mini", a folder, or a model of the Hugging Face hub.
        settings: For "bm25" and "ease": k1, b, language, stop_words and pivot, see `BM25Encoder`. For models: pooling,
            saturation and max_length of the documents' tower (and of the queries' tower, if it is the same) replace the
            checkpoint's settings; top_k and max_ratio prune documents; query_model is another checkpoint for queries
            (for an `InferenceFreeEncoder`, its weights are averaged with those of the table); lexical is the weight of
            BM25's score, which is added to the model's score (`HybridEncoder`), 0 for none; for device and batch_tokens
            see `SpladeEncoder`. For "csr:MODEL" and "ncl:MODEL": top_k and latents, see `CsrEncoder`. For "late:MODEL":
            top_k, see `LateEncoder`. For "latent:MODEL": top_k, latents, k1 and b, see `LatentTermsEncoder`. With these
            names, all other settings go to the model.
            For every encoder: entities, a file of entities (`EntityEncoder`).

    Raises:
        EncoderError: The encoder or a setting is unknown, or files are missing or damaged.

    Examples:
        >>> load_encoder("bm25", language="german", k1=1.2)  # doctest: +ELLIPSIS
        <lsr.encode.bm25.BM25Encoder object at ...>
    """
    given: dict[str, Any] = {**settings}
    if (entities := given.pop("entities", None)) is not None:
        return EntityEncoder(load_encoder(name, **given), read_entities(entities))
    if name == BM25Encoder.type:
        _refuse_unknown(given, _BM25_SETTINGS, "bm25")
        return BM25Encoder(**given)
    if name == EaseEncoder.type:
        _refuse_unknown(given, _BM25_SETTINGS, "ease")
        return EaseEncoder(BM25Encoder(**given))
    objective, _, model = str(name).partition(":")
    if objective in ("csr", "ncl", "latent") and model and given.get("query_model") is not None:
        raise _no_query_model(name)
    if objective in ("csr", "ncl") and model:
        return _codes_over(objective, model, given)
    if objective == "latent" and model:
        return _latent_terms_over(model, given)
    if objective == LateEncoder.type and model:
        top_k = {"top_k": given.pop("top_k")} if given.get("top_k") is not None else {}
        opened = load_encoder(model, **given)
        if given.get("query_model") is not None and opened.query_fingerprint is not None:
            raise _no_query_model(name)
        return LateEncoder(opened, **top_k)
    folder = files.locate(name)
    if (folder / CONFIG_FILE).is_file():
        return _open_saved(folder, given)
    _refuse_unknown(given, _MODEL_SETTINGS, str(name))
    reference = str(folder) if Path(name).is_dir() else str(name)
    lexical = given.pop("lexical", None)
    encoder = _read_layout(reference, folder).encoder(given)
    encoder.check()
    return HybridEncoder(encoder, BM25Encoder(), lexical) if lexical else encoder


def as_encoder(encoder: Encoder | str | PathLike[str] | None) -> Encoder | None:
    """Return an encoder as it is, or open it if it is a name; None stays None.

    Raises:
        TypeError: The value is neither an encoder nor a name.
    """
    if isinstance(encoder, str | PathLike):
        return load_encoder(encoder)
    if encoder is not None and not isinstance(encoder, Encoder):
        raise TypeError(f"an encoder, or its name or folder, is needed, got {type(encoder).__name__}")
    return encoder


def load_encoder_files(content: Mapping[str, bytes], **settings: Unpack[EncoderOptions]) -> Encoder:
    """Open an encoder from `Encoder.query_files`. It can encode documents only while the model is at its original path.

    Args:
        content: Content of each file by its name.
        settings: As for `load_encoder`.

    Raises:
        EncoderError: The files are damaged, or a setting is unknown.
    """
    with tempfile.TemporaryDirectory() as temporary:  # all files are read into memory before the folder is deleted
        folder = Path(temporary)
        for name, data in content.items():
            files.inside(folder, name).write_bytes(data)
        return _open_saved(folder, {**settings}, whole=False)


def _refuse_unknown(settings: Mapping[str, Any], known: tuple[str, ...], name: str) -> None:
    for setting in settings:
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise EncoderError(f"{name}: no setting {setting!r}{hint} There are: {', '.join(known)}")


def _open_saved(
    folder: Path, settings: dict[str, Any], whole: bool = True, config: dict[str, Any] | None = None
) -> Encoder:
    """Open lsr's own layout. With `whole`, the model's files must be there, too. `config` is given for a part of an
    encoder, such as the base of an entity encoder.
    """
    config = read_config(folder) if config is None else config
    kind = config.get("type")
    if kind == EntityEncoder.type:
        if not isinstance(config.get("base"), dict) or config["base"].get("type") == kind:
            raise EncoderError(f"{folder / CONFIG_FILE}: not a whole encoder of entities")
        return EntityEncoder.load(folder, config, _open_saved(folder, settings, whole, config["base"]))
    if kind == BM25Encoder.type:
        _refuse_unknown(settings, (), "a saved bm25 encoder")
        return BM25Encoder.load(folder, config)
    if kind == EaseEncoder.type:
        _refuse_unknown(settings, (), "a saved ease encoder")
        return EaseEncoder.load(folder, config)
    if kind in _OVER_A_MODEL:
        opened, known = _OVER_A_MODEL[kind]
        _refuse_unknown(settings, (*known, "device", "batch_tokens"), f"a saved encoder of type {kind}")
        over = opened.load(folder, config, **settings)
        if whole:
            over.check()
        return over
    _refuse_unknown(settings, _MODEL_SETTINGS, f"an encoder of type {kind}")
    settings = dict(settings)
    weight, bm25 = settings.pop("lexical", None), None
    if kind == HybridEncoder.type:
        config, bm25, its_weight = open_parts(folder, config)
        kind = config["type"]
        weight = its_weight if weight is None else weight
    query_model = settings.pop("query_model", None)
    encoder: SpladeEncoder | InferenceFreeEncoder
    if kind == SpladeEncoder.type:
        encoder = SpladeEncoder.load(folder, config, **settings)
        if query_model is not None:
            query = _query_tower(query_model)
            encoder = SpladeEncoder(
                encoder.document,
                query,
                top_k=encoder.top_k,
                max_ratio=encoder.max_ratio,
                device=encoder.device,
                batch_tokens=encoder.batch_tokens,
            )
            encoder.check()
    elif kind == InferenceFreeEncoder.type:
        encoder = InferenceFreeEncoder.load(folder, config, **settings)
        if query_model is not None:
            encoder = encoder.beside(SpladeEncoder(_query_tower(query_model)))
            encoder.check_query_model()  # without `whole`, nothing else checks it
    else:
        learned = (SpladeEncoder, InferenceFreeEncoder, HybridEncoder, CsrEncoder)
        types = ", ".join(
            one.type for one in (BM25Encoder, *learned, EaseEncoder, EntityEncoder, LateEncoder, LatentTermsEncoder)
        )
        raise EncoderError(f"{folder / CONFIG_FILE}: type {kind!r}; this version of lsr knows {types}")
    if whole:
        encoder.check()
    return HybridEncoder(encoder, bm25 or BM25Encoder(), weight) if weight else encoder


def _no_query_model(name: str | PathLike[str]) -> EncoderError:
    return EncoderError(f"{name}: no setting 'query_model': this encoder encodes queries with the documents' model")


def _codes_over(objective: str, model: str, settings: dict[str, Any]) -> CsrEncoder:
    """An encoder whose codes are not learned yet."""
    how = {name: settings.pop(name) for name in _CODE_SETTINGS if settings.get(name) is not None}
    return CsrEncoder(load_encoder(model, **settings), settings=CodeSettings(objective=objective, **how))  # type: ignore[arg-type]


def _latent_terms_over(model: str, settings: dict[str, Any]) -> LatentTermsEncoder:
    """An encoder whose latents are not learned yet."""
    how = {name: settings.pop(name) for name in ("top_k", "k1", "b") if settings.get(name) is not None}
    latents = settings.pop("latents", None) or SETTINGS.latents
    return LatentTermsEncoder(load_encoder(model, **settings), settings=replace(SETTINGS, latents=latents), **how)


def _query_tower(name: str | PathLike[str]) -> Tower:
    """The query tower of another model."""
    folder = files.locate(name)
    if (folder / CONFIG_FILE).is_file():
        config = read_config(folder)
        if config["type"] != SpladeEncoder.type:
            raise EncoderError(f"query_model {name}: a {config['type']} encoder; a masked-LM checkpoint is needed")
        return SpladeEncoder.from_config(config, folder, None).query
    layout = _read_layout(str(folder) if Path(name).is_dir() else str(name), folder)
    return layout.query or layout.document


# --- other libraries' layouts -------------------------------------------------------------------------------


@dataclass
class _Layout:
    """A checkpoint of another library.

    Attributes:
        document: The documents' tower.
        query: The queries' tower, if it differs from the documents' tower.
        table: (n,) float32, query weights, for inference-free models.
        tokenizer: The queries' tokenizer, if they have one of their own.
        query_length: Number of tokens read from a query, if documents have another limit.
        query_prompt: Text before every query.
    """

    document: Tower
    query: Tower | None = None
    table: NDArray[np.float32] | None = None
    tokenizer: TextTokenizer | None = None
    query_length: int | None = None
    query_prompt: str = ""

    def encoder(self, settings: dict[str, Any]) -> SpladeEncoder | InferenceFreeEncoder:
        """Make the encoder; settings replace those of the checkpoint."""
        settings = dict(settings)
        how = {name: settings.pop(name) for name in _TOWER_SETTINGS if settings.get(name) is not None}
        query_model = settings.pop("query_model", None)
        document = replace(self.document, **how)
        if self.table is not None:
            encoder = SpladeEncoder(document, **settings)
            model = None if query_model is None else SpladeEncoder(_query_tower(query_model))
            return InferenceFreeEncoder(
                encoder,
                self.table,
                self.tokenizer,
                max_length=self.query_length,
                prompt=self.query_prompt,
                query_model=model,
            )
        length = self.query_length or document.max_length
        query = self.query or replace(document, prompt=self.query_prompt, max_length=length)
        if query_model is not None:
            query = _query_tower(query_model)
        return SpladeEncoder(document, query, **settings)


def _read_layout(reference: str, folder: Path) -> _Layout:
    """Find out which library's layout a folder has, and read it."""
    if (folder / "modules.json").is_file():
        return _read_sentence_transformers(reference, folder)
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        files.model_config(folder)
        if not (folder / "idf.json").is_file():
            return _Layout(Tower.open(reference))
        tower = Tower.open(reference, max_length=_text_limit(folder))
        tokenizer = TextTokenizer.open(folder)
        table = token_table(folder / "idf.json", tokenizer)
        return _Layout(tower, table=table, tokenizer=tokenizer, query_length=files.tokenizer_limit(folder))
    raise EncoderError(
        f"{folder}: not an encoder: it has none of {CONFIG_FILE} (lsr), modules.json (sentence-transformers) and "
        "config.json (a checkpoint of transformers)"
    )


_Module = tuple[str, str]  # kind of module, path in the checkpoint


def _read_sentence_transformers(reference: str, folder: Path) -> _Layout:
    listed = files.read_json(folder / "modules.json")
    try:
        modules = [(_kind(module["type"]), str(module["path"])) for module in listed]
    except (TypeError, KeyError, AttributeError) as error:
        raise EncoderError(f"{folder / 'modules.json'}: can't be read: {error!r}") from None
    whole = files.read_object(folder / "config_sentence_transformers.json")
    prompts = whole.get("prompts") or {}
    query_prompt, document_prompt = (str(prompts.get(name) or "") for name in ("query", "document"))
    kept = whole.get("max_active_dims")
    if (similarity := whole.get("similarity_fn_name")) not in (None, "dot"):
        warn(
            f"{folder}: this model compares vectors by {similarity}; an index of lsr compares them by dot product",
            CheckpointWarning,
        )

    if [kind for kind, _ in modules] in (["Router"], ["Asym"]):
        routes = _routes(folder, modules[0][1])
        document = _read_tower(reference, folder, routes["document"], document_prompt, kept, "document")
        if [kind for kind, _ in routes["query"]] != ["SparseStaticEmbedding"]:
            query = _read_tower(reference, folder, routes["query"], query_prompt, kept, "query")
            return _Layout(document, query)
        at = files.inside(folder, routes["query"][0][1])
        limit = files.tokenizer_limit(at)
        if kept is not None and (limit is None or limit > kept):
            raise EncoderError(
                f"{folder}: max_active_dims {kept} would prune queries, too, which isn't supported if a "
                "SparseStaticEmbedding encodes them"
            )
        tokenizer = TextTokenizer.open(at)
        table = _static_table(folder, at, tokenizer)
        return _Layout(document, None, table, tokenizer, limit, query_prompt)
    document, query = (
        _read_tower(reference, folder, modules, prompt, kept, side)
        for prompt, side in ((document_prompt, "document"), (query_prompt, "query"))
    )
    length = query.max_length if query.max_length != document.max_length else None
    return _Layout(document, query_length=length, query_prompt=query_prompt)


def _kind(qualified: str) -> str:
    return qualified.rsplit(".", 1)[-1]


def _routes(folder: Path, path: str) -> dict[str, list[_Module]]:
    """The modules of a Router for queries and documents."""
    at = files.inside(folder, path)
    config = files.read_object(at / "router_config.json") or files.read_object(at / "config.json")
    try:
        kinds = {key: _kind(value) for key, value in config["types"].items()}
        structure = {route: [(kinds[key], key) for key in keys] for route, keys in config["structure"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"{at}: the Router's configuration can't be read: {error!r}") from None
    if not {"query", "document"} <= structure.keys():
        raise EncoderError(f"{at}: a Router with the routes {', '.join(structure)}; it needs query and document")
    prefix = f"{path}/" if path else ""
    return {route: [(kind, prefix + key) for kind, key in listed] for route, listed in structure.items()}


def _read_tower(
    reference: str, folder: Path, modules: list[_Module], prompt: str, kept: int | None, side: str
) -> Tower:
    """A tower from the modules Transformer and SpladePooling, for the side "query" or "document"."""
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"]):
        raise EncoderError(
            f"{folder}: made of the modules {', '.join(kinds) or 'none'}; a SPLADE encoder consists of "
            "Transformer and SpladePooling, alone or in a Router, where queries may have a SparseStaticEmbedding"
        )
    at, pooling = files.inside(folder, modules[0][1]), files.inside(folder, modules[1][1])
    paths = [at / name for name in _TRANSFORMER_CONFIGS]
    where, text = next(((path, c) for path in paths if (c := files.read_object(path))), (paths[0], {}))
    how = files.read_object(pooling / "config.json")
    require_known(pooling / "config.json", how, POOLING)
    activation = how.get("activation_function", "relu")
    if activation not in _ACTIVATIONS:
        raise EncoderError(f"{pooling}: activation_function {activation!r}; known are {', '.join(_ACTIVATIONS)}")
    settings = transformer_settings(where, text, side)
    return Tower.open(
        reference,
        modules[0][1],
        pooling=how.get("pooling_strategy", "max"),
        saturation=_ACTIVATIONS[activation],
        max_length=_text_limit(at, settings),
        prompt=prompt,
        lower_case=settings.lower_case,
        top_k=kept,
        tokenizer=settings.tokenizer,
    )


def _text_limit(folder: Path, settings: TransformerSettings | None = None) -> int | None:
    """Number of tokens that are read, by the rules of sentence-transformers; None if no file gives it."""
    settings = settings or TransformerSettings()
    limits = [files.position_limit(folder)]
    if settings.truncation:
        limits.append(settings.max_length or files.tokenizer_limit(folder))
    return min((limit for limit in limits if limit is not None), default=None)


def _static_table(folder: Path, at: Path, tokenizer: TextTokenizer) -> NDArray[np.float32]:
    """The weights of a SparseStaticEmbedding."""
    path = files.read_object(at / "config.json").get("path")
    if isinstance(path, str) and path.endswith(".json"):
        places = [files.inside(at, path), files.inside(folder, path)]
        return token_table(next((place for place in places if place.is_file()), places[0]), tokenizer)
    if (at / "model.safetensors").is_file():
        return files.read_tensor(at / "model.safetensors", "weight")
    raise EncoderError(
        f"{at}: no model.safetensors with the table of query weights. A pickled file (pytorch_model.bin) "
        "can run code when it is read, so it isn't opened; convert it if you trust it: "
        "SparseEncoder(FOLDER).save_pretrained(FOLDER)"
    )


def token_table(path: Path, tokenizer: TextTokenizer) -> NDArray[np.float32]:
    """Read a table of query weights from {token: weight}."""
    weights = files.read_object(path)
    table = np.zeros(tokenizer.size, np.float32)
    known = 0
    for token, weight in weights.items():
        if not isinstance(weight, int | float):
            raise EncoderError(f"{path}: the weight of {token!r} is {weight!r}, not a number")
        term = tokenizer.term(token)
        if term is not None:
            table[term] = weight
            known += 1
    if not known:
        raise EncoderError(f"{path}: none of its {len(weights)} tokens is known to the tokenizer ({TOKENIZER_FILE})")
    return table
