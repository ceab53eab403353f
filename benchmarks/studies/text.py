"""Text encoders: ``python -m benchmarks.studies.text SOURCE --encoder ENCODER --work WORK --out docs/results``.

An item's title as nothing, as hashed words that the model learns, as the vector of a pretrained sentence encoder, and
as that of a static model distilled from it. Measured on the test split with a tenth of the items cold, as in the study
of cold items: examples whose next click is on a cold item, and the others. The session encoder alone, without the
co-visitation scorer, which reads no text. SOURCE is the folder that holds the data
sets, ENCODER that of an ONNX sentence encoder, as for ``hiersrec prepare --text-encoder onnx:ENCODER``. Writes
``text.md`` and ``text.png``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.studies.budget import Row, accuracy
from benchmarks.studies.cold import NEVER, cold_items, examples_of, held_out, tie_breaks
from benchmarks.studies.pages import bars_picture, write_page
from benchmarks.studies.scoring import scorer_of_run
from benchmarks.studies.trials import Asked, Bench, Trained, Trial, study_options
from benchmarks.tables import table
from hiersrec_export.calibrate import Budgets
from hiersrec_sdk.atomic import new_folder, write_file
from hiersrec_sdk.encoders.text_encoder import OnnxTextEncoder
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.text_encoders import Model2Vec, encode_texts
from hiersrec_training.examples import Examples
from hiersrec_training.json_files import read_json

TITLED = ("wikispeedia", "ml-100k")  # the data sets with titles that people can read
WIDTH = 256  # of the static model
SIF = 1e-4  # a / (a + p) weighs a token of probability p
UNUSED = re.compile(r"\[unused\d+\]")
TOGETHER = 256  # tokens
WARM, COLD = "warm target: Recall@20", "cold target: Recall@20"
AMONG_COLD = "cold target, only cold items ranked: Recall@20"


@dataclass(frozen=True)
class Arm:
    """A way from titles to item vectors. ``words``: hashed words are learned; ``encoder``: makes vectors as well."""

    name: str
    words: bool
    encoder: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Encoded:
    """The vectors of an encoder, float32 [items, m], and the ``seconds`` that it took for them."""

    vectors: NDArray[np.float32]
    seconds: float


def arms(encoder: Path, static: Path) -> list[Arm]:
    pretrained, distilled = partial(OnnxTextEncoder, encoder), partial(Model2Vec, static)
    return [
        Arm("no text", words=False),
        Arm("hashed words", words=True),
        Arm("sentence encoder", words=False, encoder=pretrained),
        Arm("static model", words=False, encoder=distilled),
        Arm("sentence encoder and hashed words", words=True, encoder=pretrained),
    ]


def distill(folder: Path, out: Path) -> float:
    """Write a static model of the encoder in ``folder`` to the folder ``out``; return the seconds that it took.

    As ``model2vec.distill`` does (https://github.com/MinishLab/model2vec), which needs the encoder in PyTorch: each
    token of the vocabulary is encoded by itself, between the special tokens; the vectors are reduced by PCA, and
    weighed by a / (a + p), with p from Zipf's law by the token's place in the vocabulary.
    """
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    started = time.perf_counter()
    encoder = OnnxTextEncoder(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    special = set(tokenizer.get_added_tokens_decoder())
    begin, end = tokenizer.encode("").ids
    tokens = [
        at
        for token, at in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        if at not in special and not UNUSED.fullmatch(token)
    ]
    ids = np.array([[begin, at, end] for at in tokens])
    states = [encoder.pooled(ids[start : start + TOGETHER]) for start in range(0, len(ids), TOGETHER)]
    centered = np.concatenate(states).astype(np.float64)
    centered -= centered.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    probability = 1 / np.arange(2, len(tokens) + 2)
    probability /= probability.sum()
    vectors = np.zeros((tokenizer.get_vocab_size(), min(WIDTH, encoder.width)), dtype=np.float32)
    vectors[tokens] = centered @ axes[:, : -WIDTH - 1 : -1] * (SIF / (SIF + probability))[:, None]
    with new_folder(out) as part:
        StaticModel(vectors, tokenizer, normalize=True).save_pretrained(part)
    return time.perf_counter() - started


def encoded(arm: Arm, bench: Bench) -> Encoded | None:
    """The vectors of the titles by the encoder of ``arm``, made once; None where it has none."""
    if arm.encoder is None:
        return None
    slug = arm.name.removesuffix(" and hashed words").replace(" ", "-")
    path, timed = bench.folder / f"{slug}.npy", bench.folder / f"{slug}.json"
    if not timed.exists():
        texts = Dataset.load(bench.data).text
        started = time.perf_counter()
        vectors = encode_texts(arm.encoder(), arm.name, texts)
        seconds = time.perf_counter() - started
        write_file(path, lambda part: np.save(part, vectors))
        write_file(timed, str(seconds))
    return Encoded(np.load(path), read_json(timed))


def with_text(data: Dataset, words: bool, vectors: NDArray[np.float32] | None) -> Dataset:
    """``data`` with cold items, and its text as an arm has it."""
    text = data.text if words else pl.Series(data.text.name, [None] * data.items, dtype=pl.String)
    return replace(held_out(data), text=text, vectors=vectors)


@dataclass(frozen=True)
class Measured:
    """Of one arm. ``figures``: by column, a fraction for each seed; ``size``: bytes of a bundle; ``seconds``: of the
    text encoder."""

    figures: dict[str, list[float]]
    size: int
    seconds: float

    def cells(self) -> list[str]:
        encoding = f"{self.seconds:.1f} s" if self.seconds else ""
        return [*map(spread, self.figures.values()), encoding, f"{self.size / 1e6:.2f} MB"]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, in percent."""
    deviation = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.2f}{deviation} %"


