"""``python -m hiersrec_training DATA --out RUN ...``, the same as ``hiersrec train``: what ``torchrun -m`` starts."""

import sys

from hiersrec_sdk.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]], prog_name="hiersrec")
