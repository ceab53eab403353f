"""Settings of the model and its training: defaults, a TOML file over them, ``name=value`` over that."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk.arguments import number_of
from hiersrec_sdk.errors import ConfigError
from hiersrec_sdk.number_lists import number
from hiersrec_sdk.shown import shortened, shown

ITEM_INPUTS = ("id", "category", "text", "numbers", "vectors")
_RANGES = {  # the most is a bound on memory and time, far above what is of use
    "dimension": (1, 4096),
    "layers": (1, 100),
    "heads": (1, 4096),
    "max_length": (2, 1000),
    "text_buckets": (1, 2**24),
    "text_tokens": (1, 1000),
    "number_bins": (1, 10_000),
    "neighbors": (0, 1000),
    "neighbor_window": (1, 1000),
    "temperature": (1e-6, 1e6),
    "category_weight": (0, 1e6),
    "age_decay": (0, 1e6),
    "sampled_above": (0, 2**31 - 1),
    "samples": (1, 2**24),
    "seed": (0, 2**32 - 1),
    "epochs": (1, 1_000_000),
    "patience": (1, 1_000_000),
    "batch_sessions": (1, 1_000_000),
    "checkpoint_steps": (1, 2**31 - 1),
}
_NOT_THE_MODEL: Final = ("seed", "epochs", "patience", "checkpoint_steps")
_CHOICES = {
    "category_conditioning": ("all", "top", "leaf", "none"),
    "precision": ("auto", "bfloat16", "float32"),
}
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


@dataclass(frozen=True)
class Config:
    """Every setting of a training run. The defaults are the configuration behind the published figures."""

    # model
    dimension: int = 128  # width of item vectors and session states
    layers: int = 1  # Transformer layers
    heads: int = 4  # attention heads
    max_length: int = 50  # newest clicks of a session that count
    dropout: float = 0.35  # on the item vectors that enter the encoder
    temperature: float = 0.07  # scores are cosines divided by it
    text_buckets: int = 8192  # hash buckets of the words of an item's text
    text_tokens: int = 24  # words of a text that count
    number_bins: int = 16  # quantile bins of a numeric column
    item_inputs: str = (
        "id category text numbers vectors"  # inputs of an item's vector, where the data have them
    )
    id_dropout: float = 0.0  # share of a step's items that metadata alone place, as they will cold items
    category_conditioning: str = "all"  # levels whose prediction the item head reads: all, top, leaf or none
    neighbors: int = 24  # neighbors of an item in the co-click graph; 0 leaves the graph out
    neighbor_window: int = 5  # most clicks between two co-clicked items
    covisitation: bool = True  # fit the co-visitation scorer beside the encoder, on the validation split
    cold_start_cost: float = 0.03  # share of the hits on other items that showing cold items may cost
    # loss
    category_weight: float = 0.2  # of each category level's cross-entropy beside the item's
    age_decay: float = 1.0  # the oldest session weighs exp(-age_decay) of the newest
    sampled_above: int = 200_000  # catalogs with more items train with sampled softmax
    samples: int = 8192  # sampled items a step, where the softmax is sampled
    # training
    seed: int = 0
    epochs: int = 2  # at most, and the length of the learning-rate schedule
    patience: int = 1  # epochs without a better validation MRR@20 before it stops
    batch_sessions: int = 128  # sessions of like length a step
    learning_rate: float = 2e-3  # peak of Adam's learning rate
    warmup: float = 0.05  # share of the steps over which it rises
    precision: str = (
        "auto"  # of the softmax over items: bfloat16, float32 or auto (bfloat16 where the CPU has it)
    )
    checkpoint_steps: int = 500  # steps between checkpoints

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{name} must be finite, got {value}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            kind = "an integer" if isinstance(value, int) else "a number"
            if value < least:
                raise ConfigError(f"{name} must be {kind} ≥ {least}, got {shown(value)}")
            if value > most:
                raise ConfigError(f"{name} must be {kind} ≤ {most}, got {shown(value)}")
        for name in ("dropout", "id_dropout", "cold_start_cost", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a number in [0, 1), got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be a number > 0, got {self.learning_rate}")
        if self.dimension % self.heads:
            raise ConfigError(f"dimension must be a multiple of heads, got {self.dimension} and {self.heads}")
        inputs = self.item_inputs.split()
        if not inputs or len(set(inputs)) < len(inputs) or not set(inputs) <= set(ITEM_INPUTS):
            raise ConfigError(
                f"item_inputs must be some of {', '.join(ITEM_INPUTS)}, each once, got {shown(self.item_inputs)}"
            )
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")

    def is_sampled(self, items: int) -> bool:
        """Whether the softmax over a catalog of ``items`` is sampled."""
        return items > self.sampled_above

    def unlike(self, other: Config) -> list[str]:
        """The names of settings that differ, but for those that make no other model of the same sessions."""
        return [
            name
            for name, value in self.as_dict().items()
            if value != getattr(other, name) and name not in _NOT_THE_MODEL
        ]

    def as_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Config:
        """The configuration with these settings, their types checked.

        Raises:
            ConfigError: an unknown name (with the nearest known one), or a value of the wrong type or range.
        """
        if not isinstance(settings, dict):
            raise ConfigError(f"settings must be a table of names and values, got {shown(settings)}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        checked: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(fields)}"
                raise ConfigError(f"there is no setting {shown(name)}{hint}")
            wanted = type(fields[name].default)
            if wanted is float and type(value) is int:
                value = number(value)
            if type(value) is not wanted:
                raise ConfigError(f"{name} must be {_KINDS[wanted]}, got {shown(value)}")
            checked[name] = value
        return cls(**checked)


def load_config(file: Path | None = None, assignments: Iterable[str] = ()) -> Config:
    """The defaults, overridden by the TOML ``file``, overridden by ``name=value`` strings.

    Raises:
        ConfigError: the file is missing or is not TOML, or a setting is unknown or not valid.
    """
    return Config.from_dict(read_settings(file, assignments))


def read_settings(file: Path | None = None, assignments: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of the TOML ``file``, overridden by ``name=value`` strings. Their names are not checked.

    Raises:
        ConfigError: the file is missing or is not TOML, or a string is not such an assignment.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            if file.exists() and not file.is_file():  # a named pipe would be waited for
                raise OSError("it is not a regular file")
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # not UTF-8, or not TOML
            raise ConfigError(f"{file}: {shortened(error)}") from error
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, got {shown(assignment)}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text.strip()  # a bare word, such as precision=float32
        is_number = type(value) is int or (isinstance(value, float) and math.isfinite(value))
        if is_number and number_of(text.strip()) is None:  # TOML has 1_0 too
            raise ConfigError(f"--set {name.strip()} takes a number such as 10 or 0.5, got {shown(text)}")
        settings[name.strip()] = value
    return settings
