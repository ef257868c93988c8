"""What the tests of documents share: derived networks, and what stands in a document."""

from __future__ import annotations

from xml.etree import ElementTree

import derive as dr
from derive.document.tree import Equation, Section
from tests.networks import NETWORKS


def derived(name: str):
    return dr.derive(NETWORKS[name]())


def equations(document) -> list[Equation]:
    found = []

    def walk(blocks):
        for block in blocks:
            if isinstance(block, Section):
                walk(block.blocks)
            elif isinstance(block, Equation):
                found.append(block)

    walk(document.sections)
    return found


def parsed(html: str) -> ElementTree.Element:
    body = html[html.index("<body>"):html.index("</html>")]
    return ElementTree.fromstring(body)
