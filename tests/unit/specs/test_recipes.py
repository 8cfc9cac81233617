"""Recipes of published disaggregated runs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hwsim.specs.catalogs import load_device, load_model
from hwsim.specs.load import load_spec
from hwsim.specs.published.recipes import RECIPES, RecipeBook, RecipeGroup

GROUP = {
    "model": "deepseek-r1", "device": "gb200", "backend": ["trt"], "precision": "fp4",
    "prefill": "dep4",
}  # fmt: skip


def test_a_line_says_lengths_clients_servers_and_how_devices_share() -> None:
    (found,) = RecipeGroup(**GROUP, recipes=("1024/8192 mtp1 64,128 3p 5xtep8",)).read()
    assert (found.isl, found.osl, found.drafted) == (1024, 8192, 1)
    assert found.clients == (64, 128)
    assert (found.prefill.num_workers, found.decode.num_workers) == (3, 5)
    assert (found.prefill.attention_dp, found.prefill.moe_ep) == (4, 4)
    assert (found.decode.attention_dp, found.decode.moe_ep) == (1, 8)
    assert "attention own" in str(found)


def test_a_line_may_say_the_most_requests_of_a_batch() -> None:
    lines = ("1024/1024 mtp0 64 3p 5xdep8 b16", "1024/1024 mtp0 64 3p 5xdep8")
    limited, free = RecipeGroup(**GROUP, recipes=lines).read()
    assert (limited.decode.batch_size, free.decode.batch_size) == (16, None)
    assert "at most 16 requests" in str(limited)
    assert "at most" not in str(free)


def test_clients_of_each_server_are_known_by_their_products_too() -> None:
    lines = ("1024/1024 mtp0 16 1p 9xtp8",)
    (found,) = RecipeGroup(**GROUP, per_server=True, recipes=lines).read()
    assert found.clients == (16, 144)


@pytest.mark.parametrize(
    "line",
    [
        "1024/1024 64 1p 5xtep8",
        "1024/1024 mtp0 64 1p 5xcp8",
        "",
        "1/1 mtp0 1 1p",
        "1024/1024 mtp0 64 1p 5xtep8 b0",
    ],
)
def test_what_is_no_recipe_is_refused(line: str) -> None:
    with pytest.raises(ValidationError, match="is no recipe"):
        RecipeGroup(**GROUP, recipes=(line,))


@pytest.mark.parametrize("name", sorted(RECIPES.paths()))
def test_recipes_that_ship_are_of_known_models_and_devices(name: str) -> None:
    for group in load_spec(RECIPES, RecipeBook, name).groups:
        assert load_model(group.model).id == group.model
        assert load_device(group.device).id == group.device
        assert all(r.decode.tp and r.decode.num_workers for r in group.read())
