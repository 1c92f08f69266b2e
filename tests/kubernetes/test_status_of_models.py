"""Statuses of models: the tables of `spec/serving-controller.md` 1.5, typical traces, and what the old controller got wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.declared import Choice, Problem, Verdict
from modelmesh.kubernetes.status import conditions, models, resources
from modelmesh.kubernetes.status.events import model_events
from modelmesh.kubernetes.status.models import (
    Endpoints,
    Failure,
    ModelStatus,
    Reason,
    State,
    Transition,
    of_answer,
    of_invalid,
    of_no_pods,
    of_taken,
    of_unserved,
    wants_load,
)
from modelmesh.kubernetes.values import MeshCopy, MeshModel, MeshState, MeshTransition, MeshVModel

NOW = 1_800_000_000_000
AFTER = NOW + 60_000
NEW = ModelStatus()
P = models.NO_INSTANCE


def model(state: MeshState, *errors: str, copies: str = "") -> MeshModel:
    """`copies`: one letter for each, L loaded, F failed."""
    kinds = {"L": MeshState.LOADED, "F": MeshState.FAILED}
    return MeshModel(state, errors, tuple(MeshCopy(f"i{n}", kinds[c], NOW - n) for n, c in enumerate(copies)))


def one(state: MeshState, *errors: str, copies: str = "") -> MeshVModel:
    """A vmodel that does not move."""
    return MeshVModel(MeshTransition.DEFINED, "m-1", "m-1", "isvc", model(state, *errors, copies=copies))


def moving(
    target: MeshModel, transition: MeshTransition = MeshTransition.MOVING, active: MeshState = MeshState.LOADED
) -> MeshVModel:
    return MeshVModel(transition, "m-1", "m-2", "isvc", model(active, copies="L"), target)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (MeshState.NOT_LOADED, State.STANDBY),
        (MeshState.LOADING, State.LOADING),
        (MeshState.LOADED, State.LOADED),
        (MeshState.NOT_FOUND, State.PENDING),
        (MeshState.UNKNOWN, State.PENDING),
    ],
)
def test_states_of_models(state: MeshState, expected: State) -> None:
    assert of_answer(one(state), NEW, now_ms=NOW).active is expected


@pytest.mark.parametrize("state", [MeshState.NOT_FOUND, MeshState.UNKNOWN])
def test_a_state_that_says_nothing_keeps_the_one_before(state: MeshState) -> None:
    assert of_answer(one(state), ModelStatus(active=State.LOADED), now_ms=NOW).active is State.LOADED


@pytest.mark.parametrize(
    ("error", "state", "reason", "message"),
    [
        ("disk full", State.FAILED, Reason.LOAD_FAILED, "disk full"),
        (
            f"{P}mt:keras",
            State.LOADING,
            Reason.RUNTIME_UNHEALTHY,
            "Waiting for supporting runtime Pod to become available",
        ),
        (
            f"{P}rt:nobody: [_no_runtime]",
            State.FAILED,
            Reason.RUNTIME_UNKNOWN,
            "Specified runtime name not recognized",
        ),
        (
            f"{P}mt:nothing: [_no_runtime]",
            State.FAILED,
            Reason.NO_RUNTIME,
            "No ServingRuntime supports specified model type and/or protocol",
        ),
    ],
)
def test_what_a_failed_load_means(error: str, state: State, reason: Reason, message: str) -> None:
    found = of_answer(one(MeshState.FAILED, error, copies="F"), NEW, now_ms=NOW)
    assert found.failure is not None
    assert (found.active, found.failure.reason, found.failure.message) == (state, reason, message)
    assert found.failure.model_id == "m-1"
    assert found.available is False
    # Copies are counted only where there can be any.
    assert found.total_copies == (1 if reason is Reason.LOAD_FAILED else 0)
    assert found.failure.location == ("i0" if reason is Reason.LOAD_FAILED else "")


def test_a_failed_load_has_the_time_and_the_place_of_the_failed_copy() -> None:
    found = of_answer(one(MeshState.FAILED, "broken", copies="LF"), NEW, now_ms=AFTER)
    assert found.failure == Failure(Reason.LOAD_FAILED, "broken", "m-1", "i1", NOW - 1)
    assert (found.total_copies, found.failed_copies) == (2, 1)


def test_the_life_of_a_good_model() -> None:
    status = NEW
    for state, expected in (
        (MeshState.NOT_LOADED, State.STANDBY),
        (MeshState.LOADING, State.LOADING),
        (MeshState.LOADED, State.LOADED),
    ):
        status = of_answer(one(state), status, now_ms=NOW)
        assert (status.active, status.target, status.transition) == (expected, State.EMPTY, Transition.UP_TO_DATE)
        assert status.available
        assert status.failure is None


def test_a_good_update() -> None:
    loaded = of_answer(one(MeshState.LOADED), NEW, now_ms=NOW)
    during = of_answer(moving(model(MeshState.LOADING)), loaded, now_ms=NOW)
    assert (during.active, during.target, during.transition) == (State.LOADED, State.LOADING, Transition.IN_PROGRESS)
    assert during.available
    after = of_answer(one(MeshState.LOADED), during, now_ms=NOW)
    assert (after.active, after.target, after.transition) == (State.LOADED, State.EMPTY, Transition.UP_TO_DATE)
    assert [told.reason for told in model_events(loaded, during)] == ["UpdateStarted"]
    assert [told.reason for told in model_events(during, after)] == ["Updated"]


def test_a_bad_update_leaves_the_old_model_available() -> None:
    answer = moving(model(MeshState.FAILED, "no such file", copies="F"), MeshTransition.FAILED)
    found = of_answer(answer, ModelStatus(active=State.LOADED, available=True), now_ms=NOW)
    assert (found.active, found.target, found.transition) == (State.LOADED, State.FAILED, Transition.BLOCKED)
    assert found.available
    assert found.failure is not None
    assert (found.failure.reason, found.failure.model_id) == (Reason.LOAD_FAILED, "m-2")
    assert (found.total_copies, found.failed_copies) == (2, 1)
    assert [told.reason for told in model_events(ModelStatus(active=State.LOADED), found)] == [
        "ModelLoadFailed",
        "UpdateBlocked",
    ]


@pytest.mark.parametrize("target", [model(MeshState.LOADING), model(MeshState.FAILED, f"{P}mt:keras")])
def test_a_target_that_waits_for_a_runtime_is_not_blocked_f22(target: MeshModel) -> None:
    found = of_answer(moving(target, MeshTransition.FAILED), NEW, now_ms=NOW)
    assert (found.target, found.transition) == (State.LOADING, Transition.IN_PROGRESS)


@pytest.mark.parametrize("transition", [MeshTransition.UNKNOWN, MeshTransition.NOT_FOUND])
@pytest.mark.parametrize("before", list(Transition))
def test_a_transition_that_says_nothing_is_never_empty_f23(transition: MeshTransition, before: Transition) -> None:
    answer = MeshVModel(transition, "m-1", "m-1", "isvc", model(MeshState.LOADED))
    found = of_answer(answer, ModelStatus(transition=before), now_ms=NOW)
    expected = Transition.UP_TO_DATE if before is Transition.INVALID else before
    assert found.transition is expected


def test_waiting_for_a_runtime_is_remembered_until_the_model_is_loaded() -> None:
    waiting = of_answer(one(MeshState.FAILED, f"{P}mt:keras"), NEW, now_ms=NOW)
    loading = of_answer(one(MeshState.LOADING), waiting, now_ms=AFTER)
    assert loading.failure == waiting.failure
    assert not loading.available
    assert wants_load(loading)
    loaded = of_answer(one(MeshState.LOADED), loading, now_ms=AFTER)
    assert loaded.failure is None
    assert loaded.available


def test_the_time_of_a_failure_is_when_it_began() -> None:
    first = of_no_pods(NEW, "m-1", now_ms=NOW)
    assert of_no_pods(first, "m-1", now_ms=AFTER) == first
    assert of_no_pods(first, "m-2", now_ms=AFTER).failure.time_ms == AFTER  # type: ignore[union-attr]


def test_without_pods_states_stay_and_nothing_is_available() -> None:
    before = ModelStatus(active=State.LOADED, available=True)
    found = of_no_pods(before, "m-1", now_ms=NOW)
    assert (found.active, found.available) == (State.LOADED, False)
    assert found.failure == Failure(
        Reason.RUNTIME_UNHEALTHY, "Waiting for runtime Pod to become available", "m-1", "", NOW
    )


def test_a_name_that_is_taken() -> None:
    found = of_taken(NEW, "m-1", now_ms=NOW)
    assert found.failure is not None
    assert found.failure.message == "Predictor already exists with the same name from a different source"
    assert found.failure.reason is Reason.INVALID
    assert not found.available


PROBLEM = Problem("", "", "spec.storage.s3", "cannot be specified with any other keys")


def test_an_invalid_spec_keeps_the_old_model_serving() -> None:
    loaded = of_answer(one(MeshState.LOADED), NEW, now_ms=NOW)
    found = of_invalid(one(MeshState.LOADED), loaded, [PROBLEM], now_ms=NOW)
    assert (found.active, found.transition, found.available) == (State.LOADED, Transition.INVALID, True)
    assert found.failure is not None
    assert found.failure.message == "spec.storage.s3: cannot be specified with any other keys"
    assert of_invalid(None, NEW, [PROBLEM], now_ms=NOW).available is False
    mended = of_answer(one(MeshState.LOADED), found, now_ms=AFTER)
    assert (mended.transition, mended.failure) == (Transition.UP_TO_DATE, None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (NEW, True),
        (ModelStatus(active=State.FAILED), True),
        (ModelStatus(active=State.LOADED, target=State.LOADING), True),
        (ModelStatus(active=State.LOADING), False),
        (ModelStatus(active=State.LOADING, failure=Failure(Reason.RUNTIME_UNHEALTHY, "")), True),
        (ModelStatus(active=State.STANDBY), False),
        (ModelStatus(active=State.LOADED), False),
    ],
)
def test_when_a_model_is_loaded_as_it_is_set(status: ModelStatus, expected: bool) -> None:
    assert wants_load(status) is expected


# --- as resources have it -----------------------------------------------------------------------------


def test_a_predictor_says_all_of_it_in_the_old_fields() -> None:
    answer = moving(model(MeshState.FAILED, "broken", copies="F"), MeshTransition.FAILED)
    status = of_answer(answer, ModelStatus(endpoints=Endpoints("grpc://s.ns:8033", "http://s.ns:8008")), now_ms=NOW)
    raw = resources.write_predictor(status, None, [], generation=3, now_ms=NOW)
    shown = {name: value for name, value in raw.items() if name != "conditions"}
    assert shown == {
        "transitionStatus": "BlockedByFailedLoad",
        "activeModelState": "Loaded",
        "targetModelState": "FailedToLoad",
        "available": True,
        "grpcEndpoint": "grpc://s.ns:8033",
        "httpEndpoint": "http://s.ns:8008",
        "totalCopies": 2,
        "failedCopies": 1,
        "observedGeneration": 3,
        "lastFailureInfo": {
            "reason": "ModelLoadFailed",
            "message": "broken",
            "modelId": "m-2",
            "location": "i0",
            "time": "2027-01-15T08:00:00Z",
        },
    }
    assert {entry["type"]: (entry["status"], entry["reason"]) for entry in raw["conditions"]} == {
        "Ready": ("True", "Loaded"),
        "Valid": ("True", "Valid"),
        "UpToDate": ("False", "BlockedByFailedLoad"),
    }


def test_an_inference_service_says_it_in_its_own() -> None:
    status = of_answer(
        one(MeshState.LOADED, copies="L"),
        ModelStatus(endpoints=Endpoints("grpc://s.ns:8033", "http://s.ns:8008")),
        now_ms=NOW,
    )
    raw = resources.write_inference_service(status, {}, [], generation=1, now_ms=NOW)
    assert raw["modelStatus"] == {
        "transitionStatus": "UpToDate",
        "states": {"activeModelState": "Loaded", "targetModelState": ""},
        "copies": {"failedCopies": 0, "totalCopies": 1},
    }
    assert raw["url"] == "grpc://s.ns:8033"
    assert raw["components"]["predictor"] == {
        "url": "grpc://s.ns:8033",
        "grpcUrl": "grpc://s.ns:8033",
        "restUrl": "http://s.ns:8008",
    }
    assert [(entry["type"], entry["status"]) for entry in raw["conditions"]] == [
        ("PredictorReady", "True"),
        ("Ready", "True"),
        ("Valid", "True"),
        ("UpToDate", "True"),
    ]


def test_what_other_controllers_wrote_stays_f21() -> None:
    theirs = {
        "components": {"transformer": {"url": "http://t"}, "predictor": {"latestCreatedRevision": "r1"}},
        "conditions": [{"type": "TransformerReady", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}],
        "address": {"url": "http://a"},
    }
    raw = resources.write_inference_service(NEW, theirs, [], generation=1, now_ms=NOW)
    assert raw["components"]["transformer"] == {"url": "http://t"}
    assert raw["components"]["predictor"]["latestCreatedRevision"] == "r1"
    assert raw["conditions"][0] == theirs["conditions"][0]
    assert raw["address"] == {"url": "http://a"}


def test_a_condition_has_the_time_of_its_last_change_and_says_why_f21() -> None:
    waiting = of_no_pods(NEW, "m", now_ms=NOW)
    first = resources.write_inference_service(waiting, {}, [], generation=1, now_ms=NOW)
    later = resources.write_inference_service(waiting, first, [], generation=1, now_ms=AFTER)
    assert later == first
    loaded = of_answer(one(MeshState.LOADED), waiting, now_ms=AFTER)
    changed = resources.write_inference_service(loaded, later, [], generation=1, now_ms=AFTER)
    by_type = {entry["type"]: entry for entry in changed["conditions"]}
    assert by_type["Ready"]["lastTransitionTime"] == conditions.time_text(AFTER)
    assert by_type["Valid"]["lastTransitionTime"] == conditions.time_text(NOW)
    was = next(entry for entry in first["conditions"] if entry["type"] == "Ready")
    assert (was["reason"], was["message"]) == ("RuntimeUnhealthy", models.WAITING_FOR_PODS)


def test_the_address_stays_while_a_model_is_not_available_f21() -> None:
    status = ModelStatus(active=State.FAILED, endpoints=Endpoints("grpc://s.ns:8033"))
    raw = resources.write_inference_service(status, {}, [], generation=1, now_ms=NOW)
    assert raw["url"] == "grpc://s.ns:8033"
    assert "restUrl" not in raw["components"]["predictor"]


def test_every_problem_is_said_with_its_field_f7() -> None:
    note = Problem("", "", "spec.gpu", "has no effect", fatal=False)
    status = of_invalid(None, NEW, [PROBLEM], now_ms=NOW)
    raw = resources.write_inference_service(status, {}, [PROBLEM, note], generation=1, now_ms=NOW)
    valid = next(entry for entry in raw["conditions"] if entry["type"] == "Valid")
    assert valid["status"] == "False"
    assert "spec.storage.s3: cannot be" in valid["message"]
    assert "spec.gpu: has no effect" in valid["message"]


statuses = st.builds(
    ModelStatus,
    transition=st.sampled_from(Transition),
    active=st.sampled_from([state for state in State if state]),
    target=st.sampled_from(State),
    available=st.booleans(),
    failure=st.none()
    | st.builds(
        Failure,
        st.sampled_from(Reason),
        st.text(max_size=20),
        st.text(max_size=5),
        st.text(max_size=5),
        st.integers(0, NOW // 1000).map(lambda seconds: seconds * 1000),
    ),
    total_copies=st.integers(0, 9),
    failed_copies=st.integers(0, 9),
    endpoints=st.builds(Endpoints, st.sampled_from(["", "grpc://a"]), st.sampled_from(["", "http://a"])),
).filter(lambda status: not (status.available and status.active is State.FAILED))


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (resources.write_predictor, resources.read_predictor),
        (resources.write_inference_service, resources.read_inference_service),
    ],
)
@given(statuses, statuses)
def test_what_is_written_is_read_back_whatever_was_there(write, read, before: ModelStatus, status: ModelStatus) -> None:
    old = write(before, {"theirs": 1}, [], generation=1, now_ms=NOW)
    raw = write(status, old, [], generation=2, now_ms=AFTER)
    assert read(raw) == status
    assert raw["theirs"] == 1
    assert write(status, raw, [], generation=2, now_ms=AFTER + 1_000_000) == raw


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
keys = st.sampled_from(
    ["modelStatus", "states", "copies", "components", "predictor", "conditions", "lastFailureInfo", "available", "time"]
)


@given(st.recursive(json, lambda inner: st.dictionaries(keys, inner, max_size=5), max_leaves=20))
def test_whatever_stands_in_a_status_is_read(raw: object) -> None:
    for read in (resources.read_predictor, resources.read_inference_service):
        assert isinstance(read(raw), ModelStatus)
    for write in (resources.write_predictor, resources.write_inference_service):
        assert write(NEW, raw, [], generation=1, now_ms=NOW)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}}, {"a": {"y": 3}}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_a_patch_has_only_what_changed(old, new, expected) -> None:
    assert conditions.patch_of(old, new) == expected


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(Verdict.NO_RUNTIME, Reason.NO_RUNTIME), (Verdict.RUNTIME_UNKNOWN, Reason.RUNTIME_UNKNOWN)],
)
def test_a_model_that_no_runtime_takes_has_failed_though_the_mesh_says_that_it_is_not_loaded(
    verdict: Verdict, reason: Reason
) -> None:
    def unserved(answer: MeshVModel, old: ModelStatus = NEW, at: int = NOW) -> ModelStatus:
        return of_unserved(of_answer(answer, old, now_ms=at), old, answer.target_id, Choice(verdict, (), ""), now_ms=at)

    first = unserved(one(MeshState.NOT_LOADED))
    assert (first.active, first.available) == (State.FAILED, False)
    assert first.failure is not None
    assert (first.failure.reason, first.failure.model_id, first.failure.time_ms) == (reason, "m-1", NOW)
    assert unserved(one(MeshState.NOT_LOADED), first, AFTER) == first
    update = unserved(moving(model(MeshState.NOT_LOADED)))
    assert (update.active, update.target, update.transition) == (State.LOADED, State.FAILED, Transition.BLOCKED)
    assert update.available


@pytest.mark.parametrize("state", [MeshState.LOADED, MeshState.LOADING, MeshState.FAILED])
def test_what_the_mesh_does_with_a_model_counts_more_than_what_is_declared(state: MeshState) -> None:
    plain = of_answer(one(state, copies="L"), NEW, now_ms=NOW)
    assert of_unserved(plain, NEW, "m-1", Choice(Verdict.NO_RUNTIME, (), ""), now_ms=NOW) == plain


def test_a_model_that_a_runtime_takes_stands_by() -> None:
    plain = of_answer(one(MeshState.NOT_LOADED), NEW, now_ms=NOW)
    assert of_unserved(plain, NEW, "m-1", Choice(Verdict.FITS, ("a",), ""), now_ms=NOW).active is State.STANDBY
