"""The decision card: who sees it, who may press the button, what a button does, and that a GET does nothing."""

from __future__ import annotations

import json
import re
from functools import reduce
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from approvals_bridge.models import Clarification
from executions.models import Kind, Work
from tests.factories.models import ClarificationFactory, RunFactory, UserFactory, staff_of

EVIL = '"><script>alert(1)</script>'
APPROVER = ("decide_clarification", "view_clarification", "view_run", "view_plan")


@pytest.fixture
def approver(acme):
    return staff_of(acme, username="bob", permissions=APPROVER)


@pytest.fixture
def browser(approver, client):
    client.force_login(approver)
    return client


@pytest.fixture
def paused(acme):
    return RunFactory(tenant=acme, status="paused")


def card(clarification: Clarification) -> str:
    return reverse("admin:approvals_bridge_clarification_change", args=[clarification.pk])


def live(clarification: Clarification) -> str:
    return reverse("admin:approvals_bridge_clarification_live", args=[clarification.pk])


def decide(browser: Client, clarification: Clarification, decision: str, **fields: Any) -> str:
    """Press a button on the card and return the page the person then sees."""
    seal = {"action_digest": clarification.action_digest}
    response = browser.post(card(clarification), seal | fields | {"decision": decision}, follow=True)
    assert response.status_code == 200
    clarification.refresh_from_db()
    return response.content.decode()


def test_the_card_says_what_will_run_for_whom_and_until_when(browser, paused):
    page = browser.get(card(ClarificationFactory(run=paused))).content.decode()
    for text in (
        "Approve refund",
        "write record: write",
        "129.90 EUR",
        "refund-A-17",
        "alice",
        "Refund an order",
        "Acme",
    ):
        assert text in page
    assert "in 59 min" in page or "in 1 h" in page
    assert "{&quot;" not in page


def test_a_click_on_approve_decides_with_the_seal_that_was_shown(browser, paused):
    clarification = ClarificationFactory(run=paused)
    page = decide(browser, clarification, "approve", reason="Pictures checked.")
    vote = clarification.votes.get()
    assert (clarification.status, clarification.decided_by, vote.source) == ("approved", "bob", "admin")
    assert (vote.action_digest, vote.reason) == (clarification.action_digest, "Pictures checked.")
    assert "Approved" in page
    assert "Delivering to Portia" in page
    assert Work.objects.filter(run=paused, kind=Kind.ANSWER).exists()


@pytest.mark.parametrize("query", ["", "?decision=approve", "?decision=reject&reason=no"])
def test_looking_at_the_card_never_decides(browser, paused, query):
    clarification = ClarificationFactory(run=paused)
    assert browser.get(card(clarification) + query).status_code == 200
    assert browser.get(live(clarification) + query).status_code == 200
    clarification.refresh_from_db()
    assert clarification.status == "pending"


def test_a_decision_without_the_csrf_token_is_refused(approver, paused):
    clarification = ClarificationFactory(run=paused)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(approver)
    response = browser.post(card(clarification), {"decision": "approve", "action_digest": clarification.action_digest})
    clarification.refresh_from_db()
    assert (response.status_code, clarification.status) == (403, "pending")


def test_a_rejection_needs_a_reason_and_keeps_the_card_open(browser, paused):
    clarification = ClarificationFactory(run=paused)
    assert "Say why you reject this." in decide(browser, clarification, "reject", reason="  ")
    assert clarification.status == "pending"
    decide(browser, clarification, "reject", reason="Wrong customer.")
    assert (clarification.status, clarification.decision_reason) == ("rejected", "Wrong customer.")


def test_a_decision_about_another_action_is_refused_and_the_new_one_shown(browser, paused):
    clarification = ClarificationFactory(run=paused)
    page = decide(browser, clarification, "approve", action_digest="0" * 64)
    assert "not what you were shown" in page
    assert f'value="{clarification.action_digest}"' in page
    assert clarification.status == "pending"


def test_a_second_click_is_told_who_was_first(browser, paused):
    clarification = ClarificationFactory(run=paused)
    decide(browser, clarification, "approve")
    assert "bob has already approved this." in decide(browser, clarification, "approve")
    assert clarification.votes.count() == 1


def test_a_button_that_does_not_exist_is_refused_in_words(browser, paused):
    clarification = ClarificationFactory(run=paused)
    assert "decision: one of" in decide(browser, clarification, "obey")
    assert clarification.status == "pending"


