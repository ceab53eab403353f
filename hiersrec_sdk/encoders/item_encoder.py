"""The item encoder: the bundle's ONNX graph that turns an item's metadata into its vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import ITEM_ENCODER, Bundle
from hiersrec_sdk.encoders.features import checked_vector, number_bins, token_table
from hiersrec_sdk.encoders.onnx import Graph, Shape
from hiersrec_sdk.encoders.per_process import PerProcess
from hiersrec_sdk.errors import CatalogChangeError
from hiersrec_sdk.ranking.arrays import LARGEST
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.item import Item

_ENCODED_TOGETHER: Final = 1024
_PATH: Final = "category_path"  # the input that every item encoder has


class ItemEncoder:
    """``item_encoder.onnx`` of a bundle: metadata to vectors. Loaded by the first item that needs it."""

    def __init__(self, bundle: Bundle, providers: Sequence[str]) -> None:
        # not a method, as a cycle would keep the bundle open until the garbage collector finds it
        self._graph = PerProcess(partial(_load, bundle, providers))
        preprocessing: Mapping[str, Any] = bundle.config["preprocessing"]
        self._text: Mapping[str, Any] = preprocessing.get("text") or {}
        self._edges: Mapping[str, Sequence[float]] = preprocessing.get("numbers") or {}
        self._given: Mapping[str, Any] = preprocessing.get("vectors") or {}

    def encode(self, items: Sequence[Item], paths: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """float32 [items, d]: the vector of each item, the mean direction over its ``paths`` int64 [p, levels].

        Raises:
            CatalogChangeError: the bundle has no item encoder, or an item's metadata do not fit it; names the item.
            BundleCorruptError: the graph fails, or gives an output of another shape.
        """
        graph: Graph = self._graph()
        for item in items:
            self._check_known(item)
        flat = [(at, path) for at, several in enumerate(paths) for path in several]
        found = []
        for start in range(0, len(flat), _ENCODED_TOGETHER):
            some = flat[start : start + _ENCODED_TOGETHER]
            chosen = [items[at] for at, _ in some]
            feeds = {name: self._column(name, chosen) for name in graph.inputs if name != _PATH}
            feeds[_PATH] = np.stack([path for _, path in some]).astype(np.int64)
            found.append(graph.run(feeds)["item_vectors"])
        every = np.concatenate(found)
        sums = np.zeros((len(items), every.shape[1]), dtype=np.float32)
        several = np.array([len(each) > 1 for each in paths])[:, None]
        with np.errstate(all="ignore"):  # what the graph gave may be anything
            np.add.at(sums, [at for at, _ in flat], every)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            vectors = np.where(several, sums / np.maximum(lengths, 1e-12), sums).astype(np.float32)
            is_bounded = (np.abs(vectors) <= LARGEST).all(axis=1)
        if not is_bounded.all():
            item = items[int(np.argmin(is_bounded))]
            raise CatalogChangeError(
                f"item {shown(item.id)}: {ITEM_ENCODER} gives it a vector that is not finite, or too large: its "
                "metadata are out of range, or the file is damaged"
            )
        return vectors

    def _check_known(self, item: Item) -> None:
        """Raise where an item has metadata of a kind that the model was not trained with."""
        known = {"text": self._text, "numbers": self._edges, "metadata_vector": self._given}
        given = {
            "text": item.text is not None,
            "numbers": item.numbers,
            "metadata_vector": item.metadata_vector is not None,
        }
        for name in given:
            if given[name] and not known[name]:
                others = " and ".join(each for each in known if known[each]) or "categories alone"
                raise CatalogChangeError(
                    f"item {shown(item.id)}: the model was not trained with {name}, but with {others}: leave it out"
                )

    def _column(self, name: str, items: Sequence[Item]) -> NDArray[Any]:
        if name == "tokens":
            return token_table([item.text for item in items], self._text["buckets"], self._text["max_tokens"])
        if name == "number_bins":
            for item in items:
                unknown = set(item.numbers) - set(self._edges)
                if unknown:
                    raise CatalogChangeError(
                        f"item {shown(item.id)}: the model knows no number {shown(min(unknown, key=str))}; "
                        f"it was trained with {', '.join(self._edges)}"
                    )
            columns = [
                number_bins([_number(item, column) for item in items], edges)
                for column, edges in self._edges.items()
            ]
            return np.stack(columns, axis=1)
        width = self._given["width"]
        rows = [
            np.zeros(width, dtype=np.float32)
            if item.metadata_vector is None
            else checked_vector(item.id, "metadata_vector", item.metadata_vector, width)
            for item in items
        ]
        return np.stack(rows)


def _load(bundle: Bundle, providers: Sequence[str]) -> Graph:
    config = bundle.config
    if ITEM_ENCODER not in config["files"]:
        raise CatalogChangeError(
            f"the bundle has no {ITEM_ENCODER}: an item needs a vector, Item(id, vector=...)"
        )
    metadata = config["preprocessing"]
    inputs: dict[str, tuple[type[np.generic], Shape]] = {_PATH: (np.int64, ("items", len(config["levels"])))}
    if metadata.get("text"):
        inputs["tokens"] = (np.int64, ("items", "words"))
    if metadata.get("numbers"):
        inputs["number_bins"] = (np.int64, ("items", len(metadata["numbers"])))
    if metadata.get("vectors"):
        inputs["vectors"] = (np.float32, ("items", metadata["vectors"]["width"]))
    return Graph(
        bundle.read(ITEM_ENCODER),
        ITEM_ENCODER,
        inputs=inputs,
        outputs={"item_vectors": (np.float32, ("items", config["dimension"]))},
        optional=inputs.keys() - {_PATH},
        providers=providers,
    )


def _number(item: Item, column: str) -> float:
    value = item.numbers.get(column)
    return float("nan") if value is None else value
