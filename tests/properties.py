"""What holds for any example: for a tenth of them, always the same, by default, and for all of them in the fuzz tier."""

import pytest
from hypothesis import given, seed, settings


def of_any(*strategies, examples=100):
    """Makes a test of a property, as hypothesis's `given`: the strategies are of its arguments.

    In the fuzz tier its examples are others each time (`rotating_seed`). A failure names the example.
    """
    tiers = (
        pytest.param(max(examples // 10, 5), id="few"),
        pytest.param(examples, id="many", marks=pytest.mark.fuzz),
    )

    def made(holds):
        @pytest.mark.parametrize("count", tiers)
        def test(count, rotating_seed):
            tried = settings(max_examples=count, deadline=None, database=None)
            seed(rotating_seed)(tried(given(*strategies)(holds)))()

        test.__name__, test.__doc__ = holds.__name__, holds.__doc__
        return test

    return made
