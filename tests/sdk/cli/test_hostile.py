"""What a command may be given by mistake or on purpose: numbers of odd digits, paths to anything, broken folders."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from hiersrec_sdk.cli.common import IntegerType, NumberType
from hiersrec_sdk.cli.main import main
from tests.sdk.bundles import make_shop
from tests.sdk.cli.run import hiersrec
from tests.sdk.cli.test_main import commands

ITEM = "größe-3"
NO_INTEGERS = ["1_0", " 5 ", "٣", "5.0", "1e3", "0x10", "nan", "", "+", "--", "9" * 5_000]
NO_NUMBERS = ["1_0.5", " 5 ", "٣", "nan", "inf", "-inf", "Infinity", "1e400", "", ".", "1e", "0x1p3"]


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def _written(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


BREAK: dict[str, Callable[[Path], object]] = {
    "a named pipe": _fifo,
    "a folder": _folder,
    "a loop of links": _loop,
    "missing": Path.unlink,
    "empty": _written(b""),
    "zeros": _written(bytes(5_000)),
    "garbage": _written(bytes(range(256)) * 20),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "NaN": _written(b'{"format": NaN}'),
    "deep": _written(b"[" * 100_000),
    "a list": _written(b"[]"),
    "null": _written(b"null"),
    "digits": _written(b'{"schema_version": ' + b"9" * 5_000 + b"}"),
    "no UTF-8": _written(b'{"format": "\xff"}'),
    "half a surrogate pair": _written(rb'{"format": "\ud800"}'),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; whatever waits for a named pipe is ended."""

    def ended(*_: object) -> None:
        raise TimeoutError("it waits for a named pipe")

    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(60)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(result: Result) -> str:
    """The message of a command that must have ended in one."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2), result.output
    assert len(result.stderr) < 2_500
    assert result.stderr
    return result.stderr


def test_every_option_takes_strict_numbers() -> None:
    """None takes those of click, which are Python's ``int()`` and ``float()``."""
    types = {
        type(option.type)
        for _, command in commands(main)
        for option in command.params
        if isinstance(option, click.Option)
    }
    assert {IntegerType, NumberType} <= types
    assert not types & {type(each) for each in (click.INT, click.FLOAT)}


@pytest.mark.parametrize("text", NO_INTEGERS, ids=ascii)
def test_what_is_no_integer(text: str, here: Path) -> None:
    for words, option in (("recommend", "-k"), ("simulate", "--items"), ("prepare", "--max-session-length")):
        message = refused(hiersrec(words, "path", "--out", "out", option, text))
        assert f"Invalid value for '{option}'" in message
        assert "must be an integer, got" in message
    assert hiersrec("simulate", "--out", "shop", "--items", "+60", "--sessions", "9").exit_code == 0


@pytest.mark.parametrize("text", NO_NUMBERS, ids=ascii)
def test_what_is_no_number(text: str, here: Path) -> None:
    for words, option in (("recommend", "--candidates"), ("prepare", "--session-gap")):
        message = refused(hiersrec(words, "path", "--out", "out", option, text))
        assert f"Invalid value for '{option}'" in message
        assert "must be a number, got" in message


