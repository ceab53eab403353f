"""Recommendations for every session of some files, as shards: files that a run which was killed need not make again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk import __version__
from hiersrec_sdk.atomic import PART, alone, is_time_limit, remove_parts, write_file
from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.errors import JobError
from hiersrec_sdk.integrations.batch import BatchRecommender
from hiersrec_sdk.integrations.session_files import SessionFiles
from hiersrec_sdk.shown import shortened, shown

JOB: Final = "_job.json"  # which readers of a folder of Parquet files leave out, as its name begins with _
_FORMAT: Final = "hiersrec-recommendations"


@dataclass(frozen=True)
class Shards:
    """Files of the folder ``out``, each with the results of ``size`` sessions, the last one with what is left.

    Attributes:
        recommend: makes the results.
        files: the sessions.
        out: the folder.
        size: sessions of a shard.
    """

    recommend: BatchRecommender
    files: SessionFiles
    out: Path
    size: int

    def __len__(self) -> int:
        return max(1, -(-self.files.rows // self.size))

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.out / f"part-{shard:05}.parquet"

    def sessions(self, shard: int) -> range:
        """The sessions of a shard, by their position in all files."""
        return range(shard * self.size, min((shard + 1) * self.size, self.files.rows))

    def is_begun(self, options: Mapping[str, Any]) -> bool:
        """Whether ``out`` is the folder of this job, so that its shards are of this job; else it is empty.

        Args:
            options: those that the results depend on, by their names on the command line without dashes.

        Raises:
            JobError: it is the folder of another job, which had other sessions, options or another bundle.
        """
        try:
            content = (self.out / JOB).read_bytes()
        except FileNotFoundError:
            if self.out.is_dir() and any(PART not in each.name for each in self.out.iterdir()):
                raise JobError(
                    f"{shortened(self.out)} has files, but no {JOB}: give another folder with --out"
                ) from None
            return False
        self._check(content, self._job(options))
        return True

    def begin(self, options: Mapping[str, Any]) -> None:
        """Write ``_job.json``, which says what the job is.

        Raises:
            JobError: another job was begun there meanwhile.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with alone(self.out):
            if not self.is_begun(options):
                write_file(self.out / JOB, json.dumps(self._job(options), indent=2) + "\n")

    def done(self) -> list[int]:
        """The shards that are there. What writers that were killed have left beside them is removed.

        Raises:
            JobError: one is not what was written there.
        """
        import pyarrow
        from pyarrow.parquet import read_metadata

        for name in {each.name.partition(PART)[0] for each in self.out.iterdir() if PART in each.name}:
            remove_parts(self.out / name)
        found = []
        for shard in range(len(self)):
            path = self.path(shard)
            try:
                rows = read_metadata(path).num_rows
            except FileNotFoundError:
                continue
            except (pyarrow.ArrowException, OSError) as error:
                if is_time_limit(error):
                    raise
                raise JobError(f"{shortened(path)} cannot be read; remove it: {shortened(error)}") from error
            if rows != len(self.sessions(shard)):
                raise JobError(
                    f"{shortened(path)} has {rows:,} rows, not {len(self.sessions(shard)):,}: remove it"
                )
            found.append(shard)
        return found

    def make(self, shard: int, progress: Callable[[int], object]) -> None:
        """Write a shard; ``progress`` is told how many sessions were answered, again and again.

        Raises:
            DataError: the sessions cannot be read.
            InvalidArgumentError: a session cannot be used; the message says in which file and row.
        """
        import pyarrow
        from pyarrow.parquet import write_table

        sessions = self.sessions(shard)
        schema = self.recommend.schema(self.files.schema)
        tables = [schema.empty_table()]
        for piece in self.files.read(sessions.start, sessions.stop):
            tables.append(self.recommend.results(piece.table, piece.where).cast(schema))
            progress(piece.table.num_rows)
        table = pyarrow.concat_tables(tables).combine_chunks()
        write_file(self.path(shard), lambda file: write_table(table, file))

    def skipped(self) -> int:
        """How many sessions of the shards that are there were bad and skipped."""
        from pyarrow.parquet import read_table

        return sum(read_table(self.path(shard), columns=["mode"])["mode"].null_count for shard in self.done())

    def _job(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "created_by": f"hiersrec-sdk {__version__}",
            "bundle": self.recommend.digest,
            "sessions": self.files.fingerprint,
            "options": {**options, "shard-sessions": self.size},
            "shards": len(self),
        }

    def _check(self, content: bytes, job: Mapping[str, Any]) -> None:
        file = self.out / JOB
        try:
            found = parse_json(content)
            same = {name: found[name] for name in ("format", "bundle", "sessions", "options")}
            files, options = same["sessions"]["files"], same["options"]
            if same["format"] != _FORMAT or not isinstance(files, list) or not isinstance(options, dict):
                raise ValueError("it is of another format")
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f"{shortened(file)} cannot be read: {shortened(error)}") from error
        out = shortened(self.out)
        again = f"give another folder with --out, or remove {out}"
        for name, value in parse_json(json.dumps(job["options"]).encode()).items():
            if options.get(name) != value:
                option = f"-{name}" if len(name) == 1 else f"--{name}"
                before = shown(options.get(name))
                raise JobError(f"{out} was begun with {option} {before}, got {shown(value)}: {again}")
        if same["bundle"] != job["bundle"]:
            raise JobError(
                f"{shortened(self.out)} was begun with another bundle, or the bundle was changed: {again}"
            )
        if same["sessions"] != job["sessions"]:
            now = job["sessions"]["files"]
            changed = next((each["name"] for each in now if each not in files), "a file that is gone")
            raise JobError(f"{out} was begun with other --sessions; {shown(changed)} differs: {again}")
