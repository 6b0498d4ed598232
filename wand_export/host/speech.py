"""The loop that speaks: text, sentences, prefix, tokens, samples. Apps mirror it."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from wand_export.errors import InputError, WandError
from wand_export.host.audio import SILENCE, AudioStream
from wand_export.host.bundle import Bundle
from wand_export.host.prompt import Inputs, PrefixOverflow, Reader, first_position, load_reader, rows_of, stretches
from wand_export.host.sampling import Sampler, StopRule, TextOrder
from wand_export.host.sentences import parts
from wand_export.host.session import AudioSession, Floats, Session
from wand_export.host.stretch import Stretch
from wand_export.host.voices import Voice
from wand_export.spec.recipe import Sampler as Settings


def tokens(
    bundle: Bundle, session: Session, inputs: Inputs, seed: int, settings: Settings | None = None
) -> Generator[tuple[int, Floats], None, bool]:
    """Generate one utterance: (token id, the hidden float32 [D] that it was picked from), one after another.

    settings None takes the manifest's. The generator's value tells whether a stop token, which is not yielded,
    ended it, rather than the limit of the stop rule. Raises InputError as stretches() does, where the utterance runs
    beyond the model's positions, and where another one, perhaps in another thread, has begun on its session.
    """
    manifest = bundle.manifest
    sampler = Sampler(settings or manifest.sampler, seed)
    text = [int(token) for token in inputs.get("text", ())]
    stop, order = StopRule(manifest.stop, len(text)), TextOrder(manifest.stop, text, bundle.head_ids)
    learned = manifest.tables[manifest.speech_table].positions is not None
    prefix = stretches(manifest, inputs)
    position = first_position(manifest, prefix)
    output = session.prefill(rows_of(bundle, prefix))
    request = session.request
    generated: list[int] = []
    while True:
        if not np.isfinite(output.logits).all():
            raise WandError(
                session.name, f"logits with NaN at position {session.position}", "run wand verify on the bundle"
            )
        banned = stop.banned(len(generated)) | order.banned()
        token = sampler.pick(output.logits, bundle.head_ids, banned, generated)
        if token in stop.ids:
            return True
        generated.append(token)
        order.picked(token)
        yield token, output.hidden
        if len(generated) == stop.maximum:
            return False
        row = bundle.embed(manifest.speech_table, [token], [position] if learned else None)
        if (session.request, session.position) != (request, session.prefix_len + len(generated) - 1):
            raise InputError(session.name, "another utterance uses it", "open one session for each thread")
        output = session.step(row[0])
        position += 1


@dataclass(frozen=True)
class Piece:
    """What one step of a Speaker made, and the seconds that it took.

    sentence counts from 0; token is None at a sentence's end, where `stopped` tells whether a stop token ended it;
    hidden float32 [D] that the token was picked from; samples float32 [n], n often 0.
    """

    sentence: int
    token: int | None
    stopped: bool
    hidden: Floats
    samples: Floats
    lm_seconds: float
    audio_seconds: float


@dataclass(frozen=True)
class Planned:
    """A sentence, or a part of one, that fits the prefix: its text, its inputs, and the prefix's length in tokens."""

    text: str
    inputs: Inputs
    prefix_len: int


@dataclass(frozen=True)
class Refusal:
    """What of a text would not be spoken, and why."""

    text: str
    reason: str


