"""The recipe of a small CLIP: a TOML file with its sizes, what it is shown, and how long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl2ora.clip_tuning.architecture import Architecture
from fl2ora.experiment.arguments import STRICT, explain
from fl2ora.experiment.errors import ConfigError, UserError, listed, nearest, shown
from fl2ora.experiment.paths import user_path
from fl2ora.experiment.toml_file import read_toml

# Beyond these no CLIP is small, and some systems end a process that fills what they promised it.
_MOST_PATCHES, _MOST_WEIGHTS = 16_384, 10**9

Size = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """Every key of a recipe; attribute names are the keys with underscores for hyphens."""

    model_config = ConfigDict(frozen=True, extra="forbid", **STRICT)

    image_side: Size = 64
    patch: Size = 8
    image_width: Size = 192
    image_blocks: Size = 6
    image_heads: Size = 6
    text_width: Size = 160
    text_blocks: Size = 4
    text_heads: Size = 4
    joint: Size = 128
    context: Annotated[int, Field(ge=4, le=4096)] = 32
    vocabulary: Annotated[int, Field(ge=300, le=1_000_000)] = 2048

    drawings: Share = 0.0
    clothes: Share = 0.0
    fashion_mnist: str = "/usr/share/datasets/fashion-mnist"
    captioned: str = ""
    templates: tuple[str, ...] = ("a picture of a {}.", "{}.")

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 256
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3

    def flat(self) -> dict[str, Any]:
        """Return the recipe's keys and values, as a file of it has them."""
        return {name.replace("_", "-"): value for name, value in self.model_dump().items()}

    def architecture(self) -> Architecture:
        """Return the sizes of the towers."""
        return Architecture(**{n: getattr(self, n) for n in Architecture.__dataclass_fields__})

    def counts(self) -> tuple[int, int, int]:
        """Return how many drawings, clothes and captioned pictures a batch has."""
        drawings = round(self.batch_size * self.drawings)
        rest = self.batch_size - drawings
        whole = math.isclose(self.drawings + self.clothes, 1)  # then rounding leaves no rest
        clothes = rest if whole else min(round(self.batch_size * self.clothes), rest)
        return drawings, clothes, self.batch_size - drawings - clothes


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; a relative ``captioned`` starts where the command does.

    Raises:
        ConfigError: all mistakes at once, each naming its key.
    """
    return recipe_of(read_toml(path))


def recipe_of(content: Mapping[str, Any]) -> Recipe:
    """Return the recipe that the content of a TOML file describes.

    Raises:
        ConfigError: all mistakes at once, each naming its key.

    >>> recipe_of({"drawings": 1.0, "steps": 10}).counts()
    (256, 0, 0)
    """
    keys = {name.replace("_", "-"): name for name in Recipe.model_fields}
    problems = [
        f"{shown(key)}: unknown key{nearest(key, keys)} (valid: {listed(keys)})"
        for key in content
        if key not in keys
    ]
    given = {keys[key]: _frozen(value) for key, value in content.items() if key in keys}
    try:
        recipe = Recipe(**given)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            name = str(found["loc"][0])
            field = Recipe.model_fields[name]
            reason = explain(found, field.annotation, field.metadata)
            problems.append(f"{name.replace('_', '-')}: {reason}")
        raise ConfigError(problems, "the recipe") from None
    problems += _contradictions(recipe)
    if problems:
        raise ConfigError(problems, "the recipe")
    return recipe


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _contradictions(recipe: Recipe) -> list[str]:
    """Return a sentence for each pair of values that do not fit each other."""
    found = []
    for name in ("captioned", "fashion_mnist"):
        try:
            user_path(getattr(recipe, name))
        except UserError as error:
            found.append(f"{name.replace('_', '-')}: {error}")
    if recipe.image_side % recipe.patch:
        found.append(f"patch: expected a divisor of image-side, found {recipe.patch}")
    elif (patches := (recipe.image_side // recipe.patch) ** 2) > _MOST_PATCHES:
        found.append(f"patch: expected at most {_MOST_PATCHES:,} in an image, found {patches:,}")
    for tower in ("image", "text"):
        weights = 12 * getattr(recipe, f"{tower}_width") ** 2 * getattr(recipe, f"{tower}_blocks")
        if weights > _MOST_WEIGHTS:
            found.append(
                f"{tower}-width and {tower}-blocks: expected at most {_MOST_WEIGHTS:,} weights, "
                f"found {weights:,}"
            )
    for tower in ("image", "text"):
        width, heads = getattr(recipe, f"{tower}_width"), getattr(recipe, f"{tower}_heads")
        if width % heads:
            found.append(f"{tower}-heads: expected a divisor of {tower}-width, found {heads}")
    drawings, clothes, rest = recipe.counts()
    if recipe.drawings + recipe.clothes > 1 + 1e-9:
        found.append(
            "drawings and clothes: expected shares of at most 1 together, found "
            f"{recipe.drawings + recipe.clothes:g}"
        )
    elif rest and not recipe.captioned:
        found.append(
            "captioned: expected a folder for the rest of a batch, beside drawings and clothes "
            f"of {recipe.drawings + recipe.clothes:g}, found none"
        )
    elif recipe.captioned and not rest:
        found.append(
            "captioned: drawings and clothes leave no image of a batch to it; leave it out"
        )
    for name, count in (("drawings", drawings), ("clothes", clothes)):
        if getattr(recipe, name) and not count:
            found.append(
                f"{name}: expected 0 or a share of at least one image in a batch of "
                f"{recipe.batch_size}, found {getattr(recipe, name):g}"
            )
    if not recipe.templates or any(text.count("{}") != 1 for text in recipe.templates):
        found.append(f"templates: expected texts with one {{}}, found {shown(recipe.templates)}")
    return found
