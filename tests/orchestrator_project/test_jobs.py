"""Kicks, slots, the broker and the one task, in this process and on the real database."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection, transaction
from django_q.models import OrmQ

from orchestrator_project.jobs import WORK_CHANNEL, kick, slots
from orchestrator_project.jobs.broker import WorkBroker
from orchestrator_project.models import JobSlot, WorkerNode
from tests.orchestrator_project import scratch_jobs
from tests.orchestrator_project.scratch_jobs import add, rows

HERE = "tests.orchestrator_project.scratch_jobs"

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["orchestrator_project", "django_q"])


@pytest.fixture(autouse=True)
def _scratch(settings) -> Iterator[None]:
    settings.JOBS = scratch_jobs.JOBS
    settings.JOBS_TICK = 0.1
    JobSlot.objects.ensure({"quick": 1, "slow": 2})
    with connection.cursor() as cursor:
        cursor.execute(scratch_jobs.CREATE)
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE scratch_job; UNLISTEN *")


def another_connection() -> psycopg.Connection:
    return psycopg.connect(**connection.get_connection_params(), autocommit=True)


def break_connection() -> None:
    """End our own database session, as a restart of the server would."""
    with another_connection() as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])


def take(kind: str = "quick", seconds: float = 3.0) -> JobSlot:
    slot = JobSlot.objects.take(kind=kind, slots=2, seconds=seconds)
    assert slot is not None
    return slot


def run(slot: JobSlot) -> JobSlot:
    slots.run(slot.id, slot.generation)
    slot.refresh_from_db()
    return slot


# -- kick


def test_a_kick_is_heard_when_its_transaction_commits():
    with another_connection() as listener:
        listener.execute(f"LISTEN {WORK_CHANNEL}")
        with transaction.atomic():
            kick("quick")
            assert list(listener.notifies(timeout=0.05)) == []
        assert [heard.payload for heard in listener.notifies(timeout=2, stop_after=1)] == ["quick"]


def test_a_kick_of_a_rolled_back_transaction_is_never_heard():
    with another_connection() as listener:
        listener.execute(f"LISTEN {WORK_CHANNEL}")
        with transaction.atomic():
            kick("quick")
            transaction.set_rollback(True)
        assert list(listener.notifies(timeout=0.1)) == []


# -- slots


def test_a_slot_is_held_by_one_job_and_comes_back_by_itself():
    take(seconds=0.1)
    assert JobSlot.objects.take(kind="quick", slots=2, seconds=3) is None
    time.sleep(0.12)
    assert take().generation == 2


def test_only_the_configured_number_of_slots_is_handed_out():
    assert JobSlot.objects.take(kind="slow", slots=1, seconds=3)
    assert JobSlot.objects.take(kind="slow", slots=1, seconds=3) is None


def test_ensuring_slots_twice_changes_nothing():
    before = list(JobSlot.objects.values_list("id", "generation"))
    JobSlot.objects.ensure({"quick": 1, "slow": 2})
    assert list(JobSlot.objects.values_list("id", "generation")) == before


# -- the task


def test_a_job_drains_batch_after_batch_and_frees_its_slot():
    add("quick", count=120)
    run(take())
    assert rows("done, starts") == [(1, 1)] * 120
    assert take().failures == 0


def test_a_job_with_an_old_generation_does_nothing():
    slot = take(seconds=0)
    newer = take()
    add("quick")
    run(slot)
    assert rows("done") == [(0,)]
    run(newer)
    assert rows("done") == [(1,)]


def test_the_same_job_delivered_twice_runs_once():
    slot = take()
    run(slot)
    add("quick")
    run(slot)
    assert rows("done") == [(0,)]


def test_a_job_waits_for_what_is_due_in_a_moment():
    add("quick", due_in=0.15)
    run(take())
    assert rows("done") == [(1,)]


def test_a_job_that_waits_hears_of_new_work():
    add("quick", due_in=0.24)
    adder = threading.Timer(0.05, lambda: _add_from_elsewhere("quick"))
    adder.start()
    run(take())
    adder.join()
    (_, first_at), (_, second_at) = rows("id, started_at")
    assert second_at < first_at


def _add_from_elsewhere(kind: str) -> None:
    with another_connection() as other, other.transaction():
        other.execute("INSERT INTO scratch_job (kind) VALUES (%s)", [kind])
        other.execute("SELECT pg_notify('work', %s)", [kind])


def test_a_failing_job_rests_its_slot_longer_each_time(settings, caplog):
    settings.JOBS = {"quick": {"drain": f"{HERE}.fail", "due": f"{HERE}.always_due", "slots": 1}}
    rests = []
    for _ in range(7):
        JobSlot.objects.update(free_at="2020-01-01T00:00:00Z")
        slot = run(take())
        rests.append(_seconds_until_free(slot))
    assert rests == pytest.approx([1, 2, 4, 8, 16, 30, 30], abs=0.5)
    assert (slot.failures, slot.last_error) == (7, "RuntimeError")
    assert "Job 'quick' failed" in caplog.text


def test_a_good_job_forgets_the_failures_before_it():
    JobSlot.objects.update(failures=5, last_error="RuntimeError")
    slot = run(take())
    assert (slot.failures, slot.last_error) == (0, "")


def test_a_job_that_can_claim_nothing_of_what_is_due_does_not_spin(settings):
    settings.JOBS = {"quick": {"drain": f"{HERE}.drain_nothing", "due": f"{HERE}.always_due", "slots": 1}}
    settings.JOBS_TICK = 2.0
    started = time.monotonic()
    slot = run(take())
    assert time.monotonic() - started < 1
    assert _seconds_until_free(slot) > 1


def test_a_job_that_never_runs_dry_ends_when_its_time_is_up(settings):
    settings.JOBS = {"quick": {"drain": f"{HERE}.drain_one", "due": f"{HERE}.always_due", "slots": 1}}
    settings.JOBS_KICK_BUDGET = 0.3
    started = time.monotonic()
    run(take())
    assert 0.3 <= time.monotonic() - started < 1
    assert take()


def test_a_slow_batch_keeps_its_slot(settings):
    settings.JOBS_SLOT_TTL = 0.3
    add("slow", seconds=0.9)
    slot = take("slow", seconds=0.3)
    job = threading.Thread(target=_run_elsewhere, args=(slot,))
    job.start()
    time.sleep(0.6)
    assert JobSlot.objects.held(slot.id, slot.generation) is not None
    job.join()
    assert JobSlot.objects.held(slot.id, slot.generation) is None


def test_a_job_that_lost_its_slot_stops_after_its_batch(settings):
    settings.JOBS_SLOT_TTL = 0.3
    add("slow", count=3, seconds=0.4)
    slot = take("slow")
    job = threading.Thread(target=_run_elsewhere, args=(slot,))
    job.start()
    while rows("max(starts)") == [(0,)]:
        time.sleep(0.01)
    JobSlot.objects.filter(id=slot.id).update(generation=99)
    job.join()
    assert rows("done") == [(0,), (0,), (1,)]


def _run_elsewhere(slot: JobSlot) -> None:
    slots.run(slot.id, slot.generation)
    connection.close()


def _seconds_until_free(slot: JobSlot) -> float:
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM %s - now())::float", [slot.free_at])
        return cursor.fetchone()[0]


# -- the broker


def test_what_is_due_becomes_one_task_however_often_it_is_kicked():
    add("quick")
    broker = WorkBroker()
    assert len(broker.dequeue()) == 1
    for _ in range(3):
        kick("quick")
        assert not broker.dequeue()


def test_two_brokers_start_one_job():
    add("quick")
    assert WorkBroker().dequeue()
    assert not WorkBroker().dequeue()


def test_a_kick_wakes_a_waiting_broker(settings):
    settings.JOBS_TICK = 60
    broker = WorkBroker()
    adder = threading.Timer(0.2, lambda: _add_from_elsewhere("quick"))
    adder.start()
    started = time.monotonic()
    tasks = broker.dequeue() or broker.dequeue()
    assert tasks
    assert time.monotonic() - started < 2
    adder.join()


def test_work_that_nobody_kicked_is_found_at_the_next_look():
    broker = WorkBroker()
    broker.dequeue()
    add("quick")
    assert broker.dequeue() or broker.dequeue()


def test_a_broker_wakes_for_the_next_due_time(settings):
    settings.JOBS_TICK = 60
    add("quick", due_in=1)
    broker, started = WorkBroker(), time.monotonic()
    assert any(broker.dequeue() for _ in range(5))
    assert 0.5 < time.monotonic() - started < 10  # long before the tick, and not before it was due


def test_a_freed_slot_lets_the_next_job_start_at_once(settings):
    settings.JOBS_TICK = 60
    add("quick")
    broker = WorkBroker()
    assert broker.dequeue()
    kick("quick")
    assert not broker.dequeue()  # no slot is free
    slot = JobSlot.objects.get(kind="quick")
    slot.free()
    started = time.monotonic()
    assert broker.dequeue() or broker.dequeue() or broker.dequeue()
    assert time.monotonic() - started < 1


def test_a_task_that_was_never_acknowledged_comes_again():
    broker = WorkBroker()
    task_id = broker.enqueue("payload")
    assert broker.dequeue() == [(task_id, "payload")]
    assert not broker.dequeue()
    OrmQ.objects.update(lock="2020-01-01T00:00:00Z")
    assert broker.dequeue() == [(task_id, "payload")]


def test_a_broker_survives_the_loss_of_its_connection():
    broker = WorkBroker()
    broker.dequeue()
    break_connection()
    started = time.monotonic()
    assert broker.dequeue() is None
    add("quick")
    assert broker.dequeue() or broker.dequeue()
    assert time.monotonic() - started < 1


def test_a_task_is_acknowledged_although_the_connection_was_lost():
    broker = WorkBroker()
    task_id = broker.enqueue("payload")
    break_connection()
    broker.acknowledge(task_id)
    assert not OrmQ.objects.exists()


def test_a_kind_that_cannot_say_when_it_is_due_does_not_starve_the_others(settings, caplog):
    settings.JOBS = {"broken": {"drain": f"{HERE}.fail", "due": f"{HERE}.fail", "slots": 1}, **scratch_jobs.JOBS}
    add("quick")
    assert WorkBroker().dequeue()
    assert "Cannot tell when 'broken' is due" in caplog.text


def test_a_task_that_carries_data_instead_of_ids_is_refused():
    with pytest.raises(ValueError, match="queue the id of a row instead"):
        WorkBroker().enqueue("x" * 10_000)


def test_the_queue_outlives_32_bit_ids():
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval(pg_get_serial_sequence('django_q_ormq', 'id'), 2147483647)")
    assert WorkBroker().enqueue("payload") > 2147483647


def test_a_broker_of_a_cluster_beats():
    broker = WorkBroker()
    broker.cluster_pid = 4711
    broker.dequeue()
    broker.dequeue()
    assert WorkerNode.objects.get().pid == 4711


def test_old_nodes_are_forgotten():
    WorkerNode.objects.beat(host="old", pid=1)
    WorkerNode.objects.update(beat_at="2020-01-01T00:00:00Z")
    WorkerNode.objects.beat(host="new", pid=2)
    WorkerNode.objects.forget_old()
    assert WorkerNode.objects.get().host == "new"
