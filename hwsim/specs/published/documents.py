"""Which document a published figure comes from: what is left out as a whole."""

from __future__ import annotations

import re

_REPOSITORY = re.compile(
    r"(?:https://)?(?:github\.com/|github )?([\w.-]+/[\w.-]+)", re.IGNORECASE
)
_ARXIV = re.compile(r"arxiv[ :/a-z]*(\d{4}\.\d{4,5})", re.IGNORECASE)
_REST = re.compile(r"[,:(]|\d")


def document_of(source: str) -> str:
    """Return the document that a source names: a repository, a paper, or its title.

    Tables and releases of one document count as one: whoever wrote them measured
    alike.

    Examples
    --------
    >>> document_of("github NVIDIA/Megatron-LM README weak scaling table")
    'nvidia/megatron-lm'
    >>> document_of("PaLM (arXiv 2204.02311) section 4.1")
    '2204.02311'
    >>> document_of("Intel Gaudi 2 model performance page, software 1.19.0")
    'intel gaudi'
    """
    if found := _ARXIV.search(source):
        return found[1]
    if found := _REPOSITORY.match(source):
        return found[1].casefold()
    return _REST.split(source)[0].strip().casefold() or source.casefold()
