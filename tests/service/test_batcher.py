"""The queue and the model's thread: batches, turns, bounds, cancelling, and the end; no network, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from service_helpers import GatedDecoder, wait_until

from triagekit.service.batcher import Batcher, BatchFailed, ModelBroken
from triagekit.service.model import PROBE, predict_or_give_up
from triagekit.service.queue import QueueFull, ServiceClosing, TicketQueue

SECONDS = 60


class Observed:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch(self, tickets: int, seconds: float) -> None:
        self.sizes.append(tickets)


@pytest.fixture
def make_batcher() -> Iterator[Callable[..., Batcher[Any]]]:
    started: list[tuple[Batcher[Any], GatedDecoder]] = []

    def make(decoder: GatedDecoder, size: int = 4, capacity: int = 100, gather: float = 0.0) -> Batcher[Any]:
        batcher: Batcher[Any] = Batcher(lambda: decoder, size, capacity, gather, Observed())
        batcher.start()
        started.append((batcher, decoder))
        return batcher

    yield make
    for batcher, decoder in started:
        decoder.gate.set()
        batcher.refuse_all()
        assert batcher.join(SECONDS)


def busy(batcher: Batcher[Any], decoder: GatedDecoder) -> Any:
    """Let the decoder stand at its gate with a batch of one ticket, so that what comes next is queued."""
    request = batcher.submit(["first"])
    wait_until(lambda: decoder.batches)
    return request


def texts_of(queue: TicketQueue[str], size: int) -> list[str]:
    turns = queue.take(size, 0.0)
    assert turns is not None
    return [turn.text for turn in turns]


def test_requests_share_batches_and_get_their_own_answers_in_order(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    batcher = make_batcher(decoder)
    first = busy(batcher, decoder)
    one, many = batcher.submit(["a"]), batcher.submit(["b1", "b2", "b3", "b4", "b5"])
    decoder.gate.set()
    assert first.future.result(SECONDS) == ["first"]
    assert one.future.result(SECONDS) == ["a"]
    assert many.future.result(SECONDS) == ["b1", "b2", "b3", "b4", "b5"]
    assert decoder.batches == [["first"], ["a", "b1", "b2", "b3"], ["b4", "b5"]]
    assert batcher._observer.sizes == [1, 4, 2]


def test_a_large_request_takes_turns_with_the_others() -> None:
    queue: TicketQueue[str] = TicketQueue(100)
    queue.put([f"L{number}" for number in range(9)])
    queue.put(["a1", "a2"])
    assert texts_of(queue, 3) == ["L0", "a1", "L1"]
    queue.put(["b"])
    # The small request that came between has waited longer than the large one since its last turn.
    assert texts_of(queue, 3) == ["a2", "L2", "b"]
    assert texts_of(queue, 3) == ["L3", "L4", "L5"]
    assert queue.depth == 3


def test_the_longest_waiting_come_first_when_there_are_more_requests_than_places() -> None:
    queue: TicketQueue[str] = TicketQueue(100)
    for name in "abcde":
        queue.put([f"{name}1", f"{name}2"])
    assert texts_of(queue, 3) == ["a1", "b1", "c1"]
    assert texts_of(queue, 3) == ["d1", "e1", "a2"]
    assert texts_of(queue, 9) == ["b2", "c2", "d2", "e2"]


def test_a_ticket_waits_for_company_until_the_batch_is_full(make_batcher) -> None:
    # A gathering time that no test would sit through: only the full batch can let it go.
    decoder = GatedDecoder()
    batcher = make_batcher(decoder, size=3, gather=10_000.0)
    requests = [batcher.submit([name]) for name in "abc"]
    assert [request.future.result(SECONDS) for request in requests] == [["a"], ["b"], ["c"]]
    assert decoder.batches == [["a", "b", "c"]]


def test_a_ticket_alone_goes_when_the_gathering_time_is_over(make_batcher) -> None:
    assert make_batcher(GatedDecoder(), gather=0.01).submit(["a"]).future.result(SECONDS) == ["a"]


def test_a_full_queue_refuses_whole_requests_and_says_when_to_come_again(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    batcher = make_batcher(decoder, capacity=4)
    busy(batcher, decoder)
    queued = batcher.submit(["a", "b", "c"])
    with pytest.raises(QueueFull):
        batcher.submit(["d", "e"])
    assert batcher.depth == 3 and batcher.retry_after_seconds() == 1
    batcher._seconds_a_ticket = 2.1
    assert batcher.retry_after_seconds() == 7
    batcher._seconds_a_ticket = 1e6
    assert batcher.retry_after_seconds() == 60
    decoder.gate.set()
    assert queued.future.result(SECONDS) == ["a", "b", "c"]
    assert batcher.depth == 0


def test_a_dropped_request_leaves_the_queue_and_others_get_their_answers(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    batcher = make_batcher(decoder)
    busy(batcher, decoder)
    gone, stays = batcher.submit(["g1", "g2"]), batcher.submit(["s"])
    assert batcher.drop(gone) == 2 and batcher.depth == 1
    assert batcher.drop(gone) == 0
    decoder.gate.set()
    assert stays.future.result(SECONDS) == ["s"]
    assert gone.future.cancelled() and decoder.batches == [["first"], ["s"]]


def test_a_request_dropped_while_it_is_decoded_harms_nobody(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    batcher = make_batcher(decoder)
    assert batcher.drop(busy(batcher, decoder)) == 0
    decoder.gate.set()
    assert batcher.submit(["next"]).future.result(SECONDS) == ["next"]


def test_a_failing_batch_tells_its_callers_the_kind_only_and_the_service_goes_on(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    decoder.error = ValueError("secret ticket")
    batcher = make_batcher(decoder, size=2)
    requests = [busy(batcher, decoder), batcher.submit(["a", "b", "c"])]
    decoder.gate.set()
    for request in requests:
        with pytest.raises(BatchFailed, match=r"^ValueError$"):
            request.future.result(SECONDS)
    # What was left of the second request is not decoded for nothing.
    wait_until(lambda: batcher.depth == 0)
    decoder.error = None
    assert batcher.submit(["next"]).future.result(SECONDS) == ["next"]
    assert ["c"] not in decoder.batches


def test_answers_that_do_not_fit_the_tickets_are_an_error(make_batcher) -> None:
    class Short(GatedDecoder):
        def __call__(self, texts: Sequence[str]) -> list[str]:
            return []

    with pytest.raises(BatchFailed):
        make_batcher(Short()).submit(["a"]).future.result(SECONDS)


def test_closing_finishes_what_is_queued_and_takes_nothing_more(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    batcher = make_batcher(decoder)
    requests = [busy(batcher, decoder), batcher.submit([str(number) for number in range(10)])]
    batcher.close()
    assert batcher.state == "stopping" and batcher.alive
    with pytest.raises(ServiceClosing):
        batcher.submit(["late"])
    decoder.gate.set()
    assert [len(request.future.result(SECONDS)) for request in requests] == [1, 10]
    assert batcher.join(SECONDS) and not batcher.alive


def test_when_the_grace_time_is_over_the_rest_is_told(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    batcher = make_batcher(decoder)
    under_way, queued = busy(batcher, decoder), batcher.submit(["a"])
    batcher.refuse_all()
    with pytest.raises(ServiceClosing):
        queued.future.result(SECONDS)
    decoder.gate.set()
    assert under_way.future.result(SECONDS) == ["first"] and batcher.join(SECONDS)


def test_a_model_that_cannot_be_loaded_fails_those_who_wait_for_it() -> None:
    def load() -> Any:
        raise RuntimeError("no weights")

    batcher: Batcher[str] = Batcher(load, 4, 10, 0.0, Observed())
    request = batcher.submit(["early"])
    batcher.start()
    with pytest.raises(ServiceClosing):
        request.future.result(SECONDS)
    assert batcher.join(SECONDS) and batcher.state == "failed" and str(batcher.failure) == "no weights"
    batcher.close()
    assert batcher.state == "failed"


def test_a_broken_model_ends_the_thread_and_tells_everybody(make_batcher) -> None:
    decoder = GatedDecoder(is_open=False)
    decoder.error = ModelBroken("the card has gone")
    batcher = make_batcher(decoder)
    under_way, queued = busy(batcher, decoder), batcher.submit(["a"])
    decoder.gate.set()
    with pytest.raises(BatchFailed):
        under_way.future.result(SECONDS)
    with pytest.raises(ServiceClosing):
        queued.future.result(SECONDS)
    assert batcher.join(SECONDS) and batcher.state == "failed" and batcher.failure is decoder.error


class Poisoned:
    """A predictor that fails on some tickets: the tickets' fault, as long as it answers the probe."""

    def __init__(self, is_broken: bool) -> None:
        self.is_broken = is_broken
        self.asked: list[list[str]] = []

    def predict(self, texts: Sequence[str]) -> list[Any]:
        from triagekit.scoring.predictor import Prediction, failed_prediction

        self.asked.append(list(texts))
        if self.is_broken or "poison" in texts:
            raise RuntimeError("device-side assert")
        return [
            Prediction({"summary": text}, {}, "auto", (), text) if text.strip() else failed_prediction("empty")
            for text in texts
        ]


def test_poisoned_tickets_cost_their_own_answers_only() -> None:
    predictor: Any = Poisoned(is_broken=False)
    assert [item.record is None for item in predict_or_give_up(predictor, ["a", "poison", "b"])] == [False, True, False]
    assert [PROBE] not in predictor.asked
    assert [item.verdict for item in predict_or_give_up(predictor, ["poison", "poison"])] == ["error", "error"]
    assert predictor.asked[-1] == [PROBE]
    predict_or_give_up(predictor, [" "])
    assert predictor.asked[-1] == [" "]


def test_a_model_that_fails_on_what_it_answered_before_is_broken() -> None:
    with pytest.raises(ModelBroken, match="RuntimeError"):
        predict_or_give_up(Poisoned(is_broken=True), ["a", "b"])  # type: ignore[arg-type]
