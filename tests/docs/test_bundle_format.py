"""The page on the bundle format names everything that a bundle holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.bundle.tables import read_tables
from tests.docs.blocks import ROOT


def test_every_key_file_and_table_is_described(shop: Path) -> None:
    recommender = Recommender.load(shop / "bundle")
    catalog = recommender.catalog
    catalog.upsert([Item("sku-90001", ["Home", "Throws"], text="red throw")])
    catalog.move("sku-00040", "Men")
    catalog.set_bias(["sku-00017", "sku-90001"], 1.0)
    recommender.save(shop / "changed")
    config = json.loads((shop / "changed/config.json").read_text("utf-8"))
    names = {*config, *config["files"]}
    for file in ("catalog.safetensors", "delta.safetensors"):
        names |= {
            re.sub(r"\.\d+(\.|$)", r".<level>\1", name) for name in read_tables(shop / "changed" / file)
        }
    page = (ROOT / "docs/bundle_format.md").read_text("utf-8")
    described = set(re.findall(r"`([^`\n]+)`", page))
    strings = {f"{name}.{part}" for name in described for part in ("bytes", "offsets")}
    assert sorted(names - described - strings) == []
