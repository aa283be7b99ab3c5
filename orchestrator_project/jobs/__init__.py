"""Background jobs: Postgres remembers the work, a job only starts it (docs/explanation/jobs.md).

The parts, from a wish to a worker:
1. `kick(kind)` in the transaction that makes work due: a NOTIFY that leaves with the commit.
2. `broker.WorkBroker`, in the cluster's pusher process, hears it, or finds at its next look that something is due. It takes a
   free `JobSlot` of that kind and queues one task, `slots.run(slot, generation)`.
3. `slots.run`, in a worker process, drains the kind's table in batches and frees the slot.
4. `cluster.run_cluster` keeps these processes alive, whichever of them is killed.
"""

from django.db import connection

WORK_CHANNEL = "work"  # payload: a kind of which something has become due
SLOT_CHANNEL = "job_slot"  # payload: a kind of which a slot has become free
QUEUE_CHANNEL = "django_q_ormq"  # payload: empty; rows were added to django-q's queue table


def kick(kind: str) -> None:
    """Wake a worker for this kind of work (a key of settings.JOBS) when the current transaction commits.

    Only a hint: a kick that is lost, doubled or too early costs at most the half second until the broker looks by itself.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [WORK_CHANNEL, kind])
