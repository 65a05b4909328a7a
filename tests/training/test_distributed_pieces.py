"""Sharing the rows of a step, reading a rank's place, agreeing on errors, a full disk: without several processes."""

from __future__ import annotations

import errno
import json
import random
import resource
import signal

import pytest
import torch

from triagekit.errors import ProblemsError, TriageError
from triagekit.hardware.ladder import Rung
from triagekit.settings import to_yaml
from triagekit.training import plan_file
from triagekit.training.batches import RowCosts, StepBatches, TrainingRows, micro_batches
from triagekit.training.checkpoints import all_checkpoints, fault, write_checkpoint
from triagekit.training.collator import IGNORED
from triagekit.training.disk import disk_advice
from triagekit.training.optimizer_state import load_plain_state, plain_state
from triagekit.training.process_group import ProcessGroup
from triagekit.training.ranks import RUNG, Ranks, ranks_from_environment
from triagekit.training.run_folder import PLACE_KEYS, RunFolder
from triagekit.training.sampler import EpochSampler
from triagekit.training.state_codec import save_state
from triagekit.training.stopping import StopRequest


@pytest.mark.parametrize("rows", range(1, 17))
@pytest.mark.parametrize(("micro", "ranks"), [(8, 2), (4, 2), (2, 2), (1, 2), (2, 4), (1, 16), (16, 1)])
def test_the_processes_of_a_step_take_every_row_once_in_equally_many_pieces(rows, micro, ranks):
    indices = list(range(100, 100 + rows))
    shares = [micro_batches(indices, micro, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    taken = [row for share in shares for piece in share for row in piece if row >= 0]
    assert sorted(taken) == indices
    pieces = [piece for share in shares for piece in share]
    assert all(1 <= len(piece) <= micro for piece in pieces)
    # What is computed for company only is a row of this step, and stands alone.
    assert all(piece == [~100] for piece in pieces if piece[0] < 0)


def shares_of(rows, micro, ranks, costs):
    return [micro_batches(rows, micro, rank, ranks, costs) for rank in range(ranks)]


def tokens_of(share, costs):
    """What a process computes in a step: its rows' own tokens, and each micro-batch's prefixes once."""
    total = 0
    for piece in share:
        total += sum(costs.own[row] for row in piece)
        total += sum({costs.variant[row]: costs.prefix[row] for row in piece}.values())
    return total


def test_one_process_takes_rows_as_they_come():
    assert micro_batches([7, 3, 5, 9, 1], 2, 0, 1) == [[7, 3], [5, 9], [1]]


def test_neighbours_are_computed_at_the_same_time():
    costs = RowCosts(list(range(16)), [0] * 16, [0] * 16)
    shares = shares_of(list(range(16)), 2, 4, costs)
    assert [sorted(row for share in shares for row in share[turn]) for turn in (0, 1)] == [
        list(range(8)),
        list(range(8, 16)),
    ]
    assert all(len(piece) == 2 and piece == sorted(piece) for share in shares for piece in share)


@pytest.mark.parametrize(("effective", "micro", "ranks"), [(16, 8, 2), (16, 2, 4), (32, 4, 2), (64, 8, 8)])
def test_tokens_are_even_over_processes(effective, micro, ranks):
    chance = random.Random(5)
    worst, before = [], []
    for _ in range(50):
        own = sorted(int(chance.lognormvariate(4, 0.8)) + 5 for _ in range(effective))
        costs = RowCosts(own, [30] * effective, [0] * effective)
        rows = list(range(effective))
        taken = [tokens_of(share, costs) for share in shares_of(rows, micro, ranks, costs)]
        worst.append(max(taken) * ranks / sum(taken))
        contiguous = [
            sum(
                own[row]
                for turn in range(effective // (micro * ranks))
                for row in rows[(turn * ranks + rank) * micro :][:micro]
            )
            for rank in range(ranks)
        ]
        before.append(max(contiguous) * ranks / sum(contiguous))
    assert sum(worst) / 50 < 1 + (sum(before) / 50 - 1) / 3, "a third of what cutting by length would leave"


def test_an_expensive_prefix_is_not_computed_twice_where_once_will_do():
    # Half of the rows behind the whole schema, half behind a line of instruction.
    costs = RowCosts([100] * 16, [400] * 8 + [10] * 8, [0] * 8 + [1] * 8)
    shares = shares_of(list(range(16)), 8, 2, costs)
    assert sum(tokens_of(share, costs) for share in shares) <= 16 * 100 + 400 + 2 * 10 + 400
    assert max(tokens_of(share, costs) for share in shares) <= 1300


def test_dealing_is_the_same_every_time_and_takes_every_row_once():
    chance = random.Random(1)
    costs = RowCosts([chance.randrange(5, 300) for _ in range(45)], [40] * 45, [chance.randrange(3) for _ in range(45)])
    rows = chance.sample(range(45), 29)
    shares = shares_of(rows, 4, 4, costs)
    assert shares == shares_of(rows, 4, 4, costs)
    assert sorted(row for share in shares for piece in share for row in piece if row >= 0) == sorted(rows)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_epoch_has_as_many_micro_batches_as_the_loader_says(ranks):
    sampler = EpochSampler([5] * 45, effective_batch=8, seed=1)
    loaders = [StepBatches(sampler, 8, 2, rank, ranks) for rank in range(ranks)]
    assert [len(list(loader)) for loader in loaders] == [len(loader) for loader in loaders]
    rows = [row for loader in loaders for piece in loader for row in piece if row >= 0]
    assert sorted(rows) == list(range(45))


def test_an_inverted_index_gives_the_row_without_anything_to_learn():
    columns = {"input_ids": [[1, 2], [3, 4]], "labels": [[1, 2], [-100, 4]], "weights": [[1.0, 1.0], [0.0, 2.0]]}
    rows = TrainingRows(columns)
    assert rows[1]["labels"] == [-100, 4]
    assert rows[~1] == {"input_ids": [3, 4], "labels": [IGNORED, IGNORED], "weights": [0.0, 0.0]}
    assert columns["labels"][1] == [-100, 4]


def rung(**values):
    return Rung.model_validate({"name": "two", "memory_gb": 1, "count": 2, "launcher": "2gpu_ddp", **values})


def in_force(chosen):
    return {RUNG: json.dumps({"rung": chosen.name, "passed_over": ["x: why"], "definition": chosen.model_dump()})}


def test_a_plain_process_is_a_world_of_its_own():
    ranks = ranks_from_environment({})
    assert ranks == Ranks() and ranks.main and not ranks.grouped


def test_place_sharding_and_rung_are_read_from_what_launchers_set(tmp_path):
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    assert ranks_from_environment(place).sharding == "ddp"
    zero2 = {**place, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    assert ranks_from_environment(zero2).sharding == "zero2"
    own = tmp_path / "mine.json"
    own.write_text('{"zero_optimization": {"stage": 3}}')
    named = ranks_from_environment({**zero2, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(own)})
    assert (named.sharding, named.deepspeed_file) == ("zero3", str(own))
    # torchrun knows nothing of DeepSpeed; the rung does.
    ranks = ranks_from_environment({**place, **in_force(rung(sharding="zero2"))})
    assert ranks.sharding == "zero2" and ranks.rank == 1 and not ranks.main
    assert ranks.describe() == {"rung": "two", "passed_over": ["x: why"], "world": 2, "sharding": "zero2"}


def test_a_launcher_that_does_not_fit_the_rung_is_refused_with_everything_that_is_wrong():
    four = rung(sharding="ddp", nodes=2)
    environment = {"RANK": "0", "WORLD_SIZE": "2", **in_force(four), "ACCELERATE_USE_DEEPSPEED": "true"}
    with pytest.raises(ProblemsError) as caught:
        ranks_from_environment({**environment, "ACCELERATE_USE_FSDP": "true"})
    text = str(caught.value)
    assert "needs 4 processes, 2 were started" in text and "asks for ddp, the launcher for zero2" in text
    assert "FSDP" in text
    with pytest.raises(TriageError, match="WORLD_SIZE is 'two'"):
        ranks_from_environment({"WORLD_SIZE": "two"})
    with pytest.raises(TriageError, match="stage 1"):
        ranks_from_environment({**environment, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"})


def test_the_rung_is_no_part_of_what_makes_a_run_another_one(tmp_path, settings_for):
    settings = settings_for().model_dump(mode="json")
    run = RunFolder.create(tmp_path / "run", settings, to_yaml(settings_for()))
    other = {**settings, "hardware": {"rung": "4GB", "probe": "never", "ladder": "mine"}}
    assert "hardware" in PLACE_KEYS and RunFolder.create(run.folder, other, "").folder == run.folder
    with pytest.raises(ProblemsError, match="seed"):
        RunFolder.create(run.folder, {**other, "seed": 9}, "")


def test_processes_that_cannot_share_the_batch_are_told_what_would_do(settings_for):
    from triagekit.training.train import effective_settings

    with pytest.raises(TriageError, match="6 or 9"):
        effective_settings(settings_for(batch={"effective": 8, "micro": 4}), Ranks(size=3))
    shared = effective_settings(settings_for(batch={"effective": 24, "micro": 8}), Ranks(size=2))
    assert (shared.batch.micro, shared.batch.effective) == (6, 24)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"optimizer": {"name": "adafactor"}}, "adafactor"),
        ({"quantization": {"bits": 4}}, "quantised"),
        ({"precision": "fp16"}, "fp16"),
    ],
)
def test_what_sharding_would_silently_change_is_refused(settings_for, change, word):
    from triagekit.training.arguments import check_sharding

    settings = settings_for(**change)
    with pytest.raises(ProblemsError, match=word):
        check_sharding(settings, settings.precision, Ranks(size=2, sharding="zero3"))
    check_sharding(settings, settings.precision, Ranks(size=2, sharding="ddp"))


def test_a_run_does_not_go_on_with_a_base_in_fewer_bits(tmp_path):
    """Its adapter would fit neither base. The number type may change: a lower rung computes in another one."""
    run = RunFolder(tmp_path)
    plan = {**dict.fromkeys(plan_file.FINGERPRINTS, "a"), "rung": "1xA100", "precision": "bf16", "max_length": 512}
    plan_file.keep_plan(run, {**plan, "quantization": None})
    plan_file.keep_plan(run, {**plan, "quantization": None, "rung": "16GB-T4", "precision": "fp16"})
    smaller = {**plan, "rung": "4GB", "quantization": {"bits": 4}, "max_length": 256}
    with pytest.raises(ProblemsError, match="Rung 4GB changes it") as told:
        plan_file.keep_plan(run, smaller)
    assert [problem.where for problem in told.value.problems] == ["max length", "quantization"]


@pytest.fixture
def interruptible():
    """Ctrl-C as a process on a terminal has it: test processes that run side by side ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_stop_is_noted_once_and_repeats_do_not_kill(interruptible):
    with StopRequest(patient=True) as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGUSR2)
        assert stop.signal_number == signal.SIGINT and stop.agree(ProcessGroup()) == signal.SIGINT
    with StopRequest() as alone:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert alone.signal_number == signal.SIGTERM
        alone.in_loop = True
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_before_training_ends_at_once_but_only_where_one_process_is_all():
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_ended_a_run_is_on_disk_and_tells_its_status(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    monkeypatch.setenv("TRIAGEKIT_ATTEMPT", "17.2")
    run.write_stopped(signal.SIGUSR2, 5, 12)
    record = run.read(run.stopped)
    assert record.pop("time")
    assert record == {"signal": "SIGUSR2", "step": 5, "steps": 12, "attempt": "17.2"}
    assert run.status == "preempted"
    run.write_stopped(signal.SIGINT, 5, 12)
    assert run.status == "stopped"
    run.stopped.unlink()
    assert run.status == "stopped"


def test_an_optimizer_moves_by_the_names_of_its_weights():
    torch.manual_seed(0)

    def stepped(model):
        optimizer = torch.optim.AdamW([{"params": list(model.parameters())}, {"params": []}], lr=0.1)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return optimizer

    model = torch.nn.Linear(3, 2)
    optimizer = stepped(model)
    state = plain_state(optimizer, model)
    assert state["names"] == [["weight", "bias"]] and len(state["groups"]) == 1
    deeper = torch.nn.Sequential(torch.nn.Linear(3, 2))
    twin = torch.nn.Linear(3, 2)
    other = torch.optim.AdamW([{"params": list(twin.parameters())}, {"params": []}], lr=0.5)
    load_plain_state(other, twin, state)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(optimizer.state[mine]["exp_avg"], other.state[theirs]["exp_avg"])
    assert other.param_groups[0]["lr"] == 0.1
    with pytest.raises(TriageError, match="other weights"):
        load_plain_state(stepped(deeper), deeper, state)


def tensors(folder, count):
    save_state(folder, "big", {"weights": torch.ones(count)})


def test_a_full_disk_names_the_folder_keeps_the_old_checkpoint_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the quota: the kernel refuses the write in the same place."""
    write_checkpoint(tmp_path, 1, lambda folder: tensors(folder, 10))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        with pytest.raises(TriageError) as caught:
            write_checkpoint(tmp_path, 2, lambda folder: tensors(folder, 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (
        str(tmp_path) in str(caught.value) and "limit" in str(caught.value) and "make room" in str(caught.value).lower()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert fault(all_checkpoints(tmp_path)[0]) is None


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "full"), (errno.EDQUOT, "quota")])
def test_full_disk_and_quota_are_told_apart_whoever_met_them(tmp_path, number, word):
    with pytest.raises(TriageError, match=word), disk_advice(tmp_path):
        raise OSError(number, "whatever")
    with pytest.raises(TriageError, match=word), disk_advice(tmp_path):
        raise RuntimeError(f"Error while serializing: I/O error: something (os error {number})")
    with pytest.raises(PermissionError), disk_advice(tmp_path):
        raise PermissionError(errno.EACCES, "no")
