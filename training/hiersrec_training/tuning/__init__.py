"""The settings of a training, tuned on the shop's own data: ``hiersrec tune``."""
