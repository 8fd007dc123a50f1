"""BulkMapper: order, duplicates, failures, and leaving early."""

from __future__ import annotations

import asyncio
import gc
import traceback
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from uid2_async import Email, MappedUID, Phone, Unmapped, UnmappedReason, errors
from uid2_async.bulk import BulkMapper, MapFailure, Progress
from uid2_async.bulk.private_files import System
from uid2_async.operator import LocalOperator
from uid2_async.protocol.normalize import identity_hash
from virtual_time import VirtualLoop


def emails(count: int) -> list[str]:
    """Make some email addresses."""
    return [f"person{number}@example.com" for number in range(count)]


async def collect(mapper: BulkMapper, items: Any, key: Any = None) -> list[Any]:
    """Map all *items*."""
    async with mapper.map(items, key) as records:
        return [record async for record in records]


def expected(make_operator: Any, email: str) -> str:
    """Give the raw UID that the operator has for *email*."""
    values = {"email_hash": [identity_hash(Email(email))]}
    reply = make_operator().answer(values, bytes(8), 0)
    assert reply.status == 200
    from hashlib import sha256  # noqa: PLC0415 - the operator's rule, stated here again

    from uid2_async.protocol import base64  # noqa: PLC0415 - as above

    return base64.encode_text(sha256(values["email_hash"][0].encode()).digest())  # type: ignore[union-attr] # the email is valid


def test_records_come_in_the_order_of_the_input(
    virtual: Any, make_operator: Any
) -> None:
    """Whatever order the batches are answered in, each item gets its own result."""
    items = emails(5_003)

    async def main() -> list[Any]:
        return await collect(BulkMapper(operator.client(), batch_size=50), items)

    operator = make_operator()
    records = virtual(main())

    assert [record.item for record in records] == items
    for record in records[::100]:
        assert record.result.raw_uid == expected(make_operator, record.item)
    assert operator.most == 20
    assert operator.requests == 101


def test_callers_get_their_own_items_back(virtual: Any, make_operator: Any) -> None:
    """key= finds the identity; the record holds the very item."""
    items = [{"mail": mail} for mail in emails(3)]

    async def main() -> list[Any]:
        mapper = BulkMapper(make_operator().client())
        return await collect(mapper, items, key=lambda row: row["mail"])

    assert [record.item for record in virtual(main())] == items


def test_one_identity_is_asked_about_once(virtual: Any, make_operator: Any) -> None:
    """Spellings, hashes and repetitions share a request slot; every row is answered."""
    one = "jane.doe+x@gmail.com"
    hashed = identity_hash(Email(one))
    items = [one, "JaneDoe@gmail.com", *emails(30), Email(one), hashed and Email(one)]

    async def main() -> tuple[list[Any], Progress]:
        mapper = BulkMapper(operator.client(), batch_size=10)
        async with mapper.map(items * 2) as records:
            return [record async for record in records], records.progress

    operator = make_operator()
    records, progress = virtual(main())

    assert len(operator.seen) == len(set(operator.seen)) == 31
    assert len(records) == progress.rows == 68
    assert progress.duplicates == 68 - 31
    assert len({records[at].result for at in (0, 1, 32, 33, 34)}) == 1


def test_beyond_the_window_an_identity_is_asked_about_again(
    virtual: Any, make_operator: Any
) -> None:
    """Memory is bounded, and the answer is the same."""
    items = [*emails(3_000), emails(1)[0]]

    async def main() -> list[Any]:
        mapper = BulkMapper(operator.client(), batch_size=10, dedupe_window=20)
        return await collect(mapper, items)

    operator = make_operator()
    records = virtual(main())

    assert len(operator.seen) == 3_001
    assert records[0].result == records[-1].result


def test_invalid_identities_never_leave_the_machine(
    virtual: Any, make_operator: Any
) -> None:
    """They come back as invalid, and spoil nothing."""

    async def main() -> list[Any]:
        return await collect(BulkMapper(operator.client()), ["bad", "a@b.c", "", "+1"])

    operator = make_operator()
    results = [record.result for record in virtual(main())]

    invalid = Unmapped(UnmappedReason.INVALID_IDENTIFIER)
    assert results[0] == results[2] == results[3] == invalid
    assert isinstance(results[1], MappedUID)
    assert len(operator.seen) == 1


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
def test_inputs_of_any_length_and_kind(
    virtual: Any, make_operator: Any, count: int
) -> None:
    """Lists, generators and async generators give the same records."""
    items = emails(count)

    async def live() -> AsyncIterator[str]:
        for one in items:
            yield one

    async def main() -> list[int]:
        mapper = BulkMapper(make_operator().client(), batch_size=100)
        kinds = (items, iter(items), (one for one in items), live())
        return [len(await collect(mapper, kind)) for kind in kinds]

    assert virtual(main()) == [count] * 4


