"""Fuzzes the SDK with damaged bundles and change files: ``python -m tests.fuzz``.

Each case is one integer. ``--target tables --seed 123`` repeats one, and says what was damaged.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if "SANITIZED_KERNEL" in os.environ:
    import tests.sanitized  # noqa: F401


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", help="what is damaged; repeatable; by default everything")
    parser.add_argument("--seed", type=int, help="run this case alone, in this process")
    parser.add_argument("--first", type=int, help="the first seed; by default the date")
    parser.add_argument("--cases", type=int, help="cases of each target")
    parser.add_argument("--minutes", type=float, help="how long; by default 1, if --cases is not given")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--hang", type=float, default=runner.HANG, help="seconds after which a case hangs")
    given = parser.parse_args()
    unknown = {*(given.target or ())} - {*TARGETS}
    if unknown:
        parser.error(f"there are the targets {', '.join(TARGETS)}, and no {', '.join(sorted(unknown))}")
    targets = {name: make for name, make in TARGETS.items() if name in (given.target or TARGETS)}
    if given.seed is not None:
        ends = [runner.run_one(make, name, given.seed, print) for name, make in targets.items()]
        return int(any(ends))
    first = given.first if given.first is not None else int(datetime.now(UTC).strftime("%Y%m%d%H%M")) * 1_000
    minutes = 1.0 if given.minutes is None and given.cases is None else given.minutes
    print(f"first seed {first}, kernel {_kernel.__file__}, {_kernel.isa()}", flush=True)

    warm_up(numba=given.cases is None)

    def show(found: runner.Finding) -> None:
        print(f"{found.seed} {found.title}", flush=True)

    report = runner.run(
        targets,
        first=first,
        cases=given.cases,
        seconds=None if minutes is None else 60 * minutes,
        processes=given.processes,
        hang=given.hang,
        found=show,
    )
    print(f"\n{report}")
    return int(bool(report.findings))


if __name__ == "__main__":
    from hiersrec_sdk import _kernel
    from tests.fuzz import runner
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.warm import warm_up

    sys.exit(main())
