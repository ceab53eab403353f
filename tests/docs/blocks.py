"""The fenced blocks of a Markdown page, run in order as a reader would run them, but with tiny settings."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner

from hiersrec_sdk.cli.main import main
from hiersrec_sdk.cli.quickstart import quickstart

ROOT: Final = Path(__file__).resolve().parents[2]

# Arguments that are appended to the commands of a page: of an option that comes twice, the last one counts.
_TINY: Final = {
    "simulate": ["--items", "250", "--sessions", "2500"],
    "train": ["--set", "epochs=1", "--set", "dimension=16", "--no-progress"],
    "tune": ["--trials", "2", "--best", "1", "--seeds", "1"],
}
_NOT_RUN: Final = ("pip", "npm", "node", "gunicorn", "celery", "rsync")
_OF_THE_SYSTEM: Final = ("mkdir", "cp", "ln", "mv")
_FENCE: Final = re.compile(r"^(?P<fence>`{3,})(?P<about>[^`\n]*)\n(?P<body>.*?)^(?P=fence)$", re.M | re.S)
_ASSIGNMENT: Final = re.compile(r"[A-Z_]+=")
_OPTION: Final = re.compile(r":(?P<name>[\w-]+): *(?P<value>.*)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: "python", "pycon", "sh", "text" ...; of a directive that is no code block its name, as "{include}".
        caption: name of the file that the block is the content of, or "".
        code: its text.
        line: number of its first line of code in the page, from 1.
    """

    language: str
    caption: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        words, code, options = match["about"].split(), match["body"], {}
        while (option := _OPTION.match(code)) and words[:1] and words[0].startswith("{"):
            options[option["name"]] = option["value"]
            code = code[option.end() :]
        language = " ".join(words[1:] if words[:1] == ["{code-block}"] else words)
        at = match.end("body") - len(code)
        found.append(Block(language, options.get("caption", ""), code, text.count("\n", 0, at) + 1))
    return found


@dataclass
class Reader:
    """Somebody who does what a page says, in ``folder``. Python blocks share one namespace."""

    page: Path
    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    port: str = field(default_factory=lambda: str(_free_port()))

    def run(self, block: Block) -> None:
        """Do what one block says."""
        if block.caption:
            (self.folder / block.caption).write_text(block.code.lstrip("\n"), "utf-8")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(self.page), "exec")
            exec(code, self.names)
        elif block.language == "pycon":
            self._run_console(block)
        elif block.language == "sh":
            for command in re.sub(r"\\\n\s*", " ", block.code).splitlines():
                self._run_command(shlex.split(command, comments=True))

    def _run_console(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.code, self.names, self.page.name, str(self.page), block.line - 1
        )
        report = io.StringIO()
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.write, clear_globs=False)
        assert not report.getvalue(), report.getvalue()
        self.names |= test.globs

    def _run_command(self, words: list[str]) -> None:
        words = [word.replace("8000", self.port).replace("8080", self.port) for word in words]
        variables = dict(word.split("=", 1) for word in takewhile(_ASSIGNMENT.match, words))
        words = words[len(variables) :]
        if not words or words[0] in _NOT_RUN:
            return
        if words[:2] == ["hiersrec", "quickstart"]:
            quickstart.make_context(
                "quickstart", words[2:]
            ).close()  # it trains for minutes: check its options
        elif words[:2] == ["hiersrec", "serve"]:
            self.stop()  # the port is needed again
            command = [sys.executable, "-m", "hiersrec_sdk.cli", *words[1:], "--port", self.port]
            self.servers.append(subprocess.Popen(command, cwd=self.folder, env=os.environ | variables))
            self._wait_for_server()
        elif words[0] == "hiersrec":
            self._run_hiersrec(words[1:], variables)
        elif words[0] in _OF_THE_SYSTEM:
            subprocess.run(words, cwd=self.folder, check=True)
        elif words[0].startswith("scripts/"):
            assert (ROOT / words[0]).is_file(), words[0]
        elif words[0] == "uvicorn":
            self.servers.append(subprocess.Popen([sys.executable, "-m", *words], cwd=self.folder))
            self._wait_for_server()
        elif words[0] == "curl":
            subprocess.run([*words, "--silent", "--fail"], check=True, stdout=subprocess.DEVNULL)
        else:
            raise AssertionError(f"{self.page.name}: what does {words[0]!r} do here?")

    def _run_hiersrec(self, words: list[str], variables: dict[str, str]) -> None:
        command = main.commands[words[0]]
        if not isinstance(command, click.Group):
            with command.make_context(words[0], words[1:]) as context:  # which checks the options
                out = context.params.get("out")
                if out is not None and out.exists():
                    return  # the tutorial has made it
        # a final run has the settings of the run that validated it
        more = [] if "--validated-by" in words else _TINY.get(words[0], [])
        result = CliRunner().invoke(main, [*words, *more], env=variables, catch_exceptions=False)
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"

    def _wait_for_server(self) -> None:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(self.port))):
                return
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        """Stop the servers that were started."""
        while self.servers:
            server = self.servers.pop()
            server.terminate()
            server.wait()


def run_page(page: Path, folder: Path) -> None:
    """Run all blocks of ``page`` in ``folder``, which becomes the current one meanwhile."""
    reader = Reader(page, folder)
    sys_path = [*sys.path]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            sys.path.insert(0, str(folder))
            for block in blocks_of(page):
                try:
                    reader.run(block)
                except Exception as error:
                    error.add_note(f"in the block at {page.relative_to(ROOT)}:{block.line}")
                    raise
    finally:
        sys.path[:] = sys_path
        reader.stop()


def pages(folder: str) -> list[Any]:
    """The Markdown files of a folder of the documentation, as parameters of a test."""
    return [pytest.param(page, id=page.stem) for page in sorted((ROOT / "docs" / folder).glob("*.md"))]


def _free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port: int = some.getsockname()[1]
        return port
