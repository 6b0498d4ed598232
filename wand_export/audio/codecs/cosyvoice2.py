"""CosyVoice 2: tokens to mel frames in ten steps of flow matching, and HiFT from those to sound."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wand_export.audio.codec import Codec, Graph
from wand_export.audio.flow import Encoder, Step
from wand_export.audio.hift import Pitch, Sound
from wand_export.audio.reading import beside, find, load, published, read_yaml, tensors
from wand_export.audio.rewrites import strip_weight_norm
from wand_export.errors import CheckpointError
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput, AudioLoop, AudioNoise
from wand_export.spec.recipe import Licence

WHERE = "clone FunAudioLLM/CosyVoice with its submodules, install what it imports, then --code path/to/CosyVoice"
MATCHA = "third_party/Matcha-TTS"
STEPS = 10
LOOK_AHEAD = 3
"""Tokens that the encoder's first convolution reads ahead."""
PROMPT = 25
"""Tokens of the made-up voice: prompts of whole chunks, seconds, see what they would in the whole."""


def schedule(steps: int) -> list[float]:
    """Times 0 to 1, closer at the start."""
    return [1 - math.cos(i / steps * math.pi / 2) for i in range(steps + 1)]


def open(path: Path, code: str | None) -> Codec:
    """The two models of a folder with cosyvoice2.yaml, flow.pt and hift.pt. Raises InputError, CheckpointError."""
    file = find(path, "flow.pt")
    settings = read_yaml(beside(file, "cosyvoice2.yaml"), tagged=True)
    encoder_code = published(code, "cosyvoice.transformer.upsample_encoder", WHERE, MATCHA)
    decoder_code = published(code, "cosyvoice.flow.decoder", WHERE, MATCHA)
    try:
        flow, hift = _flow(settings, code, encoder_code, decoder_code), _hift(settings, code)
        chunk, ratio, rate = (settings[name] for name in ("chunk_size", "token_mel_ratio", "sample_rate"))
    except (KeyError, TypeError) as error:
        raise CheckpointError(file.parent / "cosyvoice2.yaml", f"no CosyVoice 2: {error}", "give its own") from error
    load(flow, tensors(file), file)
    voiced = beside(file, "hift.pt")
    load(hift, {name.removeprefix("generator."): tensor for name, tensor in tensors(voiced).items()}, voiced)
    strip_weight_norm(hift)
    bands, width = flow.output_size, flow.spk_embed_affine_layer.in_features
    sound = Sound(hift)
    hop = ratio * sound.scale
    words = AudioDecoder(
        mode="prefix",
        hop=hop,
        chunk=AudioChunk(first=chunk, later=2 * chunk),
        look_back=chunk,
        look_ahead=LOOK_AHEAD,
        align=chunk,
        crossfade=hop,
        inputs=[
            AudioInput(name="tokens", source="codes", dtype="int64", shape=[1, "codes"]),
            AudioInput(
                name="prompt_mel", source="voice", tensor="prompt_mel", dtype="float32", shape=[1, "frames", bands]
            ),
            AudioInput(name="speaker", source="voice", tensor="speaker", dtype="float32", shape=[1, width]),
        ],
        noise=[
            AudioNoise(name="noise", shape=[1, bands, 0], axis=2, per_unit=ratio, distribution="normal"),
            AudioNoise(name="source_noise", shape=[1, 0], axis=1, per_unit=hop, distribution="normal"),
        ],
        graphs=[
            AudioGraph(
                name="encoder",
                inputs=["tokens", "prompt_mel", "speaker", "noise"],
                outputs=["x", "mu", "cond", "spks"],
                files={},
            ),
            AudioGraph(name="step", inputs=["x", "mu", "cond", "spks", "time", "step"], outputs=["next_x"], files={}),
            AudioGraph(name="pitch", inputs=["next_x", "noise"], outputs=["mel", "f0"], files={}),
            AudioGraph(name="sound", inputs=["mel", "f0", "source_noise"], outputs=["samples"], files={}),
        ],
        loop=AudioLoop(graph="step", times=schedule(STEPS), time="time", step="step", carried={"x": "next_x"}),
        samples="samples",
    )

    def original(values: Mapping[str, Tensor]) -> Tensor:
        return _speak(flow, hift, values)

    frames = {2: ("codes", ratio)}
    return Codec(
        title="CosyVoice 2's flow matching and HiFT",
        files=(file, voiced),
        licence=Licence(weights="Apache-2.0", obligations="Keep the licence and the notices of FunAudioLLM/CosyVoice."),
        sample_rate=rate,
        decoder=words,
        graphs={
            "encoder": Graph(
                Encoder(flow, encoder_code),
                {"tokens": {1: ("tokens", 1)}, "prompt_mel": {1: ("prompt", ratio)}, "noise": {2: ("codes", ratio)}},
            ),
            "step": Graph(Step(flow, decoder_code), {"x": frames, "mu": frames, "cond": frames}),
            "pitch": Graph(Pitch(hift), {"next_x": {2: ("tokens", ratio)}, "noise": frames}, float32=True),
            "sound": Graph(sound, {"mel": frames, "f0": {1: ("codes", ratio)}, "source_noise": {1: ("codes", hop)}}),
        },
        codes=flow.vocab_size,
        original=original,
        exact=False,
        judge="log_mel",
        int8_arithmetic=True,
        voice={
            "prompt_mel": torch.sin(torch.arange(PROMPT * ratio * bands).float()).reshape(1, -1, bands),
            "speaker": torch.linspace(-1, 1, width)[None],
        },
        prefix=torch.arange(PROMPT)[None] * 37 % flow.vocab_size,
        schedule=schedule,
    )


