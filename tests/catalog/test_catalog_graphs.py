from __future__ import annotations

from importlib.resources import files

import numpy as np
import onnx
import pytest

from wattwerk.catalog import count, models, seeding

#: as printed in the Fraunhofer IPA study, table 6; True where the printed number means multiply-adds
STUDY = {
    "resnet-50": (25.6e6, 4.1e9, True),
    "vit-b-16": (86e6, 17.6e9, True),
    "yolov9-c": (25.3e6, 102.1e9, False),
}


@pytest.mark.parametrize("name", models.names())
def test_a_graph_file_is_small_and_holds_no_weights(name: str) -> None:
    """Each shipped file is under 500 kB, and no tensor of its recipe has data."""
    assert len((files("wattwerk.catalog") / "data" / f"{name}.onnx").read_bytes()) < 500_000
    graph = seeding.graph_of(name)
    tensors = seeding.empty_tensors(graph, seeding.card_of(graph).recipe)
    assert set(tensors) == set(seeding.card_of(graph).recipe)
    assert not any(tensor.raw_data or tensor.float_data for tensor in tensors.values())


@pytest.mark.parametrize("name", models.names())
def test_a_graph_has_a_free_batch_and_separate_normalisation(name: str) -> None:
    """Every input and output has the dimension ``batch`` in front; nothing was folded into the convolutions."""
    graph = seeding.graph_of(name).graph
    for value in [*graph.input, *graph.output]:
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    statistics = [tensor.name for tensor in graph.initializer if tensor.name.endswith("running_var")]
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == len(statistics)


def test_a_filled_graph_is_valid_onnx() -> None:
    """The serialised model passes the full check of the onnx package."""
    onnx.checker.check_model(onnx.load_from_string(models.resolve("mobilenet-v2").onnx_bytes()), full_check=True)


def test_tensors_are_drawn_by_their_rule() -> None:
    """Mean, deviation and constants come out as the rule says; each name has numbers of its own."""
    drawn = seeding.draw("a", (64, 32, 3, 3), seeding.Rule(0.5, 2.0), 0)
    assert abs(drawn.mean() - 0.5) < 0.05
    assert abs(drawn.std() - 2.0) < 0.05
    assert np.array_equal(seeding.draw("a", (3,), seeding.Rule(1.5), 0), np.full(3, 1.5, np.float32))
    assert not np.array_equal(drawn, seeding.draw("b", (64, 32, 3, 3), seeding.Rule(0.5, 2.0), 0))


@pytest.mark.parametrize("name", models.names())
def test_the_stored_counts_are_those_of_the_graph(name: str) -> None:
    """Counting the shipped graph again gives the parameters and operations that it states."""
    graph = seeding.graph_of(name)
    card = seeding.card_of(graph)
    assert count.counts_of(graph, trained=card.recipe) == count.Counts(card.parameters_count, card.sample_flops)


@pytest.mark.parametrize("name", sorted(STUDY))
def test_counts_agree_with_the_study(name: str) -> None:
    """Parameters and operations agree within 1 % with the printed ones, read as multiply-adds where they mean that."""
    parameters, printed, is_macs = STUDY[name]
    subject = models.resolve(name).subject()
    assert subject.parameters_count == pytest.approx(parameters, rel=0.01)
    assert subject.sample_flops / (2 if is_macs else 1) == pytest.approx(printed, rel=0.01)


def test_segformer_lies_in_the_range_of_the_study() -> None:
    """SegFormer-B5 has 85 million parameters and, in multiply-adds, lies in the printed range of 170 to 220."""
    subject = models.resolve("segformer-b5").subject()
    assert subject.parameters_count == pytest.approx(85e6, rel=0.01)
    assert 170e9 < subject.sample_flops / 2 < 220e9


def test_detr_reaches_the_study_on_a_wider_image() -> None:
    """DETR's printed 86 G are multiply-adds at 800 x 1136, a usual size of its preprocessing; at 800 x 800 it is 60 G.

    torch's own counter confirms both on the torch module.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    from wattwerk.catalog.architectures import detr_r50

    subject = models.resolve("detr-r50").subject()
    assert subject.parameters_count == pytest.approx(41.5e6, rel=0.01)
    assert subject.sample_flops / 2 == pytest.approx(60.2e9, rel=0.01)
    module = detr_r50().to("meta").requires_grad_(False)
    flops = {}
    for width in (800, 1136):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(1, 3, 800, width, device="meta"))
        flops[width] = counter.get_total_flops()
    assert flops[800] == pytest.approx(subject.sample_flops, rel=0.01)
    assert flops[1136] / 2 == pytest.approx(86e9, rel=0.02)


@pytest.mark.parametrize(
    ("name", "parameters"), [("mobilenet-v2", 3.5e6), ("resnet-18", 11.7e6), ("resnet-152", 60.2e6)]
)
def test_counts_agree_with_the_papers(name: str, parameters: float) -> None:
    """The models that the study does not list have the parameters that their papers state."""
    assert models.resolve(name).subject().parameters_count == pytest.approx(parameters, rel=0.01)


def test_hidden_operations_are_not_guessed() -> None:
    """A graph whose heavy operators are out of sight has no count rather than one that is too low."""
    graph = seeding.graph_of("mobilenet-v2")
    graph.graph.node.append(onnx.helper.make_node("FusedConv", ["a"], ["b"], domain="com.microsoft"))
    assert count.flops_of(graph, {}) is None
