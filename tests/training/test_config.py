from __future__ import annotations

from pathlib import Path

import pytest

from hiersrec_sdk.errors import ConfigError
from hiersrec_training.config import Config, load_config


def test_a_file_changes_the_defaults_and_assignments_change_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("dimension = 64\ndropout = 0.1\nlearning_rate = 1\n")
    config = load_config(file, ["dropout=0.2", "precision = float32", "epochs=5"])
    assert config == Config(dimension=64, dropout=0.2, learning_rate=1.0, precision="float32", epochs=5)


def test_settings_survive_a_round_trip() -> None:
    config = Config(dimension=32, seed=7)
    assert Config.from_dict(config.as_dict()) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("dropuot=0.1", "did you mean dropout"),
        ("zzz=1", "known: dimension"),
        ("dimension=large", "dimension must be an integer, got 'large'"),
        ("dimension=1.5", "dimension must be an integer, got 1.5"),
        ("dimension=true", "dimension must be an integer, got True"),
        ("dimension=30", "multiple of heads"),
        ("epochs=0", "epochs must be an integer ≥ 1, got 0"),
        ("samples=0", "≥ 1, got 0"),
        ("neighbors=-1", "neighbors must be an integer ≥ 0, got -1"),
        ("dropout=1.0", r"in \[0, 1\)"),
        ("temperature=0", "must be a number ≥ 1e-06, got 0.0"),
        ("learning_rate=0", "must be a number > 0, got 0.0"),
        ("dimension=1000000", "dimension must be an integer ≤ 4096, got 1000000"),
        ("category_weight=1e300", "must be a number ≤ 1000000.0, got 1e[+]300"),
        ("age_decay=-1", "age_decay must be a number ≥ 0, got -1.0"),
        ("age_decay=nan", "must be finite"),
        ("learning_rate=inf", "must be finite"),
        ("seed=4294967296", "must be an integer ≤ 4294967295"),
        ("max_length=1", "≥ 2, got 1"),
        ("item_inputs=id price", "must be some of id, category, text, numbers, vectors"),
        ("item_inputs=id id", "must be some of"),
        ("item_inputs= ", "must be some of"),
        ("covisitation=1", "covisitation must be true or false, got 1"),
        ("category_conditioning=both", "must be one of all, top, leaf, none"),
        ("precision=half", "must be one of auto, bfloat16, float32, got 'half'"),
        ("dimension", "name=value"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [assignment])


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("dimension = = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config(broken)