class Planner:
    """Cuts texts into what one utterance each can say, with the text tables alone: no model is opened."""

    def __init__(self, bundle: Bundle, voice: Voice | None = None, reader: Reader | None = None) -> None:
        """reader None is the bundle's own. Texts are planned as reader.replaced() gave them."""
        self.manifest, self.voice = bundle.manifest, voice
        self.text = (reader or load_reader(bundle)).encoder

    def plan(self, text: str) -> list[Inputs]:
        """The inputs of each sentence, or of its parts where it does not fit the prefix as a whole.

        Raises InputError naming what cannot be said and its place, before anything is spoken.
        """
        if odd := self.text.unsayable(text):
            raise InputError("text", f"cannot say {odd[0]}", "change the text, or leave it out with --skip-unsayable")
        planned = [part.inputs for sentence in self.text.sentences(text) for part in self._fitting(sentence)]
        if not planned:
            raise InputError("text", "nothing to say", "give some text")
        return planned

    def preview(self, text: str) -> tuple[list[Planned], list[Refusal]]:
        """What plan() would give for the sentences that can be said, and all for which it would refuse the text.

        What cannot be said comes first, with its place; then the sentences that do not fit, whole.
        """
        refused = [Refusal(odd.characters, f"cannot say {odd}") for odd in self.text.unsayable(text)]
        planned: list[Planned] = []
        for sentence in self.text.sentences(text):
            if self.text.unsayable(sentence):
                continue
            try:
                planned += list(self._fitting(sentence))
            except InputError as error:
                refused.append(Refusal(sentence, f"{error.value} ({error.fix})"))
        if not planned and not refused:
            refused.append(Refusal(text, "nothing to say"))
        return planned, refused

    def _fitting(self, sentence: str) -> Iterator[Planned]:
        """The parts of a sentence, each of which fits the prefix."""
        waiting = [sentence]
        while waiting:
            part = waiting.pop()
            shown = part if len(part) <= 60 else part[:57] + "..."
            try:
                inputs = (
                    self.voice.inputs(self.manifest, self.text, part) if self.voice else {"text": self.text.ids(part)}
                )
                prefix = stretches(self.manifest, inputs)
            except PrefixOverflow as error:
                if len(part) == 1:
                    raise InputError(f"sentence {shown!r}", error.value, error.fix) from error
                shorter = [one for piece in parts(part, error.parts) for one in self.text.sentences(piece)]
                waiting += reversed(shorter)
            except InputError as error:
                raise InputError(f"sentence {shown!r}", error.value, error.fix) from error
            except ValueError as error:
                raise InputError(f"sentence {shown!r}", str(error), "change the text") from error
            else:
                yield Planned(part, inputs, sum(len(rows) for _, rows in prefix))


class Speaker:
    """Speaks texts over one session, in constant memory; without an audio session it makes tokens only."""

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        audio: AudioSession | None,
        voice: Voice | None = None,
        reader: Reader | None = None,
    ) -> None:
        """reader None is the bundle's own."""
        self.bundle, self.session, self.audio, self.voice = bundle, session, audio, voice
        self.planner = Planner(bundle, voice, reader)

    def plan(self, text: str) -> list[Inputs]:
        """As Planner.plan(), in its voice."""
        return self.planner.plan(text)

    def speak(
        self, plan: list[Inputs], seed: int, settings: Settings | None = None, rate: float = 1.0
    ) -> Iterator[Piece]:
        """Speak planned sentences, piece by piece, at `rate` times their speed; sentence k is drawn with seed + k.

        settings None takes the manifest's sampler. A chunk's samples come as soon as the tokens of its context exist.
        Raises InputError as tokens() does, and for a rate out of range.
        """
        for sentence, inputs in enumerate(plan):
            stream = self._stream(seed + sentence)
            stretch = Stretch(rate, self.bundle.manifest.audio.sample_rate)
            generation = tokens(self.bundle, self.session, inputs, seed + sentence, settings)
            token: int | None = 0
            while token is not None:
                stopped, hidden = False, SILENCE
                start = perf_counter()
                try:
                    token, hidden = next(generation)
                except StopIteration as end:
                    token, stopped = None, end.value
                between = perf_counter()
                samples = SILENCE
                if stream:
                    samples = stretch.feed(stream.finish() if token is None else stream.feed(token, hidden))
                    if token is None:
                        samples = np.concatenate([samples, stretch.finish()])
                yield Piece(sentence, token, stopped, hidden, samples, between - start, perf_counter() - between)

    def _stream(self, seed: int) -> AudioStream | None:
        if self.audio is None:
            return None
        voice = self.voice
        return AudioStream(
            self.audio,
            self.bundle.manifest.audio,
            seed,
            prefix=voice.file.prompt_tokens if voice else (),
            speaker=voice.file.globals if voice else (),
            tensors=voice.tensors if voice else None,
        )
