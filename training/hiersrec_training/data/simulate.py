"""A simulated shop: readable items in a three-level category tree, and sessions of shoppers with an intent.

For demos and tests where no real clicks may be shipped. The next click of a session depends on

- its intent: a subcategory, now and then left for a sister or for one that goes with it;
- its style, which no column names: it shows in the colours, materials and prices of the items, and stays through the
  session while the subcategory changes;
- the item before: items have neighbors that are bought with them;
- popularity: a power law that drifts, with items that come in later;
- its past: shoppers go back to items they saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.atomic import new_folder
from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_sdk.shown import shown
from hiersrec_training.data.dataset import check_name
from hiersrec_training.data.options import PrepareOptions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

START = 1_704_067_200  # 2024-01-01, Unix seconds
DAY = 86_400
LONGEST = 30  # views of a session
PERIODS = 6  # stretches of the log, in each of which popularity is constant

# department → category → subcategory → (price, the nouns an item can be called)
SHOP: dict[str, dict[str, dict[str, tuple[float, str]]]] = {
    "Women": {
        "Clothing": {
            "Dresses": (60, "dress|wrap dress|midi dress|shift dress"),
            "Blouses": (40, "blouse|tunic|shirt|top"),
            "Knitwear": (55, "jumper|cardigan|pullover|vest"),
            "Skirts": (42, "skirt|pleated skirt|pencil skirt"),
        },
        "Shoes": {
            "Sandals": (48, "sandals|slides|espadrilles"),
            "Ankle boots": (95, "ankle boots|chelsea boots|lace-up boots"),
            "Sneakers": (75, "sneakers|trainers|plimsolls"),
        },
        "Accessories": {
            "Handbags": (85, "handbag|tote|shoulder bag|clutch"),
            "Scarves": (25, "scarf|shawl|neckerchief"),
            "Jewelry": (30, "necklace|bracelet|earrings|ring"),
        },
    },
    "Men": {
        "Clothing": {
            "Shirts": (45, "shirt|overshirt|polo shirt"),
            "Trousers": (58, "trousers|chinos|jeans"),
            "Jackets": (120, "jacket|parka|blazer|bomber jacket"),
        },
        "Shoes": {
            "Boots": (110, "boots|desert boots|hiking boots"),
            "Loafers": (90, "loafers|moccasins|boat shoes"),
            "Running shoes": (100, "running shoes|trail shoes"),
        },
        "Accessories": {
            "Belts": (32, "belt|braided belt"),
            "Watches": (140, "watch|chronograph"),
            "Backpacks": (70, "backpack|messenger bag|weekender"),
        },
    },
    "Home": {
        "Living room": {
            "Cushions": (22, "cushion|floor cushion|bolster"),
            "Lamps": (65, "table lamp|floor lamp|pendant lamp"),
            "Rugs": (130, "rug|runner|kilim"),
        },
        "Kitchen": {
            "Tableware": (28, "plate|bowl|mug|serving dish"),
            "Cookware": (60, "frying pan|saucepan|casserole"),
            "Storage": (18, "jar|canister|bread box|basket"),
        },
        "Bedroom": {
            "Bed linen": (70, "duvet cover|sheet set|pillowcase"),
            "Blankets": (50, "blanket|throw|quilt"),
            "Nightstands": (110, "nightstand|side table"),
        },
    },
    "Outdoor": {
        "Camping": {
            "Tents": (210, "tent|tarp|bivvy"),
            "Sleeping bags": (120, "sleeping bag|sleeping mat|liner"),
            "Camp kitchen": (40, "camp stove|kettle|mess kit"),
        },
        "Garden": {
            "Planters": (30, "planter|flower pot|window box"),
            "Garden furniture": (160, "garden chair|bench|bistro table"),
            "Lanterns": (26, "lantern|string lights|torch"),
        },
    },
}

COLOURS = (
    "white",
    "ivory",
    "sand",
    "grey",
    "charcoal",
    "black",
    "navy",
    "blue",
    "teal",
    "olive",
    "green",
    "mustard",
    "rust",
    "red",
    "burgundy",
    "pink",
    "lilac",
    "copper",
)
MATERIALS = {
    "Women": ("cotton", "linen", "wool", "leather", "suede", "velvet", "denim", "silk"),
    "Men": ("cotton", "linen", "wool", "leather", "suede", "canvas", "denim", "corduroy"),
    "Home": ("cotton", "linen", "wool", "ceramic", "oak", "steel", "brass", "bamboo"),
    "Outdoor": ("recycled", "waxed", "canvas", "aluminium", "oak", "steel", "ultralight", "bamboo"),
}
STYLES = 8  # latent

# Chances of the ways to the next view; the remaining one is a choice by intent.
GO_BACK = 0.08  # to an item seen before
FOLLOW = 0.15  # to a neighbor of the item before
SWITCH = 0.15  # chance that the intent changes before a choice by intent
NEIGHBORS = np.array([0.40, 0.25, 0.15, 0.12, 0.08])  # how often each neighbor of an item is the one
SAME_LEAF = 3  # of the neighbors; the others are of the subcategory that goes with it

_README = """SIMULATED: a made-up shop and made-up sessions, for demos and tests; no real person clicked here.

