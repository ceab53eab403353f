"""What a shop would write without the SDK: FastAPI around the standalone ONNX file, which scores the whole catalog.

HIERSREC_STANDALONE=model.onnx uvicorn benchmarks.plain_service:app

The peer of ``benchmarks.serving``: the same model, the same answers as mode "exact".
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from hiersrec_sdk.encoders.runtime import open_session


class Ask(BaseModel):
    session: list[int] | list[str]
    k: int = 20


class Answer(BaseModel):
    items: list[int] | list[str]
    scores: list[float]


file = Path(os.environ["HIERSREC_STANDALONE"])
model = open_session(file.read_bytes(), file.name, ("cpu",), 1)
id_type = np.int64 if model.get_inputs()[0].type == "tensor(int64)" else object
app = FastAPI()


@app.get("/readyz")
async def readyz() -> None:
    """Ready once the model is loaded."""


@app.post("/recommend")
async def recommend(ask: Ask) -> Answer:
    """Answered within the event loop, as by ``hiersrec serve``: a thread would only add to it."""
    fed = {"session": np.array([ask.session], dtype=id_type), "k": np.array([ask.k])}
    items, scores = model.run(["items", "scores"], fed)
    return Answer(items=items[0].tolist(), scores=scores[0].tolist())