@pytest.mark.parametrize(
    ("permissions", "triggered_by", "sentence"),
    [
        (("view_clarification",), "alice", "not decide them"),
        (APPROVER, "bob", "You asked for this yourself"),
    ],
)
def test_who_may_not_decide_reads_why_and_finds_no_button(acme, client, permissions, triggered_by, sentence):
    clarification = ClarificationFactory(run__tenant=acme, run__status="paused", run__triggered_by=triggered_by)
    client.force_login(staff_of(acme, username="bob", permissions=permissions))
    page = client.get(card(clarification)).content.decode()
    assert sentence in page
    assert 'name="decision"' not in page
    assert sentence in decide(client, clarification, "approve")
    assert clarification.status == "pending"


def test_a_card_after_its_deadline_cannot_be_decided(browser, paused):
    past = timezone.now() - timezone.timedelta(hours=2)
    clarification = ClarificationFactory(run=paused, requested_at=past)
    assert "The time to answer this ended" in browser.get(card(clarification)).content.decode()
    assert "The time to answer this ended" in decide(browser, clarification, "approve")


@pytest.mark.parametrize("address", [card, live])
def test_another_tenants_clarification_does_not_exist(browser, globex, address):
    foreign = ClarificationFactory(run__tenant=globex, title="Secret of globex")
    assert browser.get(address(foreign)).status_code == 404
    response = browser.post(card(foreign), {"decision": "approve", "action_digest": foreign.action_digest})
    foreign.refresh_from_db()
    assert (response.status_code, foreign.status) == (404, "pending")


def test_the_list_shows_what_waits_for_this_tenant_and_names_no_other(browser, paused, globex):
    ClarificationFactory(run=paused, title="Still waiting")
    decided = {"status": "approved", "decided_at": timezone.now(), "decided_by": "carol"}
    ClarificationFactory(run=paused, title="Already decided", **decided)
    ClarificationFactory(run__tenant=globex, title="Secret of globex")
    url = reverse("admin:approvals_bridge_clarification_changelist")
    page = browser.get(url).content.decode()
    assert "Still waiting" in page
    assert "Already decided" not in page
    everything = browser.get(url + "?state=all&q=e").content.decode()
    assert "Already decided" in everything
    assert "globex" not in (page + everything).lower()


@pytest.mark.parametrize("part", ["add", "delete"])
def test_clarifications_are_neither_made_nor_deleted_by_hand(client, paused, part):
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    args = [] if part == "add" else [ClarificationFactory(run=paused).pk]
    url = reverse(f"admin:approvals_bridge_clarification_{part}", args=args)
    assert [client.get(url).status_code, client.post(url, {"post": "yes"}).status_code] == [403, 403]


def test_nothing_a_plan_says_becomes_markup(browser, acme):
    run = RunFactory(tenant=acme, status="paused", triggered_by=EVIL, parameters={EVIL: [EVIL, {EVIL: EVIL}]})
    texts = {"title": EVIL, "guidance": EVIL, "step_id": EVIL}
    action = {"tool": EVIL, "action": EVIL, "arguments": {EVIL: EVIL, "long": EVIL * 100}, "step_id": EVIL}
    cards = [
        ClarificationFactory(run=run, action=action, required_approvers=["bob", EVIL], approval_rules=[EVIL], **texts),
        ClarificationFactory(run=run, choice=True, options=[EVIL, {EVIL: 1}], **texts),
        ClarificationFactory(run=run, confirmation=True, proposed=EVIL, **texts),
        ClarificationFactory(run=run, custom=True, data={"schema": {"title": EVIL, "description": EVIL}}),
        ClarificationFactory(run=run, category=EVIL[:32], action_url=EVIL),
    ]
    pages = [browser.get(card(one)) for one in cards] + [browser.get(live(cards[0]))]
    pages.append(browser.get(reverse("admin:approvals_bridge_clarification_changelist")))
    pages.append(browser.get(reverse("admin:index")))
    assert [page.status_code for page in pages] == [200] * len(pages)
    assert not [page for page in pages if "<script>alert" in page.content.decode()]


def test_characters_that_deceive_the_eye_are_made_visible(browser, paused):
    action = {"tool": "pay", "action": "send", "arguments": {"to": "acme\u202egpj.exe\u200b"}, "step_id": "pay_back"}
    page = browser.get(card(ClarificationFactory(run=paused, action=action))).content.decode()
    assert "U+202E" in page
    assert "U+200B" in page
    assert "\u202e" not in page


def test_the_card_leaves_out_nothing_of_what_is_approved(browser, paused):
    invoices = [{"payee": f"supplier {number}."} for number in range(130)]
    action = {"tool": "pay", "action": "send", "arguments": {"note": "n" * 900, "invoices": invoices}}
    paused.parameters = {"orders": [f"order {number}." for number in range(130)]}
    paused.save()
    page = browser.get(card(ClarificationFactory(run=paused, action=action))).content.decode()
    assert [one for one in invoices if one["payee"] not in page] == []
    assert [one for one in paused.parameters["orders"] if one not in page] == []
    assert "n" * 900 in page