def measured(arm: Arm, bench: Bench) -> Measured:
    found = encoded(arm, bench)
    vectors = None if found is None else found.vectors
    change = partial(with_text, words=arm.words, vectors=vectors)
    trained = bench.run(Trial(f"text, {arm.name}", {"covisitation": False}, change))
    seeds = [kept_figures(one) for one in trained]
    return Measured(
        {name: [seed[name] for seed in seeds] for name in seeds[0]},
        sum(file.stat().st_size for file in trained[0].bundle().iterdir()),
        0.0 if found is None else found.seconds,
    )


def kept_figures(trained: Trained) -> dict[str, float]:
    """Those of :func:`figures_of`, measured once."""
    path = trained.run.with_name(f"{trained.run.name}-figures.json")
    if not path.exists():
        write_file(path, json.dumps(figures_of(trained)))
    figures: dict[str, float] = read_json(path)
    return figures


def figures_of(trained: Trained) -> dict[str, float]:
    """Of the encoder, by column: on the validation split, and on test examples with warm and with cold targets."""
    data, length = Dataset.load(trained.data), trained.info.config.max_length
    scorer = scorer_of_run(trained.run, data)
    cold = cold_items(data)

    def row(examples: Examples, added: NDArray[np.float32] | float = 0.0) -> Row:
        biased = replace(scorer, item_bias=tie_breaks(data) + np.float32(added))
        return accuracy(biased, data, examples, Budgets([], [1.0]), length)[0]

    with_cold, with_warm = examples_of(data)
    warm = row(with_warm)
    return {
        "validation: MRR@20": trained.info.metrics["mrr@20"],
        "warm target: MRR@20": warm.mrr,
        WARM: warm.recall,
        COLD: row(with_cold).recall,
        AMONG_COLD: row(with_cold, np.where(cold, np.float32(0), NEVER)).recall,
    }


@click.command(help=__doc__)
@click.option(
    "--encoder",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Folder of an ONNX sentence encoder.",
)
@study_options
def main(asked: Asked, encoder: Path) -> None:
    static = asked.work / "static"
    timed = asked.work / "static.json"
    if not static.exists():
        write_file(timed, str(distill(encoder, static)))
    tables, groups = [], []
    for bench in replace(asked, names=asked.names or TITLED).benches():
        data = Dataset.load(bench.data)
        cold, warm = (len(examples) for examples in examples_of(held_out(data)))
        found = {arm.name: measured(arm, bench) for arm in arms(encoder, static)}
        columns = next(iter(found.values())).figures
        rows = [[name, *one.cells()] for name, one in found.items()]
        about = (
            f"{bench.about(data)}, {data.items:,} items, {bench.settings.get('epochs', Config().epochs)} epochs; test "
            f"examples: {warm:,} with a warm target, {cold:,} with a cold one"
        )
        tables.append(f"{about}.\n\n{table([bench.name, *columns, 'encoding', 'bundle'], rows)}")
        bars = [
            (name, [100 * fmean(one.figures[key]) for key in (WARM, COLD, AMONG_COLD)])
            for name, one in found.items()
        ]
        groups.append((bench.name, bars))
    text = (
        "The session encoder alone, every item ranked, mean and standard deviation over the seeds. A tenth of the "
        "items has no clicks in training: cold targets are those items, and sessions that hold a cold item before the "
        "target are left out. No score is added for cold items. All rows of a table were trained alike, with the "
        "settings that this data set has in every study; none was chosen for a row, and none with test figures in "
        "view. The static model is the sentence encoder, distilled as model2vec does, to 256 numbers. Encoding is the "
        "time for all titles, loading included; the bundle is without the co-visitation scorer. "
        f"Distilling took {read_json(timed):.0f} s, once."
    )
    picture = bars_picture(
        groups,
        x="Recall@20, %",
        title="By what becomes of an item's title",
        series=("warm target", "cold target", "cold target, only cold items ranked"),
    )
    command = asked.command("text", encoder="ENCODER")
    write_page(asked.out, "text", command, "Text encoders", text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
