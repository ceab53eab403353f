"""The YAML above a model card, as the Hub's own client reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_export.export import export
from hiersrec_export.hub_metadata import HubMetadata, front_matter
from hiersrec_sdk.bundle import open_bundle
from hiersrec_sdk.errors import InvalidOptionError
from tests.conftest import Exported, quiet
from tests.sdk.cli.run import failed

hub = pytest.importorskip("huggingface_hub")


def read(card: str) -> Any:
    """The metadata of a card."""
    return hub.ModelCard(card, ignore_metadata_errors=False).data


def test_the_hub_reads_the_metrics(tiny_bundle: Path) -> None:
    found = read((tiny_bundle / "README.md").read_text("utf-8"))
    metrics = open_bundle(tiny_bundle).config["metrics"]
    assert found.to_dict()["library_name"] == "hiersrec-sdk"
    assert "session-based-recommendation" in found.tags
    assert found.license is found.datasets is None
    alone = {
        each.metric_type: each.metric_value for each in found.eval_results if "alone" in each.dataset_split
    }
    whole = {
        each.metric_type: each.metric_value for each in found.eval_results if "newer" in each.dataset_split
    }
    assert alone == pytest.approx(metrics["validation"], abs=6e-5)
    assert whole == pytest.approx(metrics["validation_with_covisitation"], abs=6e-5)
    assert alone["mrr@20"] > 0


def test_a_model_that_saw_the_validation_split_has_no_metrics(tiny_final_export: Exported) -> None:
    assert read((tiny_final_export.bundle / "README.md").read_text("utf-8")).eval_results is None


def test_license_and_data_sets(tiny_run: Path, tmp_path: Path) -> None:
    metadata = HubMetadata("apache-2.0", ("org/clicks", "more"))
    export(tiny_run, tmp_path / "bundle", name="Shoes: the 2nd", metadata=metadata, report=quiet)
    card = (tmp_path / "bundle/README.md").read_text("utf-8")
    found = read(card)
    assert (found.license, found.datasets) == ("apache-2.0", ["org/clicks", "more"])
    assert found.model_name == "Shoes: the 2nd"
    assert {each.dataset_type for each in found.eval_results} == {"org/clicks"}
    assert "\n# Shoes: the 2nd\n" in card


@settings(max_examples=30)
@given(name=st.text(max_size=20), logs=st.lists(st.text(max_size=9), max_size=2), value=st.floats(0, 1))
def test_any_name_is_read_back(name: str, logs: list[str], value: float) -> None:
    metrics = {"validation": {"recall@20": value}, "validation_with_covisitation": {}}
    text = front_matter(name, {"data": {"logs": logs}, "metrics": metrics}, HubMetadata(), held_out=True)
    found = read(text)
    assert found.eval_results[0].metric_value == pytest.approx(value, abs=6e-5)
    assert len(found.model_name) == len(name)
    if name.isprintable():
        assert found.model_name == name


@pytest.mark.parametrize("wrong", ["", "Apache 2.0", "mit\nx: 1", "/", "Ä"])
def test_what_cannot_be_a_license_or_a_data_set(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="license must be an identifier of the Hub"):
        HubMetadata(license=wrong)
    if wrong != "Apache 2.0":
        with pytest.raises(InvalidOptionError, match="dataset must be the name"):
            HubMetadata(datasets=(wrong,))
    message = failed("export", tmp_path, "--out", tmp_path / "bundle", "--license", wrong)
    assert "license must be" in message
