"""The command ``doctor``: a report about this installation, to read or to paste into an issue."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from hiersrec_sdk.cli.common import PATH
from hiersrec_sdk.cli.diagnosis import Diagnosis
from hiersrec_sdk.shown import shown

_WIDTH: Final = 110


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Report what is installed here, what it can do, and what is missing or broken.

    Versions, the processor and its instruction sets, ranking backends, providers of onnxruntime, extras, environment
    variables. With BUNDLE, check every file of it and time some calls.

    The report fits into an issue: it has no tokens, no names of people, and no paths of a home folder. The exit code is
    1 if something is broken, and 0 if an extra is merely missing.
    """
    found = Diagnosis(bundle).as_json()
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))
    if found["problems"]:
        click.get_current_context().exit(1)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"hiersrec-sdk {found['sdk']}"
    for name, value in _overview(found):
        yield from _entry(name, value, 13)
    for title, entries in (
        ("ranking backends", [(each["name"], _backend(each)) for each in found["backends"]]),
        ("extras", [(name, _extra(about)) for name, about in found["extras"].items()]),
        ("environment variables that are set", [*_variables(found["environment"])]),
        ("bundle", [*_bundle(found["bundle"])] if "bundle" in found else []),
    ):
        if entries:
            yield f"\n{title}"
            width = max(len(name) for name, _ in entries) + 2
            for name, value in entries:
                yield from _entry(f"  {name}", value, width + 2)
    for title in ("problems", "notes"):
        if found[title]:
            yield f"\n{title}"
            for text in found[title]:
                yield from _entry("  -", text, 4)
    if not found["problems"]:
        yield "\nnothing is broken"


def _entry(name: str, value: str, width: int) -> list[str]:
    """A name and its value in a column of its own, which may take several lines."""
    return textwrap.wrap(
        f"{name:<{width}}{value}",
        _WIDTH,
        subsequent_indent=" " * width,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _overview(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    processor, cpus, sets = found["processor"], found["cpus"], found["instruction_sets"]
    packages = {**found["packages"], "onnxruntime": found["onnxruntime"]}
    yield "Python", f"{found['python']}, {found['platform']}"
    yield (
        "packages",
        ", ".join(f"{name} {version or 'missing'}" for name, version in sorted(packages.items())),
    )
    yield "processor", f"{processor['model']}, {processor['architecture']}"
    quota = (
        "no quota of a container" if cpus["quota"] is None else f"a container's quota of {cpus['quota']:g}"
    )
    yield (
        "CPUs",
        f"{cpus['affinity']} of {cpus['machine']} for this process, {quota}; "
        f'threads="auto" works with {cpus["used_by_auto"]}',
    )
    kernel = f"{sets['used']} is used, of {', '.join(sets['available'])}" if sets["used"] else "not usable"
    yield "C kernel", kernel
    yield "providers", ", ".join(found["providers"]) or "none"


def _backend(each: dict[str, Any]) -> str:
    state = "is used" if each["used"] else "can be used" if each["available"] else "is not here"
    if each["name"] == "c":
        return state
    return (
        f"{state}; a call takes about {each['times_slower']} times as long as with c, "
        f"{each['times_slower_exact']} times in mode exact"
    )


def _extra(about: dict[str, Any]) -> str:
    state = f"lacks {', '.join(about['lacks'])}" if about["lacks"] else "installed"
    return f"{state} ({about['for']})"


def _variables(environment: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        yield name, "set, and not shown" if value is None else shown(value)


def _bundle(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "name", about["name"]
    if "calls" not in about:
        return
    yield "schema", f"{about['schema']}, by {about['created_by']}"
    yield "catalog", f"{about['items']:,} items, {about['dimensions']} dimensions"
    yield "loaded", f"and verified in {about['load_seconds']:.2f} s"
    for mode, times in about["calls"].items():
        yield (
            mode,
            f"{times['median_ms']:.2f} ms is the median of {times['count']} calls, {times['p99_ms']:.2f} ms the 99th "
            f"percentile, with {about['backend']}",
        )
