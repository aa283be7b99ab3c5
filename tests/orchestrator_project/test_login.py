"""Signing in to the admin: guessing is slow, for names that are nobody's too; sessions end."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from executions.models import AuditEntry
from orchestrator_project.login_throttle import begin, settle, subjects_of
from orchestrator_project.models import LoginAttempts
from tests.factories.models import UserFactory

pytestmark = pytest.mark.django_db

HOME = "192.0.2.7"


@pytest.fixture
def bob(db):
    return UserFactory(username="bob", is_staff=True, is_superuser=True, password=make_password("secret"))


def sign_in(name="bob", password="wrong", address=HOME, client=None):
    return (client or Client()).post(
        "/admin/login/?next=/admin/", {"username": name, "password": password}, REMOTE_ADDR=address
    )


def fail(times, **what):
    return [sign_in(**what).status_code for _ in range(times)]


def test_a_person_signs_in(bob):
    answer = sign_in(password="secret")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")


def test_the_sixth_guess_is_refused_with_the_time_to_wait_even_if_it_is_right(bob):
    assert fail(5) == [200] * 5
    refused = sign_in(password="secret")
    assert refused.status_code == 429
    assert 25 <= int(refused["Retry-After"]) <= 30
    assert re.search(r"Wait \d+ seconds, then try again", refused.content.decode())
    assert "no-store" in refused["Cache-Control"]


def test_a_name_that_is_nobodys_is_answered_alike(bob):
    def told(name):
        answers = [sign_in(name=name, address=f"192.0.2.{len(name)}") for _ in range(6)]
        return [
            (one.status_code, re.sub(r"csrf.*|nobody|bob|\d+ seconds", "", one.content.decode())) for one in answers
        ]

    assert told("bob") == told("nobody")


def test_a_name_with_nul_is_nobodys_and_is_counted_like_any_other(bob):
    assert [sign_in(name="bob\x00").status_code for _ in range(6)] == [200] * 5 + [429]
    assert sign_in(password="secret", address="192.0.2.8").status_code == 302


def test_refusals_grow_and_time_lifts_them(bob):
    with time_machine.travel(timezone.now(), tick=False) as clock:
        fail(5)
        for seconds in (30, 60, 120, 240, 480, 900, 900):
            assert int(sign_in()["Retry-After"]) == seconds
            clock.shift(seconds)
            assert sign_in().status_code == 200
        clock.shift(timedelta(hours=2))
        assert fail(4) == [200] * 4
        assert sign_in(password="secret").status_code == 302


def test_a_refused_attempt_makes_nobody_wait_longer(bob):
    fail(5)
    before = LoginAttempts.objects.values_list("failures", "free_at").order_by("kind")
    known = list(before.all())
    fail(5)
    assert list(before.all()) == known


def test_a_success_wipes_the_slate_of_a_name(bob):
    for _ in range(3):
        fail(4)
        assert sign_in(password="secret").status_code == 302


def test_spellings_of_a_name_are_one_name(bob):
    assert [sign_in(name=name).status_code for name in ("bob", "BOB", " bob ", "Ｂob", "bob", "bob")] == [200] * 5 + [
        429
    ]


def test_an_address_that_tries_many_names_is_refused(bob):
    assert [sign_in(name=f"name{n}").status_code for n in range(21)] == [200] * 20 + [429]
    assert sign_in(password="secret", address="192.0.2.8").status_code == 302


def test_one_good_account_does_not_pay_for_guesses_at_others(bob):
    for n in range(19):
        assert sign_in(name=f"name{n}").status_code == 200
        if n % 4 == 0:
            assert sign_in(password="secret").status_code == 302
    assert sign_in(name="last").status_code == 200
    assert sign_in(password="secret").status_code == 429


def test_addresses_of_one_ipv6_network_count_together():
    assert subjects_of("", "2001:db8::1:2:3:4")[0] == subjects_of("", "2001:db8::ffff:2:3:9")[0]
    assert subjects_of("", "2001:db8:0:1::1")[0] != subjects_of("", "2001:db8:0:2::1")[0]


def test_what_people_type_as_a_name_is_not_kept(bob):
    sign_in(name="hunter2-my-password")
    assert set(LoginAttempts.objects.values_list("label", flat=True)) == {HOME, ""}


def test_the_beginning_of_a_refusal_stands_in_the_audit_log_once(bob):
    fail(9)
    (entry,) = AuditEntry.objects.filter(action="login.throttled")
    assert (entry.subject, entry.actor, entry.after["failures"]) == ("user/bob", "anonymous", 5)


@pytest.mark.parametrize("arguments", [["bob"], ["--all"]])
def test_a_command_unlocks(bob, arguments):
    fail(5)
    call_command("unlock_login", *arguments)
    assert sign_in(password="secret").status_code == 302
    assert AuditEntry.objects.filter(action="login.unlocked", subject="user/bob", actor="command line").exists()


def test_a_command_unlocks_an_address(bob):
    [sign_in(name=f"name{n}") for n in range(20)]
    call_command("unlock_login", "--address", HOME)
    assert sign_in(password="secret").status_code == 302


def test_a_superuser_unlocks_in_the_admin(bob, admin_client):
    fail(5)
    row = LoginAttempts.objects.get(kind="name")
    answer = admin_client.post(f"/admin/orchestrator_project/loginattempts/{row.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302
    assert sign_in(password="secret").status_code == 302
    assert AuditEntry.objects.filter(action="login.unlocked", actor="admin").exists()


def test_old_attempts_are_forgotten(bob):
    with time_machine.travel(timezone.now() - timedelta(hours=3)):
        subjects = subjects_of("somebody", "192.0.2.99")
        begin(subjects)
        settle(subjects, succeeded=False)
    sign_in()
    assert not LoginAttempts.objects.filter(label="192.0.2.99").exists()


def test_a_form_without_its_csrf_token_counts_for_nothing_and_is_refused_by_a_page_of_ours(bob):
    refused = sign_in(client=Client(enforce_csrf_checks=True))
    assert (refused.status_code, "<style" in refused.content.decode()) == (403, False)
    assert "too old" in refused.content.decode()
    assert not LoginAttempts.objects.exists()


def test_a_session_gets_a_new_key_at_sign_in(bob):
    client = Client()
    client.get("/admin/login/")
    client.cookies["sessionid"] = "chosen-by-somebody-else"
    sign_in(password="secret", client=client)
    assert client.cookies["sessionid"].value != "chosen-by-somebody-else"
    assert client.cookies["sessionid"]["httponly"]
    assert client.cookies["sessionid"]["samesite"] == "Lax"


def is_in(client):
    return client.get("/admin/").status_code == 200


def test_a_session_ends_when_nothing_is_done(bob, settings):
    with time_machine.travel(timezone.now(), tick=False) as clock:
        client = Client()
        sign_in(password="secret", client=client)
        clock.shift(settings.SESSION_IDLE - 10)
        assert is_in(client)
        clock.shift(settings.SESSION_IDLE - 10)
        assert is_in(client)
        clock.shift(settings.SESSION_IDLE + 10)
        assert not is_in(client)


def test_what_a_page_asks_for_by_itself_is_not_doing_something(bob, settings):
    with time_machine.travel(timezone.now(), tick=False) as clock:
        client = Client()
        sign_in(password="secret", client=client)
        for _ in range(10):
            clock.shift(settings.SESSION_IDLE / 10 + 1)
            client.get("/admin/executions/run/0190a6d4-0000-7000-8000-000000000000/live/")
        assert not is_in(client)


def test_a_session_ends_at_its_age_however_much_is_done(bob, settings):
    with time_machine.travel(timezone.now(), tick=False) as clock:
        client = Client()
        sign_in(password="secret", client=client)
        for _ in range(settings.SESSION_MAX_AGE // 3600):
            clock.shift(3600)
            assert is_in(client)
        clock.shift(10)
        assert not is_in(client)


def test_all_other_sessions_end_when_the_password_changes(bob):
    here, elsewhere = Client(), Client()
    for client in (here, elsewhere):
        sign_in(password="secret", client=client)
    new = "correct horse battery"
    here.post("/admin/password_change/", {"old_password": "secret", "new_password1": new, "new_password2": new})
    assert (is_in(here), is_in(elsewhere)) == (True, False)


def test_somebody_who_is_signed_in_may_sign_in_as_somebody_else(bob, client):
    client.force_login(UserFactory(username="carol", is_staff=True))
    assert sign_in(password="wrong", client=client).status_code == 200
    assert sign_in(password="secret", client=client).status_code == 302
    assert client.session["_auth_user_id"] == str(bob.pk)


def test_a_session_of_somebody_who_is_no_longer_active_ends(bob):
    client = Client()
    sign_in(password="secret", client=client)
    bob.is_active = False
    bob.save()
    assert not is_in(client)
