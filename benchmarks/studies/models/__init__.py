"""Published neural recommenders to set ours beside, each in one short file, trained and measured alike by ``fit``."""

from benchmarks.studies.models.core import CORE
from benchmarks.studies.models.fit import Settings, fit
from benchmarks.studies.models.gru4rec import GRU4Rec
from benchmarks.studies.models.sasrec import SASRec
from benchmarks.studies.models.session_model import SessionModel

MODELS: dict[str, type[SessionModel]] = {"gru4rec": GRU4Rec, "sasrec": SASRec, "core": CORE}

__all__ = ["CORE", "MODELS", "GRU4Rec", "SASRec", "SessionModel", "Settings", "fit"]
