"""Arguments that a plan gives its tools, against what the runtime says of them: refused only for what no run can mend."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.argument_schemas import ArgumentSchema, prepared
from executions.plan_document import parse
from executions.portia.client import portia
from executions.tool_arguments import check_arguments
from tests.factories.documents import action, flow, plan, step

PAY = {
    "type": "object",
    "properties": {
        "amount": {"type": "number", "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "to": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
        "lines": {"type": "array", "items": {"type": "object", "required": ["text"]}, "maxItems": 3},
    },
    "required": ["amount"],
    "additionalProperties": False,
}
STEP = "/flows/0/steps/0"
AMOUNT = {"amount": 3}


def misfits_of(*steps, schema=PAY, more_flows=(), **fields):
    document = parse(plan(*steps, more_flows=more_flows, variables={"x": 1}, **fields))
    return check_arguments(document, prepared({"pay": schema})).misfits


def refused(parameters, *, schema=PAY, **fields):
    found = misfits_of(action("a", "pay", parameters=parameters, **fields), schema=schema)
    return [(one.pointer.removeprefix(STEP), one.detail) for one in found]


@pytest.mark.parametrize(
    ("parameters", "pointer", "says"),
    [
        ({"amount": "much"}, "/parameters/amount", "wants 'amount' to be of type number"),
        ({"amount": True}, "/parameters/amount", "of type number"),
        ({"amount": None}, "/parameters/amount", "of type number"),
        ({"amount": "${no path}"}, "/parameters/amount", "of type number"),
        ({"amount": -1}, "/parameters/amount", "a number not below 0"),
        ({}, "/parameters", "needs the argument 'amount'"),
        (AMOUNT | {"currency": "GBP"}, "/parameters/currency", "one of EUR, USD"),
        (AMOUNT | {"to": "nobody"}, "/parameters/to", "a text that matches ^[A-Z]{2}[0-9]+$"),
        (AMOUNT | {"lines": [{"text": "a"}, {}]}, "/parameters/lines/1", "'lines.1' to be given with 'text'"),
        (AMOUNT | {"lines": [{"text": "a"}] * 4}, "/parameters/lines", "a list whose length is at most 3"),
        (AMOUNT | {"a/b": 1}, "/parameters/a~1b", "has no argument 'a/b'; it takes amount, currency, lines, to"),
    ],
)
def test_an_argument_that_cannot_be_is_named_with_what_is_expected(parameters, pointer, says):
    ((found, detail),) = refused(parameters)
    assert found == pointer
    assert detail.startswith("The tool 'pay' ")
    assert says in detail


@pytest.mark.parametrize(
    "parameters",
    [
        AMOUNT,
        {"amount": 3.5, "currency": "EUR", "to": "DE1", "lines": [{"text": "a"}]},
        {"amount": "{{variables.x}}"},
        {"amount": "${variables.x}", "lines": [{"{{variables.x}}": 1, "more": ["{{variables.x}}"]}]},
        AMOUNT | {"currency": "{{variables.x}}", "to": "DE{{variables.x}}"},
    ],
)
def test_what_may_fit_is_let_through(parameters):
    assert refused(parameters) == []


def test_what_inputs_give_is_there_and_may_be_anything():
    assert refused({}, inputs={"amount": "variables.x"}) == []
    assert refused({"amount": "much"}, inputs={"amount": "plain text"}) == []
    ((pointer, _),) = refused(AMOUNT, inputs={"amuont": "variables.x"})
    assert pointer == "/inputs/amuont"


def test_every_step_is_looked_at_nested_ones_loops_and_called_flows_too():
    wrong = {"parameters": {"amount": "much"}}
    steps = (
        step("group", "sequence", steps=[action("inner", "pay", **wrong)]),
        step("choose", "condition", expression="true", else_=[action("other", "pay", **wrong)]),
        step("each", "loop", times=2, tool="pay", arguments={"amount": "{{index}}", "to": 5}) | {"inputs": {"to": "x"}},
        step("call", "sequence", flow="called"),
        action("undo", "pay", **wrong),
    )
    found = misfits_of(
        *steps,
        more_flows=(flow(action("deep", "pay", **wrong), flow_id="called"),),
        flow_fields={"on_failure": "rollback", "rollback_steps": ["undo"]},
    )
    assert [one.pointer for one in found] == [
        "/flows/0/steps/0/parameters/steps/0/parameters/amount",
        "/flows/0/steps/1/parameters/else/0/parameters/amount",
        "/flows/0/steps/2/parameters/arguments/to",
        "/flows/0/steps/4/parameters/amount",
        "/flows/1/steps/0/parameters/amount",
    ]


def test_a_tool_without_a_schema_takes_anything():
    document = parse(plan(action("a", "echo", parameters={"x": 1}), action("b", "pay")))
    assert check_arguments(document, {}).misfits == []


# -- what is not known decides nothing

KINDS = {"kind": {"const": "a"}}


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"properties": KINDS}, {"properties": {"kind": {"const": "b"}}}]},
        {"not": {"properties": KINDS}},
        {"if": {"properties": KINDS}, "then": {"required": ["more"]}},
        {"if": {"properties": KINDS}, "else": {"required": ["more"]}},
        {"anyOf": [{"properties": KINDS}, {"required": ["more"]}]},
        {"enum": [{"kind": "a"}]},
        {"const": {"kind": "a"}},
        {"properties": {"kind": {"uniqueItems": True, "contains": {"const": 1}, "maxContains": 1}}},
        {"additionalProperties": {"type": "integer"}},
        {"patternProperties": {"^k": {"enum": [1]}}},
        {"unevaluatedProperties": {"type": "integer"}},
        {"dependentSchemas": {"kind": {"properties": KINDS}}},
        {"$ref": "#/$defs/one", "$defs": {"one": {"properties": KINDS}}},
    ],
)
def test_no_keyword_refuses_an_argument_for_what_it_may_become(schema):
    assert refused({"kind": "{{variables.x}}"}, schema=schema) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"oneOf": [{"required": ["kind"]}, {"maxProperties": 5}]},
        {"not": {"required": ["kind"]}},
        {"if": {"required": ["kind"]}, "then": {"required": ["more"]}},
        {"anyOf": [{"required": ["a"]}, {"maxProperties": 0}]},
        {"propertyNames": {"maxLength": 3}},
        {"dependentRequired": {"kind": ["more"]}},
        {"additionalProperties": False},
    ],
)
def test_names_are_known_where_values_are_not(schema):
    assert refused({"kind": "{{variables.x}}"}, schema=schema)


@pytest.mark.parametrize("text", ["Größe", "DE1\n", "a\x1fb"])
def test_patterns_that_runtimes_read_differently_refuse_nothing(text):
    assert refused({"to": text}, schema={"properties": {"to": {"pattern": r"^\w+$"}}}) == []
    assert (
        refused({"to": text}, schema={"properties": {"to": {"anyOf": [{"pattern": r"^\w+$"}, {"type": "null"}]}}}) == []
    )


@pytest.mark.parametrize(("pattern", "text"), [("^[a-z]+$", "Größe"), (r"^\w+$", "two\nlines")])
def test_a_pattern_that_all_read_alike_refuses(pattern, text):
    assert refused({"to": text}, schema={"properties": {"to": {"pattern": pattern}}})


# -- schemas of strangers


@pytest.mark.parametrize(
    "schema",
    [
        "text",
        [],
        5,
        {"type": "strnig"},
        {"properties": []},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"properties": {"amount": {"pattern": "(?<=a)b"}}},
        {"required": "amount"},
        {"description": "x" * 60_000},
        json.loads('{"allOf": [' * 400 + "true" + "]}" * 400),
    ],
)
def test_a_schema_that_cannot_be_used_checks_nothing_and_is_said_so(schema):
    document = parse(plan(action("a", "pay", parameters={"amount": "much"}), action("b")))
    found = check_arguments(document, prepared({"pay": schema, "wait": "unused"}))
    assert (found.misfits, found.unchecked) == ([], {"pay"})


def test_a_schema_that_takes_too_long_is_given_up():
    inner = {"type": "integer"}
    for _ in range(12):
        inner = {"anyOf": [inner, {"not": inner}, inner]} if len(json.dumps(inner)) < 10_000 else inner
    heavy = {"properties": {"rows": {"items": {"not": {"oneOf": [inner, inner]}}}}}
    steps = [action(f"s{n}", "pay", parameters={"rows": list(range(2000))}) for n in range(20)]
    document, schemas = parse(plan(*steps)), prepared({"pay": heavy})
    assert schemas["pay"]
    began = time.thread_time()
    found = check_arguments(document, schemas)
    assert found.unchecked == {"pay"}
    assert time.thread_time() - began < 2


def test_a_schema_is_prepared_once():
    assert prepared({"a": PAY})["a"] is prepared({"b": json.loads(json.dumps(PAY))})["b"]


# -- at the door


@pytest.fixture
def says_of_pay(odd, settings):
    """Have the runtime say of the tool `pay` what it takes."""

    def says(*schemas):
        root = odd({"capabilities": []})
        path = settings.PORTIA_BASE_URL.removeprefix(root.url_for("")) + "/api/v1/tools"
        listed = [{"id": "pay", "args_schema": schema} for schema in schemas]
        root.expect_request("/" + path.lstrip("/")).respond_with_json({"tools": [{"id": "echo"}, *listed]})

    return says


def submit(api, *steps, expect, **fields):
    return api.post("/v1/execute", {"executable_plan": plan(*steps), **fields}, expect=expect)


@pytest.mark.django_db
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_submission_is_refused_for_its_arguments_with_what_else_is_wrong(api, says_of_pay, dry_run):
    says_of_pay(PAY)
    wrong = action("a", "pay", parameters={"amount": "much"})
    problem = submit(api, wrong, action("b", "ecko"), action("c", timeout=9), expect=422, dry_run=dry_run)
    assert problem["type"].endswith(":invalid-plan")
    at = "/executable_plan/flows/0/steps"
    assert [(one["pointer"], one["code"]) for one in problem["errors"]] == [
        (f"{at}/1", "unknown_tool"),
        (f"{at}/0/parameters/amount", "invalid_arguments"),
        (f"{at}/2", "runtime_lacks"),
    ]
    assert "gives tools arguments that they do not take" in problem["detail"]


@pytest.mark.django_db
def test_the_dry_run_warns_of_tools_whose_arguments_were_not_checked(api, says_of_pay):
    says_of_pay({"type": "strnig"})
    seen = submit(api, action("a", "pay"), expect=200, dry_run=True)
    (warning,) = [one for one in seen["warnings"] if "args_schema" in one]
    assert warning.endswith("arguments were not checked: pay.")
    assert not [one for one in submit(api, action("a"), expect=200, dry_run=True)["warnings"] if "args_schema" in one]


@pytest.mark.parametrize("schema", ["text", [1], False, 5, None, {}])
def test_an_odd_schema_spoils_neither_the_tool_nor_the_others(says_of_pay, schema):
    says_of_pay(schema)
    known = portia().known_runtime(tenant="acme")
    assert known.tools == {"echo", "pay"}
    assert ("pay" in known.schemas) == (schema not in (None, {}))


# -- the short way


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([1.0, 2.5, "", "a", "DE1", "EUR"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "text"]), inner, max_size=3),
    max_leaves=5,
)
parts = st.recursive(
    st.sampled_from([
        True, False, {}, {"type": "string"}, {"type": ["integer", "null"]}, {"minimum": 2}, {"exclusiveMaximum": 2},
        {"enum": ["a", 1]}, {"const": "a"}, {"maxLength": 1}, {"pattern": "^[A-Z]"}, {"required": ["a"]}, {"minItems": 2},
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    ]),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"items": inner}),
        st.lists(inner, min_size=1, max_size=2).flatmap(lambda some: st.sampled_from([{"anyOf": some}, {"allOf": some}])),
        st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from(["a", "b"]), inner)},
            optional={"additionalProperties": inner, "type": st.just("object"), "required": st.just(["b"])},
        ),
    ),
    max_leaves=5,
)  # fmt: skip


@given(schema=parts, value=values)
def test_the_short_way_says_yes_only_where_the_long_one_does(schema, value):
    whole = ArgumentSchema({"properties": {"x": schema}})
    if whole._fits({"x": value}):
        assert whole._prepared.misfits({"x": value}) == []