simulated-items.csv   {items:,} items: id, name, department, category, subcategory, price (missing for some)
simulated-events.csv  {sessions:,} sessions over {days} days: session, item, time (Unix seconds), event (view,
                      addtocart, purchase)

Written with items={items}, sessions={sessions}, seed={seed}, days={days}: the same numbers give the same files.
From this folder, this reads it:

    hiersrec prepare simulated-events.csv --event-column event --event view \\
        --items simulated-items.csv \\
        --category-column department --category-column category --category-column subcategory \\
        --text-column name --title-column name --number-column price --test-days {test_days} --out ../dataset
"""


def prepare_options(shop: Path, test_days: int) -> PrepareOptions:
    """How :func:`hiersrec_training.data.prepare.prepare` reads what :func:`simulate` wrote, as its README.txt says."""
    return PrepareOptions(
        logs=[shop / "simulated-events.csv"],
        event_column="event",
        events=["view"],
        items=shop / "simulated-items.csv",
        category_columns=["department", "category", "subcategory"],
        text_columns=["name"],
        title_column="name",
        number_columns=["price"],
        test_days=test_days,
    )


@dataclass(frozen=True)
class _Shop:
    """``leaf`` int64 [items]: subcategory; ``looks`` float64 [items, styles]: share of each style, rows sum to 1;
    ``popularity`` float64 [items, PERIODS], 0 before an item comes in; ``neighbors`` int64 [items, 5]; ``goes_with``
    and ``sister`` int64 [leaves]: where the intent can go; ``table``: simulated-items.csv."""

    leaf: Ints
    looks: Floats
    popularity: Floats
    neighbors: Ints
    goes_with: Ints
    sister: Ints
    table: pl.DataFrame


def simulate(out: Path, items: int = 2000, sessions: int = 20000, seed: int = 0, days: int = 30) -> None:
    """Write a simulated shop to the new folder ``out``: an item table, an event log and a README.txt.

    Equal arguments give equal files.

    Args:
        items: of the catalog; at least one for each of the shop's subcategories.
        sessions: over all days; some have one view only.
        seed: of every random choice.
        days: that the log covers, from 1 January 2024.

    Raises:
        InvalidOptionError: an argument out of its range.
        DataError: ``out`` exists, or it cannot be written; nothing is left behind.
    """
    ranges = {
        "items": (len(_leaf_paths()), 10_000_000),
        "sessions": (1, 1_000_000_000),
        "seed": (0, 2**63 - 1),
        "days": (1, 36_500),
    }
    for name, value in (("items", items), ("sessions", sessions), ("seed", seed), ("days", days)):
        least, most = ranges[name]
        if not is_integer(value, least):
            raise InvalidOptionError(f"{name} must be an integer ≥ {least}, got {shown(value)}")
        if value > most:
            raise InvalidOptionError(f"{name} must be an integer ≤ {most}, got {shown(value)}")
    check_name(out)
    rng = np.random.default_rng(seed)
    shop = _open_shop(rng, items)
    events = _visit(rng, shop, sessions, days)
    readme = _README.format(
        items=items, sessions=sessions, seed=seed, days=days, test_days=max(1, days // 10)
    )
    try:
        with new_folder(out) as part:
            shop.table.write_csv(part.absolute() / "simulated-items.csv")
            events.write_csv(part.absolute() / "simulated-events.csv")
            (part / "README.txt").write_text(readme, "utf-8")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{out} could not be written: {error}") from error


def _leaf_paths() -> list[tuple[str, str, str]]:
    return [
        (department, category, sub)
        for department, categories in SHOP.items()
        for category, subs in categories.items()
        for sub in subs
    ]


def _open_shop(rng: np.random.Generator, items: int) -> _Shop:
    paths = _leaf_paths()
    leaves = len(paths)
    chosen = rng.choice(leaves, items - leaves, p=rng.dirichlet(np.full(leaves, 4.0)))
    leaf = rng.permutation(np.concatenate([np.arange(leaves), chosen]))
    looks = rng.dirichlet(np.full(STYLES, 0.25), items)
    family = np.array([paths.index(next(p for p in paths if p[:2] == path[:2])) for path in paths])
    same = family[:, None] == family[None, :]
    sister = _pick(rng, same & ~np.eye(leaves, dtype=bool))
    goes_with = _pick(rng, ~same)
    return _Shop(
        leaf=leaf,
        looks=looks,
        popularity=_popularity(rng, leaf),
        neighbors=_neighbors(rng, leaf, looks, goes_with),
        goes_with=goes_with,
        sister=sister,
        table=_item_table(rng, paths, leaf, looks),
    )


def _item_table(
    rng: np.random.Generator, paths: list[tuple[str, str, str]], leaf: Ints, looks: Floats
) -> pl.DataFrame:
    """Names, prices and categories. Each style has its colours, materials and price level: the names hint at it."""
    items = len(leaf)
    colour = _draw(rng, rng.dirichlet(np.full(len(COLOURS), 0.1), STYLES)[_draw(rng, looks)])
    material = _draw(rng, rng.dirichlet(np.full(8, 0.2), STYLES)[_draw(rng, looks)])
    level = np.exp(looks @ rng.normal(0, 0.5, STYLES) + rng.normal(0, 0.2, items))
    names = []
    prices: list[float | None] = []
    rows: list[tuple[str | None, str | None, str | None]] = []
    for item, (department, category, sub) in enumerate(paths[i] for i in leaf):
        price, nouns = SHOP[department][category][sub]
        noun = nouns.split("|")[rng.integers(nouns.count("|") + 1)]
        names.append(f"{COLOURS[colour[item]]} {MATERIALS[department][material[item]]} {noun}")
        prices.append(None if rng.random() < 0.15 else round(price * level[item], 2))
        rows.append((None, None, None) if rng.random() < 0.005 else (department, category, sub))
    categories = pl.DataFrame(rows, schema=["department", "category", "subcategory"], orient="row")
    table = pl.DataFrame({"item": _item_ids(items), "name": names})
    return table.hstack(categories).with_columns(price=pl.Series(prices, dtype=pl.Float64))


def _item_ids(items: int) -> list[str]:
    return [f"sku-{item:05d}" for item in range(items)]


def _popularity(rng: np.random.Generator, leaf: Ints) -> Floats:
    """A power law over the items, each with its own trend; some come in later."""
    items = len(leaf)
    share = (1.0 + rng.permutation(items)) ** -0.6
    trend = rng.normal(0, 0.8, items)[:, None] * np.linspace(-0.5, 0.5, PERIODS)
    begins = np.where(rng.random(items) < 0.15, rng.integers(PERIODS, size=items), 0)
    begins[np.unique(leaf, return_index=True)[1]] = 0  # no subcategory is empty at any time
    return np.where(np.arange(PERIODS) >= begins[:, None], share[:, None] * np.exp(trend), 0.0)


def _neighbors(rng: np.random.Generator, leaf: Ints, looks: Floats, goes_with: Ints) -> Ints:
    """Items of like looks: some of the same subcategory, some of the one that goes with it."""
    members = [np.flatnonzero(leaf == at) for at in range(leaf.max() + 1)]
    found = np.empty((len(leaf), len(NEIGHBORS)), np.int64)
    for at, items in enumerate(members):
        for columns, other in (
            (slice(0, SAME_LEAF), items),
            (slice(SAME_LEAF, None), members[goes_with[at]]),
        ):
            liking = looks[items] @ looks[other].T + rng.gumbel(0, 0.15, (len(items), len(other)))
            liking[items[:, None] == other[None, :]] = -np.inf  # itself only where nothing else is there
            wanted = len(NEIGHBORS[columns])
            best = np.argsort(-liking, axis=1)[:, :wanted]
            found[items, columns] = other[best[:, np.arange(wanted) % best.shape[1]]]
    return found


def _visit(rng: np.random.Generator, shop: _Shop, sessions: int, days: int) -> pl.DataFrame:
    """The log: all sessions take their n-th view at once."""
    day = rng.integers(days, size=sessions)
    hour = np.clip(rng.normal(16, 4.5, sessions), 0, 23.99)
    start = np.sort(START + (day + hour / 24) * DAY)
    period = ((start - START) * PERIODS // (days * DAY)).astype(np.int64)
    lengths = np.minimum(rng.geometric(0.2, sessions), LONGEST)
    leaves = len(shop.goes_with)
    fashion = rng.dirichlet(np.full(leaves, 3.0)) * np.exp(
        rng.normal(0, 0.8, leaves) * np.linspace(-0.5, 0.5, PERIODS)[:, None]
    )
    intent = _draw(rng, fashion[period])
    style = rng.choice(STYLES, sessions, p=rng.dirichlet(np.full(STYLES, 5.0)))
    choose = _Chooser(shop)

    seen = np.zeros((sessions, LONGEST), np.int64)
    for view in range(LONGEST):
        on = np.flatnonzero(lengths > view)
        switching = rng.random(len(on)) < (SWITCH if view else 0.0)
        target = np.where(rng.random(len(on)) < 0.6, shop.sister[intent[on]], shop.goes_with[intent[on]])
        why = rng.random(len(on)) if view else np.ones(len(on))
        follows, returns = why < FOLLOW, (why >= FOLLOW) & (why < FOLLOW + GO_BACK)
        intent[on] = np.where(switching & ~follows & ~returns, target, intent[on])
        item = choose(rng, intent[on], style[on], period[on])
        if view:
            near = shop.neighbors[seen[on, view - 1], rng.choice(len(NEIGHBORS), len(on), p=NEIGHBORS)]
            follows &= shop.popularity[near, period[on]] > 0  # it has come in
            item = np.where(follows, near, item)
            item = np.where(returns, seen[on, rng.integers(view, size=len(on))], item)
            intent[on] = np.where(follows, shop.leaf[item], intent[on])
        seen[on, view] = item
    return _log(rng, seen, lengths, start)


class _Chooser:
    """Draws items of a subcategory, for a style, in a period: popularity times the item's share of the style."""

    def __init__(self, shop: _Shop) -> None:
        self._order = np.argsort(shop.leaf, kind="stable")
        leaf = shop.leaf[self._order]
        weight = (0.02 + shop.looks[self._order].T[:, None, :]) ** 3 * shop.popularity[self._order].T
        ends = np.flatnonzero(np.diff(leaf, append=leaf[-1] + 1))
        total = np.cumsum(weight, axis=2)  # [STYLES, PERIODS, items by leaf]
        before = np.concatenate([np.zeros((*total.shape[:2], 1)), total[..., ends[:-1]]], axis=2)[..., leaf]
        within = (total - before) / (total[..., ends][..., leaf] - before)
        # every leaf of every style and period becomes the stretch (n, n + 1] of one rising array
        self._leaves = len(ends)
        stretch = np.arange(total.shape[0] * total.shape[1] * self._leaves).reshape(*total.shape[:2], -1)
        self._rising = (stretch[..., leaf] + np.minimum(within, 1.0)).ravel()

    def __call__(self, rng: np.random.Generator, leaf: Ints, style: Ints, period: Ints) -> Ints:
        """One item id [n] for each subcategory, style and period [n]."""
        stretch = (style * PERIODS + period) * self._leaves + leaf
        at = np.searchsorted(self._rising, stretch + rng.uniform(0, 1 - 1e-9, len(stretch)), side="right")
        chosen: Ints = self._order[at % len(self._order)]
        return chosen


