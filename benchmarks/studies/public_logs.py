"""Public logs read by ``hiersrec prepare``: ``python -m benchmarks.studies.public_logs --logs FOLDER``.

Each log below is shipped by a public repository, and is odd in its own way. FOLDER holds a folder for each log, with
the files that ``source`` names. Every log is read twice: by ``hiersrec prepare`` with the options that its format asks
for, and here by plain Python that shares no code with it. Compared are the clicks read, every session click by click
and the time of its last click, the items, and which items share a category. Prints a table and the commands, with
``--out`` as a page, and exits with 1 where the two differ or where prepare refuses a log. A log that is absent is named
and left out.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
import shlex
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

import click
import polars as pl
from click.testing import CliRunner

from benchmarks.studies.pages import write_page
from benchmarks.tables import table
from hiersrec_sdk.cli.main import main as hiersrec
from hiersrec_training.data.dataset import Dataset, Sessions

Session = tuple[float | None, tuple[str, ...]]
"""The time of the last click (seconds; None in a log without times) and the items, oldest first."""

Categories = dict[str, list[tuple[str, ...]]]
"""The category paths of each item, its main one first."""

GAP = 30 * 60  # seconds


@dataclass(frozen=True)
class Click:
    """One row of an event log.

    ``key``: its session or user; ``time``: seconds; ``kept``: of a type that counts; ``order``: among equal times.
    """

    key: str
    item: str
    time: float | None = None
    kept: bool = True
    order: int = 0


@dataclass(frozen=True)
class Reading:
    """What a log says, read here. ``clicks``: rows, or fields of the lines; ``sessions``: of two clicks or more."""

    clicks: int
    sessions: list[Session]
    test: list[Session] = field(default_factory=list)
    categories: Categories | None = None


@dataclass(frozen=True)
class PublicLog:
    """One log.

    ``source``: repositories, and the paths of the files in them; ``odd``: what makes it hard to read; ``command``: the
    arguments of ``hiersrec prepare``; ``read``: reads it from its folder; ``convert``: writes what prepare reads where
    no option can, into the second folder.
    """

    name: str
    source: str
    odd: str
    command: str
    read: Callable[[Path], Reading]
    convert: Callable[[Path, Path], None] | None = None


# Reading: files


def rows(
    path: Path, *, separator: str = ",", names: str = "", encoding: str = "utf-8"
) -> list[dict[str, str]]:
    """The rows of a quoted table, by the names of its header or by ``names``; empty at the end of a row cut short."""
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        header = names.split() or next(reader)
        return [dict(zip_longest(header, row, fillvalue="")) for row in reader if row]


def fields(path: Path, separator: str, names: str = "", encoding: str = "utf-8") -> list[dict[str, str]]:
    """The rows of a table without quotes."""
    lines = [line for line in path.read_text(encoding).splitlines() if line.strip()]
    header = names.split() or lines.pop(0).split(separator)
    return [dict(zip(header, line.split(separator), strict=True)) for line in lines]


def lines(path: Path, separator: str | None = None) -> list[list[str]]:
    """The lines of a session file."""
    return [
        [item.strip() for item in line.split(separator)]
        for line in path.read_text("utf-8").splitlines()
        if line.strip()
    ]


# Reading: times, in seconds


def moment(text: str, form: str) -> float:
    """A date that says no zone is in UTC."""
    when = datetime.strptime(text, form)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


# Reading: sessions


def by_session(clicks: Iterable[Click]) -> list[Session]:
    """Sessions of two clicks or more; clicks of the same time and order stay in the order given."""
    grouped: dict[str, list[Click]] = defaultdict(list)
    for one in clicks:
        if one.kept:
            grouped[one.key].append(one)
    return [_session(group) for group in grouped.values() if len(group) > 1]


def by_user(clicks: Iterable[Click]) -> list[Session]:
    """The clicks of each user, cut where more than half an hour passes without any. All types keep a visit together."""
    visits: list[list[Click]] = []
    users: dict[str, list[Click]] = defaultdict(list)
    for one in clicks:
        users[one.key].append(one)
    for user in users.values():
        before: float | None = None
        for one in sorted(user, key=lambda each: each.time or 0):
            assert one.time is not None
            if before is None or one.time - before > GAP:
                visits.append([])
            before = one.time
            visits[-1].append(one)
    kept = [[one for one in visit if one.kept] for visit in visits]
    return [_session(visit) for visit in kept if len(visit) > 1]


def _session(clicks: Sequence[Click]) -> Session:
    ordered = sorted(clicks, key=lambda each: (each.time or 0, each.order))  # stable
    return ordered[-1].time, tuple(one.item for one in ordered)


def of_lines(found: Iterable[Sequence[str]]) -> list[Session]:
    return [(None, tuple(items)) for items in found if len(items) > 1]


# The logs


def read_rees46(folder: Path) -> Reading:
    log = rows(folder / "2019-Oct.csv")
    clicks = [
        Click(
            row["user_session"],
            row["product_id"],
            moment(row["event_time"], "%Y-%m-%d %H:%M:%S UTC"),
            row["event_type"] == "view",
        )
        for row in log
        if row["user_session"]  # the last row is cut short
    ]
    sessions = by_session(clicks)
    clicked = {item for _, items in sessions for item in items}
    found: Categories = {item: [] for item in clicked}
    for row in log:  # in order of time
        if row["category_code"] and row["event_type"] == "view" and row["product_id"] in clicked:
            found[row["product_id"]] = [tuple(row["category_code"].split("."))]
    return Reading(len(log) - 1, sessions, categories=found)  # the last row is no click


def read_diginetica(folder: Path) -> Reading:
    log = fields(folder / "sample_train-item-views.csv", ";")
    clicks = [
        Click(
            row["session_id"],
            row["item_id"],
            moment(row["eventdate"], "%Y-%m-%d"),
            order=int(row["timeframe"]),
        )
        for row in log
    ]
    return Reading(len(log), by_session(clicks))


def read_recbole(folder: Path) -> Reading:
    log = fields(folder / "ml-100k.inter", "\t")
    clicks = [Click(row["user_id:token"], row["item_id:token"], float(row["timestamp:float"])) for row in log]
    items = fields(folder / "ml-100k.item", "\t")
    genres: Categories = {
        row["item_id:token"]: [(genre,) for genre in row["class:token_seq"].split()] for row in items
    }
    return Reading(len(log), by_user(clicks), categories=genres)


def genres_of(items: Iterable[dict[str, str]]) -> Categories:
    return {row["item"]: [(genre,) for genre in row["genres"].split("|") if genre] for row in items}


def rated(log: Iterable[dict[str, str]]) -> list[Click]:
    return [Click(row["user"], row["item"], float(row["time"])) for row in log]


def read_movielens_csv(folder: Path) -> Reading:
    log = rows(folder / "ratings.csv", names="user item rating time")
    items = rows(folder / "movies.csv", names="item title genres")
    return Reading(len(log), by_user(rated(log)), categories=genres_of(items))


def read_movielens_latin1(folder: Path) -> Reading:
    log = fields(folder / "ratings.dat", "!", "user item rating time")
    items = fields(folder / "movies.dat", "::", "item title genres", "latin-1")
    return Reading(len(log), by_user(rated(log)), categories=genres_of(items))


def read_movie_tweetings(folder: Path) -> Reading:
    log = fields(folder / "ratings.dat", "::", "user item rating time")
    items = fields(folder / "movies.dat", "#", "item title genres")
    return Reading(len(log), by_user(rated(log)), categories=genres_of(items))


def timed(path: Path) -> list[Click]:
    """The rows of a table of SessionId, ItemId and Time."""
    return [Click(row["SessionId"], row["ItemId"], float(row["Time"])) for row in fields(path, "\t")]


def read_yoochoose(folder: Path) -> Reading:
    log = timed(folder / "yoochoose-clicks-100k_train_full.txt")
    test = timed(folder / "yoochoose-clicks-100k_test.txt")
    sessions = by_session(log)
    known = {item for _, items in sessions for item in items}
    return Reading(len(log) + len(test), sessions, by_session(one for one in test if one.item in known))


def read_serenade(folder: Path) -> Reading:
    clicks = timed(folder / "train.txt") + timed(folder / "test.txt")[::-1]
    return Reading(len(clicks), by_session(clicks))


def read_lastfm_1k(folder: Path) -> Reading:
    path = folder / "userid-timestamp-artid-artname-traid-traname.tsv"
    log = fields(path, "\t", "user time artist artist_name track track_name")
    log.reverse()  # it is newest first
    clicks = [
        Click(row["user"], row["artist"], moment(row["time"], "%Y-%m-%dT%H:%M:%SZ"))
        for row in log
        if row["artist"]
    ]
    return Reading(len(log), by_user(clicks))


def read_groceries(folder: Path) -> Reading:
    found = lines(folder / "groceries.csv", ",")
    return Reading(sum(map(len, found)), of_lines(found))


def read_groceries_dates(folder: Path) -> Reading:
    log = rows(folder / "Groceries_dataset.csv", separator=";")
    clicks = [
        Click(row["Member_number"], row["itemDescription"].strip(), moment(row["Date"], "%d.%m.%Y"))
        for row in log
    ]
    return Reading(len(log), by_user(clicks))


def read_bread_basket(folder: Path) -> Reading:
    log = rows(folder / "BreadBasket_DMS.csv")
    clicks = [
        Click(
            row["Transaction"],
            row["Item"].strip(),
            moment(f"{row['Date']} {row['Time']}", "%Y-%m-%d %H:%M:%S"),
        )
        for row in log
        if row["Item"] != "NONE"
    ]
    return Reading(len(log), by_session(clicks))


def read_amazon_fashion(folder: Path) -> Reading:
    with gzip.open(folder / "AMAZON_FASHION_5.json.gz", "rt", encoding="utf-8") as file:
        log = [json.loads(line) for line in file]
    clicks = [Click(row["reviewerID"], row["asin"], row["unixReviewTime"]) for row in log]
    return Reading(len(log), by_user(clicks))


def read_taobao(folder: Path) -> Reading:
    log = rows(folder / "UserBehavior.csv")
    clicks = [Click(row["用户ID"], row["商品ID"], float(row["时间戳"])) for row in log]
    sessions = by_user(clicks)
    placed: Categories = {
        row["商品ID"]: [(row["商品类别"],)] for row in sorted(log, key=lambda row: int(row["时间戳"]))
    }
    return Reading(len(log), sessions, categories=placed)


def read_globo(folder: Path) -> Reading:
    log = rows(folder / "clicks_sample_small.csv")
    clicks = [
        Click(row["session_id"], row["click_article_id"], int(row["click_timestamp"]) / 1000) for row in log
    ]
    items = rows(folder / "articles_metadata_small.csv")
    categories: Categories = {row["article_id"]: [(row["category_id"],)] for row in items}
    return Reading(len(log), by_session(clicks), categories=categories)


def read_hm(folder: Path) -> Reading:
    log = rows(folder / "transactions_train.csv")
    clicks = [Click(row["customer_id"], row["article_id"], moment(row["t_dat"], "%Y-%m-%d")) for row in log]
    items = rows(folder / "articles.csv")
    levels = ("index_group_name", "section_name", "product_type_name")
    categories: Categories = {row["article_id"]: [tuple(row[level] for level in levels)] for row in items}
    return Reading(len(log), by_user(clicks), categories=categories)


def read_hetrec_lastfm(folder: Path) -> Reading:
    log = fields(folder / "user_taggedartists.dat", "\t")
    clicks = [
        Click(
            row["userID"], row["artistID"], moment(f"{row['day']} {row['month']} {row['year']}", "%d %m %Y")
        )
        for row in log
    ]
    return Reading(len(log), by_user(clicks))


def read_tmall(folder: Path) -> Reading:
    log = rows(folder / "user_log.csv")
    log.sort(key=lambda row: (row["month"], row["day"]))
    clicks = [
        Click(
            row["user_id"],
            row["item_id"],
            moment(f"2000 {row['month']} {row['day']}", "%Y %m %d"),
            row["action"] == "0",
        )
        for row in log
    ]
    placed: Categories = {row["item_id"]: [(row["cat_id"],)] for row in log if row["action"] == "0"}
    return Reading(len(log), by_user(clicks), categories=placed)


def read_bms1(folder: Path) -> Reading:
    found = lines(folder / "BMS1.dat")
    return Reading(sum(map(len, found)), of_lines(found))


def read_beauty(folder: Path) -> Reading:
    found = [line[1:] for line in lines(folder / "Beauty.txt")]
    return Reading(sum(map(len, found)), of_lines(found))


def read_merlin(folder: Path) -> Reading:
    log = pl.read_parquet(folder / "data.parquet").select("item_id/list", "ts/list", "category/list")
    clicks = []
    categories: Categories = {}
    for row, (items, times, placed) in enumerate(log.rows()):
        clicks += [Click(str(row), str(i), t) for i, t in zip(items, times, strict=True)]
        categories |= {str(i): [(str(c),)] for i, c in zip(items, placed, strict=True)}
    return Reading(len(clicks), by_session(clicks), categories=categories)


def read_otto(folder: Path) -> Reading:
    sessions = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    clicks = [
        Click(str(session["session"]), str(event["aid"]), event["ts"] / 1000, event["type"] == "clicks")
        for session in sessions
        for event in session["events"]
    ]
    return Reading(len(clicks), by_session(clicks))


def read_msweb(folder: Path) -> Reading:
    text = (folder / "anonymous-msweb.data").read_text("utf-8")
    visits = re.split(r"^C,.*$", text, flags=re.MULTILINE)[1:]
    found = [re.findall(r"^V,(\d+),", visit, flags=re.MULTILINE) for visit in visits]
    return Reading(sum(map(len, found)), of_lines(found))


def convert_msweb(folder: Path, out: Path) -> None:
    """Lines of votes (V) follow the line of their visitor (C)."""
    sessions: list[list[str]] = []
    with (folder / "anonymous-msweb.data").open(encoding="utf-8", newline="") as file:
        for kind, value, *_ in csv.reader(file):
            if kind == "C":
                sessions.append([])
            elif kind == "V":
                sessions[-1].append(value)
    (out / "sessions.txt").write_text("".join(" ".join(items) + "\n" for items in sessions))


_REQUEST = re.compile(r'(\S+) \S+ \S+ \[([^]]+)\] "GET (\S+) [^"]*" 200 ')


def requests(path: Path) -> Iterator[tuple[str, str, str]]:
    """Visitor, time and page of every page that was found."""
    for line in path.read_text("utf-8").splitlines():
        if (match := _REQUEST.match(line)) and not re.search(r"\.(png|jpg|gif|ico|css|js|svg)\b", match[3]):
            yield match[1], match[2], match[3]


def read_apache(folder: Path) -> Reading:
    clicks = [
        Click(visitor, page, moment(time, "%d/%b/%Y:%H:%M:%S %z"))
        for visitor, time, page in requests(folder / "apache_logs")
    ]
    return Reading(len(clicks), by_user(clicks))


def convert_apache(folder: Path, out: Path) -> None:
    with (out / "requests.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("visitor", "time", "page"), *requests(folder / "apache_logs")])


def read_online_retail(folder: Path) -> Reading:
    log = rows(folder / "OnlineRetail.csv")
    clicks = [
        Click(row["InvoiceNo"], row["StockCode"], moment(row["InvoiceDate"], "%m/%d/%y %H:%M")) for row in log
    ]
    return Reading(len(log), by_session(clicks))


def read_book_crossing(folder: Path) -> Reading:
    log = rows(folder / "BX-Book-Ratings.csv")
    sessions = by_session(Click(row["User-ID"], row["ISBN"]) for row in log)
    return Reading(len(log), sessions)


LOGS = (
    PublicLog(
        "rees46",
        "ibrhmspl/Team11_Customer_Segmentation: 2019-Oct.csv",
        "times end in UTC; event types; category paths with dots, often empty; CRLF; the last row is cut short",
        "2019-Oct.csv --session-column user_session --item-column product_id --time-column event_time "
        "--event-column event_type --event view --category-column category_code --category-path-separator . "
        "--skip-malformed",
        read_rees46,
    ),
    PublicLog(
        "diginetica",
        "CRIPAC-DIG/SR-GNN: datasets/sample_train-item-views.csv",
        "semicolons; a date, and milliseconds since the session began; rows of a session in no order",
        "sample_train-item-views.csv --separator ';' --session-column session_id --item-column item_id "
        "--time-column eventdate --order-column timeframe",
        read_diginetica,
    ),
    PublicLog(
        "recbole",
        "RUCAIBox/RecBole: dataset/ml-100k/ml-100k.{inter,item}",
        "suffixes .inter and .item; types in the header; categories separated by blanks",
        "ml-100k.inter --separator '\\t' --user-column user_id:token --item-column item_id:token "
        "--time-column timestamp:float --items ml-100k.item --item-separator '\\t' --item-id-column item_id:token "
        "--title-column movie_title:token_seq --category-column class:token_seq --category-separator ' ' "
        "--max-session-length 1000",
        read_recbole,
    ),
    PublicLog(
        "movielens-csv",
        "xinyudong93/SVDBasedRecommenderAlgorithms: data/ml-latest-small/{ratings,movies}.csv",
        "no header in either table; several categories in one cell; commas in titles; CRLF",
        "ratings.csv --log-columns user,item,rating,time --items movies.csv --item-columns item,title,genres "
        "--title-column title --category-column genres --category-separator '|' --max-session-length 1000",
        read_movielens_csv,
    ),
    PublicLog(
        "movielens-latin1",
        "bi-labor/Hadoop: data/ratings.dat, xinyudong93/SVDBasedRecommenderAlgorithms: data/ml-1m/movies.dat",
        "separators ! and ::; the item table is latin-1",
        "ratings.dat --separator '!' --log-columns user,item,rating,time --items movies.dat --item-separator :: "
        "--item-columns item,title,genres --encoding latin-1 --title-column title --category-column genres "
        "--category-separator '|' --max-session-length 1000",
        read_movielens_latin1,
    ),
    PublicLog(
        "movie-tweetings",
        "phanvinh0526/movie_tweetings: data/{ratings,movies}.dat",
        "separators :: and #; ids with leading zeros; items without a category",
        "ratings.dat --separator :: --log-columns user,item,rating,time --items movies.dat --item-separator '#' "
        "--item-columns item,title,genres --title-column title --category-column genres --category-separator '|'",
        read_movie_tweetings,
    ),
    PublicLog(
        "yoochoose",
        "rn5l/session-rec: data/rsc15/prepared/yoochoose-clicks-100k_{train_full,test}.txt",
        "a .txt that is a table; fractions of seconds; a test log",
        "yoochoose-clicks-100k_train_full.txt --test-log yoochoose-clicks-100k_test.txt --format events "
        "--separator '\\t' --session-column SessionId --item-column ItemId --time-column Time",
        read_yoochoose,
    ),
    PublicLog(
        "serenade",
        "bolcom/serenade: assets/example/example.zip, {train,test}.txt in it",
        "a .txt that is a table; two files, the sessions of the second newest first",
        "train.txt test.txt --format events --separator '\\t' "
        "--session-column SessionId --item-column ItemId --time-column Time",
        read_serenade,
    ),
    PublicLog(
        "lastfm-1k",
        "myluco/lastfm: data/userid-timestamp-artid-artname-traid-traname.tsv",
        "no header; newest first; quotes inside titles; empty item ids",
        "userid-timestamp-artid-artname-traid-traname.tsv --log-columns user,time,artist,artist_name,track,track_name "
        "--item-column artist --title-column artist_name",
        read_lastfm_1k,
    ),
    PublicLog(
        "groceries",
        "stedy/Machine-Learning-with-R-datasets: groceries.csv",
        "a .csv with one basket per line; blanks in and after names",
        "groceries.csv --format sessions --separator ,",
        read_groceries,
    ),
    PublicLog(
        "groceries-dates",
        "zehradalgic/market-alisveris-analizi: Groceries_dataset.csv",
        "semicolons; dates such as 5.01.2015, day first; no time of day",
        "Groceries_dataset.csv --separator ';' --user-column Member_number --item-column itemDescription "
        "--time-column Date --time-format %d.%m.%Y",
        read_groceries_dates,
    ),
    PublicLog(
        "bread-basket",
        "prasertcbs/basic-dataset: BreadBasket_DMS.csv",
        "date and time in two columns; NONE where there is no item",
        "BreadBasket_DMS.csv --session-column Transaction --item-column Item --time-column Date --time-column Time "
        "--missing NONE",
        read_bread_basket,
    ),
    PublicLog(
        "amazon-fashion",
        "thijsgelton/IR-2122-Project: data/AMAZON_FASHION_5.json.gz",
        "JSON lines called .json, gzipped; days as Unix times; repeated events",
        "AMAZON_FASHION_5.json.gz --user-column reviewerID --item-column asin --time-column unixReviewTime",
        read_amazon_fashion,
    ),
    PublicLog(
        "taobao",
        "wjl-cong/Collaborative_-Filtering: data/UserBehavior.csv",
        "a header in Chinese; categories, titles and prices in the log",
        "UserBehavior.csv --user-column 用户ID --item-column 商品ID --time-column 时间戳 "
        "--category-column 商品类别 --title-column 商品名称 --number-column 售价",
        read_taobao,
    ),
    PublicLog(
        "globo",
        "IALeila75/streamlit_recommand: data/{clicks_sample,articles_metadata}_small.csv",
        "milliseconds; session ids that look like times; most items are not in the table",
        "clicks_sample_small.csv --session-column session_id --item-column click_article_id "
        "--time-column click_timestamp --items articles_metadata_small.csv --item-id-column article_id "
        "--category-column category_id",
        read_globo,
    ),
    PublicLog(
        "hm",
        "Nader-Opeyany/HM-Clothing-DataScience: data/{transactions_train,articles}.csv",
        "one day, no time of day; three levels as columns, with one name under several parents",
        "transactions_train.csv --user-column customer_id --item-column article_id --time-column t_dat "
        "--items articles.csv --item-id-column article_id --title-column prod_name "
        "--category-column index_group_name --category-column section_name --category-column product_type_name",
        read_hm,
    ),
    PublicLog(
        "hetrec-lastfm",
        "rafaelpossas/admusic: data/{user_taggedartists,artists}.dat",
        "day, month and year in three columns; titles that begin with a quote; CRLF; repeated events",
        "user_taggedartists.dat --separator '\\t' --user-column userID --item-column artistID --time-column day "
        "--time-column month --time-column year --time-format '%d %m %Y' --items artists.dat --item-separator '\\t' "
        "--item-id-column id --title-column name --max-session-length 1000",
        read_hetrec_lastfm,
    ),
    PublicLog(
        "tmall",
        "QingMengK/BigData: user_log.csv",
        "month and day in two columns, no year; event types as numbers; categories in the log",
        "user_log.csv --user-column user_id --item-column item_id --time-column month "
        "--time-column day --time-format '%m %d' --event-column action --event 0 --category-column cat_id "
        "--max-session-length 1000",
        read_tmall,
    ),
    PublicLog(
        "bms1",
        "mohameddouad/ClosedOverlap: data/BMS1.dat",
        "one session per line, with a blank at its end; suffix .dat",
        "BMS1.dat --format sessions --max-session-length 1000",
        read_bms1,
    ),
    PublicLog(
        "beauty",
        "salesforce/ICLRec: data/Beauty.txt",
        "one user per line, whose id stands first",
        "Beauty.txt --line-id --max-session-length 1000",
        read_beauty,
    ),
    PublicLog(
        "merlin",
        "NVIDIA-Merlin/Transformers4Rec: transformers4rec/data/testing/data.parquet",
        "one session per row: lists of items, times and categories",
        "data.parquet --session-column '' --item-column item_id/list --time-column ts/list "
        "--category-column category/list",
        read_merlin,
    ),
    PublicLog(
        "otto",
        "otto-de/recsys-dataset: test/resources/train.jsonl",
        "JSON lines, one session per line, events as objects; milliseconds",
        "train.jsonl --session-column session --item-column events.aid --time-column events.ts "
        "--event-column events.type --event clicks --max-session-length 1000",
        read_otto,
    ),
    PublicLog(
        "msweb",
        "mhahsler/recommenderlab: Work/data/MSWeb/anonymous-msweb.data",
        "lines of several kinds; no times",
        "sessions.txt",
        read_msweb,
        convert_msweb,
    ),
    PublicLog(
        "apache",
        "elastic/examples: Common Data Formats/apache_logs/apache_logs",
        "a web server's log; an unbalanced quote; not in order of time",
        "requests.csv --user-column visitor --item-column page --time-column time "
        "--time-format '%d/%b/%Y:%H:%M:%S %z'",
        read_apache,
        convert_apache,
    ),
    PublicLog(
        "online-retail",
        "evanvolgas/sketchy: OnlineRetail.csv",
        "times such as 12/1/10 8:26, month first; ids of digits and of letters; commas in titles",
        "OnlineRetail.csv --session-column InvoiceNo --item-column StockCode --time-column InvoiceDate "
        "--time-format '%m/%d/%y %H:%M' --title-column Description",
        read_online_retail,
    ),
    PublicLog(
        "book-crossing",
        "sub1004/recosys: data/BX-Book-Ratings.csv",
        "no times at all; ids with leading zeros and letters; users of thousands of clicks",
        "BX-Book-Ratings.csv --session-column User-ID --item-column ISBN --time-column '' "
        "--max-session-length 1000",
        read_book_crossing,
    ),
)


# Comparing


def sessions_of(data: Dataset, splits: Iterable[Sessions]) -> list[Session]:
    ids = [str(item) for item in data.item_ids]
    found: list[Session] = []
    for split in splits:
        for at in range(len(split)):
            time = None if split.time is None else float(split.time[at])
            found.append((time, tuple(ids[row] for row in split[at])))
    return found


def in_seconds(sessions: Iterable[Session]) -> list[Session]:
    """In one order, times in whole seconds as a dataset has them."""
    whole = [(None if time is None else float(time // 1), items) for time, items in sessions]
    return sorted(whole, key=lambda session: (session[0] or 0, session[1]))


def together(leaf_of: dict[str, tuple[str, ...] | int]) -> set[frozenset[str]]:
    """Which items share a category, whatever its id."""
    groups = defaultdict(set)
    for item, leaf in leaf_of.items():
        groups[leaf].add(item)
    return {frozenset(group) for group in groups.values()}


def sizes_of(categories: Categories, items: Iterable[str]) -> list[int]:
    """Categories of each level; a path that ends early goes on below its end, and an unknown category is one more."""
    placed = [categories.get(item, []) for item in items]
    paths = {path for found in placed for path in found}
    depth = max(map(len, paths), default=1)
    padded = {path + path[-1:] * (depth - len(path)) for path in paths}
    unknown = any(not found for found in placed)
    return [len({path[: level + 1] for path in padded}) + unknown for level in range(depth)]


def differences(data: Dataset, right: Reading) -> list[str]:
    """What prepare read otherwise than ``right`` says, in words."""
    found = []

    def compare(what: str, got: object, wanted: object) -> None:
        if got != wanted:
            found.append(f"{what}: {got} instead of {wanted}")

    compare("clicks read", data.settings["report"]["clicks_read"], right.clicks)
    got = in_seconds(sessions_of(data, [data.train, data.validation]))
    wanted = in_seconds(right.sessions)
    compare("sessions", len(got), len(wanted))
    if len(got) == len(wanted):
        other = [pair for pair in zip(got, wanted, strict=True) if pair[0] != pair[1]]
        if other:
            found.append(f"{len(other)} sessions differ, such as {other[0][0]} instead of {other[0][1]}")
    compare("test sessions", in_seconds(sessions_of(data, [data.test])), in_seconds(right.test))
    items = {item for _, clicked in right.sessions for item in clicked}
    compare("items", data.items, len(items))
    if right.categories is not None and {str(item) for item in data.item_ids} == items:
        placed = {item: right.categories.get(item) or [()] for item in items}
        compare("categories", data.tree.sizes, sizes_of(right.categories, items))
        leaves = {str(item): int(leaf) for item, leaf in zip(data.item_ids, data.category, strict=True)}
        compare("items by category", together({**leaves}), together({i: p[0] for i, p in placed.items()}))
        extra = {
            str(item): len(more) for item, more in zip(data.item_ids, data.extra_categories, strict=True)
        }
        compare("further categories", extra, {item: len(set(paths)) - 1 for item, paths in placed.items()})
    return [line if len(line) < 300 else f"{line[:300]} …" for line in found]


@dataclass(frozen=True)
class Outcome:
    """``wrong``: the differences, or prepare's refusal; ``shown``: what prepare printed."""

    log: PublicLog
    right: Reading
    wrong: list[str]
    shown: str


