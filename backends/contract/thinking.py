"""How much a model is to think, said in two ways: an effort in words, a budget in tokens. Pure.

Law: where an API knows one of them only, the other is said in it by this one rule; an effort turned into a budget and
back is the same effort. Each word stands for the budget beside it, and a budget for the word whose own is nearest by
ratio: up to 2048 tokens low, up to 8192 medium, above high. `minimal` and `xhigh`, which many models refuse, are said
only by who said them.
"""

from __future__ import annotations

BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768}  # tokens per effort
_LOW, _MEDIUM = 2048, 8192  # the most tokens that are still called so


def budget_of(effort: str) -> int | None:
    """Thinking tokens for an effort; None: it is none of the words known here."""
    return BUDGETS.get(effort)


def effort_of(budget: int) -> str:
    """The effort for a budget of thinking tokens."""
    if budget <= 0:
        return "none"
    if budget <= _LOW:
        return "low"
    return "medium" if budget <= _MEDIUM else "high"
