"""What is done with a bundle that opened: everything, in an order that does not matter.

Each step may answer or raise an error of the SDK. Of a bundle that was verified, no step may find damage that is left
in a table, and mode "exact" has to give what a plain scan of the tables gives.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.schema import CATALOG, DELTA
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.errors import BundleError, HierSRecError
from hiersrec_sdk.options import RecommendOptions
from tests.fuzz.chance import Chance
from tests.fuzz.parts import tables_of
from tests.sdk.cli.run import hiersrec

_EPSILON: Final = float(np.finfo(np.float32).eps)


class WrongError(AssertionError):
    """An answer that is not what it must be; the message is the same for all cases of a kind."""


@dataclass
class User:
    """Uses a recommender.

    Attributes:
        recommender: the recommender.
        ids: item ids that the sound bundle has.
        chance: chooses sessions and options.
        scratch: an empty folder.
        verified: whether the bundle's tables were verified, so that none of them may turn out to be damaged.
        folder: of the bundle.
    """

    recommender: Recommender
    ids: list[Any]
    chance: Chance
    scratch: Path
    verified: bool
    folder: Path

    def run(self) -> None:
        """Do everything. What is verified is compared with a plain scan, and sometimes with another backend, too."""
        if self.verified:
            check_lookups(self.recommender)
            check_exact(self.recommender, self.folder, [self.session() for _ in range(6)], self.chance)
            if self.chance.one_in(4):
                self.check_backends()
        steps = [*self.reading()]
        self.chance.shuffle(steps)
        for step in steps:
            self.attempt(step)
        for step in self.writing():
            self.attempt(step)
            self.attempt(self.recommend)
        if self.chance.one_in(3):
            self.attempt(self.save)
        if self.chance.one_in(12):
            self.attempt(self.command_line)

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, which may end in an error of the SDK."""
        try:
            step()
        except BundleError as error:
            if self.verified and ".onnx" not in str(error):  # huge vectors make a sound graph overflow
                name = type(error).__name__
                raise WrongError(f"verified, but {step.__name__} raises {name}") from error
        except HierSRecError:
            pass

    def session(self) -> list[Any]:
        """A session of some known ids and strangers."""
        chance = self.chance
        found = chance.choices(self.ids, k=chance.choice([1, 1, 2, 3, 8, 30]))
        if chance.one_in(6):
            found.insert(chance.randrange(len(found) + 1), self.stranger)
        if chance.one_in(20):
            return [self.stranger] if chance.one_in(2) else []
        return found

    def some_ids(self, count: int) -> list[Any]:
        """So many ids, or all."""
        return self.chance.sample(self.ids, min(count, len(self.ids)))

    @property
    def stranger(self) -> Any:
        """An id of the right type that no bundle has."""
        return "nobody's" if isinstance(self.ids[0], str) else 2**61 + 1

    def options(self) -> dict[str, Any]:
        """Named arguments of a call."""
        chance = self.chance
        catalog = self.recommender.catalog
        given: dict[str, Any] = {"mode": chance.choice(["candidates", "exact", "auto"])}
        if given["mode"] != "exact":
            given["candidates"] = chance.choice([None, 0.01, 0.5, 1.0, "auto"])
            given["include_session_categories"] = chance.one_in(3)
        if chance.one_in(4):
            given["exclude_seen"] = True
        if chance.one_in(4):
            given["max_per_category"] = chance.choice([1, 2, 50])
        if chance.one_in(4):
            given["threads"] = 2
        if chance.one_in(5):
            given["allow"] = self.some_ids(20)
        if chance.one_in(5):
            given["exclude"] = self.some_ids(5)
        if chance.one_in(4):
            name = chance.choice(["categories", "exclude_categories"])
            level = chance.randrange(catalog.tree.depth)
            index = chance.randrange(len(catalog.tree.ranges[level]))
            with suppress(HierSRecError):
                given[name] = [catalog.category(level, index).path]
        return given

    def recommend(self) -> None:
        """One session, in every mode."""
        for mode in ("candidates", "exact", "auto"):
            k = self.chance.choice([1, 3, 10, 20, 500])
            result = self.recommender.recommend(self.session(), k, mode=mode)
            self.read(result, len(self.recommender.catalog), k)
        self.read(
            self.recommender.recommend(self.session(), 10, **self.options()),
            len(self.recommender.catalog),
            10,
        )

    def reading(self) -> Iterator[Callable[[], None]]:
        """Steps that change nothing."""
        r, chance = self.recommender, self.chance
        catalog = r.catalog

        def look_up() -> None:
            rows = np.arange(catalog.stop)
            ids = catalog.ids(rows)
            catalog.rows(ids)
            catalog.rows([*self.ids, self.stranger])
            catalog.title(chance.randrange(len(rows)))
            catalog.vectors(rows)
            catalog.biases(rows)
            catalog.clicks_of(rows)

        def titles() -> None:
            for row in range(catalog.stop):
                catalog.title(row)

        def categories() -> None:
            for level in range(catalog.tree.depth):
                for index in range(len(catalog.tree.ranges[level])):
                    category = catalog.category(level, index)
                    catalog.find_category(category.path)
                    catalog.category_label(category.path)
                    with suppress(HierSRecError):  # several have it
                        catalog.find_category(category.id)
                catalog.categories_of(np.arange(catalog.stop), level)

        def many() -> None:
            sessions = [self.session() for _ in range(chance.choice([1, 3, 9]))]
            output: Any = chance.kind("results, 2 * numpy, arrow, polars, pandas")
            found = r.recommend_many(sessions, 5, output=output, batch_size=chance.choice([1, 2, 64]))
            if output == "results":
                for result in found:
                    self.read(result, len(catalog), 5)
            r.recommend_many(sessions, 7, **self.options())

        def explain() -> None:
            explanation = r.explain(self.session(), chance.choice(self.ids))
            str(explanation)

        def trace() -> None:
            str(r.trace(self.session(), 5, **self.options()))

        def predict() -> None:
            r.categories(
                self.session(), chance.choice([1, 5, 100]), level=chance.randrange(-1, catalog.tree.depth)
            )

        def similar() -> None:
            r.similar_items(chance.choice(self.ids), chance.choice([1, 7, 200]))

        def grow() -> None:
            session = r.session(self.session())
            session.add(chance.choice(self.ids)).recommend(5)
            session.undo()
            session.recommend(5)

        def prepared() -> None:
            chosen = r.filter(allow=self.some_ids(30), exclude=self.some_ids(3))
            self.read(
                r.recommend(self.session(), 9, filter=chosen, mode=chance.choice(["exact", "auto"])),
                catalog.stop,
                9,
            )

        def popular() -> None:
            self.read(r.recommend([self.stranger], chance.choice([1, 9, 300])), catalog.stop, 300)

        yield from (look_up, titles, categories, self.recommend, many, explain, trace, predict, similar, grow)
        yield from (prepared, popular)

    def writing(self) -> Iterator[Callable[[], None]]:
        """Steps that change the catalog, each some of the time."""
        catalog, chance = self.recommender.catalog, self.chance
        text = isinstance(self.ids[0], str)
        new = "brand new" if text else 2**61 + 7
        width = (
            self.recommender.config["dimension"]
            if isinstance(self.recommender.config["dimension"], int)
            else 1
        )

        def upsert_encoded() -> None:
            path = catalog.category(-1, chance.randrange(len(catalog.tree.leaves))).path
            catalog.upsert(
                [
                    {"id": new, "category": path, "text": "red boots and more", "numbers": {"price": 3.0}},
                    {"id": chance.choice(self.ids), "text": "blue"},
                    {"id": chance.choice(self.ids), "metadata_vector": [0.5, 1.0, 0.0], "title": "Ü"},
                ]
            )

        def upsert_vector() -> None:
            some = [{"id": each, "vector": np.full(width, 0.25)} for each in self.some_ids(3)]
            catalog.upsert([*some, {"id": new, "vector": np.full(width, 0.5), "title": "new"}])

        def upsert_below() -> None:
            node = chance.randrange(catalog.tree.depth)
            path = catalog.category(node, chance.randrange(len(catalog.tree.ranges[node]))).path
            child = "created" if isinstance(path[0], str) else 2**61 + 9
            catalog.upsert([{"id": chance.choice(self.ids), "category": [*path, child]}])

        def move() -> None:
            catalog.move(chance.choice(self.ids), catalog.category(0, 0).path)

        def remove() -> None:
            catalog.remove(self.some_ids(4))

        def set_bias() -> None:
            catalog.set_bias(self.some_ids(4), 0.5)

        def change_file() -> None:
            lines = [
                '{"remove": %s}' % ('"shoe-1000"' if text else "0"),
                '{"set_bias": {"id": 1000, "value": 1}}',
            ]
            apply(catalog, lines)

        steps = [upsert_encoded, upsert_vector, upsert_below, move, remove, set_bias, change_file]
        yield from chance.sample(steps, chance.choice([0, 1, 2, 4]))

    def read(self, result: Any, items: int, k: int) -> None:
        """Read everything of a result."""
        if self.verified and len(result) > min(k, items):
            raise WrongError("a result has more items than there are")
        if self.verified and len({*result.items}) < len(result):
            raise WrongError("a result has an item twice")
        for _ in result:
            pass
        _ = result.categories, result.category_path, result.ranges
        pickle.loads(pickle.dumps(result))

    def save(self) -> None:
        """Write the bundle elsewhere, and load it again."""
        target = self.scratch / "saved"
        self.recommender.save(target)
        again = Recommender.load(target, backend=self.recommender.backend, verify=self.verified)
        self.read(again.recommend(self.session(), 5), again.catalog.stop, 5)
        pickle.loads(pickle.dumps(self.recommender)).recommend(self.session(), 5)

    def command_line(self) -> None:
        """Use the bundle on the command line."""
        some = [str(self.chance.choice(self.ids)) for _ in range(3)]
        kind = self.chance.kind("3 * inspect, recommend, explain")
        more = ["--json"] if self.chance.one_in(2) else []
        command([kind, *more, "--"], self.folder, *([] if kind == "inspect" else some))

    def check_backends(self) -> None:
        """The C and the NumPy backend give the same answers, bit by bit."""
        other = Recommender.load(self.folder, backend="numpy" if self.recommender.backend == "c" else "c")
        for mode in ("exact", "candidates"):
            session, k = self.session(), self.chance.choice([1, 5, 30, 500])
            options: RecommendOptions = {"mode": mode, "exclude_seen": self.chance.one_in(3)}
            try:
                one, two = (each.recommend(session, k, **options) for each in (self.recommender, other))
            except BundleError:  # a graph that overflows
                continue
            if one.items != two.items or not np.array_equal(one.scores, two.scores):
                raise WrongError(f"{self.recommender.backend} and {other.backend} differ in mode {mode}")