def check(log: PublicLog, folder: Path) -> Outcome:
    """Read the log both ways."""
    right = log.read(folder)
    with tempfile.TemporaryDirectory() as temporary:
        if log.convert is not None:
            log.convert(folder, Path(temporary))
        with contextlib.chdir(folder if log.convert is None else temporary):
            words = ["prepare", *shlex.split(log.command), "--out", str(Path(temporary) / "data")]
            result = CliRunner().invoke(hiersrec, words)
        if result.exit_code == 0:
            wrong = differences(Dataset.load(Path(temporary) / "data"), right)
        else:
            cause = repr(result.exception) if not isinstance(result.exception, SystemExit) else ""
            wrong = ["refused: " + " ".join(f"{result.output} {cause}".split())]
    return Outcome(log, right, wrong, result.output)


_NAMES = re.compile(r"--((session|user|item|time|item-id|title)-column|items)")


def options_of(command: str) -> list[str]:
    """The options that say how to read the log: not those that only name a column or a table, once."""
    words = shlex.split(command)
    return [
        word
        for word, value in dict(zip(words, [*words[1:], ""], strict=True)).items()
        if word.startswith("--") and (not _NAMES.fullmatch(word) or not value or words.count(word) > 1)
    ]


def row_of(outcome: Outcome) -> list[str]:
    log, right = outcome.log, outcome.right
    every = right.sessions + right.test
    return [
        log.name,
        log.source,
        log.odd,
        " ".join(f"`{option}`" for option in options_of(log.command)),
        f"{right.clicks:,}",
        f"{len(every):,}",
        f"{len({item for _, clicked in right.sessions for item in clicked}):,}",
        "no" if outcome.wrong else "yes" if log.convert is None else "yes, converted",
    ]


