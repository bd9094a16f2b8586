"""lsr.train: losses, regularizers, data, and the training loop. Names are imported on first use."""

from typing import TYPE_CHECKING

from lsr._lazy import lazy_names

_HOMES = {
    "DataSettings": "lsr.train.settings",
    "CrossEncoderTeacher": "lsr.train.cross_encoder",
    "DenseTeacher": "lsr.train.teachers",
    "Example": "lsr.train.data",
    "Helpers": "lsr.train.trainer",
    "LossSettings": "lsr.train.settings",
    "MiningReport": "lsr.train.mining",
    "MiningSettings": "lsr.train.mining",
    "ModelSettings": "lsr.train.settings",
    "OptimizerSettings": "lsr.train.settings",
    "PretrainSettings": "lsr.train.settings",
    "QuerySettings": "lsr.train.settings",
    "RegularizerSettings": "lsr.train.settings",
    "SparseTeacher": "lsr.train.teachers",
    "Teacher": "lsr.train.teachers",
    "TeacherSettings": "lsr.train.settings",
    "TrainSettings": "lsr.train.settings",
    "Trainer": "lsr.train.trainer",
    "TrainingData": "lsr.train.data",
    "TrainingSource": "lsr.train.sources",
    "ValidationSettings": "lsr.train.settings",
    "info_nce": "lsr.train.losses",
    "kl": "lsr.train.losses",
    "margin_mse": "lsr.train.losses",
    "mine_negatives": "lsr.train.mining",
    "open_training": "lsr.train.data",
    "run_training": "lsr.eval.training.cli",
}

if TYPE_CHECKING:
    from lsr.eval.training.cli import run_training as run_training
    from lsr.train.cross_encoder import CrossEncoderTeacher as CrossEncoderTeacher
    from lsr.train.data import Example as Example
    from lsr.train.data import TrainingData as TrainingData
    from lsr.train.data import open_training as open_training
    from lsr.train.losses import info_nce as info_nce
    from lsr.train.losses import kl as kl
    from lsr.train.losses import margin_mse as margin_mse
    from lsr.train.mining import MiningReport as MiningReport
    from lsr.train.mining import MiningSettings as MiningSettings
    from lsr.train.mining import mine_negatives as mine_negatives
    from lsr.train.settings import DataSettings as DataSettings
    from lsr.train.settings import LossSettings as LossSettings
    from lsr.train.settings import ModelSettings as ModelSettings
    from lsr.train.settings import OptimizerSettings as OptimizerSettings
    from lsr.train.settings import PretrainSettings as PretrainSettings
    from lsr.train.settings import QuerySettings as QuerySettings
    from lsr.train.settings import RegularizerSettings as RegularizerSettings
    from lsr.train.settings import TeacherSettings as TeacherSettings
    from lsr.train.settings import TrainSettings as TrainSettings
    from lsr.train.settings import ValidationSettings as ValidationSettings
    from lsr.train.sources import TrainingSource as TrainingSource
    from lsr.train.teachers import DenseTeacher as DenseTeacher
    from lsr.train.teachers import SparseTeacher as SparseTeacher
    from lsr.train.teachers import Teacher as Teacher
    from lsr.train.trainer import Helpers as Helpers
    from lsr.train.trainer import Trainer as Trainer

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
