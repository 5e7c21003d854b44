"""Compact letters: variants that share a letter are not told apart."""

import string
from collections.abc import Iterable, Sequence


def compact_letters(variants: Sequence[str], apart: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Letters for variants so that two share one exactly where they are not ``apart``.

    Insert and absorb (Piepho, *An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons*, Journal of
    Computational and Graphical Statistics, 2004): all variants begin with one letter. For each pair that is apart,
    every letter that both have is split into two, each without one of them; a letter whose variants all have another
    letter in common is dropped. So each letter stands for a largest group of which no two are apart.

    Args:
        variants: in the order in which letters are given out, such as best first.
        apart: pairs of them, in any order.

    Returns:
        By variant its letters in the order of the alphabet: ``"a"``, ``"ab"``, ...; after ``z`` comes ``a2``.
    """
    places = {variant: place for place, variant in enumerate(variants)}
    groups = [frozenset(places.values())]
    for variant, rival in apart:
        pair = {places[variant], places[rival]}
        inserted = [group - {place} for group in groups if group >= pair for place in pair]
        inserted += [group for group in groups if not group >= pair]
        groups = [group for group in set(inserted) if not any(group < other for other in inserted)]
    groups.sort(key=sorted)
    letters = [_letter(number) for number in range(len(groups))]
    return {
        variant: "".join(letter for letter, group in zip(letters, groups, strict=True) if place in group)
        for variant, place in places.items()
    }


def _letter(number: int) -> str:
    turn, place = divmod(number, len(string.ascii_lowercase))
    return string.ascii_lowercase[place] + (str(turn + 1) if turn else "")
