"""The settings of metrics: what is understood, what turns them off, what ends the start."""

import pytest

from modelmesh.instance.metrics_choice import MetricsChoice, UnknownChoiceError, parse_info, parse_metrics
from modelmesh.instance.settings import SettingsError
from modelmesh.instance.sources import load_settings

LEAST = {"MM_SERVICE_NAME": "s", "KV_STORE": "sqlite::memory:"}


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("disabled", MetricsChoice()),
        ("statsd", MetricsChoice("statsd", 8126)),
        (
            "statsd:port=9000;legacy=true;fq_names=true",
            MetricsChoice("statsd", 9000, full_names=True, legacy=True),
        ),
        ("prometheus", MetricsChoice("prometheus", 2112)),
        (
            "prometheus:port=2113;scheme=http;per_model_metrics=true;models_max=5;mem_detail=none",
            MetricsChoice("prometheus", 2113, https=False, per_model=True, models_max=5, process=False),
        ),
        ("prometheus:mem_detail=gc,bp", MetricsChoice("prometheus", 2112)),
    ],
)
def test_understood(text: str, choice: MetricsChoice) -> None:
    assert parse_metrics(text) == choice


def test_unknown_details_are_told_and_the_rest_holds() -> None:
    choice = parse_metrics("prometheus:mem_detail=gc,jit")
    assert choice.process
    assert choice.warnings == ("mem_detail names jit, which there is not",)


@pytest.mark.parametrize(
    "text",
    [
        "graphite",
        "statsd:scheme=http",
        "prometheus:legacy=true",
        "prometheus:port=http",
        "prometheus:port=0",
        "prometheus:port=65536",
        "prometheus:scheme=ftp",
        "prometheus:per_model_metrics=yes",
        "prometheus:colour=red",
    ],
)
def test_unknown_back_ends_parameters_and_values_turn_metrics_off(text: str) -> None:
    with pytest.raises(UnknownChoiceError):
        parse_metrics(text)
    assert load_settings({**LEAST, "MM_METRICS": text}).metrics == text, "calls are served either way"


@pytest.mark.parametrize("text", ["Prometheus", "prometheus:", "prometheus:port", "statsd port=1", "statsd:port=1;"])
def test_what_is_no_such_setting_ends_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match=r"MM_METRICS: .* is not of the form"):
        load_settings({**LEAST, "MM_METRICS": text})


def test_the_info_metric_takes_its_labels_from_the_environment() -> None:
    info = parse_info("name:relabel;deployment=D,slot=S", {"D": "ga-tf-mm", "S": 'a"b'})
    assert info.name == "name:relabel"
    assert info.labels == (("deployment", "ga-tf-mm"), ("slot", 'a"b'))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name", "not of the form"),
        ("Name;a=D", "not of the form"),
        ("name;a=", "not of the form"),
        ("name;a=D,a=D", "one of them twice"),
        ("name;a=MISSING", "MISSING, which are not set"),
    ],
)
def test_an_info_metric_that_cannot_be_made(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_info(text, {"D": "d"})