def test_a_decision_shows_the_whole_answer(browser, paused):
    clarification = ClarificationFactory(run=paused, custom=True, data={})
    page = decide(browser, clarification, "answer", value=json.dumps([f"seat {number}." for number in range(130)]))
    assert "seat 129." in page
    assert "<b>Answered</b> by bob" in page


ODD_SCHEMAS = [
    {"type": "object", "properties": None},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": 5},
    {"type": "string", "pattern": "("},
    {"type": "string", "minLength": "3"},
    {"type": "string", "maxLength": -1},
    {"type": "integer", "minimum": "x"},
    {"type": 5, "title": 5, "description": [], "enum": {}},
    {"$ref": "#"},
    {"$ref": "#/nowhere"},
    {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(2000)}},
    {"type": "object", "properties": {"a\nb": {"type": "string"}}},
    reduce(lambda inner, _: {"type": "object", "properties": {"a": inner}}, range(90), {"type": "string"}),
]


@pytest.mark.parametrize("kind", ["typed_input", "confirmation", "custom"])
@pytest.mark.parametrize("number", range(len(ODD_SCHEMAS)))
def test_a_schema_no_form_can_be_made_of_leaves_a_json_field_and_a_way_to_decide(browser, paused, kind, number):
    clarification = ClarificationFactory(run=paused, **{kind: True}, data={"schema": ODD_SCHEMAS[number]})
    page = browser.get(card(clarification)).content.decode()
    assert re.search(r'<textarea[^>]+name="value"', page)
    assert "Written as JSON" in page or "Send it as it is" in page
    decide(browser, clarification, "answer", value='{"a": 5}')
    if clarification.status == "pending":
        decide(browser, clarification, "reject", reason="The question is broken.")
    assert clarification.status in ("approved", "rejected")


def test_a_schemas_words_are_never_markup(browser, paused):
    words = {"title": EVIL, "description": EVIL, "default": EVIL, "enum": [EVIL, "\u202egpj"]}
    schemas = [{"type": "string", "title": EVIL, "description": EVIL, "default": EVIL}, words]
    schemas.append({"type": "object", "properties": {EVIL: words, "b": schemas[0]}})
    for schema in schemas:
        page = browser.get(card(ClarificationFactory(run=paused, typed_input=True, data={"schema": schema})))
        assert page.status_code == 200
        assert "<script>alert" not in page.content.decode()
        assert "\u202e" not in page.content.decode()


@pytest.mark.parametrize("proposed", [True, False, 3, "one line", "Maria Lind\n20457 Hamburg", {"a": [1]}, ["x"]])
def test_a_proposed_value_of_any_kind_is_confirmed_as_it_was_shown(browser, paused, proposed):
    clarification = ClarificationFactory(run=paused, confirmation=True, proposed=proposed)
    form = browser.get(card(clarification)).context["form"]
    shown = str(form["value"].value()).replace("\n", "\r\n")  # as a browser sends it
    decide(browser, clarification, "answer", value=shown)
    assert (clarification.status, clarification.response) == ("approved", proposed)


def test_a_seal_that_is_no_seal_is_refused_in_words(browser, paused):
    clarification = ClarificationFactory(run=paused)
    assert "not what you were shown" in decide(browser, clarification, "approve", action_digest="0" * 100)
    assert clarification.status == "pending"


def test_a_seal_for_a_question_that_has_none_is_not_kept(browser, paused):
    clarification = ClarificationFactory(run=paused, choice=True)
    decide(browser, clarification, "answer", value="0", action_digest="0" * 100)
    assert clarification.votes.get().action_digest == ""


@pytest.mark.parametrize(("picked", "value"), [("0", "main"), ("2", 3), ("3", True)])
def test_a_chosen_option_keeps_its_json_type(browser, paused, picked, value):
    clarification = ClarificationFactory(run=paused, choice=True)
    decide(browser, clarification, "answer", value=picked)
    assert clarification.status == "approved"
    assert clarification.response == value
    assert type(clarification.response) is type(value)


@pytest.mark.parametrize("picked", ["", "9", "-1", "main"])
def test_an_option_that_was_not_offered_is_refused_at_the_field(browser, paused, picked):
    clarification = ClarificationFactory(run=paused, choice=True)
    assert "errorlist" in decide(browser, clarification, "answer", value=picked)
    assert clarification.status == "pending"


