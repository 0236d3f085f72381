"""Async reward functions may keep objects between calls, in a worker and in the trainer's process."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import os
import signal
import sys
import threading
import time

import pytest

from es_llm.rewards import set_level
from es_llm.rewards.batch import RAISED, TIMEOUT
from es_llm.rewards.call import call
from es_llm.rewards.loop import Loop
from tests.hostile import batch, kinds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
WORKERS = pytest.mark.parametrize("workers", [0, 1])


class Client:
    """Objects of a client that belong to one event loop."""

    def __init__(self):
        self.semaphore, self.queue, self.task, self.loop = asyncio.Semaphore(1), None, None, None

    async def score(self, text):
        loop = asyncio.get_running_loop()
        assert self.loop in (None, loop), "another loop"
        self.loop = loop
        if self.task is None:
            self.queue = asyncio.Queue()
            self.task = loop.create_task(self.serve())
        async with self.semaphore:
            future = loop.create_future()
            await self.queue.put((text, future))
            return await future

    async def serve(self):
        while True:
            text, future = await self.queue.get()
            await asyncio.sleep(0)
            future.set_result(float(len(text)))


def judges():
    client = Client()

    async def judge(completions, **columns):
        return await asyncio.gather(*map(client.score, completions))

    async def keyed(completions, weight, **columns):
        return [weight * score for score in await judge(completions)]

    def returning(completions, **columns):
        return judge(completions)

    class Judge:
        async def __call__(self, completions, **columns):
            return await judge(completions)

    @set_level
    async def together(completions, **columns):
        return sum(await judge(completions))

    return {
        "function": judge,
        "partial": functools.partial(keyed, weight=1.0),
        "returning": returning,
        "object": Judge(),
        "set_level": together,
    }


@WORKERS
@pytest.mark.parametrize("kind", judges())
def test_a_client_that_a_function_keeps_works_for_every_batch(rewards, kind, workers):
    def lazily(completions, **columns):
        if not made:
            made.append(judges()[kind])
        return made[0](completions=completions, **columns)

    made = []
    if kind in ("function", "partial", "object"):

        async def judge(completions, **columns):
            return await lazily(completions, **columns)
    else:
        judge = set_level(lazily) if kind == "set_level" else lazily
    scored = rewards(judge, workers=workers, timeout_s=10)
    expected = [6.0] * 3 if kind == "set_level" else [1.0, 2.0, 3.0]
    for _ in range(4):
        assert scored.rewards(batch(["a", "bb", "ccc"])) == expected


@WORKERS
def test_several_functions_share_a_loop(rewards, workers):
    async def first(completions, log_metric, **columns):
        log_metric("loop", id(asyncio.get_running_loop()))
        return [1.0] * len(completions)

    async def second(completions, log_metric, **columns):
        return await first(completions, log_metric)

    made = rewards(first, second, workers=workers, timeout_s=10)
    loops = set()
    for _ in range(3):
        for scores in made.submit(batch(["a", "b"])).result().results.values():
            loops |= {value for _, value in scores.metrics}
    assert len(loops) == 1


@WORKERS
def test_a_background_task_continues_between_batches(rewards, workers):
    state = {"ticks": 0}

    async def ticking(completions, **columns):
        async def tick():
            while True:
                await asyncio.sleep(0.01)
                state["ticks"] += 1

        if "task" not in state:
            state["task"] = asyncio.get_running_loop().create_task(tick())
        return [float(state["ticks"])] * len(completions)

    made = rewards(ticking, workers=workers, timeout_s=10)
    (before,) = made.rewards(batch(["a"]))
    time.sleep(0.5)
    (after,) = made.rewards(batch(["a"]))
    assert after > before + 5
    state.clear()


def test_a_call_that_times_out_releases_what_it_holds(rewards):
    semaphore = []

    async def judge(completions, **columns):
        if not semaphore:
            semaphore.append(asyncio.Semaphore(1))
        async with semaphore[0]:
            await asyncio.sleep(1000 if completions[0] == "sleep" else 0)
        return [1.0]

    made = rewards(judge, workers=1)
    outcome = made.submit(batch(["sleep", "good"])).result()
    assert kinds(outcome, "judge")[0] == TIMEOUT
    assert made.rewards(batch(["good"] * 3)) == [1.0] * 3


def test_a_call_that_cannot_be_cancelled_ends_its_worker(rewards):
    lock = []

    async def judge(completions, log_metric, **columns):
        log_metric("pid", os.getpid())
        if not lock:
            lock.append(asyncio.Lock())
        async with lock[0]:
            while completions[0] == "stay":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
        return [1.0]

    made = rewards(judge, workers=1)
    first = made.submit(batch(["good"])).result()
    assert kinds(made.submit(batch(["stay"])).result(), "judge") == {0: TIMEOUT}
    last = made.submit(batch(["good"] * 2)).result()
    assert last.rewards == [1.0] * 2
    assert last.results["judge"].metrics[0] != first.results["judge"].metrics[0]


def test_a_task_that_blocks_the_loop_meets_the_time_limit(rewards):
    async def judge(completions, **columns):
        if completions[0] == "block":
            asyncio.get_running_loop().call_soon(time.sleep, 1000)
        await asyncio.sleep(0.01)
        return [1.0]

    made = rewards(judge, workers=1)
    outcome = made.submit(batch(["good", "block", "good"])).result()
    assert outcome.rewards == [1.0, None, 1.0]
    assert made.rewards(batch(["good"])) == [1.0]


@WORKERS
@pytest.mark.parametrize("deed", ["stop", "close", "exit", "interrupt", "thread"])
def test_the_next_batch_works_after_a_function_damaged_the_loop(rewards, deed, workers):
    state = {}

    async def judge(completions, **columns):
        loop = asyncio.get_running_loop()

        async def later():
            raise SystemExit if deed == "exit" else KeyboardInterrupt

        if completions[0] == "harm":
            match deed:
                case "stop":
                    loop.stop()
                case "close":
                    loop.close()
                case "thread":
                    loop.stop()
                    threading.Thread(target=close, args=(loop,)).start()
                case _:
                    state["task"] = loop.create_task(later())
            await asyncio.sleep(0.05)
        return [1.0] * len(completions)

    def close(loop):
        while not loop.is_closed():
            with contextlib.suppress(Exception):  # RuntimeError while it runs, others while its thread closes it too
                loop.close()

    made = rewards(judge, workers=workers, timeout_s=5)
    outcome = made.submit(batch(["harm"])).result()
    assert outcome.rewards in ([1.0], [None])
    if deed in ("stop", "exit", "interrupt"):
        assert outcome.rewards == [1.0]
    if deed == "close":
        assert kinds(outcome, "judge") == {0: RAISED}
    assert made.rewards(batch(["good"] * 2)) == [1.0] * 2


def test_a_loop_already_runs_in_the_callers_thread():
    async def judge(completions, **columns):
        return [float(len(text)) for text in completions]

    async def notebook():
        return call("judge", judge, batch(["a"]), loop=loop).rewards, call("judge", judge, batch(["bb"])).rewards

    loop = Loop()
    assert asyncio.run(notebook()) == ([1.0], [2.0])
    loop.close()


def test_functions_see_the_callers_context():
    variable = contextvars.ContextVar("variable", default="none")

    async def judge(completions, **columns):
        return [1.0 if variable.get() == "set" else 0.0]

    loop = Loop()
    token = variable.set("set")
    assert call("judge", judge, batch(["a"]), loop=loop).rewards == [1.0]
    variable.reset(token)
    assert call("judge", judge, batch(["a"]), loop=loop).rewards == [0.0]
    loop.close()


def test_closing_leaves_no_thread_and_cancels_running_tasks(rewards):
    ended = []

    async def judge(completions, **columns):
        async def wait():
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(True)

        asyncio.get_running_loop().create_task(wait())
        await asyncio.sleep(0)
        return [1.0]

    before = threading.active_count()
    for end in ("close", "collect"):
        made = rewards(judge, workers=0) if end == "close" else Loop()
        if end == "close":
            assert made.rewards(batch(["a"])) == [1.0]
            assert threading.active_count() == before + 1
            made.close()
            assert made.rewards(batch(["a"])) == [1.0], "it begins again"
            made.close()
        else:
            made.run(judge(["a"]))
            del made
            gc.collect()
        assert threading.active_count() == before
    assert ended == [True] * 3


def test_a_keyboard_interrupt_is_raised_in_the_caller():
    async def judge(completions, **columns):
        threading.Timer(0.2, os.kill, (os.getpid(), 2)).start()
        await asyncio.sleep(1000)

    loop = Loop()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start without this handler
    try:
        with pytest.raises(KeyboardInterrupt):
            call("judge", judge, batch(["a"]), loop=loop)
    finally:
        signal.signal(signal.SIGINT, before)
    loop.close()


@pytest.mark.parametrize(
    ("answer", "got"), [(None, "got None; does it end without"), (1.0, "got 1.0"), ("1", "got '1'")]
)
def test_a_result_that_is_no_list_is_reported(answer, got):
    (failure,) = call("judge", lambda completions, **columns: answer, batch(["a"])).failures
    assert f"`judge` must return a list of rewards, {got}" in failure.reason
