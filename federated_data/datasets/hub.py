"""Any image dataset of the Hugging Face hub, or a copy of one in a folder."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from fl2ora.experiment.arguments import LARGEST, choice, number, whole
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.paths import user_file
from fl2ora.federated_data.datasets._files import StoredDataset
from fl2ora.federated_data.datasets._templates import as_templates
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.files import Numbers
from fl2ora.federated_data.folders.class_names import named_classes, readable
from fl2ora.federated_data.folders.fractions import split_by_content
from fl2ora.federated_data.hub.columns import HubSource, image_column, label_column, texts_of
from fl2ora.federated_data.hub.loading import find_splits, load_splits, local_folder
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.store.contents import contents_of
from fl2ora.federated_data.store.stored import OnBadImage


class Hub(StoredDataset):
    """What the library ``datasets`` loads: by name, saved to disk, Parquet files, or imagefolder.

    Needs ``pip install 'fl2ora[hub]'``. No code of a dataset is run: the library has no loading
    scripts any more.

    Args:
        name: on the hub, such as ``cifar10`` or ``owner/name``; or a folder.
        config: which of its configurations, such as a resolution; empty: the only one.
        revision: branch, tag or commit on the hub; empty: the newest.
        image_column: empty: the only one with images.
        label_column: empty: ``label``, ``labels``, ``fine_label`` or the only one with class names.
        domain_column: texts, numbers or class names of domains; empty: one domain.
        client_column: whose image each is, such as ``writer_id``; empty: nobody's.
        train_split: empty: ``train``.
        validation_split: empty: ``validation`` or ``valid``, if there are test images beside it.
        test_split: empty: ``test``, else ``validation`` or ``valid``, else a part of ``train``.
        test: fraction of test images, where there is no such split.
        seed: of that draw.
        classes_file: a line for each class, in label order: as of ``folder``; for labels that are
            numbers, what each is called in prompts; empty: the names the dataset has.
        templates: a prompt with ``{}`` for the class name, or a list of them.
        on_bad_image: ``stop``, or ``skip`` what cannot be decoded and say so.

    Raises:
        UserError: an argument out of its range; the dataset itself is loaded when it is needed.
    """

    def __init__(
        self,
        name: str,
        config: str = "",
        revision: str = "",
        image_column: str = "",
        label_column: str = "",
        domain_column: str = "",
        client_column: str = "",
        train_split: str = "",
        validation_split: str = "",
        test_split: str = "",
        test: float = 0.2,
        seed: int = 0,
        classes_file: str = "",
        templates: str | list[str] = "a photo of a {}.",
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        local_folder(name)
        self._name, self._config, self._revision = name, config, revision
        self._columns = {"image": image_column, "label": label_column}
        self._domain_column, self._client_column = domain_column, client_column
        self._named = {
            "train": train_split, "validation": validation_split, "test": test_split
        }  # fmt: skip
        self._test = number("test", test, above=0, below=1)
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self._classes_file = user_file("classes_file", classes_file)
        self.templates = as_templates(templates)
        self.on_bad_image = on_bad_image

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names as in prompts, in label order."""
        return tuple(self._classes.values())

    @cached_property
    def domains(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names in the domain column, in alphabetical order."""
        if not self._domain_column:
            return ("all",)
        found = {text for part in self._splits.values() for text in self._texts(part, "domain")}
        return tuple(sorted(found))

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split; see ``StoredDataset.stored``.

        Raises:
            UserError: the dataset cannot be loaded, or a column is not there or not what it should
                be; or as ``stored``.
        """
        choice("split", name, ("train", "validation", "test"))
        part = self._splits["train" if self._draws and name == "test" else name]
        if part is None:
            part = self._splits["train"].select(range(0))
        rows = np.arange(len(part))
        if self._draws and name != "validation":
            rows = np.flatnonzero(np.array(self._drawn) == name)
            part = part.select(rows)
        if not len(part) and name != "validation":
            raise UserError(f"{self._name}: the {name} split has no images")
        source = self._source(part)
        texts = self._texts(part, "client") if self._client_column else None
        return self.stored(name, source, self._labels(part), self._domains(part), texts)

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """The library's splits by our names; None where there is none."""
        return find_splits(load_splits(self._name, self._config, self._revision), self._named)

    @property
    def _draws(self) -> bool:
        """Whether test images are drawn from the training images."""
        return self._splits["test"] is None

    @cached_property
    def _drawn(self) -> list[str]:
        contents = contents_of(self._source(self._splits["train"]))
        return list(split_by_content(contents, 0.0, self._test, self._seed))

    @cached_property
    def _image_column(self) -> str:
        return image_column(self._splits["train"], self._columns["image"], self._name)

    @cached_property
    def _label_column(self) -> str:
        return label_column(self._splits["train"], self._columns["label"], self._name)

    @cached_property
    def _classes(self) -> dict[str, str]:
        """What each class is called in prompts, by its name in the data, in label order."""
        kind = self._splits["train"].features[self._label_column]
        names = getattr(kind, "names", None)
        if names is not None:
            if self._classes_file is None:
                return {name: readable(name) for name in names}
            return named_classes(names, self._classes_file)
        found = set(self._texts(self._splits["train"], "label"))
        if not all(text.isdecimal() for text in found):
            return named_classes(sorted(found), self._classes_file)
        if self._classes_file is None:
            raise UserError(
                f"{self._name}: the labels in {self._label_column!r} are numbers: expected a "
                "classes_file with a line for each class, what it is called in prompts"
            )
        lines = self._classes_file.read_text(encoding="utf-8-sig").splitlines()
        return {str(label): readable(line) for label, line in enumerate(lines) if line.strip()}

    def _source(self, part: Any) -> HubSource:
        return HubSource(part, self._image_column, self._name)

    def _texts(self, part: Any, kind: str) -> list[str]:
        column = {
            "label": self._label_column,
            "domain": self._domain_column,
            "client": self._client_column,
        }[kind]
        return [] if part is None else texts_of(part, column, f"{kind}_column", self._name)

    def _labels(self, part: Any) -> Numbers:
        number_of = {name: label for label, name in enumerate(self._classes)}
        texts = self._texts(part, "label")
        unknown = [text for text in texts if text not in number_of]
        if unknown:
            raise UserError(
                f"{self._name}: {self._label_column}: expected one of {len(number_of)} classes, "
                f"found {shown(unknown[0])} in {len(unknown):,} of {len(texts):,} images"
            )
        return np.fromiter((number_of[text] for text in texts), np.int64, len(texts))

    def _domains(self, part: Any) -> Numbers:
        if not self._domain_column:
            return np.zeros(len(part), np.int64)
        number_of = {name: domain for domain, name in enumerate(self.domains)}
        texts = self._texts(part, "domain")
        return np.fromiter((number_of[text] for text in texts), np.int64, len(texts))
