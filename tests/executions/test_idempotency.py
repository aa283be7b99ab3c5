"""Idempotency under concurrency, time and crashes; looking at keys and releasing them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from executions import idempotency, waiting
from executions.errors import IdempotencyKeyReused, InvalidRequest, RequestInProgress
from executions.idempotency import (
    Answer,
    Request,
    cleanup_due_in,
    content_key,
    delete_expired,
    delete_some_expired,
    is_in_flight,
    look,
    once,
    read_key,
    write_key,
)
from executions.models import IdempotencyRecord, Run, Scope, Tenant
from tests.conftest import Api
from tests.executions.test_submission import submit

pytestmark = pytest.mark.django_db(transaction=True)


def request_of(tenant, *, key="k", body=None, principal="agent", route="POST /x"):
    return Request(tenant=tenant, principal=principal, route=route, key=key, body=body or {})


def ask(tenant, work, *, wait=0.0, **fields):
    return once(request_of(tenant, **fields), work, wait=wait)


def add_tenant(name="made"):
    def work():
        Tenant.objects.create(identifier=f"{name}-{Tenant.objects.count()}", name=name)
        return Answer(201, b"made", {"Location": "/x/1"})

    return work


def expire_all():
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(minutes=2))


def test_two_hundred_concurrent_repeats_do_the_work_once(acme):
    def call(_):
        try:
            return ask(acme, add_tenant())
        except RequestInProgress:
            return None
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        answers = list(filter(None, pool.map(call, range(200))))
    assert {(a.status, a.body, a.headers["Location"]) for a in answers} == {(201, b"made", "/x/1")}
    assert sum(not a.replayed for a in answers) == 1
    assert Tenant.objects.filter(name="made").count() == 1


def test_of_many_bodies_under_one_key_at_once_one_is_done_and_the_others_are_refused(acme):
    def call(number):
        try:
            return ask(acme, add_tenant(), body={"number": number})
        except IdempotencyKeyReused:
            return None
        finally:
            connection.close()

    with ThreadPoolExecutor(10) as pool:
        answers = list(filter(None, pool.map(call, range(50))))
    assert len(answers) == Tenant.objects.filter(name="made").count() == 1


def test_equal_requests_are_told_that_another_body_is_in_flight_however_many_come_at_once(acme):
    told = []

    def challenge(_):
        try:
            with pytest.raises((IdempotencyKeyReused, RequestInProgress)) as refusal:
                ask(acme, add_tenant(), body={"other": 1})
            told.append(type(refusal.value))
        finally:
            connection.close()

    def work():
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(challenge, range(200)))
        return Answer(200, b"first")

    ask(acme, work)
    assert told == [IdempotencyKeyReused] * 200


def test_a_row_that_is_locked_for_long_ends_in_a_refusal_with_and_without_a_key(acme, monkeypatch):
    monkeypatch.setattr(idempotency, "LOCK_TIMEOUT", "100ms")

    def touch():
        Tenant.objects.select_for_update().get(pk=acme.pk)
        return Answer(200, b"")

    def refused(key):
        try:
            with pytest.raises(OperationalError, match="lock timeout"):
                ask(acme, touch, key=key)
        finally:
            connection.close()

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        Tenant.objects.select_for_update().get(pk=acme.pk)
        list(pool.map(refused, ["k", None], timeout=10))


def test_a_crash_leaves_no_key_and_no_work(acme):
    def crash():
        add_tenant()()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ask(acme, crash)
    assert (IdempotencyRecord.objects.count(), Tenant.objects.filter(name="made").count()) == (0, 0)
    assert not ask(acme, add_tenant()).replayed


def test_an_answer_stored_between_the_look_and_the_locks_takes_the_work_back(acme):
    def slow():
        answer = add_tenant()()
        with ThreadPoolExecutor(1) as pool:  # somebody without our locks has stored an answer: the database decides
            pool.submit(store_elsewhere).result()
        return answer

    def store_elsewhere():
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO executions_idempotencyrecord (tenant_id, principal, key, origin, route, fingerprint,"
                " response_status, response_headers, response_body, created_at, expires_at, released_by, release_reason)"
                " VALUES (%s, 'agent', 'k', 'header', 'POST /x', %s, 201, '{}', 'first', now(), now() + '1 day', '', '')",
                [acme.pk, request_of(acme).fingerprint],
            )
        connection.close()

    answer = ask(acme, slow)
    assert (answer.body, answer.replayed) == (b"first", True)
    assert Tenant.objects.filter(name="made").count() == 0


def test_an_expired_key_is_free_again_and_cleaned_up(acme):
    ask(acme, add_tenant(), body={"a": 1})
    expire_all()
    assert not ask(acme, add_tenant(), body={"a": 2}).replayed
    expire_all()
    assert (delete_expired(), IdempotencyRecord.objects.count()) == (1, 0)


def test_what_has_expired_a_minute_ago_is_due_and_cleaned_up_batch_by_batch(acme):
    for number in range(5):
        ask(acme, add_tenant(), key=f"k{number}")
    assert cleanup_due_in() > 3600
    expire_all()
    assert cleanup_due_in() < 0
    assert [delete_some_expired(batch=3) for _ in range(3)] == [3, 2, 0]
    assert cleanup_due_in() is None


def test_cleaning_up_leaves_out_what_somebody_holds(acme, capsys):
    ask(acme, add_tenant(), key="held")
    ask(acme, add_tenant(), key="free")
    expire_all()
    with transaction.atomic():
        IdempotencyRecord.objects.select_for_update().get(key="held")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: (call_command("cleanup_idempotency"), connection.close())).result(timeout=10)
    assert list(IdempotencyRecord.objects.values_list("key", flat=True)) == ["held"]
    assert "1 expired" in capsys.readouterr().out


def test_a_repeat_does_not_wait_where_every_place_is_taken(acme):
    def repeat():
        try:
            with pytest.raises(RequestInProgress):
                ask(acme, add_tenant(), wait=30)
            return True
        finally:
            connection.close()

    def work():
        with (
            waiting.place(seconds=1),
            waiting.place(seconds=1),
            waiting.place(seconds=1),
            ThreadPoolExecutor(1) as pool,
        ):
            assert pool.submit(repeat).result(timeout=5)
        return Answer(200, b"first")

    assert ask(acme, work).body == b"first"


def test_a_key_in_flight_is_seen_without_touching_it(acme):
    def see():
        try:
            return is_in_flight(tenant=acme, principal="agent", key="k"), look(tenant=acme, principal="agent", key="k")
        finally:
            connection.close()

    def work():
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(see).result() == (True, None)
        return Answer(200, b"done")

    ask(acme, work)
    assert see()[0] is False


@pytest.mark.parametrize(
    ("header", "key"),
    [('"a b"', "a b"), ("abc", "abc"), (r'"say \"hi\""', 'say "hi"'), (None, None), (' "x" ', "x"), (r'"\\"', "\\")],
)
def test_a_key_is_read_quoted_or_bare(header, key):
    assert read_key(header) == key


@pytest.mark.parametrize(
    "header",
    [
        "one,two",
        '"one","two"',
        '"one", "two"',
        "",
        '""',
        '"',
        "a b",
        '"a',
        'a"b',
        "ä",
        "k" * 256,
        f'"{"k" * 256}"',
        '"\\a"',
    ],
)
def test_what_is_no_key_is_refused(header):
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        read_key(header)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_every_key_survives_being_written_and_read(key):
    assert read_key(write_key(key)) == key


def test_a_fingerprint_depends_on_everything_but_spelling_and_credentials(acme, globex):
    def mark(tenant=acme, **fields):
        return request_of(tenant, **({"body": {"a": 1.0, "b": 2}} | fields)).fingerprint

    assert mark() == mark(body={"b": 2, "a": 1}) == mark(body={"a": 1, "b": 2, "capability_token": "t"})
    others = {
        mark(body={"a": 1}),
        mark(route="POST /y"),
        mark(principal="other"),
        mark(globex),
        mark(body={"a": "1", "b": 2}),
    }
    assert len(others | {mark()}) == 6
    with pytest.raises(InvalidRequest):
        mark(body={"a": 2**60})


def test_the_key_of_a_content_ignores_what_differs_between_repeats():
    body = {"parameters": {"timestamp": "kept: it is inside"}}
    noise = {"correlation_id": "c", "timestamp": "t", "request_id": "r", "capability_token": "x", "deduplicate": True}
    assert content_key(route="r", body=body) == content_key(route="r", body=body | noise)
    assert content_key(route="r", body=body) != content_key(route="r", body={"parameters": {"timestamp": "other"}})


def test_a_key_can_be_looked_at(api):
    run = submit(api, headers={"idempotency-key": '"a/b c"'})
    seen = api.get("/v1/idempotency-keys/a%2Fb%20c")
    assert (seen["state"], seen["route"], seen["origin"]) == ("completed", "POST /v1/execute", "header")
    assert (seen["response_status"], seen["location"]) == (202, f"/v1/executions/{run['run_id']}")
    assert seen == api.get("/v1/idempotency-keys/a%2Fb%20c")


def test_a_key_of_a_content_can_be_looked_at(api):
    response = api.client.post("/v1/execute", {"plan_hash": submit(api)["plan_hash"]}, "application/json")
    key = response["Idempotency-Key"].strip('"')
    assert key.startswith("sha256:")
    assert api.get(f"/v1/idempotency-keys/{key}")["origin"] == "content"


def test_an_expired_key_says_so(api):
    submit(api, headers={"idempotency-key": "k"})
    expire_all()
    assert api.get("/v1/idempotency-keys/k")["state"] == "expired"


def test_a_key_is_seen_within_its_tenant_only(api, mallory):
    submit(api, headers={"idempotency-key": "k"})
    assert mallory.get("/v1/idempotency-keys/k", expect=404)["code"] == "not-found"
    assert mallory.get("/v1/idempotency-keys/k?principal=agent", expect=404)["code"] == "not-found"
    assert mallory.post("/v1/idempotency-keys/k/release", {"reason": "mine", "principal": "agent"}, expect=404)


def test_a_colleagues_key_is_seen_by_naming_him(api, acme):
    from executions.actions.tenants import create_api_key

    submit(api, headers={"idempotency-key": "k"})
    colleague = Api(create_api_key(tenant=acme, principal="colleague", scopes=[Scope.READ, Scope.CONTROL])[1])
    assert colleague.get("/v1/idempotency-keys/k", expect=404)
    assert colleague.get("/v1/idempotency-keys/k?principal=agent")["principal"] == "agent"
    released = colleague.post("/v1/idempotency-keys/k/release", {"reason": "wrong", "principal": "agent"}, expect=200)
    assert (released["releases"][0]["released_by"], released["fingerprint"]) == ("colleague", None)
    assert api.get("/v1/idempotency-keys/k")["fingerprint"]


def test_a_released_key_is_free_and_remembers_who_and_why(api):
    submit(api, headers={"idempotency-key": "k"})
    api.post("/v1/idempotency-keys/k/release", {"reason": "a typing error"}, expect=200)
    seen = api.get("/v1/idempotency-keys/k")
    assert (seen["state"], seen["expires_at"]) == ("released", None)
    submit(api, parameters={"n": 2}, headers={"idempotency-key": "k"})
    used_again = api.get("/v1/idempotency-keys/k")
    assert used_again["state"] == "completed"
    assert used_again["releases"] == seen["releases"]
    assert [(one["released_by"], one["release_reason"]) for one in seen["releases"]] == [("agent", "a typing error")]
    assert Run.objects.count() == 2
    assert bytes(IdempotencyRecord.objects.get(released_at__isnull=False).response_body) == b""


def test_a_release_is_itself_done_once(api):
    submit(api, headers={"idempotency-key": "k"})
    for replayed in (None, "true"):
        response = api.client.post(
            "/v1/idempotency-keys/k/release", {"reason": "once"}, "application/json", headers={"idempotency-key": "r"}
        )
        assert (response.status_code, response.get("Idempotency-Replayed")) == (200, replayed)
    assert api.post("/v1/idempotency-keys/k/release", {"reason": "again"}, expect=404)["code"] == "not-found"


def test_a_key_in_flight_cannot_be_released(api, acme):
    def work():
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(release).result()
        assert refused["code"] == "request-in-progress"
        return Answer(200, b"done")

    def release():
        try:
            return api.post("/v1/idempotency-keys/k/release", {"reason": "impatient"}, expect=409)
        finally:
            connection.close()

    ask(acme, work)


def test_the_longest_key_can_be_released_under_the_longest_key(api):
    longest = "k" * 255
    submit(api, headers={"idempotency-key": longest})
    path, reason = f"/v1/idempotency-keys/{longest}/release", {"reason": "a typing error"}
    api.post(path, reason, expect=200, **{"idempotency-key": "r" * 255})
    assert api.get(f"/v1/idempotency-keys/{'r' * 255}")["route"] == f"POST {path}"


def test_releasing_an_unknown_key_under_itself_finds_nothing(api):
    problem = api.post("/v1/idempotency-keys/k/release", {"reason": "why not"}, expect=404, **{"idempotency-key": "k"})
    assert problem["code"] == "not-found"


def test_a_release_says_whose_key_in_its_body(api):
    problem = api.post("/v1/idempotency-keys/k/release?principal=agent", {"reason": "mine"}, expect=400)
    assert "principal: there is no such parameter" in problem["detail"]


def test_a_release_needs_a_reason_and_the_right(api, acme):
    from executions.actions.tenants import create_api_key

    submit(api, headers={"idempotency-key": "k"})
    assert api.post("/v1/idempotency-keys/k/release", {}, expect=422)["errors"][0]["pointer"] == "/reason"
    assert api.post("/v1/idempotency-keys/k/release", {"reason": " "}, expect=422)
    reader = Api(create_api_key(tenant=acme, principal="agent", scopes=[Scope.READ, Scope.EXECUTE])[1])
    assert reader.post("/v1/idempotency-keys/k/release", {"reason": "because"}, expect=403)


def test_the_stored_answer_is_not_used_before_its_request_is_allowed(api, acme):
    from executions.actions.tenants import create_api_key

    submit(api, headers={"idempotency-key": "k"})
    reader = Api(create_api_key(tenant=acme, principal="agent", scopes=[Scope.READ])[1])
    assert submit(reader, headers={"idempotency-key": "k"}, expect=403)["code"] == "permission-denied"
