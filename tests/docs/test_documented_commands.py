"""Every command of README and docs is one that can be typed, and every block of code runs."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import typer
from flwr.common.config import parse_config_args
from typer.testing import CliRunner

from documented import PAGES, ROOT, Block, Command, blocks, commands, save_files
from fl2ora.client_app.node import Node
from fl2ora.commands.app import cli
from fl2ora.commands.settings import read_settings
from fl2ora.engines.sweep_cells import Jobs
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.sweep_file import read_sweep
from fl2ora.federated_data.shares import load_federation
from fl2ora.pretraining.recipe import read_recipe
from fl2ora.server_app.run_plugins import build_plugins, build_run_calibrator

BY_NAME = {page.name: page for page in PAGES}
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [command for page in PAGES for command in commands(page)]

# Blocks that are not run, with the reason; named by page and how they begin.
NOT_RUN = {
    ("pretraining.md", "file_name,text"): "a file's content",
    ("ten-minutes.md", "10 clients"): "what a run prints; tests/docs/test_tutorial.py checks it",
    ("deployment.md", "[superlink]"): "Flower's own configuration; "
    "engines/private_superlink.py writes one",
    ("strategies.md", "from fl2ora.server_app.ours_under_flower"): "needs a Flower grid; "
    "tests/strategies/test_flower_shells.py runs that class",
}
# Commands that are not tried on this page, with the reason; named by their first words. Those of
# fl2ora are parsed all the same.
NOT_CHECKED = {
    "source .venv/bin/activate": "of the shell",
    "export": "of the shell",
    "flower-superlink": "Flower's server; tests/integration/test_deployment.py starts one",
    "deploy/certificates.sh": "tests/integration/test_deployment.py runs it",
    "mkdir": "of the shell",
    "npm pack": "needs a network",
    "python docs/examples/emoji.py": "tests/docs/test_emoji.py runs it on archives of its own",
    "python docs/examples/fashion_clients.py": "tests/docs/test_fashion_clients.py runs it",
    "ssh-keygen": "tests/integration/test_deployment.py runs it",
    "ray start": "Ray's",
    "RAY_ADDRESS=": "the command after it is as above",
    "flwr supernode": "tests/integration/test_deployment.py registers nodes",
    "flwr list": "Flower's",
    "flwr stop": "Flower's",
    "fl2ora data": "tests/commands run it",
    "fl2ora node run": "tests/integration/test_deployment.py starts a node by it",
    "fl2ora sweep": "tests/engines/test_sweep.py runs it; the file is checked below",
    "fl2ora compare": "tests/commands/test_sweep_commands.py runs it",
    "fl2ora report": "tests/commands/test_sweep_commands.py runs it",
    "fl2ora doctor": "has no arguments; tests/commands run it",
}
NODE_KEYS = {
    "dataset", "device", "cache-dir", "partition-id", "num-partitions", "site", "rank", "state-dir",
    "share-digests",
}  # fmt: skip


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def starting(*words: str) -> list[Command]:
    return [command for command in COMMANDS if command.text.startswith(words)]


A_RUN = """
from pathlib import Path
import torch
from runs import run_small
run_small(Path.cwd(), clients=2, num_rounds=1, callbacks="none", run_name="NAME")
images = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
"""
# What a page's python blocks may use without saying where it comes from.
GIVEN = {
    "calibrators.md": """
import torch
logits, labels = torch.randn(60, 4), torch.arange(60) % 4
new_logits = torch.randn(5, 4)
""",
    "tuning.md": """
