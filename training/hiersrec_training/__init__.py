"""Training: from a shop's click log to a model.

>>> from hiersrec_training import PrepareOptions, prepare
"""

from hiersrec_training.data.prepare import PrepareOptions, prepare

__all__ = ["PrepareOptions", "prepare"]
