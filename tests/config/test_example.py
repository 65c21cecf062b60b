import re
from pathlib import Path

from em_platform.config import FIELDS, Settings, load_layers
from em_platform.config.example import example_yaml

COMMENTED_SETTING = re.compile(r"^(\s*)# ([a-z0-9_]+: \S.*)$", flags=re.MULTILINE)


def test_the_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(example_yaml())
    layered = load_layers(path, environment={})
    assert layered.settings == Settings()
    assert layered.sources == {}


def test_the_example_without_its_comment_signs_sets_every_default(
    tmp_path: Path,
) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(COMMENTED_SETTING.sub(r"\1\2", example_yaml()))
    layered = load_layers(path, environment={})
    assert layered.settings == Settings()
    assert set(layered.sources) == set(FIELDS)


def test_the_example_at_the_top_is_up_to_date(repository: Path) -> None:
    text = (repository / "config.yaml").read_text()
    assert text == example_yaml(), "run 'em-platform docs'"
