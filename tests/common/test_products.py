"""Float32 products by oneDNN: the arithmetic stays float32's, and the setting goes back to what it was."""

from collections.abc import Iterator

import pytest
import torch

from common import products
from common.products import exact, fast_products, plain_products


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def setting() -> str:
    return torch.get_float32_matmul_precision()


@pytest.mark.parametrize("shape", [(300, 70, 90), (33, 512, 17), (1, 40, 50), (70, 1, 30)])
def test_products_inside_are_as_exact_as_outside(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(size, generator=generator) for size in ((shape[0], shape[1]), (shape[2], shape[1])))
    want = a.double() @ b.double().t()
    bound = 1e-6 * (a.abs() @ b.abs().t()).double()
    with fast_products("cpu"):
        made = {
            "mm": a @ b.t(),
            "transposed": (b @ a.t()).t(),
            "addmm": torch.addmm(torch.zeros(shape[2]), a, b.t()),
            "copied": a.t().contiguous().t() @ b.t().contiguous(),
            "bmm": torch.bmm(a[None], b.t()[None])[0],
        }
    for name, product in made.items():
        assert ((product.double() - want).abs() <= bound + 1e-12).all(), name
    assert not ((a.bfloat16() @ b.bfloat16().t()).double() - want).abs().le(bound).all(), "the bound tells bfloat16"


def test_the_setting_goes_back_also_after_an_error_and_contexts_nest() -> None:
    with fast_products("cpu") as used:
        inside = setting()
        assert inside == ("medium" if used else "highest")
        with fast_products("cpu"), plain_products():
            assert setting() == "highest"
        assert setting() == inside
    assert setting() == "highest"
    with pytest.raises(KeyError), fast_products("cpu"):
        raise KeyError
    assert setting() == "highest"


def test_other_devices_small_work_and_a_user_s_own_choice_change_nothing() -> None:
    for context in (fast_products("cuda"), fast_products("cpu", enabled=False)):
        with context as used:
            assert not used and setting() == "highest"
    torch.set_float32_matmul_precision("high")
    with fast_products("cpu") as used:
        assert not used and setting() == "high"
    assert setting() == "high"


def test_a_processor_that_rounds_to_bfloat16_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: plain(a.bfloat16(), b.bfloat16()).float())
    assert not exact.__wrapped__()
    assert setting() == "highest"
    monkeypatch.setattr(products, "exact", lambda: False)
    with fast_products("cpu") as used:
        assert not used and setting() == "highest"


def test_weights_in_products_are_those_outside_of_tables_each_once() -> None:
    table, layer = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 3)
    head = torch.nn.Linear(8, 50, bias=False)
    head.weight = table.weight  # tied
    assert products.matrix_weights(torch.nn.Sequential(table, layer, head)) == 8 * 3 + 3
