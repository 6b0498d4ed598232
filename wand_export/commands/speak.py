"""wand speak: a text through a bundle, to samples or to token ids."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from wand_export.errors import BundleError, InputError, whole_number
from wand_export.host.audio import WavStream, WavWriter
from wand_export.host.bundle import load_bundle
from wand_export.host.output import files_to_write, replacing
from wand_export.host.prompt import load_reader
from wand_export.host.sentences import Unsayable, without
from wand_export.host.session import Floats
from wand_export.host.speech import Speaker
from wand_export.host.voices import open_voice
from wand_export.spec.recipe import Sampler

SHOWN = 20
"""At most so many skipped characters are named one by one."""


def speak(
    bundle: Path | str,
    text: str,
    output: Path | str | BinaryIO | None,
    *,
    target: str | None = None,
    voice: str | None = None,
    tokens_out: Path | str | None = None,
    hidden_out: Path | str | None = None,
    seed: int = 0,
    rate: float = 1.0,
    threads: int | None = None,
    text_file: Path | str | None = None,
    skip_unsayable: bool = False,
    lexicon: Path | str | None = None,
    replace: Path | str | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    progress: Callable[[float, float], None] = lambda seconds, fraction: None,
) -> dict[str, Any]:
    """Speak `text` into the WAV file or stream `output`, its token ids into the .npy file `tokens_out` (int64 [n]).

    hidden_out takes the vectors that they were picked from (float32 [n, D]), which some families' audio decoders
    read. voice None is the bundle's first; rate 0.5 to 3 speaks slower or faster at the voice's own pitch. A bundle
    without an audio decoder needs tokens_out or hidden_out. text_file, if any, is where the text came from: no output
    may overwrite it, nor the bundle. progress gets the seconds of audio made and the fraction of the text's tokens that
    are spoken. Real-time factors are compute seconds over audio seconds; first_audio_ms counts from the text, with the
    models loaded; both are null where there is no audio. `cut_sentences` counts those that the stop rule's limit ended.

    lexicon and replace are files of a user's own words: see Your own words in models/README.md.
    skip_unsayable leaves out what the voice cannot say, which is refused otherwise: `skipped_count` counts it, and
    `skipped` has the first of it. temperature, top_k, top_p and repetition_penalty stand in for the bundle's own;
    `sampler` has the settings in force. Raises InputError and BundleError.
    """
    if not isinstance(text, str):
        raise InputError("text", f"a {type(text).__name__}", "give a string")
    seed = whole_number("seed", seed, 0)
    opened = load_bundle(bundle)
    stream = None if output is None or isinstance(output, Path | str) else output
    wav_file, ids_file, vectors_file = (
        Path(path) if isinstance(path, Path | str) else None for path in (output, tokens_out, hidden_out)
    )
    own_lexicon, own_replace = (None if path is None else Path(path) for path in (lexicon, replace))
    given = [Path(path) for path in (text_file, lexicon, replace) if path is not None]
    files_to_write([wav_file, ids_file, vectors_file], [*given, *opened.paths()])
    reader = load_reader(opened, own_lexicon, own_replace)
    settings = sampler_with(
        opened.manifest.sampler,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
    )
    preset = open_voice(opened, voice)
    name = opened.resolve(target)
    audio = opened.manifest.audio
    has_decoder = opened.audio_decoder(name) is not None
    if not has_decoder and tokens_out is None and hidden_out is None:
        raise BundleError(bundle, f"target {name} has no audio decoder", "ask for token ids with --tokens-out")
    if output is None and tokens_out is None and hidden_out is None:
        raise InputError(bundle, "nothing to write", "give -o or --tokens-out")
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
        wav: WavWriter | WavStream | None = None
        if has_decoder and wav_file is not None:
            wav = stack.enter_context(WavWriter(wav_file, audio.sample_rate))
        elif has_decoder and stream is not None:
            wav = stack.enter_context(WavStream(stream, audio.sample_rate))
        ids_part = ids_file and stack.enter_context(replacing(ids_file))
        vectors_part = vectors_file and stack.enter_context(replacing(vectors_file))
        session = stack.enter_context(opened.open(name, threads))
        speaker = Speaker(opened, session, opened.open_audio(name, threads) if wav else None, preset, reader)
        start = perf_counter()
        text = reader.replaced(text)
        skipped = reader.encoder.unsayable(text) if skip_unsayable else []
        plan = speaker.plan(without(text, skipped))
        text_tokens = [len(inputs["text"]) for inputs in plan]
        for piece in speaker.speak(plan, seed, settings, rate):
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
            _save(ids_part, np.array(ids, np.int64))
        if vectors_part:
            _save(vectors_part, np.array(vectors, np.float32).reshape(len(vectors), opened.manifest.model.hidden))
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
        "skipped_count": len(skipped),
        "skipped": [_shown(stretch) for stretch in skipped[:SHOWN]],
        "sampler": settings.model_dump(),
        "output": None if wav is None else "-" if wav_file is None else str(wav_file),
        "tokens_out": ids_file and str(ids_file),
        "hidden_out": vectors_file and str(vectors_file),
        "voice": preset.name if preset else None,
        "lexicon": own_lexicon and str(own_lexicon),
        "replace": own_replace and str(own_replace),
        "not_run": not_run,
    }


def sampler_with(settings: Sampler, **given: float | None) -> Sampler:
    """The settings with those given that are not None. Raises InputError naming the option that is out of range."""
    try:
        return Sampler.model_validate({**settings.model_dump(), **{k: v for k, v in given.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}"
        raise InputError(option, str(first["input"]), first["msg"].removeprefix("Value error, ")) from error


def shown(text: str) -> str:
    """The text with question marks for lone surrogates, which are nothing that JSON could carry on."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(stretch: Unsayable) -> dict[str, Any]:
    alone = f"U+{ord(stretch.characters):04X}" if len(stretch.characters) == 1 else None
    return {"character": shown(stretch.characters), "code_point": alone, "line": stretch.line, "column": stretch.column}


def _save(file: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file of version 1. np.save would tell of a full disk without saying so."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.tobytes())
