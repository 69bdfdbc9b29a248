"""Cost counting against hand-worked layers and published figures."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.dimensions import overview
from beyond_accuracy.inference.plan import published_throughput
from beyond_accuracy.measure import tidy, verdicts


def test_linear_and_convolution_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, kernel_size=4, stride=4), nn.Flatten(), nn.Linear(8 * 8 * 8, 10))
    # 8 x 8 places, each 3 * 4 * 4 inputs to 8 channels; then 512 x 10
    assert overview.forward_macs(network, 32) == 8 * 8 * 3 * 16 * 8 + 512 * 10


@pytest.mark.parametrize("fused", [False, True])
def test_attention_is_counted_whatever_kernel_would_run(fused):
    class Attention(nn.MultiheadAttention):
        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)
            return super().forward(tokens, tokens, tokens, need_weights=not fused)[0]

    tokens, width = 16, 3
    projections = 4 * tokens * width * width  # query, key, value, output
    products = 2 * tokens * tokens * width  # scores, weighted sum
    network = Attention(3, 1, batch_first=True).eval().requires_grad_(False)
    assert overview.forward_macs(network, 4) == projections + products


@pytest.mark.parametrize(
    ("name", "published"),  # GMACs as published by timm (results/benchmark tables) for 224 pixels
    [("deit_tiny_patch16_224", 1.26), ("convnextv2_atto", 0.55), ("resnet18", 1.82)],
)
def test_published_counts(name, published):
    import timm

    network = timm.create_model(name, pretrained=False).eval()
    assert overview.forward_macs(network, 224) / 1e9 == pytest.approx(published, abs=0.01)


def test_rates_are_the_fastest_tenth_of_rounds_of_all_models_without_gradients():
    towers, seen = [(nn.Conv2d(3, 1, 1), 8), (nn.Conv2d(3, 1, 1), 16)], []
    for network, side in towers:
        network.register_forward_hook(lambda *_, side=side: seen.append((side, torch.is_grad_enabled())))
    assert min(overview.images_per_second(towers, seconds=0.0, batch=2)) > 0
    assert seen == [(8, False), (16, False)] * 4  # in turns; a round to warm up and three that count
    slowed = [(0.1, 0.1), (4.5, 0.25), (0.5, 2.25), (4.5, 2.25), (0.5, 2.25), (9, 9)]  # the first does not count
    times = iter(sum(slowed, ()))
    rates = overview.images_per_second(towers, 8.0, batch=10, timed=lambda network, images: next(times))
    assert rates == [20.0, 40.0] and list(times) == [9, 9]  # four rounds take 17 seconds, 8 a network
    lucky = iter([1.0, 0.1, *[0.5] * 4, *[2.0] * 15])  # of twenty that count, one is luck
    assert overview.images_per_second(towers[:1], 32.0, batch=10, timed=lambda network, images: next(lucky)) == [20.0]


def test_conditions_say_how_rates_were_timed_and_one_thread_is_singular(monkeypatch):
    page = SimpleNamespace(outputs=SimpleNamespace(device="cpu"))
    for threads, said in ((1, ", 1 thread, float32"), (2, ", 2 threads, float32")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        words = overview.timing_conditions(page)
        assert said in words and "in turns" in words


def test_published_rates_are_those_of_the_model_at_its_own_side():
    specs = {
        "a": ModelSpec("a", "timm", "convnext_base.fb_in22k_ft_in1k"),
        "b": ModelSpec("b", "timm", "local-dir:assets:mini_world/models/vit_sup"),
        "c": ModelSpec("c", "predictions"),
    }
    cards = {name: SimpleNamespace(geometry=SimpleNamespace(crop=288)) for name in "ab"}
    page = SimpleNamespace(models=list(specs), spec=specs.get, card=cards.get, labels={"a": "A", "b": "B"})
    wide, caption = overview.published_rates(page)
    assert wide.columns.tolist() == ["card", "A"] and len(wide) == 5 and wide["A"].notna().all()
    assert caption.startswith("Images per second published by timm (results folder: ")
    at_288 = published_throughput(specs["a"], 288).set_index("card")["images_per_second"]
    assert wide.set_index("card")["A"].to_dict() == at_288.to_dict()
    assert overview.published_rates(SimpleNamespace(models=[]))[0].empty


def test_costs_are_counted_without_interval_and_rates_only_where_they_were_taken():
    costs = pd.DataFrame({"model": ["a"], "params": [1.5], "gflops": [0.2], "input side": [48], "resize": ["none"]})
    rows = overview.cost_rows(costs)
    assert rows[["metric", "unit"]].to_numpy().tolist() == [["params", "millions"], ["gflops", "gflops"]]
    assert rows[["ci_low", "ci_high", "n"]].isna().all(axis=None) and set(rows["dataset"]) == {"none"}
    assert set(overview.cost_rows(costs.assign(images_per_second=9.0))["metric"]) == set(overview.UNITS)
    assert overview.cost_rows(pd.DataFrame()).empty


def test_the_finding_counts_pairs_by_verdict():
    correct = {"a": [True] * 9 + [False], "b": [False] * 10}
    rows = tidy.accuracy(correct).assign(dataset="set")
    judged = verdicts.judge(tidy.accuracy_pairs(correct).assign(family="main"))
    page = SimpleNamespace(labels={"a": "A", "b": "B"}, title=str.title, leader=lambda rows, judged: "A (90.0) leads")
    said = "runs from 0.0 % (B) to 90.0 % (A): A (90.0) leads; the two are told apart."
    assert overview.sentence(page, rows, judged) == f"Accuracy on Set {said}"
    beyond = overview.sentence(page, rows, judged.assign(verdict=verdicts.BEYOND_NOISE, replicated=True))
    assert beyond.endswith("the two are told apart (beyond training noise).")
    assert overview.sentence(page, rows.iloc[:1], judged.iloc[:0]) == "Accuracy on Set is 90.0 % (A)."