def test_a_slow_source_is_not_waited_for(virtual: Any, make_operator: Any) -> None:
    """What came is sent after a second, though the batch is not full."""

    async def slow() -> AsyncIterator[str]:
        yield "a@example.com"
        await asyncio.sleep(3600)
        yield "b@example.com"

    async def main() -> list[float]:
        now = asyncio.get_running_loop().time
        async with BulkMapper(make_operator().client()).map(slow()) as records:
            return [now() async for _ in records]

    first, second = virtual(main())
    assert first < 3
    assert 3600 <= second < 3605


def test_the_source_is_read_no_faster_than_records_are_taken(
    virtual: Any, make_operator: Any
) -> None:
    """An endless source in, bounded memory."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"person{read}@example.com"

    async def main() -> int:
        mapper = BulkMapper(make_operator().client(), batch_size=100)
        async with mapper.map(endless()) as records:
            await anext(records)
            await asyncio.sleep(600)
            return read

    # Room for 24 batches; a step over it, one handed out, and one in hand.
    assert virtual(main()) <= 100 * 24 + 3 * 1_000


def test_endless_duplicates_do_not_block(virtual: Any, make_operator: Any) -> None:
    """A batch that never fills is sent when there is no more room."""

    async def main() -> int:
        mapper = BulkMapper(make_operator().client(), batch_size=10)
        return len(await collect(mapper, ["same@example.com"] * 20_000))

    assert virtual(main()) == 20_000


def test_batches_are_split_by_bytes(virtual: Any, make_operator: Any) -> None:
    """With raw DII of the greatest length no body is over the limit."""
    items = [f"{'é' * 240}{number}@example.com" for number in range(5_000)]

    async def main() -> list[Any]:
        return await collect(BulkMapper(operator.client(send_raw=True)), items)

    operator = make_operator()

    assert len(virtual(main())) == 5_000
    assert max(operator.sizes) <= 1024 * 1024 * 0.95
    assert operator.requests == 3


def test_a_body_that_is_too_large_is_split(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """413 halves the batch; a single identity that is too large has failed."""

    def respond(texts: list[str]) -> Any:
        poison = identity_hash(Email("person7@example.com"))
        return refuse(413) if len(texts) > 5 or poison in texts else None

    async def main() -> list[Any]:
        return await collect(BulkMapper(operator.client(), batch_size=40), emails(40))

    operator = make_operator(respond)
    records = virtual(main())

    failed = [record for record in records if isinstance(record.result, MapFailure)]
    assert [record.item for record in failed] == ["person7@example.com"]
    assert failed[0].result == MapFailure(error="PayloadTooLargeError", status=413)


def test_a_size_that_is_too_large_is_remembered(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """Each batch after the first few is sent once; another identity's 413 is not."""
    poison = identity_hash(Email("person77@example.com"))

    def respond(texts: list[str]) -> Any:
        return refuse(413) if len(texts) > 3 or poison in texts else None

    async def main() -> list[Any]:
        mapper = BulkMapper(operator.client(), batch_size=100)
        return await collect(mapper, emails(3_000))

    operator = make_operator(respond)
    records = virtual(main())

    failed = [one.item for one in records if isinstance(one.result, MapFailure)]
    assert failed == ["person77@example.com"]
    # In twos, 1,500 are needed.
    assert operator.requests < 1_600


