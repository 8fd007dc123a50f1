"""Times things in turn and prints them as ratios to a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median


def interleave(
    subjects: Mapping[str, Callable[[], float]], *, rounds: int
) -> dict[str, list[float]]:
    """Measure each of *subjects* once a round, so that all meet the same noise.

    Args:
        subjects: Functions that return one measured cost, by name.
        rounds: How often each is measured, after one round that does not count.

    Returns:
        The costs of each subject.
    """
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, measure in subjects.items():
            cost = measure()
            if number:
                costs[name].append(cost)
    return costs


def report(
    title: str,
    costs: Mapping[str, list[float]],
    *,
    baseline: str,
    unit: str,
    scale: float = 1.0,
) -> None:
    """Print the median cost of each subject, its spread and its ratio to *baseline*.

    Args:
        title: What is measured.
        costs: As :func:`interleave` returns them.
        baseline: The subject that counts as 1.
        unit: What the costs are called, after they are multiplied by *scale*.
        scale: From the measured unit to the printed one.
    """
    base = median(costs[baseline])
    print(f"\n{title}")
    print(f"  {'':<34}{unit:>12}{'min':>10}{'max':>10}{'ratio':>8}")
    for name, found in costs.items():
        middle, low, high = median(found), min(found), max(found)
        print(
            f"  {name:<34}{middle * scale:>12.2f}{low * scale:>10.2f}"
            f"{high * scale:>10.2f}{middle / base:>8.2f}"
        )
