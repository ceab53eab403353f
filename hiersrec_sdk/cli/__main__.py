"""``python -m hiersrec_sdk.cli``, the same as ``hiersrec``."""

from hiersrec_sdk.cli.main import main

if __name__ == "__main__":
    main(prog_name="hiersrec")
