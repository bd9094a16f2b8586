"""Encoders turn texts into sparse vectors. Names are imported on first use, so this import doesn't load torch."""

from typing import TYPE_CHECKING

from lsr._lazy import lazy_names

_HOMES = {
    "BM25Encoder": "lsr.encode.bm25",
    "CodeSettings": "lsr.encode.autoencoder",
    "Codes": "lsr.encode.codes",
    "CsrEncoder": "lsr.encode.codes",
    "EaseEncoder": "lsr.encode.ease",
    "Encoder": "lsr.encode.base",
    "EncoderOptions": "lsr.encode.load",
    "Entity": "lsr.encode.entities",
    "EntityEncoder": "lsr.encode.entities",
    "HybridEncoder": "lsr.encode.hybrid",
    "InferenceFreeEncoder": "lsr.encode.inference_free",
    "Passages": "lsr.encode.passages",
    "Report": "lsr.encode.corpus",
    "SpladeEncoder": "lsr.encode.splade",
    "Tower": "lsr.encode.tower",
    "encode_corpus": "lsr.encode.corpus",
    "encode_to": "lsr.encode.write",
    "load_encoder": "lsr.encode.load",
    "load_encoder_files": "lsr.encode.load",
}

if TYPE_CHECKING:
    from lsr.encode.autoencoder import CodeSettings as CodeSettings
    from lsr.encode.base import Encoder as Encoder
    from lsr.encode.bm25 import BM25Encoder as BM25Encoder
    from lsr.encode.codes import Codes as Codes
    from lsr.encode.codes import CsrEncoder as CsrEncoder
    from lsr.encode.corpus import Report as Report
    from lsr.encode.corpus import encode_corpus as encode_corpus
    from lsr.encode.ease import EaseEncoder as EaseEncoder
    from lsr.encode.entities import Entity as Entity
    from lsr.encode.entities import EntityEncoder as EntityEncoder
    from lsr.encode.hybrid import HybridEncoder as HybridEncoder
    from lsr.encode.inference_free import InferenceFreeEncoder as InferenceFreeEncoder
    from lsr.encode.load import EncoderOptions as EncoderOptions
    from lsr.encode.load import load_encoder as load_encoder
    from lsr.encode.load import load_encoder_files as load_encoder_files
    from lsr.encode.passages import Passages as Passages
    from lsr.encode.splade import SpladeEncoder as SpladeEncoder
    from lsr.encode.tower import Tower as Tower
    from lsr.encode.write import encode_to as encode_to

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
