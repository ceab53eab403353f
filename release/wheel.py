"""What is in a wheel, and what must not be."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

_PACKAGES: Final = {"hiersrec_sdk", "hiersrec_training", "hiersrec_export"}
_SOURCES: Final = {".c", ".cpp", ".h", ".inc", ".o", ".pxd", ".pyc", ".pyx"}
_LIBRARIES: Final = re.compile(r"lib(c|m)\.so\.6|ld-linux-.*|libc\.musl-\w+\.so\.1")
_FOLDERS: Final = ("/home/", "/root/", "/tmp/", "/Users/")  # in which people build
_RELATIVE: Final = re.compile(r"\]\(((?!https?:|#)[^)\s]+)\)")
_MACHINES: Final = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_EXPORTED: Final = {"PyInit__kernel"}


def wheel_tag(wheel: Path) -> str:
    """The last part of the name, the platform: "any", or such as "manylinux_2_17_x86_64"."""
    return wheel.stem.rpartition("-")[2].rpartition(".")[2]


def problems(wheel: Path, build_folders: Iterable[Path] = ()) -> list[str]:
    """What is wrong with a wheel, a line each: with its files, and with its extension, of which a pure one has none.

    Args:
        build_folders: must not be named in the extension.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        found = list(_wrong_files(names))
        for name in names:
            if name.endswith(".dist-info/METADATA"):
                links = _RELATIVE.findall(archive.read(name).decode("utf-8"))
                found += (f"the page of the index would link to {link}, of the repository" for link in links)
        extensions = [name for name in names if name.endswith(".so")]
        expected = [] if wheel_tag(wheel) == "any" else ["hiersrec_sdk/_kernel.abi3.so"]
        if extensions != expected:
            found.append(f"extensions are {extensions}, not {expected}")
        for name in extensions:
            hidden = [*_FOLDERS, *map(str, build_folders)]
            found += (f"{name} {what}" for what in _wrong_in(archive.read(name), wheel_tag(wheel), hidden))
    return found


def _wrong_files(names: list[str]) -> Iterator[str]:
    for name in names:
        path = PurePosixPath(name)
        if path.parts[0] not in _PACKAGES and not path.parts[0].endswith(".dist-info"):
            yield f"{name} belongs to none of {sorted(_PACKAGES)}"
        if path.suffix in _SOURCES:
            yield f"{name} is not for users"
    for needed in ("hiersrec_sdk/_version.py", "hiersrec_sdk/py.typed"):
        if needed not in names:
            yield f"{needed} is missing"
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        yield "the license is missing"


def _wrong_in(extension: bytes, tag: str, hidden: Iterable[str]) -> Iterator[str]:
    elf = ELFFile(BytesIO(extension))
    machine = _MACHINES.get(elf["e_machine"], elf["e_machine"])
    if not tag.endswith(machine):
        yield f"is for {machine}"
    for section in elf.iter_sections():
        if section.name == ".symtab" or section.name.startswith(".debug"):
            yield f"is not stripped: it has {section.name}"
    dynamic, symbols = elf.get_section_by_name(".dynamic"), elf.get_section_by_name(".dynsym")
    assert isinstance(dynamic, DynamicSection)
    assert isinstance(symbols, SymbolTableSection)
    exported = {
        symbol.name
        for symbol in symbols.iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
    }
    if exported != _EXPORTED:
        yield f"exports {sorted(exported)}, not {sorted(_EXPORTED)}"
    for entry in dynamic.iter_tags():
        if entry.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            yield "has a path to search for libraries"
        elif entry.entry.d_tag == "DT_NEEDED":
            needed = str(vars(entry)["needed"])  # an attribute that its types lack
            if not _LIBRARIES.fullmatch(needed):
                yield f"needs {needed}"
    for folder in hidden:
        if folder.encode() in extension:
            yield f"names {folder}, a folder of the machine that built it"
