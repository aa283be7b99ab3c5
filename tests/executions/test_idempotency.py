"""Idempotency under concurrency, time and crashes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from executions.errors import IdempotencyKeyReused, InvalidRequest, RequestInProgress
from executions.idempotency import Answer, delete_expired, fingerprint, once, read_key
from executions.models import IdempotencyRecord, Tenant

pytestmark = pytest.mark.django_db(transaction=True)


def ask(tenant, work, *, key="k", body=None, principal="agent"):
    return once(tenant=tenant, principal=principal, route="POST /x", key=key, body=body or {}, work=work)


def add_tenant(name="made"):
    def work():
        Tenant.objects.create(identifier=f"{name}-{Tenant.objects.count()}", name=name)
        return Answer(201, b"made", {"Location": "/x/1"})

    return work


def test_a_hundred_concurrent_repeats_do_the_work_once(acme):
    def call(_):
        try:
            return ask(acme, add_tenant())
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(100)))
    assert {(a.status, a.body, a.headers["Location"]) for a in answers} == {(201, b"made", "/x/1")}
    assert sum(not a.replayed for a in answers) == 1
    assert Tenant.objects.filter(name="made").count() == 1


def test_a_crash_leaves_no_key_and_no_work(acme):
    def crash():
        add_tenant()()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ask(acme, crash)
    assert (IdempotencyRecord.objects.count(), Tenant.objects.filter(name="made").count()) == (0, 0)
    assert not ask(acme, add_tenant()).replayed


def test_keys_of_different_principals_and_tenants_do_not_meet(acme, globex):
    assert not ask(acme, add_tenant()).replayed
    assert not ask(acme, add_tenant(), principal="other").replayed
    assert not ask(globex, add_tenant()).replayed


def test_another_body_is_refused(acme):
    ask(acme, add_tenant(), body={"a": 1})
    with pytest.raises(IdempotencyKeyReused):
        ask(acme, add_tenant(), body={"a": 2})


def test_an_expired_key_is_free_again_and_cleaned_up(acme):
    ask(acme, add_tenant(), body={"a": 1})
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert not ask(acme, add_tenant(), body={"a": 2}).replayed
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert (delete_expired(), IdempotencyRecord.objects.count()) == (1, 0)


def test_a_repeat_gives_up_waiting_for_the_first_request(acme, monkeypatch):
    monkeypatch.setattr("executions.idempotency.LOCK_TIMEOUT", "100ms")

    def repeat():
        try:
            with pytest.raises(RequestInProgress):
                ask(acme, add_tenant())
            return True
        finally:
            connection.close()

    def work():
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(repeat).result()
        return Answer(200, b"first")

    assert ask(acme, work).body == b"first"


@pytest.mark.parametrize(
    ("header", "key"), [('"a b"', "a b"), ("abc", "abc"), (r'"say \"hi\""', 'say "hi"'), (None, None), (' "x" ', "x")]
)
def test_a_key_is_read_quoted_or_bare(header, key):
    assert read_key(header) == key


def test_a_fingerprint_does_not_depend_on_spelling():
    assert fingerprint(route="r", body={"a": 1.0, "b": 2}) == fingerprint(route="r", body={"b": 2, "a": 1})
    with pytest.raises(InvalidRequest):
        fingerprint(route="r", body={"a": 2**60})
