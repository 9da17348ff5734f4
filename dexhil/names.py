"""Names that a person typed: refused with the nearest one that exists."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """'; did you mean X?' with the nearest of `known`, or nothing where there is none."""
    nearest = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def check_known(what: str, name: object, known: Iterable[str]) -> None:
    """Raises ValueError, with the nearest name and all others, unless `name` is one of `known`."""
    known = sorted(known)
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known{did_you_mean(name, known)} Known: {known}")
