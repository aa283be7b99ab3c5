"""The admin of runs, plans, keys and records: what each person sees, and the few things that can be done."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone

from executions import events
from executions.admin.base import ListAdmin
from executions.models import ApiKey, AuditEntry, IdempotencyRecord, Kind, RevokedToken, Run, RunStatus, Work
from executions.templatetags.reading import duration, excerpt, readable, relative
from tests.factories.models import (
    ApiKeyFactory,
    ClarificationFactory,
    PlanFactory,
    RunFactory,
    RunStepFactory,
    UserFactory,
    record_event,
    staff_of,
)

OPERATOR = (
    "view_run", "change_run", "view_plan", "view_event", "view_clarification", "view_work", "view_idempotencyrecord",
    "view_apikey", "add_apikey", "change_apikey", "view_tenant", "change_tenant", "view_revokedtoken",
)  # fmt: skip
EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def operator(acme):
    return staff_of(acme, username="olga", permissions=OPERATOR)


@pytest.fixture
def browser(operator, client):
    client.force_login(operator)
    return client


@pytest.fixture
def root(client, db):
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    return client


def page_of(obj, part="change"):
    return reverse(f"admin:executions_{obj._meta.model_name}_{part}", args=[obj.pk])


def list_of(model):
    return reverse(f"admin:executions_{model}_changelist")


@pytest.mark.parametrize("status", RunStatus.values)
def test_a_run_page_tells_status_and_reason_in_words(browser, acme, status):
    run = RunFactory(tenant=acme, status=status)
    page = browser.get(page_of(run)).content.decode()
    assert run.get_status_display() in page
    assert run.get_reason_display() in page
    assert "Look up the order" in page
    assert ("data-done" in page) is run.is_terminal


def test_a_run_page_shows_steps_errors_outputs_events_and_who_is_waited_for(browser, acme):
    run = RunFactory(tenant=acme, status="paused", variables={"region": "north"})
    RunStepFactory(run=run, step_id="look_up_order", name="Look it up", output={"customer": "Maria"}, attempts=2)
    RunStepFactory(run=run, step_id="loop[2].child", status="failed", error={"message": "No such account."})
    ClarificationFactory(run=run, title="Approve the refund")
    record_event(run, events.ACCEPTED, by="billing-service")
    page = browser.get(page_of(run)).content.decode()
    for text in (
        "Look it up",
        "attempt 2",
        "Maria",
        "No such account.",
        "Approve the refund",
        "north",
        "Execution accepted",
    ):
        assert text in page


def test_the_live_part_of_a_run_answers_304_until_its_version_grows(browser, acme):
    run = RunFactory(tenant=acme, status="running")
    first = browser.get(page_of(run, "live"))
    assert browser.get(page_of(run, "live"), headers={"if-none-match": first["ETag"]}).status_code == 304
    run.touch()
    assert browser.get(page_of(run, "live"), headers={"if-none-match": first["ETag"]}).status_code == 200


def test_an_operator_pauses_a_run_and_is_refused_once_it_has_ended(browser, acme):
    run, ended = RunFactory(tenant=acme, status="running"), RunFactory(tenant=acme, status="completed")
    browser.post(page_of(run), {"command": "pause"})
    refused = browser.post(page_of(ended), {"command": "cancel"}, follow=True).content.decode()
    run.refresh_from_db()
    assert run.requested == "pause"
    assert "The run is completed; it can no longer be told to cancel." in refused


def test_steering_needs_the_permission_and_a_post(acme, client):
    run = RunFactory(tenant=acme, status="running")
    client.force_login(staff_of(acme, username="eve", permissions=("view_run",)))
    page = client.get(page_of(run) + "?command=cancel").content.decode()
    assert 'name="command"' not in page
    assert "You may not steer runs" in client.post(page_of(run), {"command": "cancel"}, follow=True).content.decode()
    run.refresh_from_db()
    assert run.requested == ""


def test_another_tenants_objects_do_not_exist(browser, globex):
    run = RunFactory(tenant=globex)
    key = ApiKeyFactory(tenant=globex)
    event = record_event(run, events.ACCEPTED)
    addresses = [page_of(one) for one in (run, run.plan, key, event, globex)]
    addresses += [page_of(run, "live"), page_of(run.plan, "document"), page_of(run, "history")]
    answers = {address: browser.get(address).status_code for address in addresses}
    assert {answers.pop(page_of(run, "history"))} <= {302, 404}
    assert set(answers.values()) == {404}


@pytest.mark.parametrize(
    "model", ["run", "plan", "event", "apikey", "work", "idempotencyrecord", "tenant", "revokedtoken"]
)
def test_lists_name_only_what_belongs_to_the_persons_tenants(browser, acme, globex, model):
    for tenant in (acme, globex):
        run = RunFactory(tenant=tenant, correlation_id=f"case-{tenant.identifier}")
        record_event(run, events.ACCEPTED)
        Work.objects.schedule(run.pk, Kind.SYNC)
        ApiKeyFactory(tenant=tenant, principal=f"agent-{tenant.identifier}")
        answered = {"route": "POST /v1/execute", "fingerprint": "0" * 64, "response_status": 202}
        times = dict.fromkeys(["created_at", "expires_at"], timezone.now())
        whose = {"principal": tenant.identifier, "key": tenant.identifier}
        IdempotencyRecord.objects.create(tenant=tenant, **whose, **answered, **times)
        RevokedToken.objects.create(tenant=tenant, token_id=f"of-{tenant.identifier}", revoked_by="ops", reason="Lost.")
    response = browser.get(list_of(model))
    assert response.status_code == 200
    assert response.context["cl"].result_list.count() == 1
    assert "globex" not in response.content.decode().lower()


def idempotency_record(tenant, **fields):
    answered = {"route": "POST /v1/execute", "fingerprint": "0" * 64, "response_status": 202, "principal": "agent"}
    times = {"created_at": timezone.now(), "expires_at": timezone.now() + timedelta(days=1)}
    key = "f4afc7ee-0b5c-4f6e-9d5a-3c1d2e4f5a6b"
    return IdempotencyRecord.objects.create(**{"tenant": tenant, "key": key} | answered | times | fields)


def test_an_idempotency_record_reads_in_words_and_leads_to_its_run(browser, acme):
    run = RunFactory(tenant=acme)
    record = idempotency_record(
        acme,
        response_headers={"Location": f"/v1/executions/{run.pk}"},
        created_at=datetime(2026, 11, 24, 2, 17, tzinfo=UTC),
    )
    page = browser.get(page_of(record)).content.decode()
    for text in (
        "answers repeats",
        "202 Accepted",
        "24 Nov 2026, 02:17:00 UTC",
        f'href="{page_of(run)}">{run.plan.name}</a>',
    ):
        assert text in page
    assert "(&#x27;" not in page


def test_a_record_leads_to_no_run_that_is_gone_or_another_tenants(browser, acme, globex):
    for number, what in enumerate([f"executions/{RunFactory(tenant=globex).pk}", f"executions/{uuid4()}", "plans/ab"]):
        location = f"/v1/{what}"
        record = idempotency_record(acme, key=f"key-{number}", response_headers={"Location": location})
        page = browser.get(page_of(record)).content.decode()
        assert location in page
        assert "/executions/run/" not in page.partition("<form")[2]


def test_a_released_record_says_when_and_that_it_answers_no_repeat(browser, acme):
    at = datetime(2026, 11, 24, 2, 17, tzinfo=UTC)
    record = idempotency_record(acme, released_at=at, released_by="olga", release_reason="Sent by mistake")
    page = browser.get(page_of(record)).content.decode()
    assert "released: the next request is a first one" in page
    assert "24 Nov 2026, 02:17:00 UTC" in page


def test_breadcrumbs_write_a_name_as_it_is(browser, acme):
    record = idempotency_record(acme)
    header = browser.get(page_of(record)).content.decode().partition('id="content')[0]
    assert record.key in header
    assert record.key.capitalize() not in header
    assert "Idempotency records" in header


def test_the_navigation_counts_what_waits_and_shows_no_badge_for_nothing(browser, acme):
    def badge():
        return re.findall(
            r">\s*Approvals\s*</span>\s*<span[^>]+>\s*(\w*)\s*</span>", browser.get(list_of("run")).content.decode()
        )

    assert badge() == []
    ClarificationFactory(run__tenant=acme)
    assert badge() == ["1"]


def test_a_revocation_is_never_taken_back(root, acme):
    revoked = RevokedToken.objects.create(tenant=acme, token_id="tok-0", revoked_by="ops", reason="Lost.")
    assert root.post(page_of(revoked, "delete"), {"post": "yes"}).status_code == 403
    assert root.post(page_of(revoked), {"tenant": acme.pk, "token_id": "another", "reason": "None."}).status_code == 403
    assert RevokedToken.objects.get().token_id == "tok-0"


@pytest.mark.parametrize("model", ["run", "plan", "event", "work", "idempotencyrecord"])
def test_not_even_a_superuser_adds_or_deletes_records(root, acme, model):
    run = RunFactory(tenant=acme)
    record = {"run": run, "plan": run.plan, "event": record_event(run, events.ACCEPTED)}.get(model)
    assert root.get(reverse(f"admin:executions_{model}_add")).status_code == 403
    if record:
        assert root.post(page_of(record, "delete"), {"post": "yes"}).status_code == 403
        assert root.post(page_of(record), {"status": "completed"}).status_code in (302, 403)
    assert Run.objects.get(pk=run.pk).status == "pending"


def test_every_list_and_add_page_opens(root):
    for model, page in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        assert root.get(reverse(f"{name}_changelist")).status_code == 200, name
        expected = 200 if page.has_add_permission(root.get(reverse("admin:index")).wsgi_request) else 403
        assert root.get(reverse(f"{name}_add")).status_code == expected, name


def test_a_plan_page_reads_like_a_list_and_the_document_can_be_downloaded(browser, acme):
    plan = PlanFactory(tenant=acme)
    page = browser.get(page_of(plan)).content.decode()
    for text in ("Pay the money back", "email connector: send", "look_up_order.found == true", "Runs of this plan"):
        assert text in page
    download = browser.get(page_of(plan, "document"))
    assert json.loads(download.content) == plan.document
    assert download["Content-Disposition"].startswith("attachment")


def test_the_runs_of_a_plan_are_one_click_away(browser, acme):
    plan = PlanFactory(tenant=acme)
    run, _other = RunFactory(tenant=acme, plan=plan), RunFactory(tenant=acme)
    link = re.search(r'href="([^"]+plan__id__exact[^"]+)"', browser.get(page_of(plan)).content.decode())[1]
    assert [one.pk for one in browser.get(link).context["cl"].result_list] == [run.pk]


def test_a_new_key_is_shown_once_and_works(browser, acme):
    fields = {"tenant": acme.pk, "principal": "agent", "scopes": ["execute", "read"]}
    response = browser.post(reverse("admin:executions_apikey_add"), fields)
    secret = re.search(r"orc_[\w-]{43}", response.content.decode())[0]
    key = ApiKey.objects.get(digest=ApiKey.digest_of(secret))
    assert (key.principal, key.scopes) == ("agent", ["execute", "read"])
    assert "no-store" in response["Cache-Control"]
    later = browser.get(page_of(key)).content.decode()
    assert secret not in later
    assert key.digest not in later + response.content.decode()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scopes": []}, "This field is required."),
        ({"scopes": ["decide"]}, "must belong to a person"),
        ({"expires_at_0": "2001-01-01", "expires_at_1": "00:00"}, "Choose a time in the future"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_at_the_form(browser, acme, fields, sentence):
    wanted = {"tenant": acme.pk, "principal": "agent", "scopes": ["read"]} | fields
    assert sentence in browser.post(reverse("admin:executions_apikey_add"), wanted).content.decode()
    assert not ApiKey.objects.exists()


def test_nobody_makes_a_key_in_anothers_name_or_for_another_tenant(browser, acme, globex):
    bob = staff_of(acme, username="bob")
    for stolen in ({"user": bob.pk}, {"tenant": globex.pk}):
        wanted = {"tenant": acme.pk, "principal": "agent", "scopes": ["decide"]} | stolen
        assert "Select a valid choice" in browser.post(reverse("admin:executions_apikey_add"), wanted).content.decode()
    assert not ApiKey.objects.exists()


def by_token(tenant):
    token = {"valid": True, "mode": "token", "token_id": "tok-1", "subject": "carol", "capabilities": ["mail:send"]}
    return RunFactory(tenant=tenant, capability=token | {"expires_at": "2026-11-24T05:00:00+00:00", "limits": {}})


def test_a_run_page_tells_what_let_it_in(browser, acme):
    page = browser.get(page_of(by_token(acme))).content.decode()
    assert all(word in page for word in ("tok-1", "carol", "mail:send", "24 Nov 2026, 05:00:00 UTC"))
    assert "Revoke it" not in page
    free = RunFactory(tenant=acme, capability={"valid": True, "mode": "development_without_token", "token_id": None})
    assert "development lets a run in without one" in browser.get(page_of(free)).content.decode()


def test_the_token_of_a_run_is_revoked_from_its_page(acme, client):
    olga = staff_of(acme, username="otto", permissions=("view_run", "view_revokedtoken", "add_revokedtoken"))
    client.force_login(olga)
    run = by_token(acme)
    page = client.get(page_of(run)).content.decode()
    (address,) = re.findall(r'href="([^"]+)">Revoke it', page)
    form = client.get(address.replace("&amp;", "&")).context["adminform"].form
    assert form["token_id"].value() == "tok-1"
    sent = {"tenant": form["tenant"].value(), "token_id": "tok-1", "reason": "The laptop is gone."}
    assert client.post(address, sent).status_code == 302
    revoked = RevokedToken.objects.get()
    assert (revoked.tenant, revoked.token_id, revoked.revoked_by) == (acme, "tok-1", "otto")
    entry = AuditEntry.objects.get(action="capability_token.revoked")
    assert (entry.actor, entry.reason, entry.source) == ("otto", "The laptop is gone.", "admin")
    assert "revoked" in client.get(page_of(run)).content.decode()
    assert "Revoke it" not in client.get(page_of(run)).content.decode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reason": "x"}, "at least 3 characters"),
        ({"token_id": "a\tb"}, "printable characters"),
        ({"token_id": ""}, "required"),
        ({"tenant": "globex"}, "not one of the available choices"),
        ({"token_id": "tok-0"}, "already exists"),
    ],
)
def test_a_revocation_that_makes_no_sense_is_refused_with_the_field(acme, globex, client, changes, words):
    client.force_login(staff_of(acme, username="otto", permissions=("view_revokedtoken", "add_revokedtoken")))
    RevokedToken.objects.create(tenant=acme, token_id="tok-0", revoked_by="ops", reason="Lost.")
    sent = {"tenant": acme.pk, "token_id": "tok-1", "reason": "The laptop is gone."} | changes
    sent["tenant"] = globex.pk if sent["tenant"] == "globex" else sent["tenant"]
    answer = client.post(reverse("admin:executions_revokedtoken_add"), sent)
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert RevokedToken.objects.count() == 1


def test_a_key_is_revoked_by_a_post_and_only_with_the_permission(browser, acme, client):
    key = ApiKeyFactory(tenant=acme)
    browser.get(page_of(key) + "?command=revoke")
    key.refresh_from_db()
    assert key.revoked_at is None
    assert "The key is revoked" in browser.post(page_of(key), {"command": "revoke"}, follow=True).content.decode()
    key.refresh_from_db()
    assert key.revoked_at is not None
    client.force_login(staff_of(acme, username="eve", permissions=("view_apikey",)))
    assert client.post(page_of(key), {"command": "revoke"}).status_code == 403


def test_users_are_for_superusers_only(acme, client):
    client.force_login(staff_of(acme, username="eve", permissions=("view_user", "change_user", "add_user")))
    assert client.get(reverse("admin:auth_user_changelist")).status_code == 403


def test_the_first_page_counts_what_waits_runs_and_failed(browser, acme, globex):
    ClarificationFactory(run__tenant=acme, title="Approve the refund")
    ClarificationFactory(run__tenant=globex, title="Secret of globex")
    RunFactory(tenant=acme, status="running")
    RunFactory(tenant=acme, status="failed")
    RunFactory(tenant=acme, status="failed", created_at=timezone.now() - timedelta(days=2))
    response = browser.get(reverse("admin:index"))
    cards = response.context["cards"]
    assert [card["number"] for card in cards] == [1, 1, 2, 1]
    assert [len(browser.get(card["url"]).context["cl"].result_list) for card in cards] == [1, 1, 2, 1]
    assert "Approve the refund" in response.content.decode()
    assert "globex" not in response.content.decode().lower()


def test_a_person_without_any_permission_gets_an_empty_first_page(acme, client):
    ClarificationFactory(run__tenant=acme, title="Approve the refund")
    client.force_login(staff_of(acme, username="eve", permissions=()))
    response = client.get(reverse("admin:index"))
    assert response.status_code == 200
    assert "Approve the refund" not in response.content.decode()


def test_nothing_a_plan_or_a_run_says_becomes_markup(browser, acme):
    document = {
        "name": EVIL,
        "flows": [{"flow_id": "m", "steps": [{"step_id": EVIL, "name": EVIL, "conditions": [EVIL]}]}],
    }
    plan = PlanFactory(tenant=acme, document=document, name=EVIL[:200], version=EVIL, description=EVIL)
    error = {"message": EVIL, "details": {EVIL: EVIL}}
    run = RunFactory(tenant=acme, plan=plan, status="failed", error=error, parameters={EVIL: EVIL}, correlation_id=EVIL)
    RunStepFactory(run=run, step_id=EVIL, output=EVIL, error=EVIL, status=EVIL[:32], reason=EVIL)
    event = record_event(run, EVIL, by=EVIL, why=EVIL)
    pages = [
        browser.get(url) for url in (page_of(run), page_of(plan), page_of(event), list_of("run"), list_of("event"))
    ]
    assert [page.status_code for page in pages] == [200] * 5
    assert not [page for page in pages if "<script>alert" in page.content.decode()]


@pytest.mark.parametrize("page", [one for one in admin.site._registry.values() if isinstance(one, ListAdmin)], ids=str)
def test_a_nul_character_in_a_filter_starts_the_list_over(root, page):
    address = reverse(f"admin:{page.opts.app_label}_{page.opts.model_name}_changelist")
    texts = [field.name for field in page.opts.fields if field.get_internal_type() in ("CharField", "TextField")]
    for query in ["q=%00", "%00=1", *(f"{name}=a%00" for name in texts), *(f"{name}__in=a,%00" for name in texts)]:
        response = root.get(f"{address}?{query}", follow=True)
        assert (response.status_code, response.request["QUERY_STRING"]) == (200, ""), query
        assert "Nothing can be found by a NUL character" in response.content.decode()


def test_a_run_page_tells_tools_of_nested_steps_rounds_and_waits(browser, acme):
    pay = {"step_id": "pay", "step_type": "action", "tool": "bank_transfer", "action": "send"}
    loop = {"step_id": "each", "step_type": "loop", "parameters": {"times": 2, "flow": "body"}}
    check = {"step_id": "check", "step_type": "condition", "parameters": {"then": [pay], "else": ["other"]}}
    flows = [{"flow_id": "main", "steps": [loop]}, {"flow_id": "body", "steps": [check]}]
    plan = PlanFactory(
        tenant=acme, version="1", description="", document={"name": "Loop", "main_flow": "main", "flows": flows}
    )
    run = RunFactory(tenant=acme, plan=plan, status="running")
    later = timezone.now() + timedelta(minutes=5)
    RunStepFactory(run=run, step_id="each[1].check.pay", name="Pay", status="waiting", next_attempt_at=later)
    events.record(run=run, kind=events.STEP_COMPLETED, by="portia", data={}, subject="each[1].check.pay")
    page = browser.get(page_of(run)).content.decode()
    assert "bank transfer: send · round 2 · goes on in" in re.sub(r"<time[^>]+>", "", page)
    assert "Execution step completed</b> <span>Pay</span>" in page
    assert "front_hand" not in page


def test_no_page_asks_another_server_for_anything(browser, acme):
    run = RunFactory(tenant=acme, status="running")
    for url in (page_of(run), page_of(run.plan), list_of("run"), reverse("admin:index")):
        outside = re.findall(r'(?:src|<link[^>]+href)="(?:https?:)?//[^"]+"', browser.get(url).content.decode())
        assert outside == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"amount": 1250.5, "currency": "EUR"}, "1,250.50 EUR"),
        ({"amount": 125050, "currency": "EUR"}, "125,050<"),
        ({"amount_cents": 9500, "currency": "EUR"}, "9,500 (95.00 EUR)"),
        ({"amount_cents": 9500, "currency": "JPY"}, "9,500<"),
        ({"order_id": 20240117}, ">20240117<"),
        ({"active": True}, ">Yes<"),
        ({"note": None}, "(nothing)"),
        ({"note": ""}, "(empty)"),
        ([], "(none)"),
        (list(range(150)), "<summary><b>and 50 more</b></summary>"),
        ("x" * 5000, "show all 5,000 characters"),
    ],
)
def test_values_read_as_a_person_would_write_them(value, text):
    assert text in readable(value)


def test_a_long_list_is_folded_and_whole_and_only_an_excerpt_is_cut():
    rows = [{"payee": f"supplier {number}."} for number in range(1, 131)]
    assert [row for row in rows if row["payee"] not in readable({"invoices": rows})] == []
    assert '<ol start="101" class="o-array">' in readable(rows)
    assert "supplier 130." not in excerpt(rows)
    assert "and 30 more" in excerpt(rows)


def test_a_bottomless_value_ends_as_text():
    value: object = "bottom"
    for _ in range(200):
        value = [value]
    assert "<code>[[[" in readable(value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.34, "340 ms"), (4.25, "4.2 s"), (192, "3 min 12 s"), (7500, "2 h 5 min"), (86400, "1 d")]
)
def test_lengths_of_time_have_one_or_two_units(seconds, text):
    assert duration(seconds) == text


def test_times_are_told_from_now():
    now = timezone.now()
    assert relative(now - timedelta(minutes=3, seconds=40)) == "3 min ago"
    assert relative(now + timedelta(minutes=57, seconds=30)) == "in 57 min"


def test_saving_a_tenant_whose_list_of_tools_is_empty_forbids_none(root, acme):
    form = {"name": "Acme", "is_active": "on", "allowed_tools": "", "rate_limit": "100", "concurrency_limit": ""}
    assert root.post(page_of(acme), form).status_code == 302
    acme.refresh_from_db()
    assert (acme.allowed_tools, acme.rate_limit) == (None, 100)