@pytest.mark.parametrize("text", ["1_0", "٣", "0x10", "1e400"])
def test_settings_are_strict_too(text: str, tiny_data: Path, here: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    message = refused(hiersrec("train", tiny_data, "--out", "run", "--set", f"epochs={text}"))
    assert "epochs" in message
    assert re.search("takes a number such as|must be an integer|must be finite", message)
    message = refused(hiersrec("evaluate", "--baseline", "sknn", tiny_data, "--set", f"neighbors={text}"))
    assert "--set takes name=number" in message


def test_item_ids_are_strict_too(here: Path) -> None:
    make_shop("int64").write(here / "bundle")
    for text in ("1_0", " 5", "٣", "9" * 5_000, "5.0", ""):
        assert "ids of this catalog are integers" in refused(hiersrec("recommend", "bundle", text))
    assert hiersrec("recommend", "bundle", "-5", "0").exit_code == 0


@pytest.mark.parametrize(
    "name", ["", "a\0b", "\ud800", "x" * 5_000, "loop", "pipe", "/dev/null", "/dev/zero", "folder"], ids=ascii
)
@pytest.mark.slow
def test_paths_to_anything(name: str, tiny_data: Path, here: Path) -> None:
    (here / "folder").mkdir()
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    make_shop("string").write(here / "bundle")
    for arguments in (
        ("inspect", name),
        ("recommend", name, ITEM),
        ("explain", name, ITEM, ITEM),
        ("evaluate", name, tiny_data),
        ("evaluate", "bundle", name),
        ("compare", name, tiny_data),
        ("train", name, "--out", "run"),
        ("train", tiny_data, "--out", "run", "--config", name),
        ("train", tiny_data, "--out", "run", "--final", "--validated-by", name),
        ("export", name, "--out", "out"),
        ("export", name, "--standalone", "out.onnx"),
        ("prepare", name, "--out", "out"),
        ("catalog", "apply", name, "changes", "--out", "out"),
        *(
            (("catalog", "apply", "bundle", name, "--out", "out"),)
            if name not in ("pipe", "/dev/null")
            else ()
        ),
    ):
        refused(hiersrec(*arguments))
    for command in (
        ("simulate",),
        ("export", "bundle", "--standalone"),
        ("prepare", "log.csv"),
        ("train", tiny_data),
    ):
        out = () if "--standalone" in command else ("--out",)
        refused(hiersrec(*command, *out, name))
    assert not (here / "out").exists()


@pytest.mark.parametrize("how", BREAK)
def test_broken_bundles(how: str, here: Path) -> None:
    whole = make_shop("string").write(here / "whole")
    (here / "changes").write_text(json.dumps({"remove": ITEM}))
    for name in ("config.json", "model.onnx", "catalog.safetensors"):
        shutil.copytree(whole, here / "bundle")
        BREAK[how](here / "bundle" / name)
        for arguments in (
            ("inspect", "bundle"),
            ("recommend", "bundle", ITEM),
            ("explain", "bundle", ITEM, ITEM),
            ("catalog", "apply", "bundle", "changes", "--out", "out"),
            ("export", "bundle", "--standalone", "out.onnx"),
        ):
            refused(hiersrec(*arguments))
        shutil.rmtree(here / "bundle")


@pytest.mark.parametrize("how", BREAK)
def test_broken_datasets(how: str, tiny_data: Path, here: Path) -> None:
    make_shop("string").write(here / "bundle")
    for name in ("dataset.json", "items.parquet", "train.parquet", "test.parquet", "categories.parquet"):
        shutil.copytree(tiny_data, here / "data")
        BREAK[how](here / "data" / name)
        for arguments in (
            ("evaluate", "--baseline", "popular", "data"),
            ("evaluate", "bundle", "data"),
            ("train", "data", "--out", "run"),
        ):
            refused(hiersrec(*arguments))
        shutil.rmtree(here / "data")


@pytest.mark.parametrize("how", BREAK)
def test_broken_runs(how: str, tiny_data: Path, tiny_run: Path, here: Path) -> None:
    for name in ("run.json", "model.safetensors"):
        shutil.copytree(tiny_run, here / "run")
        BREAK[how](here / "run" / name)
        refused(hiersrec("export", "run", "--data", tiny_data, "--out", "bundle"))
        if name == "run.json":
            refused(hiersrec("train", tiny_data, "--out", "other", "--final", "--validated-by", "run"))
        shutil.rmtree(here / "run")


def _changed(document: dict[str, Any], path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The document with another value at a path, or without it."""
    missing = object()
    for odd in (None, [], {}, "x", -1, 10**30, 1e300, True, "", [None], {"a": None}, "\ud800", missing):
        copy = json.loads(json.dumps(document))
        inside = copy
        for key in path[:-1]:
            inside = inside[key]
        if odd is missing:
            del inside[path[-1]]
        else:
            inside[path[-1]] = odd
        yield copy


def _paths(document: dict[str, Any], deepest: int = 3) -> Iterator[tuple[str, ...]]:
    for key, value in document.items():
        yield (key,)
        if isinstance(value, dict) and deepest > 1:
            yield from ((key, *below) for below in _paths(value, deepest - 1))


@pytest.mark.slow
def test_every_value_of_a_run(tiny_run: Path, here: Path) -> None:
    from hiersrec_sdk.errors import RunError
    from hiersrec_training.run import load_model

    shutil.copytree(tiny_run, "run")
    document = json.loads((here / "run/run.json").read_text())
    loaded = longest = 0
    for path in _paths(document):
        for changed in _changed(document, path):
            (here / "run/run.json").write_text(json.dumps(changed))
            try:
                load_model(here / "run")
                loaded += 1
            except RunError as error:
                longest = max(longest, len(str(error)))
    assert loaded
    assert longest < 1_500


def test_every_value_of_a_dataset(tiny_data: Path, here: Path) -> None:
    from hiersrec_sdk.errors import DataError
    from hiersrec_training.data.dataset import Dataset

    shutil.copytree(tiny_data, "data")
    document = json.loads((here / "data/dataset.json").read_text())
    loaded = longest = 0
    for path in _paths(document):
        for changed in _changed(document, path):
            (here / "data/dataset.json").write_text(json.dumps(changed))
            try:
                Dataset.load(here / "data")
                loaded += 1
            except DataError as error:
                longest = max(longest, len(str(error)))
    assert loaded
    assert longest < 1_500
