"""Checkpoints of every codec, in its published layout, small and of seeded random weights."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from transformers import DacConfig, DacModel, MimiConfig, MimiModel, NeuCodecConfig
from transformers.models.neucodec.modeling_neucodec import NeuCodecDecoder, NeuCodecQuantizer

from wand_export.audio.codecs.bicodec import PARTS
from wand_export.audio.codecs.bigvgan import Settings
from wand_export.audio.codecs.cosyvoice2 import _flow, _hift
from wand_export.audio.reading import published, read_yaml

STANDINS = str(Path(__file__).parent / "standins")

DAC = DacConfig(
    encoder_hidden_size=4, downsampling_ratios=[2, 5], decoder_hidden_size=16, n_codebooks=2, codebook_size=32,
    sampling_rate=8000,
)  # fmt: skip
MIMI = MimiConfig(
    hidden_size=32, num_filters=4, upsampling_ratios=[4, 3], codebook_size=32, codebook_dim=16,
    vector_quantization_hidden_dimension=16, num_quantizers=4, upsample_groups=32, num_hidden_layers=2,
    intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=10, sampling_rate=2400,
)  # fmt: skip
SNAC = {
    "sampling_rate": 2400, "encoder_dim": 4, "decoder_dim": 16, "decoder_rates": [3, 2], "codebook_size": 64,
    "codebook_dim": 4, "vq_strides": [4, 2, 1],
}  # fmt: skip
BICODEC = {
    "quantizer": {"input_dim": 32, "codebook_size": 64, "codebook_dim": 8},
    "speaker_encoder": {"out_dim": 32, "latent_dim": 8, "token_num": 4, "fsq_levels": [4, 4]},
    "prenet": {"input_channels": 32, "vocos_dim": 16, "vocos_num_layers": 4, "out_channels": 32},
    "decoder": {"input_channel": 32, "channels": 16, "rates": [4, 2], "kernel_sizes": [8, 4]},
}
BIGVGAN = {
    "gpt_dim": 12, "upsample_initial_channel": 16, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4],
    "resblock_kernel_sizes": [3], "speaker_embedding_dim": 8, "num_mels": 10, "sampling_rate": 2400,
}  # fmt: skip
COSYVOICE = """
__set_seed: !apply:builtins.exit [7]
sample_rate: 2400
spk_embed_dim: 6
token_frame_rate: 25
token_mel_ratio: 2
chunk_size: 5
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec
    input_size: 16
    output_size: 8
    spk_embed_dim: !ref <spk_embed_dim>
    vocab_size: 50
    input_frame_rate: !ref <token_frame_rate>
    token_mel_ratio: !ref <token_mel_ratio>
    encoder: !new:cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder
        input_size: 16
        output_size: 16
        static_chunk_size: !ref <chunk_size>
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        in_channels: 24
        n_spks: 1
        spk_emb_dim: 8
        cfm_params: !new:omegaconf.DictConfig
            content:
                inference_cfg_rate: 0.7
        estimator: !new:cosyvoice.flow.decoder.CausalConditionalDecoder
            in_channels: 32
            out_channels: 8
            channels: 16
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
            num_decoding_left_chunks: -1
hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 8
    base_channels: 16
    nb_harmonics: 2
    sampling_rate: !ref <sample_rate>
    upsample_rates: [12]
    istft_params:
        n_fft: 16
        hop_len: 4
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        in_channels: 8
        cond_channels: 16
"""


def seeded(module: nn.Module) -> nn.Module:
    """The module with weights that let a code be heard at the other end."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.dtype == torch.float32 and not name.endswith(("cluster_usage", "initialized")):
            noise = torch.randn(tensor.shape, generator=generator)
            wide = tensor.ndim > 1 and tensor.shape[0] > 1
            scale = tensor[0].numel() ** -0.5 if wide else 0.05
            tensor.copy_(scale * noise if wide or name.endswith("bias") else 0.5 + scale * noise)
    return module


def _pretrained(folder: Path, model: nn.Module) -> None:
    seeded(model).save_pretrained(folder)


def _snac(folder: Path) -> None:
    model = published(STANDINS, "snac.snac", "").SNAC(**SNAC)
    (folder / "config.json").write_text(json.dumps(SNAC), encoding="utf-8")
    torch.save(seeded(model).state_dict(), folder / "pytorch_model.bin")


def _neucodec(folder: Path, rate: int = 24000) -> None:
    """In transformers' names, beside a part of the encoder, which is left alone."""
    config = NeuCodecConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
        quantization_dim=96, quantization_levels=[4] * 4, output_sampling_rate=rate,
        semantic_model_config={"model_type": "wav2vec2-bert", "hidden_size": 32},
    )  # fmt: skip
    torch.manual_seed(0)
    parts = {"acoustic_decoder": NeuCodecDecoder(config), "quantizer": NeuCodecQuantizer(config)}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    save_file({**state, "acoustic_encoder.conv1.bias": torch.zeros(3)}, folder / "model.safetensors")


def _bicodec(folder: Path) -> None:
    (folder / "BiCodec").mkdir()
    (folder / "BiCodec" / "config.yaml").write_text(yaml.safe_dump({"audio_tokenizer": BICODEC}), encoding="utf-8")
    state = {"encoder.unused": torch.zeros(2)}
    for name, (module, kind) in PARTS.items():
        part = seeded(getattr(published(STANDINS, module, ""), kind)(**BICODEC[name]))
        state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    save_file(state, folder / "BiCodec" / "model.safetensors")


def _bigvgan(folder: Path) -> None:
    model = published(STANDINS, "indextts.BigVGAN.models", "").BigVGAN(Settings(BIGVGAN))
    (folder / "config.yaml").write_text(yaml.safe_dump({"gpt": {}, "bigvgan": BIGVGAN}), encoding="utf-8")
    torch.save({"generator": seeded(model).state_dict()}, folder / "bigvgan_generator.pth")


def _cosyvoice2(folder: Path) -> None:
    (folder / "cosyvoice2.yaml").write_text(COSYVOICE, encoding="utf-8")
    settings = read_yaml(folder / "cosyvoice2.yaml", tagged=True)
    names = ("cosyvoice.transformer.upsample_encoder", "cosyvoice.flow.decoder")
    codes = [published(STANDINS, name, "") for name in names]
    flow, hift = seeded(_flow(settings, STANDINS, *codes)), seeded(_hift(settings, STANDINS))
    hift.f0_predictor.classifier.bias.data.fill_(120.0)
    torch.save(flow.state_dict(), folder / "flow.pt")
    torch.save({f"generator.{name}": tensor for name, tensor in hift.state_dict().items()}, folder / "hift.pt")


WRITERS: dict[str, Callable[[Path], None]] = {
    "bicodec": _bicodec,
    "bigvgan": _bigvgan,
    "cosyvoice2": _cosyvoice2,
    "dac": lambda folder: _pretrained(folder, DacModel(DAC)),
    "mimi": lambda folder: _pretrained(folder, MimiModel(MIMI)),
    "neucodec": _neucodec,
    "snac": _snac,
    "xcodec2": lambda folder: _neucodec(folder, 16000),
}


def write(name: str, folder: Path) -> Path:
    """A checkpoint of the codec of that name in `folder`, which is made."""
    folder.mkdir()
    WRITERS[name](folder)
    return folder


def code_for(name: str) -> str | None:
    """What --code names for it."""
    own = import_module(f"wand_export.audio.codecs.{name}")
    return STANDINS if hasattr(own, "WHERE") else None
