"""The table of baselines has all of them, with the defaults of their settings."""

from __future__ import annotations

import re

from hiersrec_training.baselines import KINDS
from tests.docs.blocks import ROOT


def test_the_table_has_every_baseline_and_setting() -> None:
    text = (ROOT / "docs/how-to/own_data.md").read_text("utf-8")
    table = text.partition("| `--baseline` |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", table, re.M))
    found = {
        name: {
            setting: float(value.replace("∞", "inf"))
            for setting, value in re.findall(r"`(\w+)` ([\d.∞]+)", row)
        }
        for name, row in rows.items()
    }
    assert found == {name: dict(defaults) for name, (_, defaults) in KINDS.items()}
