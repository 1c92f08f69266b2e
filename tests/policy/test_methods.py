"""Which inference methods exist."""

from modelmesh.policy.methods import AllowedMethods, RuntimeMethods, combine
from modelmesh.values.dataplane import MethodRule

ANY = AllowedMethods()
INFER = MethodRule("p.S/Infer", extraction_path=(1, 2))


OIP = "inference.GRPCInferenceService/"
NAMED = tuple(
    MethodRule(OIP + name, extraction_path=(1,), header_first=True, version_field=2)
    for name in ("ModelInfer", "ModelReady", "ModelMetadata")
)
"""Calls of the protocol have the model's name in their message."""


def test_nothing_said_allows_everything() -> None:
    assert combine(RuntimeMethods(), ANY) == AllowedMethods(NAMED, allow_others=True)


def test_stock_clients_need_no_header_where_the_runtime_names_its_methods() -> None:
    reported = RuntimeMethods(((f"{OIP}ModelInfer", (1,)),), allows_others=False)
    named = MethodRule(
        f"{OIP}ModelInfer", extraction_path=(1,), header_first=True, injection_path=(1,), version_field=2
    )
    assert combine(reported, ANY) == AllowedMethods((named,), allow_others=False)


def test_what_the_operator_says_of_a_method_stands() -> None:
    configured = AllowedMethods((MethodRule(f"{OIP}ModelInfer"),), allow_others=True)
    rules = {rule.method: rule for rule in combine(RuntimeMethods(), configured).methods}
    assert rules[f"{OIP}ModelInfer"].extraction_path == ()


def test_methods_the_runtime_reports_have_their_injection_path() -> None:
    reported = RuntimeMethods((("p.S/Infer", (3,)),), allows_others=False)
    assert combine(reported, ANY) == AllowedMethods((MethodRule("p.S/Infer", injection_path=(3,)),), allow_others=False)


def test_what_the_operator_does_not_list_is_refused_unless_others_are_allowed() -> None:
    reported = RuntimeMethods((("p.S/Infer", (3,)), ("p.S/Other", ())), allows_others=True)
    both = MethodRule("p.S/Infer", extraction_path=(1, 2), injection_path=(3,))
    assert combine(reported, AllowedMethods((INFER,), allow_others=False)) == AllowedMethods(
        (both,), allow_others=False
    )
    assert combine(reported, AllowedMethods((INFER,), allow_others=True)) == AllowedMethods(
        (both, MethodRule("p.S/Other"), *NAMED), allow_others=True
    )


def test_what_the_runtime_does_not_have_is_refused_whoever_allows_it() -> None:
    reported = RuntimeMethods((("p.S/Other", ()),), allows_others=False)
    assert combine(reported, AllowedMethods((INFER,), allow_others=False)) == AllowedMethods((), allow_others=False)


def test_an_empty_configuration_refuses_every_method() -> None:
    assert combine(RuntimeMethods(), AllowedMethods(allow_others=False)) == AllowedMethods((), allow_others=False)


def test_whether_a_model_is_ready_is_asked_with_the_id_where_an_inference_has_it() -> None:
    """The old controller's configuration names ModelInfer and ModelMetadata, and allows the others."""
    configured = AllowedMethods(
        (MethodRule(f"{OIP}ModelInfer", extraction_path=(1,), extracts_vmodel=True, idempotent=False),), True
    )
    rules = {rule.method: rule for rule in combine(RuntimeMethods(((f"{OIP}ModelInfer", (1,)),)), configured).methods}
    for name in ("ModelReady", "ModelMetadata"):
        rule = rules[OIP + name]
        assert (rule.extraction_path, rule.extracts_vmodel, rule.injection_path, rule.idempotent) == (
            (1,),
            True,
            (1,),
            True,
        )


def test_an_operator_who_allows_inference_alone_allows_nothing_else() -> None:
    configured = AllowedMethods((MethodRule(f"{OIP}ModelInfer", extraction_path=(1,)),), allow_others=False)
    reported = RuntimeMethods(((f"{OIP}ModelInfer", (1,)),), allows_others=False)
    for runtime in (RuntimeMethods(), reported):
        assert [rule.method for rule in combine(runtime, configured).methods] == [f"{OIP}ModelInfer"]
