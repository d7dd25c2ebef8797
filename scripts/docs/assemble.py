"""ROOT SITE: makes the tree that mdbook reads: SITE/book.toml and SITE/src, with the pages that docs/SUMMARY.md names and every
file that they link to, each at its path in the source tree."""

import os
import re
import shutil
import sys

root, site = sys.argv[1:]
source = os.path.join(site, "src")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def copy(path):
    target = os.path.join(source, path)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    shutil.copyfile(os.path.join(root, path), target)


def links(path):
    """The files within the tree that a page links to, relative to the root."""
    with open(os.path.join(root, path), encoding="utf-8") as page:
        for target, _ in LINK.findall(page.read()):
            if "://" not in target and not target.startswith("mailto:"):
                yield os.path.normpath(os.path.join(os.path.dirname(path), target))


os.makedirs(source)
shutil.copyfile(os.path.join(root, "docs/book.toml"), os.path.join(site, "book.toml"))
pages = list(links("docs/SUMMARY.md"))
for page in pages:
    copy(page)
for page in pages:
    for target in links(page):
        if target in pages or target == "docs/SUMMARY.md":
            continue
        # mdbook makes pages of what SUMMARY.md names, and of nothing else.
        if target.endswith(".md"):
            sys.exit(f"{page} links to {target}, which is not in docs/SUMMARY.md")
        if os.path.isfile(os.path.join(root, target)):
            copy(target)

# The contents, from where mdbook looks for them: beside the pages, not among them.
with open(os.path.join(root, "docs/SUMMARY.md"), encoding="utf-8") as page:
    contents = page.read()
contents = LINK.sub(lambda link: f"]({os.path.normpath(os.path.join('docs', link[1]))}{link[2] or ''})", contents)
with open(os.path.join(source, "SUMMARY.md"), "w", encoding="utf-8") as page:
    page.write(contents)
