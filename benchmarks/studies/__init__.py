"""The paper's experiments, and what it leaves open. A module is a command: ``python -m benchmarks.studies.<name>``."""