def test_one_identity_that_is_too_large_leaves_batches_large(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """The size of the batches is not at fault."""
    poison = identity_hash(Email("person7@example.com"))

    async def main() -> list[Any]:
        mapper = BulkMapper(operator.client(), batch_size=50)
        return await collect(mapper, emails(10_000))

    operator = make_operator(lambda texts: refuse(413) if poison in texts else None)
    virtual(main())

    # 200 without the one that fails.
    assert operator.requests < 300


def test_batches_that_failed_do_not_count_as_successes(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """The message of a stall counts requests that succeeded."""

    async def main() -> None:
        mapper = BulkMapper(make_operator(lambda texts: refuse(413)).client())
        with pytest.raises(errors.StalledError, match=r"s\. 0 had succeeded before"):
            await collect(mapper, emails(5_000))

    virtual(main())


@pytest.mark.parametrize("option", ["client", "on_progress"])
@pytest.mark.parametrize("value", [5, object(), asyncio.sleep])
def test_wrong_arguments_are_refused_at_once(
    make_operator: Any, option: str, value: Any
) -> None:
    """A callback that is async would never run."""
    arguments = {"client": make_operator().client(), option: value}
    with pytest.raises(errors.ConfigError, match=option):
        BulkMapper(**arguments)


class TickingLoop(VirtualLoop):
    """Each look at the clock takes some time."""

    def time(self) -> float:
        """Return the virtual time."""
        self.virtual.waited += 1e-6
        assert self.virtual.waited < 1, "something looks at the clock all the time"
        return super().time()


def test_a_short_stall_timeout_does_not_block_the_loop(make_operator: Any) -> None:
    """Even one that is over before it can be looked at."""

    async def main() -> None:
        mapper = BulkMapper(make_operator().client(), stall_timeout=1e-12)
        with pytest.raises(errors.StalledError):
            await collect(mapper, emails(3))

    with asyncio.Runner(loop_factory=TickingLoop) as runner:
        runner.run(main())


def test_a_batch_that_always_fails_is_set_aside(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """While others succeed, three rounds are enough; its rows have failed."""
    poison = identity_hash(Email("person55@example.com"))

    def respond(texts: list[str]) -> Any:
        return refuse(500) if poison in texts else None

    async def main() -> tuple[list[Any], Progress]:
        mapper = BulkMapper(operator.client(), batch_size=10)
        async with mapper.map(emails(2_000)) as records:
            return [record async for record in records], records.progress

    operator = make_operator(respond)
    records, progress = virtual(main())

    failed = [
        at for at, one in enumerate(records) if isinstance(one.result, MapFailure)
    ]
    assert failed == list(range(50, 60))
    assert progress == Progress(
        rows=2_000,
        mapped=1_990,
        failed=10,
        batches=200,
        limit=progress.limit,
    )


def test_a_reply_of_the_wrong_shape_fails_its_rows(
    virtual: Any, make_operator: Any
) -> None:
    """What cannot be read is not asked again, and not called unmapped."""

    async def main() -> list[Any]:
        operator = make_operator()
        answer = operator.answer
        operator.answer = lambda values, *rest: answer({}, *rest)
        return await collect(BulkMapper(operator.client()), ["a@b.c"])

    assert virtual(main())[0].result == MapFailure(error="ProtocolError")


@pytest.mark.parametrize("status", [401, 404])
def test_a_rejected_key_stops_the_job_at_once(
    virtual: Any, make_operator: Any, refuse: Any, status: int
) -> None:
    """What would meet every batch is not tried 400 times."""

    async def main() -> None:
        with pytest.raises((errors.AuthError, errors.UnexpectedStatusError)):
            await collect(BulkMapper(operator.client(), batch_size=10), emails(4_000))

    operator = make_operator(lambda _: refuse(status))
    virtual(main())

    assert operator.requests <= 4


def test_a_job_without_any_success_stops(
    virtual: Any, make_operator: Any, lost: Any
) -> None:
    """After stall_timeout, with few requests, and the last error named."""

    async def main() -> float:
        mapper = BulkMapper(operator.client(), batch_size=10)
        with pytest.raises(errors.StalledError, match="ConnectError"):
            await collect(mapper, emails(4_000))
        return asyncio.get_running_loop().time()

    operator = make_operator(lambda _: lost)

    assert 120 <= virtual(main()) <= 135
    assert operator.requests <= 50


def test_an_idle_job_does_not_stall(virtual: Any, make_operator: Any) -> None:
    """Waiting for the source is no standstill of the operator."""

    async def slow() -> AsyncIterator[str]:
        for one in emails(3):
            await asyncio.sleep(1000)
            yield one

    async def main() -> int:
        return len(await collect(BulkMapper(make_operator().client()), slow()))

    assert virtual(main()) == 3


async def running() -> set[str]:
    """Name the tasks of this loop, except the test's own."""
    await asyncio.sleep(0)
    mine = asyncio.current_task()
    return {one.get_name() for one in asyncio.all_tasks() if one is not mine}


@pytest.mark.parametrize("way", ["break", "raise", "cancel"])
def test_leaving_the_block_stops_everything(
    virtual: Any, make_operator: Any, way: str
) -> None:
    """Within a second, nothing runs any more, and the exception is the consumer's."""

    async def consume(before: float) -> None:
        mapper = BulkMapper(make_operator().client(), batch_size=10)
        async with mapper.map(emails(4_000)) as records:
            async for _ in records:
                if way == "raise":
                    raise KeyError("mine")
                if way == "cancel":
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(0)
                break

    async def main() -> None:
        now = asyncio.get_running_loop().time
        began = now()
        task = asyncio.create_task(consume(began))
        if way == "break":
            await task
        else:
            kind = KeyError if way == "raise" else asyncio.CancelledError
            with pytest.raises(kind):
                await task
        assert await running() == set()

    virtual(main())


def test_leaving_the_block_at_once_leaves_nothing_behind(
    virtual: Any, make_operator: Any
) -> None:
    """No coroutine that was made for the job is dropped without having been awaited."""

    async def main() -> None:
        async with BulkMapper(operator.client()).map(emails(10)):
            pass

    operator = make_operator()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        virtual(main())
        gc.collect()

    assert [str(one.message) for one in caught] == []
    assert operator.requests == 0


def test_a_failing_source_fails_the_job(virtual: Any, make_operator: Any) -> None:
    """The source's own exception comes out where the records are taken."""

    def broken() -> Iterator[str]:
        yield "a@example.com"
        raise OSError("disk")

    async def main() -> None:
        with pytest.raises(OSError, match="disk"):
            await collect(BulkMapper(make_operator().client()), broken())

    virtual(main())


ENDS = [
    asyncio.CancelledError,
    GeneratorExit,
    StopAsyncIteration,
    KeyboardInterrupt,
    SystemExit,
    BaseException,
]


class Failing:
    """A sync and async iterator that gives some emails, and then raises."""

    def __init__(self, error: type[BaseException], after: int) -> None:
        """Raise *error* after so many items."""
        self._error = error
        self._left = emails(after)

    def __next__(self) -> str:
        """Give the next item."""
        if not self._left:
            raise self._error
        return self._left.pop()

    async def __anext__(self) -> str:
        """Give the next item."""
        await asyncio.sleep(0)
        return next(self)


class Later(Failing):
    """The async one."""

    def __aiter__(self) -> Later:
        """Iterate."""
        return self


class Now(Failing):
    """The sync one."""

    def __iter__(self) -> Now:
        """Iterate."""
        return self


async def read_on(records: Any) -> None:
    """Iterate to the end."""
    async for _ in records:
        pass


async def ends(records: Any) -> BaseException:
    """Iterate until *records* raise, and give what they raised."""
    try:
        await read_on(records)
    except BaseException as error:  # noqa: BLE001 - that is what it is about
        return error
    raise AssertionError("it ended without an error")


# A StopAsyncIteration is how an async iterator ends.
@pytest.mark.parametrize("after", [0, 700])
@pytest.mark.parametrize(
    ("kind", "error"),
    [*((Now, error) for error in ENDS)]
    + [(Later, error) for error in ENDS if error is not StopAsyncIteration],
)
def test_a_source_may_raise_anything(
    virtual: Any,
    make_operator: Any,
    kind: type[Failing],
    error: type[BaseException],
    after: int,
) -> None:
    """The job ends with it, or a JobError if it would end the consumer silently."""

    async def main() -> None:
        mapper = BulkMapper(make_operator().client(), batch_size=100)
        source: Any = kind(error, after)
        async with mapper.map(source) as records:
            found = await ends(records)
        silent = error in ENDS[:3]
        assert type(found) is (errors.JobError if silent else error)
        if silent:
            assert error.__name__ in str(found)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr] # a task runs this
        assert await running() == set()

    virtual(main())


@pytest.mark.parametrize("error", [*ENDS, StopIteration])
@pytest.mark.parametrize("live", [False, True])
def test_a_key_may_raise_anything(
    virtual: Any, make_operator: Any, error: type[BaseException], live: bool
) -> None:
    """As a source may, also where its item waits for more to fill a batch."""

    async def slow() -> AsyncIterator[str]:
        yield "a@example.com"
        await asyncio.sleep(3600)

    def key(item: str) -> str:
        raise error

    async def main() -> None:
        mapper = BulkMapper(make_operator().client())
        async with mapper.map(slow() if live else emails(3), key) as records:
            found = await ends(records)
        silent = error in {*ENDS[:3], StopIteration}
        assert type(found) is (errors.JobError if silent else error)

    virtual(main())


def test_the_frames_of_the_callers_code_are_kept(
    virtual: Any, make_operator: Any
) -> None:
    """Whatever part of the job runs it, and each time that the error is raised."""

    def broken(item: object = None) -> Any:
        raise ValueError("line 7")

    def source() -> Iterator[str]:
        yield from emails(3)
        broken()

    class Transport(make_operator):  # type: ignore[misc] # made by a fixture
        async def send(self, request: Any) -> Any:
            broken()

    async def main() -> None:
        for transport, items, key in (
            (make_operator(), source(), None),
            (make_operator(), emails(3), broken),
            (Transport(), emails(3), None),
        ):
            async with BulkMapper(transport.client()).map(items, key) as records:
                for error in (await ends(records), await ends(records)):
                    frames = traceback.extract_tb(error.__traceback__)
                    assert frames[-1].name == "broken"
                    assert str(error) == "line 7"

    virtual(main())


@pytest.mark.parametrize("error", [*ENDS, StopIteration, ValueError])
def test_a_progress_callback_may_raise_anything(
    virtual: Any, make_operator: Any, error: type[BaseException]
) -> None:
    """The job ends with it: no records are lost for a consumer that goes on."""
    calls = []

    def fail_once(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) == 2:
            raise error

    async def main() -> None:
        mapper = BulkMapper(make_operator().client(), on_progress=fail_once)
        async with mapper.map(emails(2_000)) as records:
            found = [await ends(records), await ends(records)]
        silent = error in {*ENDS[:3], StopIteration}
        assert {type(one) for one in found} == {errors.JobError if silent else error}
        assert len(calls) == 2

    virtual(main())


def test_a_job_whose_parts_are_cancelled_from_outside_ends(
    virtual: Any, make_operator: Any
) -> None:
    """Canceling all other tasks of the loop leaves no consumer waiting."""

    async def main() -> None:
        mapper = BulkMapper(make_operator().client(), batch_size=10)
        async with mapper.map(emails(4_000)) as records:
            await anext(records)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            assert type(await ends(records)) is errors.JobError

    virtual(main())


def test_a_failed_job_raises_a_new_error_each_time(
    virtual: Any, make_operator: Any
) -> None:
    """The frames of one loop do not add up on the error of the next."""

    async def main() -> None:
        mapper = BulkMapper(make_operator().client())
        async with mapper.map(Now(KeyError, 3)) as records:
            first, second = await ends(records), await ends(records)
        assert type(first) is type(second) is KeyError
        assert first is not second
        assert type(await ends(records)) is KeyError

    virtual(main())


def test_records_end_with_their_block(virtual: Any, make_operator: Any) -> None:
    """Iterating on after it raises at once; after the last record it is over."""

    async def main() -> None:
        mapper = BulkMapper(make_operator().client(), batch_size=10)
        async with mapper.map(emails(4_000)) as records:
            await anext(records)
        with pytest.raises(RuntimeError, match="block was left before the last record"):
            await read_on(records)
        async with mapper.map(emails(40)) as records:
            await read_on(records)
        assert [one async for one in records] == []

    virtual(main())


class Frozen:
    """A sleep that a process, stopped in it, wakes from late."""

    def __init__(self, at: float, seconds: float) -> None:
        """Stand still for *seconds* in the first sleep that ends after *at*."""
        self.at, self.seconds = at, seconds

    async def __call__(self, seconds: float) -> None:
        """Sleep."""
        loop = asyncio.get_running_loop()
        if self.seconds and loop.time() + seconds >= self.at:
            lost, self.seconds = self.seconds, 0.0
            # Nothing of the loop runs meanwhile, and then the clock has jumped.
            loop.virtual.waited += lost  # type: ignore[attr-defined] # VirtualLoop
            await asyncio.sleep(0)
            return
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("frozen", [100.0, 150.0, 7_200.0])
@pytest.mark.parametrize("at", [1.0, 60.0, 119.0])
def test_a_process_that_stood_still_gets_one_more_period(
    virtual: Any, make_operator: Any, lost: Any, frozen: float, at: float
) -> None:
    """Only time in which the process ran counts; on waking the stall starts again."""
    healed: list[float] = []

    def respond(texts: list[str]) -> Any:
        now = asyncio.get_running_loop().time()
        # 50 s after waking the network is there again.
        return None if now >= at + frozen + 50 else lost

    async def main() -> int:
        mapper = BulkMapper(
            make_operator(respond).client(),
            batch_size=10,
            _system=System(sleep=Frozen(at, frozen)),
        )
        records = await collect(mapper, emails(400))
        healed.append(asyncio.get_running_loop().time())
        return len(records)

    assert virtual(main()) == 400
    assert at + frozen + 50 <= healed[0] < at + frozen + 120


@pytest.mark.parametrize("pause", [12.0, 30.0])
def test_a_process_that_stands_still_again_and_again_stalls(
    virtual: Any, make_operator: Any, lost: Any, pause: float
) -> None:
    """Time that stood still is not counted, but a job with a dead operator ends."""

    class Jerky(Frozen):
        async def __call__(self, seconds: float) -> None:
            if seconds > 10:
                self.seconds, self.at = pause, 0.0
                await asyncio.sleep(seconds)
            await super().__call__(seconds)

    async def main() -> float:
        client = make_operator(lambda _: lost).client()
        mapper = BulkMapper(client, batch_size=10, _system=System(sleep=Jerky(0, 0)))
        with pytest.raises(errors.StalledError):
            await collect(mapper, emails(400))
        return asyncio.get_running_loop().time()

    assert 120 + 6 * pause < virtual(main()) < 1_800


def test_an_item_that_is_no_identity_is_named_by_place(
    virtual: Any, make_operator: Any
) -> None:
    """None in the millionth row can be found."""

    async def main() -> None:
        with pytest.raises(errors.InputError, match=r"Item 1500: .*NoneType"):
            await collect(BulkMapper(make_operator().client()), [*emails(1_500), None])

    virtual(main())


def test_progress_is_told(virtual: Any, make_operator: Any) -> None:
    """Numbers only grow, and the last ones are the whole."""
    told: list[Progress] = []

    async def main() -> None:
        mapper = BulkMapper(
            make_operator().client(), batch_size=100, on_progress=told.append
        )
        await collect(mapper, [*emails(2_500), "bad"])

    virtual(main())

    assert [one.rows for one in told] == [500, 1_000, 1_500, 2_000, 2_500, 2_501]
    assert (told[-1].mapped, told[-1].invalid) == (2_500, 1)


@pytest.mark.parametrize(
    "option", ["batch_size", "concurrency", "dedupe_window", "stall_timeout"]
)
def test_options_must_be_above_zero(make_operator: Any, option: str) -> None:
    """Nonsense is refused before anything is read."""
    with pytest.raises(errors.ConfigError):
        BulkMapper(make_operator().client(), **{option: 0})


def test_a_text_is_not_a_list(make_operator: Any) -> None:
    """One address instead of a list would be mapped character by character."""
    with pytest.raises(errors.InputError, match="a str"):
        BulkMapper(make_operator().client()).map("person@example.com")


def test_records_hide_their_items() -> None:
    """A record's repr shows no DII and no raw UID."""
    from uid2_async.bulk.outcomes import MapRecord  # noqa: PLC0415 - this test alone
    from uid2_async.models import MapRow  # noqa: PLC0415 - as above

    shown = repr(MapRecord("canary@example.com", MapRow(raw_uid="canary")))

    assert shown == "MapRecord(outcome=MapRow(mapped=True))"


async def test_the_embedded_operator_maps_in_bulk(operator: LocalOperator) -> None:
    """Over real sockets, with all kinds in one request."""
    from uid2_async import UID2Client  # noqa: PLC0415 - this test alone needs it

    items = [*emails(2_000), Phone("+12345678901"), "optout@example.com"]
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
    ) as client:
        records = await collect(BulkMapper(client, batch_size=300), items)
        direct = await client.map_identities(items)

    assert [record.result for record in records] == list(direct)
