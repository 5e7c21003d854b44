"""Letters are shared by exactly those variants that are not told apart."""

import re
from itertools import combinations

import numpy as np

from instseg.statistics.letters import compact_letters


def letters_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]\d*", text))


def test_letters_of_small_cases_by_hand() -> None:
    assert compact_letters(["fcn", "unet"], []) == {"fcn": "a", "unet": "a"}
    assert compact_letters(["fcn", "unet"], [("unet", "fcn")]) == {"fcn": "a", "unet": "b"}
    # only the best and the worst are apart
    assert compact_letters("123", [("1", "3")]) == {"1": "a", "2": "ab", "3": "b"}
    # 1 is apart from all, 4 from 2 as well: {1}, {2, 3}, {3, 4}
    assert compact_letters("1234", [("1", "2"), ("1", "3"), ("1", "4"), ("4", "2")]) == {
        "1": "a",
        "2": "b",
        "3": "bc",
        "4": "c",
    }
    assert compact_letters([], []) == {}


def test_two_share_a_letter_exactly_where_they_are_not_apart() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        names = [f"v{i}" for i in range(random.integers(2, 13))]
        pairs = list(combinations(names, 2))
        apart = {pair for pair in pairs if random.random() < random.choice([0.1, 0.5, 0.9])}
        shuffled = [pair[:: random.choice([-1, 1])] for pair in random.permutation(sorted(apart)).tolist()]
        letters = {name: letters_of(text) for name, text in compact_letters(names, map(tuple, shuffled)).items()}
        assert all(letters.values())
        for one, other in pairs:
            assert bool(letters[one] & letters[other]) == ((one, other) not in apart)
        # no letter could be left out as part of another, and none be given to one more variant
        groups = {
            letter: {name for name in names if letter in letters[name]} for letter in set().union(*letters.values())
        }
        assert not [pair for pair in combinations(groups.values(), 2) if pair[0] <= pair[1] or pair[1] <= pair[0]]
        for group in groups.values():
            for outsider in set(names) - group:
                assert any((outsider, name) in apart or (name, outsider) in apart for name in group)


def test_after_z_comes_a_number_behind_the_letter() -> None:
    # five pairs that are apart, all else alike: a group takes one of each, 32 in all
    names = [f"v{i}" for i in range(10)]
    apart = [(names[i], names[i + 1]) for i in range(0, 10, 2)]
    letters = {name: letters_of(text) for name, text in compact_letters(names, apart).items()}
    assert len(set().union(*letters.values())) == 32 and "f2" in letters[names[9]]
    for one, other in combinations(names, 2):
        assert bool(letters[one] & letters[other]) == ((one, other) not in apart)