def command(arguments: list[str], *more: Path | str) -> None:
    """Run a command, which may fail with one line.

    Raises:
        BundleError: it failed so.
    """
    result = hiersrec(*arguments, *more)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code not in (0, 1, 2):
        raise WrongError(f"the command line ends with {result.exit_code}")
    if result.exit_code:
        raise HierSRecError(result.stderr)


def check_lookups(recommender: Recommender) -> None:
    """Every item is found by its id, and has a title that can be read."""
    catalog = recommender.catalog
    rows = catalog.live_rows()
    try:
        found = catalog.rows(catalog.ids(rows))
    except HierSRecError as error:
        raise WrongError(f"verified, but looking up every id raises {type(error).__name__}") from error
    if found.tolist() != rows.tolist():
        raise WrongError("verified, but some items are not found by their ids")


def check_exact(recommender: Recommender, folder: Path, sessions: list[list[Any]], chance: Chance) -> None:
    """Mode "exact" gives what a plain scan of the tables in ``folder`` gives."""
    try:
        plain = _Plain.of(folder, DELTA in recommender.config["files"])
    except (KeyError, SafetensorError):  # a dtype of padding that the library cannot give
        return
    if not plain.is_finite:
        raise WrongError("verified, but vectors or biases are not finite")
    for session in sessions:
        k = chance.choice([1, 1, 2, 3, 10, 1000])
        try:
            trace = recommender.trace(session, k, mode="exact")
        except HierSRecError:  # no known item; or a graph's output
            continue
        plain.check(trace.item_query, trace.covisited, trace.offsets, k, recommender, trace.result)


