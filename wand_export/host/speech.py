"""The loop that speaks: text, sentences, prefix, tokens, samples. Apps mirror it."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from wand_export.errors import InputError, WandError
from wand_export.host.audio import AudioStream, GraphStream
from wand_export.host.bundle import Bundle
from wand_export.host.prompt import Inputs, first_position, load_text, rows_of, stretches
from wand_export.host.sampling import Sampler, StopRule, TextOrder
from wand_export.host.session import AudioGraphSession, AudioSession, Floats, Session
from wand_export.host.voices import Voice
from wand_export.spec.recipe import Sampler as Settings

_SILENCE = np.empty(0, np.float32)


def tokens(
    bundle: Bundle, session: Session, inputs: Inputs, seed: int, settings: Settings | None = None
) -> Generator[tuple[int, Floats], None, bool]:
    """Generate one utterance: (token id, the hidden float32 [D] that it was picked from), one after another.

    settings None takes the manifest's. The generator's value tells whether a stop token, which is not yielded,
    ended it, rather than the limit of the stop rule. Raises InputError as stretches() does, and where the
    utterance runs beyond the model's positions.
    """
    manifest = bundle.manifest
    sampler = Sampler(settings or manifest.sampler, seed)
    text = [int(token) for token in inputs.get("text", ())]
    stop, order = StopRule(manifest.stop, len(text)), TextOrder(manifest.stop, text, bundle.head_ids)
    learned = manifest.tables[manifest.speech_table].positions is not None
    prefix = stretches(manifest, inputs)
    position = first_position(manifest, prefix)
    output = session.prefill(rows_of(bundle, prefix))
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


class Speaker:
    """Speaks texts over one session, in constant memory; without an audio session it makes tokens only."""

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        audio: AudioSession | AudioGraphSession | None,
        voice: Voice | None = None,
    ) -> None:
        self.bundle, self.session, self.audio, self.voice = bundle, session, audio, voice
        self.text = load_text(bundle)

    def plan(self, text: str) -> list[Inputs]:
        """The inputs of each sentence, every one of which fits the prefix.

        Raises InputError naming the sentence that cannot be said or does not fit, before anything is spoken.
        """
        planned: list[Inputs] = []
        for sentence in self.text.sentences(text):
            shown = sentence if len(sentence) <= 60 else sentence[:57] + "..."
            try:
                inputs = (
                    self.voice.inputs(self.bundle.manifest, self.text, sentence)
                    if self.voice
                    else {"text": self.text.ids(sentence)}
                )
                stretches(self.bundle.manifest, inputs)
            except InputError as error:
                raise InputError(f"sentence {shown!r}", error.value, error.fix) from error
            except ValueError as error:
                raise InputError(f"sentence {shown!r}", str(error), "change the text") from error
            planned.append(inputs)
        if not planned:
            raise InputError("text", "nothing to say", "give some text")
        return planned

    def speak(self, plan: list[Inputs], seed: int) -> Iterator[Piece]:
        """Speak planned sentences, piece by piece; sentence k is drawn with seed + k.

        A chunk's samples come as soon as the tokens of its context exist. Raises InputError as tokens() does.
        """
        for sentence, inputs in enumerate(plan):
            stream = self._stream(seed + sentence)
            generation = tokens(self.bundle, self.session, inputs, seed + sentence)
            token: int | None = 0
            while token is not None:
                stopped, hidden = False, _SILENCE
                start = perf_counter()
                try:
                    token, hidden = next(generation)
                except StopIteration as end:
                    token, stopped = None, end.value
                between = perf_counter()
                samples = _SILENCE
                if stream:
                    samples = stream.finish() if token is None else stream.feed(token, hidden)
                yield Piece(sentence, token, stopped, hidden, samples, between - start, perf_counter() - between)

    def _stream(self, seed: int) -> AudioStream | GraphStream | None:
        audio = self.bundle.manifest.audio
        if isinstance(self.audio, AudioGraphSession):
            voice = self.voice
            return GraphStream(self.audio, audio, voice.file.globals if voice else [], voice.tensors if voice else {})
        return AudioStream(self.audio, audio, seed) if self.audio else None
