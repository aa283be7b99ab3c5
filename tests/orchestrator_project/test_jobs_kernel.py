"""What the processes of a cluster share survives the death of any of them."""

import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest

if sys.platform != "linux":
    pytest.skip("the kernel's part is Linux only", allow_module_level=True)

from orchestrator_project.jobs.kernel import MAX_RESULT, Flag, MessageQueue, WorkerTimer

fork = multiprocessing.get_context("fork")


@pytest.fixture
def queue() -> MessageQueue:
    return MessageQueue(buffer=8 * 1024)


def start(target, *args):
    process = fork.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def test_items_come_out_whole_and_in_order(queue):
    assert queue.empty()
    queue.put({"id": 1})
    queue.put("STOP")
    assert queue.qsize() == 1
    assert [queue.get(), queue.get()] == [{"id": 1}, "STOP"]


def test_a_killed_reader_takes_no_item_and_no_lock_along(queue):
    readers = [start(queue.get) for _ in range(3)]
    time.sleep(0.1)
    for reader in readers:
        os.kill(reader.pid, signal.SIGKILL)
        reader.join()
    queue.put("still here")
    assert queue.get() == "still here"


def test_a_full_queue_makes_the_writer_wait(queue):
    writer = threading.Thread(target=lambda: [queue.put("x" * 500) for _ in range(100)])
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    assert [queue.get() for _ in range(100)] == ["x" * 500] * 100
    writer.join(5)
    assert not writer.is_alive()


def test_of_a_result_that_is_too_long_the_beginning_is_kept(queue):
    queue.put({"id": 7, "result": "x" * 1_000_000})
    assert queue.get() == {"id": 7, "result": "x" * MAX_RESULT}


def test_a_task_that_is_too_long_is_refused(queue):
    with pytest.raises(OSError, match="long"):
        queue.put("x" * 1_000_000)


def test_a_flag_is_seen_by_every_process_and_stays_up():
    flag = Flag()
    assert not flag.wait(0)
    setter = start(flag.set)
    assert flag.wait(5)
    assert flag.is_set()
    setter.join()


def test_a_killed_waiter_does_not_hold_up_who_sets_the_flag():
    flag = Flag()
    waiter = start(flag.wait)
    time.sleep(0.05)
    os.kill(waiter.pid, signal.SIGKILL)
    waiter.join()
    flag.set()
    assert flag.is_set()


def test_a_timer_runs_by_itself_and_only_its_worker_sets_it():
    timer = WorkerTimer()
    start(lambda: setattr(timer, "value", 0.2)).join()
    timer.value -= 5
    assert 0 < timer.value <= 0.2
    time.sleep(0.25)
    assert timer.value == 0
    start(lambda: setattr(timer, "value", -2)).join()
    assert timer.value == -2
