"""What loads teach: sizes by model and by type, and how long loads take."""

from modelmesh.control.copies.usage import Learned
from modelmesh.values.explanation import SizeSource
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory


def test_a_model_that_was_loaded_is_known_and_one_of_its_type_is_guessed() -> None:
    learned = Learned()
    assert learned.size(ModelId("a")) is None
    assert learned.type_size("onnx") is None
    learned.measured(ModelId("a"), "onnx", Memory(800))
    assert learned.size(ModelId("a")) == Memory(800)
    assert learned.size(ModelId("b")) is None
    assert learned.type_size("onnx") == Memory(800)
    assert learned.type_size("sklearn") is None


def test_the_latest_size_of_a_model_counts_and_the_mean_of_its_type_follows_slowly() -> None:
    learned = Learned()
    learned.measured(ModelId("a"), "onnx", Memory(800))
    learned.measured(ModelId("a"), "onnx", Memory(1600))
    assert learned.size(ModelId("a")) == Memory(1600)
    assert learned.type_size("onnx") == Memory(900)


def test_a_long_load_weighs_more_than_a_common_one() -> None:
    learned = Learned()
    for number in range(20):
        learned.loaded(ModelId(f"m{number}"), Memory(100), 1_000)
    learned.loaded(ModelId("slow"), Memory(100), 8_000)
    assert learned.load_ms(ModelId("slow")) == 8_000
    assert learned.weight(ModelId("slow"), Memory(100)) == 3
    assert learned.weight(ModelId("m0"), Memory(100)) == learned.weight(ModelId("never loaded"), Memory(100)) == 0
    assert 1_000 <= learned.common_load_ms < 1_200


def test_a_prediction_counts_until_the_model_was_measured() -> None:
    learned = Learned()
    learned.predicted(ModelId("a"), Memory(500))
    assert learned.prediction(ModelId("a")) == Memory(500)
    assert learned.size(ModelId("a")) is None
    learned.measured(ModelId("a"), "onnx", Memory(800))
    assert learned.prediction(ModelId("a")) is None


def test_a_size_that_another_instance_has_counts_until_the_model_was_predicted_or_measured_here() -> None:
    learned = Learned()
    learned.measured(ModelId("b"), "onnx", Memory(100))
    learned.heard(ModelId("a"), Memory(700), capacity=Memory(700))
    assert learned.best_size(ModelId("a"), "onnx", default=Memory(1)) == (Memory(700), SizeSource.ELSEWHERE)
    learned.predicted(ModelId("a"), Memory(500))
    assert learned.best_size(ModelId("a"), "onnx", default=Memory(1)) == (Memory(500), SizeSource.PREDICTED)


def test_a_size_that_the_other_instance_cannot_have_is_not_believed() -> None:
    learned = Learned()
    learned.heard(ModelId("a"), Memory(701), capacity=Memory(700))
    assert learned.best_size(ModelId("a"), "onnx", default=Memory(1)) == (Memory(1), SizeSource.DEFAULT)


def test_a_size_of_another_instance_is_forgotten_when_no_instance_is_so_large_any_more() -> None:
    learned = Learned()
    for size in (300, 500, 700):
        learned.heard(ModelId(f"m{size}"), Memory(size), capacity=Memory(1_000))
    learned.forget_heard_beyond(Memory(500))
    sizes = {
        size: learned.best_size(ModelId(f"m{size}"), "onnx", default=Memory(1))[0].bytes for size in (300, 500, 700)
    }
    assert sizes == {300: 300, 500: 500, 700: 1}


def test_a_model_that_was_not_loaded_yet_is_expected_to_load_as_others_of_its_size() -> None:
    learned = Learned()
    for number in range(8):
        learned.loaded(ModelId(f"m{number}"), Memory(100 << number), 100 << number)
    assert learned.expected_load_ms(ModelId("m1"), Memory(1)) == 200
    assert 10_000 < learned.expected_load_ms(ModelId("new"), Memory(100 << 7)) < 16_000
