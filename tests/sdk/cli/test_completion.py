"""``hiersrec completion``: bash completes what a user types."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sdk.cli.run import hiersrec, passed
from tests.waiting import PATIENCE


class Bash:
    """An interactive bash on a terminal, in a folder with a command ``hiersrec`` and a folder ``some-bundle``."""

    def __init__(self, folder: Path) -> None:
        command = folder / "bin/hiersrec"
        command.parent.mkdir()
        command.write_text(f"#!{sys.executable}\nfrom hiersrec_sdk.cli.main import main\nmain()\n")
        command.chmod(0o755)
        (folder / "some-bundle").mkdir()
        self._terminal, other = pty.openpty()
        environment = {
            **os.environ,
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "TERM": "dumb",
            "PS1": "$ ",
        }
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=folder,
            env=environment,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)

    def typed(self, keys: str, wanted: str) -> str:
        """What the terminal shows after ``keys``, once ``wanted`` is there; or after a while."""
        os.write(self._terminal, keys.encode())
        seen, end = "", time.monotonic() + PATIENCE
        while wanted not in seen and time.monotonic() < end:
            if select.select([self._terminal], [], [], 0.1)[0]:
                seen += os.read(self._terminal, 4096).decode()
        return seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Bash]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    shell = Bash(tmp_path)
    yield shell
    shell.close()


def test_bash_completes_commands_options_choices_and_paths(bash: Bash) -> None:
    bash.typed('eval "$(hiersrec completion bash)"; echo rea""dy\r', "ready")
    clear = "\x15"
    for keys, wanted in (
        ("hiersrec quic\t", "hiersrec quickstart "),
        ("hiersrec catalog com\t", "hiersrec catalog compact "),
        ("hiersrec train --dev\t", "hiersrec train --device "),
        ("hiersrec train --device cu\t", "hiersrec train --device cuda "),
        ("hiersrec serve some-b\t", "hiersrec serve some-bundle"),
        ("hiersrec evaluate some-b\t", "hiersrec evaluate some-bundle"),
    ):
        assert wanted in bash.typed(clear + keys, wanted)


@pytest.mark.parametrize(
    ("shell", "command"), [("zsh", "compdef"), ("fish", "complete --no-files --command hiersrec")]
)
def test_scripts_of_other_shells(shell: str, command: str) -> None:
    printed = passed("completion", shell)
    assert command in printed
    assert f"_HIERSREC_COMPLETE={shell}_complete" in printed


def test_another_shell_is_wrong_usage() -> None:
    result = hiersrec("completion", "csh")
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr
