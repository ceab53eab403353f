"""The command line ``hiersrec``."""