def _log(rng: np.random.Generator, seen: Ints, lengths: Ints, start: Floats) -> pl.DataFrame:
    """Views with the time between them, and the items put in the cart and bought, in order of time."""
    time = start[:, None] + np.cumsum(np.minimum(8 + rng.exponential(50, seen.shape), 1200), axis=1)
    viewed = np.arange(seen.shape[1]) < lengths[:, None]
    carted = viewed & (rng.random(seen.shape) < 0.07)
    bought = carted & (rng.random(seen.shape) < 0.35)
    ids = np.array(_item_ids(int(seen.max()) + 1))
    frames = []
    for event, which, later in (("view", viewed, 0), ("addtocart", carted, 5), ("purchase", bought, 7)):
        session, view = np.nonzero(which)
        frames.append(
            pl.DataFrame(
                {
                    "session": session + 1,
                    "item": ids[seen[session, view]],
                    "time": time[session, view].astype(np.int64) + later,
                    "event": [event] * len(session),
                }
            )
        )
    return pl.concat(frames).sort("time", "session", maintain_order=True)


def _draw(rng: np.random.Generator, weights: Floats) -> Ints:
    """One column of each row, by the row's weights."""
    rising = np.cumsum(weights, axis=1)
    drawn: Ints = (rising < rng.random((len(weights), 1)) * rising[:, -1:]).sum(axis=1)
    return drawn


def _pick(rng: np.random.Generator, allowed: NDArray[np.bool_]) -> Ints:
    """One allowed column of each row."""
    picked: Ints = np.argmax(np.where(allowed, rng.random(allowed.shape), -1.0), axis=1)
    return picked