def test_options_that_read_alike_are_told_apart(browser, paused):
    page = browser.get(card(ClarificationFactory(run=paused, choice=True, options=[1, "1", True]))).content.decode()
    labels = [
        re.sub(r"<[^>]+>", "", one).strip() for one in re.findall(r"<label for=\"id_value_\d\".*?</label>", page, re.S)
    ]
    assert labels == ["1", "&quot;1&quot;", "Yes"]


@pytest.mark.parametrize("text", ["", "many", "-1", "501", "nan"])
def test_an_input_outside_its_schema_is_refused_at_the_field(browser, paused, text):
    clarification = ClarificationFactory(run=paused, typed_input=True)
    assert "errorlist" in decide(browser, clarification, "answer", value=text)
    assert clarification.status == "pending"


def test_a_refused_answer_is_still_in_its_field(browser, paused):
    schema = {"schema": {"type": "string", "pattern": "^[A-Z]+$"}}
    clarification = ClarificationFactory(run=paused, typed_input=True, data=schema)
    page = decide(browser, clarification, "answer", value="lower case", reason="As agreed.")
    assert "does not match" in page
    assert 'value="lower case"' in page
    assert "As agreed." in page


def test_an_input_is_sent_as_the_schemas_type(browser, paused):
    clarification = ClarificationFactory(run=paused, typed_input=True)
    decide(browser, clarification, "answer", value="129.90")
    assert clarification.response == 129.9


def test_a_proposed_value_can_be_confirmed_or_changed(browser, paused):
    first, second = (ClarificationFactory(run=paused, confirmation=True) for _ in range(2))
    page = browser.get(card(first)).content.decode()
    assert 'value="maria@example.com"' in page
    decide(browser, first, "answer", value="maria@example.com")
    decide(browser, second, "answer", value="mario@example.com")
    assert (first.response, second.response) == ("maria@example.com", "mario@example.com")


def test_a_flat_schema_becomes_a_form_and_its_answer_an_object(browser, paused):
    clarification = ClarificationFactory(run=paused, custom=True)
    assert "errorlist" in decide(browser, clarification, "answer", **{"value.amount": "0"})
    decide(browser, clarification, "answer", **{"value.cost_centre": "C-1", "value.amount": "12", "value.urgent": "1"})
    assert clarification.response == {"cost_centre": "C-1", "amount": 12, "urgent": False}


@pytest.mark.parametrize("text", ["{", "NaN", "[" * 5000, '"\\u0000"', ""])
def test_a_free_form_answer_that_is_not_json_is_refused_at_the_field(browser, paused, text):
    clarification = ClarificationFactory(run=paused, custom=True, data={})
    assert "errorlist" in decide(browser, clarification, "answer", value=text)
    assert clarification.status == "pending"


def test_a_free_form_answer_is_json(browser, paused):
    clarification = ClarificationFactory(run=paused, custom=True, data={})
    decide(browser, clarification, "answer", value='{"a": [1, "2"]}')
    assert clarification.response == {"a": [1, "2"]}


def test_a_thing_to_do_has_a_link_and_a_done_button(browser, paused):
    clarification = ClarificationFactory(run=paused, todo=True)
    page = browser.get(card(clarification)).content.decode()
    assert 'href="https://bank.example/login" target="_blank" rel="noopener noreferrer"' in page
    decide(browser, clarification, "answer")
    assert (clarification.status, clarification.response) == ("approved", "complete")


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "JaVaScRiPt:alert(1)", "http://["])
def test_only_web_addresses_become_links(browser, paused, url):
    page = browser.get(card(ClarificationFactory(run=paused, todo=True, action_url=url))).content.decode()
    assert f'href="{url}"' not in page
    assert url in page


def test_any_question_can_be_rejected_instead_of_answered(browser, paused):
    clarification = ClarificationFactory(run=paused, typed_input=True)
    decide(browser, clarification, "reject", reason="This order is a fraud.")
    assert clarification.status == "rejected"


def test_the_live_part_is_sent_again_only_when_it_has_changed(browser, paused):
    clarification = ClarificationFactory(run=paused)
    decide(browser, clarification, "approve")
    first = browser.get(live(clarification))
    assert 'data-delivery="delivering"' in first.content.decode()
    assert browser.get(live(clarification), headers={"if-none-match": first["ETag"]}).status_code == 304
    Clarification.objects.filter(pk=clarification.pk).update(delivered_at=timezone.now())
    second = browser.get(live(clarification), headers={"if-none-match": first["ETag"]})
    assert 'data-delivery="delivered"' in second.content.decode()


def test_who_is_not_logged_in_is_sent_to_the_login_page(client, paused):
    response = client.get(card(ClarificationFactory(run=paused)))
    assert response.status_code == 302
    assert "/admin/login/" in response["Location"]
