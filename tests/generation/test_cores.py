import pytest
import torch

from artgate.generation.cores import Cores, equal_parts


@pytest.mark.parametrize(
    ("rows", "cores", "parts"),
    [(8, 1, 1), (8, 2, 2), (8, 3, 4), (3, 2, 3), (8, 16, 8), (7, 2, 7), (1, 2, 1), (6, 6, 6)],
)
def test_parts_are_equal_and_enough_for_the_cores(rows, cores, parts):
    assert equal_parts(rows, cores) == parts


@pytest.mark.parametrize("cores", [1, 2])
def test_parts_come_back_in_order_each_computed_by_one_thread(cores):
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        seen: list[int] = []

        def rows(part: slice) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return torch.arange(8)[part]

        assert Cores().run(rows, 8).tolist() == list(range(8))
        assert seen == [1] * cores
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


def test_a_row_is_the_same_wherever_it_stands():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        layer, rows = torch.nn.Linear(320, 1280), torch.randn(6, 320)
        order = torch.tensor([4, 2, 5, 0, 1, 3])
        cores = Cores()
        straight = cores.run(lambda part: layer(rows[part]), 6)
        mixed = cores.run(lambda part: layer(rows[order][part]), 6)
        assert torch.equal(straight[order], mixed)
    finally:
        torch.set_num_threads(before)


def test_errors_come_through():
    def broken(part: slice) -> torch.Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Cores().run(broken, 4)