def _flow(settings: Mapping[str, Any], code: str | None, encoder_code: Any, decoder_code: Any) -> nn.Module:
    """CausalMaskedDiffWithXvec of these sizes; what the YAML refers to by name is written out."""
    own = settings["flow"]
    chunk, ratio = settings["chunk_size"], settings["token_mel_ratio"]
    build = published(code, "cosyvoice.flow.flow", WHERE, MATCHA).CausalMaskedDiffWithXvec
    match = published(code, "cosyvoice.flow.flow_matching", WHERE, MATCHA).CausalConditionalCFM
    parts = own["decoder"]
    estimator = decoder_code.CausalConditionalDecoder(
        **{**parts["estimator"], "static_chunk_size": chunk * ratio, "num_decoding_left_chunks": -1}
    )
    return build(
        **{
            **own,
            "spk_embed_dim": settings["spk_embed_dim"],
            "input_frame_rate": settings["token_frame_rate"],
            "token_mel_ratio": ratio,
            "encoder": encoder_code.UpsampleConformerEncoder(**{**own["encoder"], "static_chunk_size": chunk}),
            "decoder": match(
                **{**parts, "cfm_params": _Settings(parts["cfm_params"]["content"]), "estimator": estimator}
            ),
        }
    )


def _hift(settings: Mapping[str, Any], code: str | None) -> nn.Module:
    own = settings["hift"]
    build = published(code, "cosyvoice.hifigan.generator", WHERE, MATCHA).HiFTGenerator
    predict = published(code, "cosyvoice.hifigan.f0_predictor", WHERE, MATCHA).ConvRNNF0Predictor
    return build(**{**own, "sampling_rate": settings["sample_rate"], "f0_predictor": predict(**own["f0_predictor"])})


class _Settings(dict[str, Any]):
    """Settings as the published code reads them, by attribute."""

    __getattr__ = dict.__getitem__


def _speak(flow: nn.Module, hift: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
    """The published inference, drawing the values that the graphs are given."""
    prompt_mel, noise = values["prompt_mel"], values["noise"]
    count = prompt_mel.shape[1] // flow.token_mel_ratio
    prompt, tokens = values["tokens"][:, :count], values["tokens"][:, count:]
    held = flow.decoder.rand_noise
    flow.decoder.rand_noise = torch.cat([held[:, :, : prompt_mel.shape[1]], noise], 2)
    merge = hift.m_source.l_linear.weight
    drawn = values["source_noise"][:, :, None] * merge / merge.norm()

    def given(module: nn.Module, inputs: Any, made: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        waves, voiced, noise = made
        loudness = voiced * module.noise_std + (1 - voiced) * module.sine_amp / 3
        return waves - noise + loudness * drawn, voiced, noise

    hook = hift.m_source.l_sin_gen.register_forward_hook(given)
    try:
        sizes = [torch.tensor([part.shape[1]], dtype=torch.int32) for part in (tokens, prompt, prompt_mel)]
        mel, _ = flow.inference(
            tokens, sizes[0], prompt, sizes[1], prompt_mel, sizes[2], values["speaker"], streaming=True, finalize=True
        )
        return hift.inference(mel)[0].clone()
    finally:
        hook.remove()
        flow.decoder.rand_noise = held
