"""lsr.eval: quality and speed of indexes and runs. Names are imported on first use."""

from typing import TYPE_CHECKING

from lsr._lazy import lazy_names

_HOMES = {
    "Benched": "lsr.eval.bench",
    "Compared": "lsr.eval.compare",
    "Comparison": "lsr.eval.significance",
    "Dataset": "lsr.eval.datasets",
    "DatasetSettings": "lsr.eval.datasets",
    "Evaluation": "lsr.eval.evaluate",
    "ExperimentSettings": "lsr.eval.experiment.settings",
    "Findings": "lsr.eval.checks",
    "IndexSettings": "lsr.eval.experiment.settings",
    "Latency": "lsr.eval.latency",
    "Quality": "lsr.eval.evaluate",
    "Results": "lsr.eval.report.results",
    "SystemSettings": "lsr.eval.experiment.settings",
    "Tuned": "lsr.eval.tuning",
    "bench_index": "lsr.eval.bench",
    "bootstrap_interval": "lsr.eval.significance",
    "check_dataset": "lsr.eval.checks",
    "check_run": "lsr.eval.checks",
    "compare_seeds": "lsr.eval.significance",
    "compare_values": "lsr.eval.compare",
    "evaluate_index": "lsr.eval.evaluate",
    "evaluate_run": "lsr.eval.evaluate",
    "holm": "lsr.eval.significance",
    "kendall_tau": "lsr.eval.overlap",
    "open_dataset": "lsr.eval.datasets",
    "open_datasets": "lsr.eval.datasets",
    "parse_measures": "lsr.eval.measures",
    "rank_biased_overlap": "lsr.eval.overlap",
    "read_qrels": "lsr.io.runs",
    "read_results": "lsr.eval.report.load_results",
    "read_run": "lsr.io.runs",
    "read_values": "lsr.eval.compare",
    "reproduce": "lsr.eval.experiment.reproduce",
    "run_demo": "lsr.eval.demo",
    "run_experiment": "lsr.eval.experiment.experiment",
    "run_training": "lsr.eval.training.cli",
    "score_run": "lsr.eval.measures",
    "search_run": "lsr.eval.evaluate",
    "settings_grid": "lsr.eval.bench",
    "tune": "lsr.eval.tuning",
    "write_report": "lsr.eval.report.report",
}

if TYPE_CHECKING:
    from lsr.eval.bench import Benched as Benched
    from lsr.eval.bench import bench_index as bench_index
    from lsr.eval.bench import settings_grid as settings_grid
    from lsr.eval.checks import Findings as Findings
    from lsr.eval.checks import check_dataset as check_dataset
    from lsr.eval.checks import check_run as check_run
    from lsr.eval.compare import Compared as Compared
    from lsr.eval.compare import compare_values as compare_values
    from lsr.eval.compare import read_values as read_values
    from lsr.eval.datasets import Dataset as Dataset
    from lsr.eval.datasets import DatasetSettings as DatasetSettings
    from lsr.eval.datasets import open_dataset as open_dataset
    from lsr.eval.datasets import open_datasets as open_datasets
    from lsr.eval.demo import run_demo as run_demo
    from lsr.eval.evaluate import Evaluation as Evaluation
    from lsr.eval.evaluate import Quality as Quality
    from lsr.eval.evaluate import evaluate_index as evaluate_index
    from lsr.eval.evaluate import evaluate_run as evaluate_run
    from lsr.eval.evaluate import search_run as search_run
    from lsr.eval.experiment.experiment import run_experiment as run_experiment
    from lsr.eval.experiment.reproduce import reproduce as reproduce
    from lsr.eval.experiment.settings import ExperimentSettings as ExperimentSettings
    from lsr.eval.experiment.settings import IndexSettings as IndexSettings
    from lsr.eval.experiment.settings import SystemSettings as SystemSettings
    from lsr.eval.latency import Latency as Latency
    from lsr.eval.measures import parse_measures as parse_measures
    from lsr.eval.measures import score_run as score_run
    from lsr.eval.overlap import kendall_tau as kendall_tau
    from lsr.eval.overlap import rank_biased_overlap as rank_biased_overlap
    from lsr.eval.report.load_results import read_results as read_results
    from lsr.eval.report.report import write_report as write_report
    from lsr.eval.report.results import Results as Results
    from lsr.eval.significance import Comparison as Comparison
    from lsr.eval.significance import bootstrap_interval as bootstrap_interval
    from lsr.eval.significance import compare_seeds as compare_seeds
    from lsr.eval.significance import holm as holm
    from lsr.eval.training.cli import run_training as run_training
    from lsr.eval.tuning import Tuned as Tuned
    from lsr.eval.tuning import tune as tune
    from lsr.io.runs import read_qrels as read_qrels
    from lsr.io.runs import read_run as read_run

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
