from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from adacomed.encoders.lanes import columns_first, run_passes

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads for torch, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_order_and_one_core_each(threads: int) -> None:
    seen = set()

    def double(n: int) -> int:
        torch.ones(100_000).exp()  # a parallel operation: what sets a thread's number up
        assert torch.get_num_threads() == 1
        seen.add(threading.current_thread().name)
        return 2 * n

    assert run_passes(double, range(50), CPU) == [2 * n for n in range(50)]
    assert run_passes(double, [], CPU) == []
    assert torch.get_num_threads() == threads
    assert all(name.startswith("adacomed-lane") for name in seen)


def test_as_many_at_once_as_torch_has_threads(threads: int) -> None:
    together = threading.Barrier(threads)
    run_passes(lambda _: together.wait(timeout=20), range(threads), CPU)  # breaks if fewer


def test_an_error_reaches_the_caller_and_the_lanes_live_on() -> None:
    with pytest.raises(ZeroDivisionError):
        run_passes(lambda n: 1 // n, [1, 0, 1], CPU)
    assert run_passes(lambda n: n, [1], CPU) == [1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_lanes_of_its_own() -> None:
    run_passes(lambda n: n, [1], CPU)
    child = os.fork()
    if child == 0:
        os._exit(run_passes(lambda n: n, [7], CPU)[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_columns_first_changes_no_value() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.GELU(), torch.nn.Linear(30, 5))
    x = torch.randn(7, 20)
    before, weight = model(x), model[0].weight.detach().clone()
    columns_first(model)
    assert torch.equal(model[0].weight, weight)
    assert not model[0].weight.is_contiguous()
    assert torch.allclose(model(x), before, atol=1e-6)
