"""GET /metrics says what was asked and answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from hiersrec_sdk import Recommender
from hiersrec_sdk.serve import create_app
from hiersrec_sdk.serve.metrics import FOLDER, Metrics


def read(client: TestClient) -> dict[str, float]:
    """The value of each sample, by its name and labels."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_what_is_counted(shop_bundle: Path) -> None:
    digest = Recommender.load(shop_bundle).config["sha256"]
    with TestClient(create_app(shop_bundle)) as client:
        client.post("/recommend", json={"session": ["0", "stranger"]})
        client.post("/recommend", json={"session": ["0"], "mode": "exact"})
        client.post("/recommend", json={"sessions": [["0"], [], ["stranger", "stranger"]]})
        client.post("/recommend", json={"session": [], "k": 0})
        client.get("/healthz")
        client.get("/nowhere")
        client.get("/recommend")
        found = read(client)
    assert found["hiersrec_requests_total none 404"] == 1
    assert found["hiersrec_requests_total none 405"] == 1
    assert found["hiersrec_requests_total /recommend 200"] == 3
    assert found["hiersrec_requests_total /recommend 400"] == 1
    assert found["hiersrec_requests_total /healthz 200"] == 1
    assert found["hiersrec_sessions_total candidates"] == 2
    assert found["hiersrec_sessions_total exact"] == 1
    assert found["hiersrec_sessions_total popular"] == 2
    assert found["hiersrec_unknown_ids_total"] == 3
    assert found["hiersrec_request_seconds_count /recommend"] == 4
    steps = [found[f"hiersrec_step_seconds_sum {step}"] for step in ("read", "wait", "recommend", "write")]
    assert all(seconds > 0 for seconds in steps)
    assert found["hiersrec_step_seconds_count recommend"] == 2
    assert found[f"hiersrec_workers {digest}"] == 1
    assert found["hiersrec_reload_failing"] == 0


def test_a_file_that_a_worker_has_just_made(
    shop_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty for a moment, and is read again."""
    metrics = Metrics()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / "counter_1.db").touch()
    asked = list[int]()

    def filled(registry: CollectorRegistry) -> bytes:
        asked.append(1)
        if len(asked) == 2:
            (tmp_path / "counter_1.db").unlink()
        return generate_latest(registry)

    monkeypatch.setattr("hiersrec_sdk.serve.metrics.generate_latest", filled)
    assert metrics.text() == b""
    assert len(asked) == 2


def test_apps_do_not_count_for_each_other(shop_bundle: Path) -> None:
    with TestClient(create_app(shop_bundle)) as one, TestClient(create_app(shop_bundle)) as other:
        one.get("/healthz")
        assert "hiersrec_requests_total /healthz 200" in read(one)
        assert "hiersrec_requests_total /healthz 200" not in read(other)
