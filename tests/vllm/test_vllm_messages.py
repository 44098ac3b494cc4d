"""Reports of the workers of tensor and pipeline parallel engines."""

import pytest

from zipr1.common.errors import RunError

pytestmark = pytest.mark.vllm


def reports(kept: dict, most: dict):
    from zipr1.vllm.messages import Report, Reports

    return Reports({"a": Report(kept, most, 100)})


def test_stages_hold_other_layers_and_the_greediest_of_all_decides():
    found = reports({0: 5, 1: 9}, {0: 9}).aggregate(reports({2: 20, 3: 7}, {0: 20, 1: 7}))
    report = found.by_request["a"]
    assert report.kept == {0: 5, 1: 9, 2: 20, 3: 7} and report.most == {0: 20, 1: 7}


def test_tensor_ranks_that_kept_other_tokens_are_an_error():
    with pytest.raises(RunError, match="layer 1: one rank kept 9 tokens, another 8"):
        reports({0: 5, 1: 9}, {0: 9}).aggregate(reports({0: 5, 1: 8}, {0: 8}))
