"""Programs that try for minutes or hours what the tests try for seconds: ``python -m tests.stress.NAME --help``."""
