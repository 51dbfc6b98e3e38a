"""What the tests of hostile and of damaged media share."""

import pytest
from judge import Judge


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    judge = Judge(tmp_path_factory.mktemp("judge"))
    yield judge
    judge.close()
