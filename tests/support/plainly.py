"""Hypothesis's own choices without its habits: no simplest cases first, no copies of the last case with a part doubled.
Where a case is a run of a whole system, each of those would cost as much as a new one and find less."""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "plainly"


class Plainly(HypothesisProvider):
    """`settings(backend=BACKEND)`. A backend that is not the default is asked for one case after the other."""


AVAILABLE_PROVIDERS[BACKEND] = f"{__name__}.{Plainly.__name__}"