HEAD = [
    "log",
    "repository: files",
    "what is odd",
    "options for that",
    "clicks",
    "sessions",
    "items",
    "agrees",
]

TEXT = """\
Each log below comes from a public repository. `hiersrec prepare` reads it, and so does plain Python that shares no code
with it. They agree if these are the same: the clicks read, every session click by click, the time of its last click,
the items, and which items share a category. The options are those that do more than name a column or a table; the full
commands stand below.

FOLDER holds a folder for each log, called as in the table. The logs belong to others and are not part of the project.
"Converted" means that a few lines of Python make a table or sessions of the log first, and the clicks are counted after
that. Sessions have two clicks or more. [Log formats](../how-to/log_formats.md) has excerpts and commands to copy."""


def page(outcomes: Sequence[Outcome]) -> str:
    """The table, and the commands below it."""
    parts = [table(HEAD, [row_of(outcome) for outcome in outcomes], text=4), "## The commands"]
    for outcome in outcomes:
        parts.append(
            f"{outcome.log.name}:\n\n{in_lines(f'hiersrec prepare {outcome.log.command} --out data')}"
        )
    return "\n\n".join(parts)


def in_lines(command: str) -> str:
    """The command, indented, in lines that begin with an option."""
    whole = [part.replace(" ", "\0") for part in command.split(" --")]  # an option stays with its value
    found = textwrap.wrap(
        " --".join(whole), 96, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False
    )
    return " \\\n".join(found).replace("\0", " ")


@click.command(help=__doc__)
@click.option("--logs", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--only", multiple=True, help="Name of a log to read; repeatable.  [default: all]")
@click.option("--show", is_flag=True, help="Print what prepare prints.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the page.")
def main(logs: Path, only: tuple[str, ...], show: bool, out: Path | None) -> None:
    outcomes = []
    for log in LOGS:
        if only and log.name not in only:
            continue
        if not (logs / log.name).is_dir():
            click.echo(f"{log.name} is absent: {log.source}")
            continue
        outcomes.append(check(log, (logs / log.name).absolute()))
        if show:
            click.echo(f"\n{log.name}: {log.odd}\nhiersrec prepare {log.command}\n{outcomes[-1].shown}")
    if out is None:
        click.echo(page(outcomes))
    else:
        command = f"python -m benchmarks.studies.public_logs --logs FOLDER --out {out}"
        write_page(out, "public_logs", command, "Public logs", TEXT, page(outcomes))
    for outcome in outcomes:
        for line in outcome.wrong:
            click.echo(f"{outcome.log.name}: {line}")
    if any(outcome.wrong for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
