"""``python -m release``: see ``--help``; ``scripts/wheels`` installs what it needs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from release.build import TARGETS, ReleaseError, build_pure_wheel, build_sdist, build_wheel, run, unpack_sdist
from release.installed import installed
from release.kernel import test_kernel
from release.places import Place, found_pythons, opened_root
from release.wheel import problems, wheel_tag

ROOT = Path(__file__).resolve().parents[1]
PURE = "any"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "dist",
    help="Folder to fill, relative to the checkout.  [dist/]",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice([*(target.tag for target in TARGETS), PURE]),
    help="Build this wheel; repeatable. All by default.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    help="Try the wheels with this Python too, a path; repeatable. Those on PATH are found.",
)
@click.option(
    "--chroot",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Try them with the Python of this folder too, made by debootstrap; of ARM under qemu. Repeatable.",
)
@click.option(
    "--tests", multiple=True, default=["tests/sdk"], show_default=True, help="Run these tests; repeatable."
)
@click.option("--no-tests", is_flag=True, help="Have the golden bundle answer, and run no tests.")
def main(
    out: Path,
    targets: tuple[str, ...],
    pythons: tuple[str, ...],
    roots: tuple[Path, ...],
    tests: tuple[str, ...],
    no_tests: bool,
) -> None:
    """Build the sdist and the wheels, check what is in them, and try each in fresh environments without a compiler.

    In each environment the golden bundles answer, and the tests of the SDK run, but for those that need PyTorch; an
    emulated one answers only. The wheel without a kernel has the same Python in it, and is tested with the first. The
    C kernel's own tests run for every processor and C library that can be run here.
    A failure is shown, and the other environments are tried all the same; nothing is written to --out unless all is
    well.
    """
    try:
        _release(out, targets, pythons, roots, () if no_tests else tests)
    except ReleaseError as error:
        raise click.ClickException(str(error)) from error


def _release(
    out: Path,
    targets: tuple[str, ...],
    pythons: tuple[str, ...],
    roots: tuple[Path, ...],
    tests: tuple[str, ...],
) -> None:
    places = [*found_pythons(pythons), *map(opened_root, roots)]
    click.echo(f"The wheels will be tried with: {'; '.join(map(str, places))}.")
    if _is_changed():
        click.echo("This checkout has changes that are not committed: they will be part of what is built.")
    with tempfile.TemporaryDirectory(prefix="hiersrec-release-") as folder:
        work = Path(folder)
        click.echo("Building the sdist.")
        sdist = build_sdist(ROOT, work)
        source = unpack_sdist(sdist, work)
        wheels = _built_wheels(source, work, targets)
        checked = {wheel: [*_checked_content(wheel, work)] for wheel in wheels}
        for target in TARGETS:
            wheel = next((wheel for wheel in wheels if wheel_tag(wheel) == target.tag), None)
            if wheel and "musl" in target.compiler:
                click.echo(f"Testing the C kernel of {target.tag}.")
                checked[wheel].append(test_kernel(source, target, work))
        failed = []
        for place in places:
            for wheel in wheels:
                if _fits(wheel, place):
                    tested = wheel_tag(wheel) != PURE or place is places[0]
                    try:
                        checked[wheel].append(_tried(wheel, place, source, tests if tested else ()))
                    except ReleaseError as error:
                        click.echo(error)
                        failed.append(f"{wheel.name} on {place}")
        if failed:
            raise ReleaseError(f"nothing was written, see above for what failed: {'; '.join(failed)}")
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("hiersrec_sdk-*"):
            old.unlink()
        for file in (sdist, *wheels):
            shutil.copy(file, out)
        checked[sdist] = ["the wheels were built from it"]
        _show(out, [sdist, *wheels], checked)


def _built_wheels(source: Path, work: Path, targets: tuple[str, ...]) -> list[Path]:
    wheels = []
    for target in TARGETS:
        if not targets or target.tag in targets:
            click.echo(f"Building the wheel for {target.tag}.")
            wheels.append(build_wheel(source, target, work))
    if not targets or PURE in targets:
        click.echo("Building the wheel without a kernel.")
        wheels.append(build_pure_wheel(source, work))
    return wheels


def _checked_content(wheel: Path, work: Path) -> list[str]:
    found = problems(wheel, [work, ROOT])
    if found:
        raise ReleaseError("\n".join(f"{wheel.name}: {what}" for what in found))
    if wheel_tag(wheel) == PURE:
        return ["content"]
    run(["abi3audit", "--strict", str(wheel)])
    return ["content, abi3audit, auditwheel"]


def _fits(wheel: Path, place: Place) -> bool:
    """Whether to try a wheel in a place. Places have glibc; one without a kernel needs no emulator."""
    tag = wheel_tag(wheel)
    return (tag == PURE and place.emulator is None) or (
        tag.endswith(f"_{place.machine}") and "manylinux" in tag
    )


def _tried(wheel: Path, place: Place, source: Path, tests: tuple[str, ...]) -> str:
    click.echo(f"Trying {wheel.name} with {place}.")
    with installed(place, wheel, source) as environment:
        found = environment.answer()
        sets = found["instruction_sets"]
        said = f"{place}: {found['right']} golden answers by {sets[0] if sets else 'NumPy'}, "
        said += f"{environment.size / 1e6:.0f} MB installed"
        if tests and place.emulator is None:
            click.echo(f"  {said}; now the tests.")
            said += f", tests: {environment.test(list(tests))}"
    click.echo(f"  {said}")
    return said


def _is_changed() -> bool:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and bool(done.stdout.strip())


def _show(out: Path, files: list[Path], checked: dict[Path, list[str]]) -> None:
    click.echo(f"\nIn {out}:\n\n| file | kB | checked |\n|---|--:|---|")
    for file in files:
        said = (
            checked[file]
            if len(checked[file]) > 1 or file.suffix == ".gz"
            else [*checked[file], "not run here"]
        )
        click.echo(f"| {file.name} | {file.stat().st_size / 1000:,.0f} | {'; '.join(said)} |")


if __name__ == "__main__":
    main(prog_name="scripts/wheels")
