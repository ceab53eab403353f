"""Builds and checks what is published: ``python -m release --help``, run by ``scripts/wheels``."""
