"""wand speak: a text through a bundle, to samples or to token ids."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from wand_export.errors import BundleError, InputError
from wand_export.host.audio import WavWriter, replacing
from wand_export.host.bundle import load_bundle
from wand_export.host.session import Floats
from wand_export.host.speech import Speaker
from wand_export.host.voices import open_voice


def speak(
    bundle: Path,
    text: str,
    output: Path | None,
    *,
    target: str | None = None,
    voice: str | None = None,
    tokens_out: Path | None = None,
    hidden_out: Path | None = None,
    seed: int = 0,
    rate: float = 1.0,
    threads: int | None = None,
    progress: Callable[[float, float], None] = lambda seconds, fraction: None,
) -> dict[str, Any]:
    """Speak `text` into the WAV file `output`, its token ids into the .npy file `tokens_out` (int64 [n]).

    hidden_out takes the vectors that they were picked from (float32 [n, D]), which some families' audio decoders
    read. voice None is the bundle's first; rate 0.5 to 3 speaks slower or faster at the voice's own pitch. A bundle
    without an audio decoder needs tokens_out or hidden_out. progress gets the seconds of audio made and the fraction
    of the text's tokens that are spoken. Real-time factors are
    compute seconds over audio seconds; first_audio_ms counts from the text, with the models loaded; both are null
    where there is no audio. `cut_sentences` counts those that the stop rule's limit ended. Raises InputError and
    BundleError.
    """
    opened = load_bundle(bundle)
    preset = open_voice(opened, voice)
    name = opened.resolve(target)
    audio = opened.manifest.audio
    has_decoder = opened.audio_decoder(name) is not None
    if not has_decoder and tokens_out is None and hidden_out is None:
        raise BundleError(bundle, f"target {name} has no audio decoder", "ask for token ids with --tokens-out")
    if output is None and tokens_out is None and hidden_out is None:
        raise InputError(bundle, "nothing to write", "give -o or --tokens-out")
    wanted = output if has_decoder else None
    not_run = []
    if not has_decoder:
        reads_hidden = any(decoder.reads_hidden for decoder in audio.decoders.values())
        needs = "; the family's own reads the vectors of --hidden-out" if reads_hidden else ""
        not_run.append(f"audio: target {name} has no audio decoder{needs}")
    elif output is None:
        not_run.append("audio: no output was asked for")

    ids: list[int] = []
    vectors: list[Floats] = []
    lm_seconds = audio_seconds = decoder_seconds = 0.0
    samples = audible = cut = spoken = 0
    first_audio: float | None = None
    with ExitStack() as stack:
        # Paths are refused and destinations opened before the work, not after it.
        wav = stack.enter_context(WavWriter(wanted, audio.sample_rate)) if wanted else None
        ids_part = stack.enter_context(replacing(tokens_out)) if tokens_out else None
        vectors_part = stack.enter_context(replacing(hidden_out)) if hidden_out else None
        session = stack.enter_context(opened.open(name, threads))
        speaker = Speaker(opened, session, opened.open_audio(name, threads) if wav else None, preset)
        start = perf_counter()
        plan = speaker.plan(text)
        text_tokens = [len(inputs["text"]) for inputs in plan]
        for piece in speaker.speak(plan, seed, rate):
            lm_seconds += piece.lm_seconds
            decoder_seconds += piece.audio_seconds
            if piece.token is not None:
                ids.append(piece.token)
                if vectors_part:
                    vectors.append(piece.hidden)
                audible += not audio.is_silent(piece.token)
            else:
                cut += not piece.stopped
                spoken += text_tokens[piece.sentence]
            if wav and len(piece.samples):
                first_audio = first_audio or perf_counter() - start
                wav.write(piece.samples)
                samples += len(piece.samples)
            audio_seconds = samples / audio.sample_rate if wav else audible / audio.token_rate
            progress(audio_seconds, spoken / sum(text_tokens))
        if ids_part:
            with ids_part.open("wb") as file:
                np.save(file, np.array(ids, np.int64))
        if vectors_part:
            with vectors_part.open("wb") as file:
                np.save(file, np.array(vectors, np.float32).reshape(len(vectors), opened.manifest.model.hidden))
    return {
        "schema": 1,
        "target": name,
        "sentences": len(plan),
        "tokens": len(ids),
        "audio_seconds": audio_seconds,
        "first_audio_ms": first_audio and first_audio * 1000,
        "lm_real_time_factor": lm_seconds / audio_seconds if audio_seconds else None,
        "real_time_factor": (lm_seconds + decoder_seconds) / audio_seconds if wav and audio_seconds else None,
        "cut_sentences": cut,
        "output": str(wanted) if wanted else None,
        "tokens_out": str(tokens_out) if tokens_out else None,
        "hidden_out": str(hidden_out) if hidden_out else None,
        "voice": preset.name if preset else None,
        "not_run": not_run,
    }