from pathlib import Path
import fl2ora.clip_tuning.methods.layer_norm as ours
code = Path(ours.__file__).read_text().replace("class LayerNorm", "class Mine")
Path("my_lab").mkdir()
Path("my_lab/methods.py").write_text(code.replace("towers: str", "length: int = 4, towers: str"))
""",
    "using-the-result.md": A_RUN,
}


@pytest.mark.parametrize("page", sorted({block.page for block in of("python")}))
def test_python_blocks_run(page: str, scratch: Path) -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(GIVEN.get(page, ""), names)
    for block in blocks(BY_NAME[page]):
        if block.language != "python" or ">>>" in block.text:
            continue
        save_files(BY_NAME[page], scratch, before=block.line + 1)
        if not block.file:
            exec(compile(block.text, str(block), "exec"), names)


@pytest.mark.parametrize("page", sorted({b.page for b in of("python") if ">>>" in b.text}))
def test_examples_print_what_the_page_shows(page: str) -> None:
    assert doctest.testfile(str(BY_NAME[page]), module_relative=False).failed == 0


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_blocks_can_be_built(block: Block, scratch: Path, fashion_mnist: None) -> None:
    save_files(BY_NAME[block.page], scratch, before=block.line)
    content = tomllib.loads(block.text)
    if "axes" in content:
        sweep = read_sweep(content)
        Jobs(scratch).check(sweep.cells(), sweep.select)
    else:
        build_plugins(*RunConfig.usable(content))


def test_every_block_says_what_it_is_and_is_tried() -> None:
    tried = {"bash", "python", "toml", "diff"}
    for block in BLOCKS:
        if block.language not in tried:
            assert any(
                block.page == page and block.text.startswith(start) for page, start in NOT_RUN
            ), f"{block}: neither tried nor excused"
    for page, start in NOT_RUN:
        assert any(b.page == page and b.text.startswith(start) for b in BLOCKS), (page, start)


def test_every_command_is_checked() -> None:
    checked = ("fl2ora run", "fl2ora domains", "fl2ora calibrate", "fl2ora node check", *USES,
               "fl2ora pretrain", "flwr run",
               "flower-supernode", "make ", "pytest ", "python -m ", "python -c ",
               "python benchmarks/", "pip install ")  # fmt: skip
    for command in COMMANDS:
        assert command.text.startswith((*checked, *NOT_CHECKED)), command
    for start in (*checked, *NOT_CHECKED):
        assert starting(start), f"no page has it: {start}"


def settings_of(command: Command) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the run config of a ``fl2ora run`` or ``domains``, read as the command reads it."""
    given: dict[str, Any] = parsed(command.words)
    file = given["file"]
    values = read_settings(Path(file) if file else None, given["assignments"] or [])
    return RunConfig.usable({"num-clients": given["clients"] or 10, **values})


@pytest.mark.parametrize("command", starting("fl2ora run", "fl2ora domains"), ids=str)
def test_runs_can_be_built(
    command: Command, scratch: Path, fashion_mnist: None, published: None
) -> None:
    save_files(BY_NAME[command.page], scratch, before=command.line)
    for block in blocks(BY_NAME[command.page]):  # data a page makes, at once
        if block.language == "python" and "np.savez" in block.text and block.line < command.line:
            exec(block.text, {})
    for folder in ("emoji", "fashion", "study/clip"):  # that earlier commands of their pages make
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    (scratch / "fashion" / "photos.csv").touch()
    build_plugins(*settings_of(command))


@pytest.mark.parametrize("command", starting("fl2ora calibrate"), ids=str)
def test_calibrate_names_a_calibrator(command: Command) -> None:
    assert build_run_calibrator(str(parsed(command.words)["calibrator"])) is not None


@pytest.mark.parametrize("command", starting("fl2ora pretrain"), ids=str)
def test_pretraining_has_a_recipe(command: Command) -> None:
    assert read_recipe(ROOT / command.words[2]).steps > 0


USES = ("fl2ora predict", "fl2ora evaluate", "fl2ora export")


def parsed(words: list[str]) -> dict[str, object]:
    """Return what the command line reads from the words of a command, as it reads them itself."""
    command = typer.main.get_command(cli)
    while isinstance(command, click.Group):
        command = command.commands[words[1]]
        words = words[1:]
    return command.make_context(words[0], words[1:]).params