@dataclass
class _Plain:
    """The live rows of a catalog, by the tables of its files: the bundle's, then those added since."""

    vectors: NDArray[np.float64]
    bias: NDArray[np.float64]
    live: NDArray[np.bool]

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.vectors[self.live]).all() and np.isfinite(self.bias[self.live]).all())

    @classmethod
    def of(cls, folder: Path, changed: bool) -> _Plain:
        tables = tables_of((folder / CATALOG).read_bytes())
        vectors = [tables["item_vectors"]]
        n = len(vectors[0])
        bias = [tables.get("item_bias", np.zeros(n)).astype(np.float64)]
        live = np.ones(n, dtype=bool)
        if changed:
            delta = tables_of((folder / DELTA).read_bytes())
            live[delta["deleted"]] = False
            bias[0] = bias[0] + delta.get("base_user_bias", np.zeros(n))
            vectors.append(delta["vectors"])
            bias.append(delta["model_bias"].astype(np.float64) + delta["user_bias"])
            live = np.concatenate([live, np.ones(len(vectors[1]), dtype=bool)])
        return cls(np.concatenate(vectors).astype(np.float64), np.concatenate(bias), live)

    def check(
        self,
        query: NDArray[np.float32],
        covisited: NDArray[np.int64],
        offsets: NDArray[np.float32],
        k: int,
        recommender: Recommender,
        result: Any,
    ) -> None:
        """Compare a result with a scan. Rows whose scores may overflow, or cancel, are left out of it."""
        added = np.zeros(len(self.bias))
        added[covisited] = offsets
        with np.errstate(all="ignore"):
            scores = self.vectors @ query.astype(np.float64) + self.bias + added
            size = np.abs(self.vectors) @ np.abs(query.astype(np.float64)) + np.abs(self.bias) + np.abs(added)
            about = (len(query) + 8) * _EPSILON * size + 1e-37
        sure = (size < 1e37) & self.live
        rows = recommender.catalog.rows(result.items)
        if not sure[self.live].all():
            return
        if len(rows) != min(k, int(np.count_nonzero(self.live))):
            raise WrongError("exact has another number of items than a plain scan")
        if not self.live[rows].all():
            raise WrongError("exact recommends a deleted row")
        if (np.abs(result.scores - scores[rows]) > about[rows]).any():
            raise WrongError("exact has other scores than a plain scan")
        left = self.live.copy()
        left[rows] = False
        if (scores[left] - about[left] > float(result.scores[-1])).any():
            raise WrongError("exact leaves out a better item than it has")
