"""What the key ``model`` may name, told before a model is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl2ora.clip_tuning.clip import load_clip
from fl2ora.clip_tuning.model_names import check_model
from fl2ora.experiment.errors import UserError


def test_a_missing_folder_is_told_before_anything_is_read(tmp_path: Path) -> None:
    assert check_model(str(tmp_path)) == str(tmp_path)
    assert check_model("openai/clip-vit-base-patch16") == "openai/clip-vit-base-patch16"
    assert check_model("embedded") == "embedded"
    for name in ("/not/here", "./not-here", "~/not-here"):
        with pytest.raises(UserError, match=f"^folder '{name}' does not exist$"):
            check_model(name)
    with pytest.raises(UserError, match="home folder of that user is unknown"):
        check_model("~nosuchuser/clip")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("embeded", "'embedded'"),
        ("Embedded", "'embedded'"),
        ("clip-vit-base-patch32", "'openai/clip-vit-base-patch32'"),
        ("openai/clip-vit-base-patch16/", "'openai/clip-vit-base-patch16'"),
        ("openai/clip vit base patch16", "'openai/clip-vit-base-patch16'"),
    ],
)
def test_a_name_that_the_hub_cannot_have_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"found '{name}'; did you mean {hint}[?]$"):
        check_model(name)
    with pytest.raises(UserError, match=r"^model: expected 'embedded', a folder, or a hub"):
        load_clip(name)