@pytest.mark.parametrize("command", starting("fl2ora "), ids=str)
def test_commands_have_the_options_and_arguments_they_are_given(command: Command) -> None:
    parsed(command.words)


# Options that pages name in a sentence and that are not of fl2ora, with whose they are.
OF_OTHERS = {
    "--run-config": "flwr run", "--federation-config": "flwr run", "--host": "flower-superlink",
    "--trusted-entities": "flower-supernode", "--seed": "the option that extending.md adds",
    "--vit-b-16": "benchmarks.deployment_round", "--share": "benchmarks.mutation",
    "--steps-of-its-own": "benchmarks.strategies_table",
}  # fmt: skip


def options_of(command: click.Command) -> set[str]:
    """Return all options of a command, or of all commands of a group."""
    found = {name for parameter in command.params for name in parameter.opts} | {
        name for parameter in command.params for name in parameter.secondary_opts
    }
    parts = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*map(options_of, parts))


def test_options_that_sentences_name_exist() -> None:
    known = options_of(typer.main.get_command(cli)) | {"--help"}
    named = {
        (option, page.name)
        for page in PAGES
        for option in re.findall(r"`(--[a-z][\w-]*)", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 15
    assert not [pair for pair in named if pair[0] not in known | OF_OTHERS.keys()]
    assert OF_OTHERS.keys() <= {option for option, _ in named} - known


@pytest.mark.parametrize(
    "text",
    ["fl2ora run --colour red", "fl2ora compare", "fl2ora node check --clients 3",
     "fl2ora sweep a.toml b.toml", "fl2ora run --clients 0", "fl2ora data --near 99"],
)  # fmt: skip
def test_commands_that_cannot_be_typed_are_noticed(text: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(Command("page.md", 1, text).words)


def option(command: Command, name: str) -> dict[str, bool | int | float | str]:
    """Return the pairs that one of Flower's options holds, read as Flower reads them."""
    words = command.words
    given = [words[i + 1] for i, word in enumerate(words) if word == name]
    return dict(parse_config_args(given)) if given else {}


@pytest.mark.parametrize("command", starting("flwr run"), ids=str)
def test_flowers_runs_have_keys_there_are(command: Command, fashion_mnist: None) -> None:
    build_plugins(*RunConfig.usable(option(command, "--run-config")))


@pytest.mark.parametrize("command", starting("flower-supernode"), ids=str)
def test_nodes_hold_the_classes_of_the_run(command: Command, fashion_mnist: None) -> None:
    config = option(command, "--node-config")
    assert config
    assert config.keys() <= NODE_KEYS
    (submitted,) = [c for c in starting("flwr run") if "num-clients" in c.text]
    run = RunConfig.from_flat(option(submitted, "--run-config"))
    node = Node.from_configs(run.flat(), config, 1)
    assert node.federation.class_names == load_federation(run.dataset, run.protocol).class_names
    assert len(node.data.train) > 0
    assert run.num_clients in (0, len(starting("flower-supernode")))


@pytest.mark.parametrize("command", starting("fl2ora node check"), ids=str)
def test_checks_of_nodes_name_files_and_options_there_are(command: Command) -> None:
    found: dict[str, Any] = parsed(command.words)
    assert found["file"] is None or (ROOT / found["file"]).is_file()
    assert not found["node_config"] or (ROOT / found["node_config"]).is_file()


@pytest.mark.parametrize("command", starting("python -m "), ids=str)
def test_modules_exist_and_know_their_options(command: Command) -> None:
    words = command.words
    if words[2] == "pytest":  # whose options are its own
        paths = [word for word in words[3:] if word.startswith("tests/")]
        assert all((ROOT / path).exists() for path in paths)
        return
    spec = importlib.util.find_spec(words[2]) if words[2].startswith("fl2ora.") else None
    own = ROOT / words[2].replace(".", "/")
    own = own / "__main__.py" if own.is_dir() else own.with_suffix(".py")
    origin = spec.origin if spec else str(own)
    assert origin is not None
    code = Path(origin).read_text(encoding="utf-8")
    assert "__main__" in code
    for word in words[3:]:
        if word.startswith("--"):  # of argparse, or an argument of a function Typer runs
            name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
            assert f'"{word}"' in code or f"{name}:" in code, word


@pytest.mark.parametrize("command", starting("python benchmarks/"), ids=str)
def test_scripts_exist(command: Command) -> None:
    assert (ROOT / command.words[1]).is_file()


@pytest.mark.parametrize("command", starting("python -c "), ids=str)
def test_one_line_programs_run(command: Command, scratch: Path) -> None:
    save_files(BY_NAME[command.page], scratch, before=command.line)
    exec(command.words[2], {})


@pytest.mark.parametrize("command", starting("pytest "), ids=str)
def test_test_files_exist(command: Command) -> None:
    for word in command.words[1:]:
        assert not word.startswith("tests/") or (ROOT / word).exists()


def test_make_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in starting("make "):
        assert re.search(rf"^{command.words[1]}:", makefile, re.MULTILINE), command


def test_extras_and_files_of_pip_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in starting("pip install "):
        for extra in re.findall(r"\[(\w+)\]", command.text):
            assert extra in project["optional-dependencies"], command
        for file in re.findall(r"-c (\S+)", command.text):
            assert (ROOT / file).is_file(), command


SMALL = [
    "--engine", "in-process", "--clients", "2", "--json",
    "--set", "dataset=shapes(styles='held-back', train=64, validation=16, test=48)",
    "--set", "partition=iid", "--set", "num-rounds=1", "--set", "resamples=10",
    "--set", "callbacks=summary",
]  # fmt: skip


def small(words: list[str]) -> dict[str, object]:
    """Run a documented command with the same plug-ins on little data; return what it reports."""
    result = CliRunner().invoke(cli, [*words[1:], *SMALL])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


REALLY = [
    ("own-experiment.md", "fl2ora run --set method="),
    ("training.md", "fl2ora run --set optimiser='adamw"),
    ("strategies.md", "fl2ora run --set strategy='my_module:MyStrategy"),
    ("losses.md", "fl2ora run --set loss='cross_entropy + 0.5*my_lab"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "start"), REALLY)
def test_some_commands_really_run(page: str, start: str, scratch: Path) -> None:
    command = next(c for c in starting(start) if c.page == page)
    save_files(BY_NAME[page], scratch, before=command.line)
    outcome = small(command.words)
    assert outcome["rounds"] == 1
    assert Path(str(outcome["run_dir"]), "summary.md").is_file()


@pytest.mark.slow
def test_a_calibrator_is_fitted_to_a_finished_run(scratch: Path) -> None:
    outcome = small(["fl2ora", "run", "--set", "method=zero_shot"])
    (command,) = [c for c in starting("fl2ora calibrate") if c.page == "own-experiment.md"]
    words = [str(outcome["run_dir"]) if word == "runs/NAME" else word for word in command.words]
    result = CliRunner().invoke(cli, words[1:])
    assert result.exit_code == 0, result.output
    assert Path(str(outcome["run_dir"]), "calibrators", "temperature").is_dir()


@pytest.mark.slow
def test_a_callback_of_the_page_ends_a_run(scratch: Path) -> None:
    save_files(BY_NAME["callbacks.md"], scratch)
    late = ["--set", "num-rounds=3", "--set", "callbacks=my_lab.time_limit:TimeLimit(minutes=0)"]
    result = CliRunner().invoke(cli, ["run", "--set", "method=layer_norm", *SMALL, *late])
    assert result.exit_code == 0, result.output
    folder = Path(json.loads(result.stdout.splitlines()[-1])["run_dir"])
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["round"] for event in events if event["event"] == "stopped"] == [1]
