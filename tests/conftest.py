"""What all tests share: one thread, no network, and tiny models in transformers' own format."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # when numpy is; workers have a core each

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.federated_data.images import LabelledImages
from tiny_siglip import save_tiny_siglip

settings.register_profile("fl2ora", deadline=None)  # machines differ in speed
settings.load_profile("fl2ora")

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77
IMAGE_SIDE = 32


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keep torch to one thread: sums in the same order, and no fight over few cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep decoded images of tests away from the user's."""
    os.environ["FL2ORA_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


ENGINES = (
    "tests/integration/test_engines.py",
    "tests/integration/test_deployment.py::TestFederation",
    "tests/integration/test_deployment_resume.py",
    "tests/integration/test_deployment_loss.py",
)


@pytest.fixture
def alone() -> Iterator[None]:
    """Let no other test that wants this run beside it, in whatever process: Ray wants all cores."""
    with (Path(tempfile.gettempdir()) / "fl2ora-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random two-layer CLIP, laid out as transformers saves one.

    Shared by the whole session: copy it before changing it. Like OpenAI's tokenizer, its own gives
    the end of text the highest id and pads with it; every byte is a token.
    """
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    tokenizer = _byte_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    assert end == len(tokenizer) - 1
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    }
    config = CLIPConfig(
        vision_config={**tower, "image_size": IMAGE_SIDE, "patch_size": 8},
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.convert_tokens_to_ids(START),
            "eos_token_id": end,
            "pad_token_id": end,
        },
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        model = CLIPModel(config)
        # Weights as small as CLIP's initial ones hardly tell two inputs apart.
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
                "do_center_crop": True,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_processor_type": "CLIPImageProcessor",
                "image_std": [0.26862954, 0.26130258, 0.27577711],
                "resample": 3,
                "rescale_factor": 1 / 255,
                "size": {"shortest_edge": IMAGE_SIDE},
            }
        )
    )
    return folder


@pytest.fixture
def tiny_clip(tiny_clip_folder: Path) -> Clip:
    """Return that CLIP, freshly loaded."""
    return load_clip(str(tiny_clip_folder))


@pytest.fixture(scope="session")
def tiny_siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random two-layer SigLIP; copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    save_tiny_siglip(folder)
    return folder


@pytest.fixture(scope="session")
def random_images() -> Callable[..., LabelledImages]:
    """Return a maker of noise: ``(count, classes=3, side=32, channels=3, domains=1, seed=0)``."""

    def make(
        count: int,
        classes: int = 3,
        side: int = IMAGE_SIDE,
        channels: int = 3,
        domains: int = 1,
        seed: int = 0,
    ) -> LabelledImages:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (count, channels, side, side), generator=generator)
        return LabelledImages(
            images.to(torch.uint8), torch.arange(count) % classes, torch.arange(count) % domains
        )

    return make


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte, start 256 and end 257."""
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.add_special_tokens([START, END])
    core.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, core.token_to_id(token)) for token in (START, END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is cheap first: slow tests and whole commands come last, engines at the very end.

    On several workers the dearest come first instead, so that none is left alone with them.
    """
    rooms = ("commands", "integration")

    def cost(item: pytest.Item) -> tuple[int, bool]:
        room = item.path.parent.name
        place = rooms.index(room) + 1 if room in rooms else 0
        return place, item.get_closest_marker("slow") is not None

    items.sort(key=cost, reverse="PYTEST_XDIST_WORKER" in os.environ)


def pytest_collection_finish() -> None:
    """Let Python not look again and again for garbage among libraries and ten thousand tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file to one worker, so that its module's fixtures are made once.

    All tests that use ``alone`` go to one worker too, so that no other waits for them. xdist's own
    groups have no effect with pytest 9.2: what it adds to a test's name is lost.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FilesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "engines" if nodeid.startswith(ENGINES) else nodeid.partition("::")[0]

    return FilesTogether(config, log)
