"""mkdocs hooks: the site also shows some files of the repository that lie outside ``docs/``.

Pages link to them by their place in the repository, so the same links work in a checkout and in the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "heads/README.md",
    "results/*.md",
    "results/reference/**/*.csv",
    "results/reference/**/*.md",
    "results/reference/**/*.png",
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of ``SHOWN`` under their path in the repository."""
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's files; a link to a file that is not in the site becomes plain text."""
    source = Path(str(page.file.abs_src_path))

    def resolved(link: re.Match[str]) -> str:
        text, target, anchor = link.groups(default="")
        path = (source.parent / target).resolve()
        uri = path.relative_to(config.docs_dir if path.is_relative_to(config.docs_dir) else ROOT).as_posix()
        if files.get_file_from_path(uri) is None:
            return text
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    if page.file.src_uri.startswith("results/reference/"):
        # a table without a heading
        markdown = f"# {page.file.src_uri.removeprefix('results/reference/')}\n\n{markdown}"
    return LINK.sub(resolved, markdown)
