"""Every runtime's session: the artifact as saved, at full precision, against the reference; and what it refuses."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import RUNTIMES
from wand_export.errors import InputError
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint
from wand_export.host.audio import AudioStream
from wand_export.host.bundle import Bundle, load_bundle
from wand_export.host.session import Floats, Session, StepOutput

P, W, LATE = 24, 8, 10_000
CLOSE = 1e-4


@pytest.fixture(params=RUNTIMES)
def runnable(request: pytest.FixtureRequest) -> tuple[Bundle, str]:
    """A bundle for each runtime, and its float32 target."""
    fixture, target = RUNTIMES[request.param]
    return load_bundle(request.getfixturevalue(fixture)), target


@pytest.fixture
def session(runnable: tuple[Bundle, str]) -> Iterator[Session]:
    bundle, target = runnable
    with bundle.open(target, threads=1) as session:
        yield session


@pytest.fixture
def source(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny / "checkpoint")


def random_rows(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


def reference(source: Checkpoint, rows: Floats, prefix_len: int, first: int | None = None) -> tuple[Floats, Floats]:
    """Logits and hidden after the prefix and after each further row, those at positions `first` and on."""
    positions = None
    if first is not None:
        positions = torch.cat([torch.arange(prefix_len), torch.arange(first, first + len(rows) - prefix_len)])
    logits, hidden = source.reference()(torch.from_numpy(rows), prefix_len, W, positions)
    return logits[prefix_len - 1 :].numpy(), hidden[prefix_len - 1 :].numpy()


def play(session: Session, rows: Floats, prefix_len: int) -> tuple[Floats, Floats]:
    """What a session gives for the same."""
    outputs = [session.prefill(rows[:prefix_len]), *(session.step(row) for row in rows[prefix_len:])]
    return np.stack([o.logits for o in outputs]), np.stack([o.hidden for o in outputs])


@pytest.mark.parametrize("prefix_len", [1, P // 2, P])
def test_across_the_wrap(session: Session, source: Checkpoint, prefix_len: int) -> None:
    """At n = W - 1, W, W + 1 and 2 W + 1 generated tokens, and all between."""
    rows = random_rows(prefix_len + 2 * W + 3)
    expected = reference(source, rows, prefix_len)
    assert expected[0].std() > 0.5  # flat logits would hide a wrong mask
    for found, wanted in zip(play(session, rows, prefix_len), expected, strict=True):
        assert np.abs(found - wanted).max() < CLOSE


@pytest.mark.parametrize("chunk", [1, 5, W, W + 3])
def test_prefill_in_ragged_chunks(session: Session, source: Checkpoint, chunk: int) -> None:
    session.chunk = chunk
    rows = random_rows(P - 1 + 2 * W)
    assert np.abs(play(session, rows, P - 1)[0] - reference(source, rows, P - 1)[0]).max() < CLOSE


def test_utterances_back_to_back(session: Session, source: Checkpoint) -> None:
    for seed, prefix_len in enumerate((P, 3, P // 2)):
        rows = random_rows(prefix_len + 2 * W + 3, seed)
        assert np.abs(play(session, rows, prefix_len)[0] - reference(source, rows, prefix_len)[0]).max() < CLOSE


def test_positions_beyond_ten_thousand(session: Session, source: Checkpoint) -> None:
    """The receptive field is layers x window tokens: what was in the cache before is out of it by then."""
    p, flush = 11, source.backbone.layers * W
    rows = random_rows(p + flush + 2 * W)
    session.prefill(rows[:p])
    session.seek(LATE)
    found = np.stack([session.step(row).logits for row in rows[p:]])[flush:]
    expected = reference(source, rows, p, LATE)[0][1 + flush :]
    assert np.abs(found - expected).max() < 5e-3  # angles of this size are that coarse in float32
    off = reference(source, rows, p, LATE + 1)[0][1 + flush :]
    assert np.abs(off - expected).max() > 0.05


def test_sessions_share_no_state(runnable: tuple[Bundle, str], session: Session, source: Checkpoint) -> None:
    rows = random_rows(P + W)
    session.prefill(rows[:P])
    bundle, target = runnable
    with bundle.open(target, threads=1) as other:
        other.prefill(-rows[:5])
        other.step(rows[0])
    found = np.stack([session.step(row).logits for row in rows[P:]])
    assert np.abs(found - reference(source, rows, P)[0][1:]).max() < CLOSE


def test_outputs_are_the_callers_own(session: Session) -> None:
    rows = random_rows(4)
    first = session.prefill(rows[:3])
    kept = first.logits.copy(), first.hidden.copy()
    session.step(rows[3])
    assert np.array_equal(first.logits, kept[0]) and np.array_equal(first.hidden, kept[1])


def test_closing(runnable: tuple[Bundle, str]) -> None:
    bundle, target = runnable
    rows = random_rows(4)
    with bundle.open(target, threads=1) as session:
        session.prefill(rows)
        session.close()  # again at the end of the block
    session.close()
    for use in (lambda: session.prefill(rows), lambda: session.step(rows[0]), session.__enter__):
        with pytest.raises(InputError, match=r"closed \(open another one\)"):
            use()


def test_a_call_while_another_threads_runs_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, told = random_rows(4), []
    session.prefill(rows[:3])
    run = session._run

    def slow(given: Floats) -> StepOutput:
        def intrude() -> None:
            for call in (lambda: session.step(rows[3]), lambda: session.prefill(rows)):
                with pytest.raises(InputError, match=r"two threads.*one session for each thread"):
                    call()
                told.append(True)

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        return run(given)

    monkeypatch.setattr(session, "_run", slow)
    session.step(rows[3])
    assert told == [True, True] and session.position == 4


@pytest.mark.parametrize("threads", [-1, 0, 64_000, "2", 1.5, True])
def test_threads_that_no_runtime_may_see(runnable: tuple[Bundle, str], threads: object) -> None:
    bundle, target = runnable
    for open_one in (bundle.open, bundle.open_audio):
        with pytest.raises(InputError, match="threads"):
            open_one(target, threads)  # type: ignore[operator]


@pytest.mark.parametrize("how", ["open", "run", "audio"])
def test_the_callers_arithmetic_is_left_alone(runnable: tuple[Bundle, str], how: str) -> None:
    def doubled() -> list[float]:
        return [float(np.float32(1e-40) * np.float32(2)), float(np.float64(5e-320) * 2)]

    before = doubled()
    bundle, target = runnable
    with bundle.open(target, threads=1) as session:
        if how == "run":
            session.prefill(random_rows(3))
            session.step(random_rows(1)[0])
        elif how == "audio":
            stream = AudioStream(bundle.open_audio(target, 1), bundle.manifest.audio, 0)
            stream.feed(bundle.manifest.audio.first_id)
            assert len(stream.finish())
        assert doubled() == before and before[0] > 0


def test_refusals(session: Session) -> None:
    row = np.zeros(64, np.float32)
    with pytest.raises(InputError, match="before prefill"):
        session.step(row)
    with pytest.raises(InputError, match="prefix of 0 rows"):
        session.prefill(np.zeros((0, 64), np.float32))
    with pytest.raises(InputError, match=r"25 rows.*24 fit"):
        session.prefill(np.zeros((25, 64), np.float32))
    with pytest.raises(InputError, match="width 64"):
        session.prefill(np.zeros((3, 63), np.float32))
    with pytest.raises(InputError, match="NaN"):
        session.prefill(np.full((3, 64), np.nan, np.float32))
    with pytest.raises(InputError, match=r"a list \(give float32 \[n, 64\]"):
        session.prefill(np.ones((3, 64)).tolist())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \[64\]"):
        session.prefill(row)
    session.prefill(np.ones((3, 64), np.float32))
    for wrong in (row.astype(np.float64), row[None], row[:63]):
        with pytest.raises(InputError, match="width 64"):
            session.step(wrong)
    with pytest.raises(InputError, match="a list"):
        session.step(row.tolist())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="in the prefix"):
        session.seek(2)
    session.step(row)
    assert (session.position, session.prefix_len) == (4, 3)
    session._limits = None, 4  # as of an artifact whose rotary table ends there
    with pytest.raises(InputError, match="4 positions"):
        session.step(row)
