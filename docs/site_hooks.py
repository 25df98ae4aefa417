"""What the site shows that does not lie in docs/: files of the repository, and the notebook's text.

mkdocs calls these functions; ``mkdocs.yml`` names this file.
"""

from __future__ import annotations

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files of ``deploy/``, which pages link to, and pages whose text lies elsewhere."""
    for path in sorted((ROOT / "deploy").rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, "notebook.md", content=_notebook_page(notebook["cells"])))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links out of ``docs/`` lead to the files that were added."""
    return markdown if "/" in page.file.src_uri else markdown.replace("](../", "](")


def _notebook_page(cells: list[dict[str, object]]) -> str:
    """Return a notebook without outputs as Markdown."""
    parts = []
    for cell in cells:
        source = cell["source"]
        text = source if isinstance(source, str) else "".join(source)  # type: ignore[arg-type]
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    head, *rest = parts
    link = "To run it: [notebook.ipynb](notebook.ipynb). The same, to read:"
    return "\n\n".join([head, link, *rest])
