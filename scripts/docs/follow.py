"""FOLDER: follows every link of the site in FOLDER that stays within it, to the file and to the place in it. Answers 1 when
one leads nowhere."""

import os
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.ids = [], set()
        with open(path, encoding="utf-8") as file:
            self.feed(file.read())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


folder = os.path.realpath(sys.argv[1])
pages = {}
for where, _, names in os.walk(folder):
    for name in names:
        # These two are made of the other pages (print.html) or for any address (404.html).
        if name.endswith(".html") and name not in ("404.html", "print.html", "toc.html"):
            path = os.path.join(where, name)
            pages[path] = Page(path)

dead, followed = [], 0
for path, page in pages.items():
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        followed += 1
        target = os.path.normpath(os.path.join(os.path.dirname(path), unquote(parts.path))) if parts.path else path
        fragment = unquote(parts.fragment)
        outside = not target.startswith(folder + os.sep)
        if outside or not os.path.isfile(target):
            dead.append((path, link))
        elif fragment and target in pages and fragment not in pages[target].ids:
            dead.append((path, link))

if len(pages) < 20 or followed < 500:
    sys.exit(f"only {len(pages)} pages with {followed} links were found in {folder}")
for path, link in dead:
    print(f"{os.path.relpath(path, folder)}: {link} leads nowhere", file=sys.stderr)
print(f"{len(pages)} pages, {followed} links, {len(dead)} dead", file=sys.stderr)
sys.exit(1 if dead else 0)
