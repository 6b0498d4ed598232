import pytest
import torch
from torch import Tensor, nn

from tests.audio.checkpoints import STANDINS
from wand_export.audio import flow
from wand_export.audio.reading import published
from wand_export.audio.rewrites import STFT, InverseSTFT, codebooks, strip_weight_norm, swapped, with_noise


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_without_weight_norm_nothing_else_changes(norm: object) -> None:
    torch.manual_seed(0)
    layers = [norm(nn.Conv1d(3, 4, 5)), nn.ELU(), nn.Sequential(norm(nn.ConvTranspose1d(4, 2, 4, 2)))]  # type: ignore[operator]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # norms unlike those of the weights
    x = torch.randn(1, 3, 20)
    expected = model(x).detach()
    assert strip_weight_norm(model) == 2 and strip_weight_norm(model) == 0
    assert {name for name, _ in model.named_parameters()} == {"0.weight", "0.bias", "2.0.weight", "2.0.bias"}
    assert torch.allclose(model(x), expected, atol=1e-6)


@pytest.mark.parametrize("size, hop", [(16, 4), (40, 10)])
def test_stft_and_its_inverse_are_torchs(size: int, hop: int) -> None:
    torch.manual_seed(0)
    window, x = torch.hann_window(size), torch.randn(1, hop * 30)
    expected = torch.stft(x, size, hop, window=window, return_complex=True)
    found = STFT(window, hop)(x[:, None])
    assert torch.allclose(found, torch.cat([expected.real, expected.imag], 1), atol=1e-4)
    other = torch.randn_like(expected)  # a spectrum that no sound has
    expected_samples = torch.istft(other, size, hop, window=window)
    parts = torch.cat([other.real, other.imag], 1)
    # The bins without a mirror image have no imaginary part, which torch leaves out and so does the basis.
    assert torch.allclose(InverseSTFT(window, hop, size // 2)(parts)[:, 0], expected_samples, atol=1e-4)


def test_noise_blocks_take_their_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = published(STANDINS, "snac.layers", "")
    torch.manual_seed(0)
    decoder = layers.Decoder(8, 16, [3, 2])
    x, noise = torch.randn(1, 8, 12), [torch.randn(1, 1, 36), torch.randn(1, 1, 72)]
    found = with_noise(decoder.model, x, iter(noise), layers.NoiseBlock)
    drawn = iter(noise)
    monkeypatch.setattr(torch, "randn", lambda *shape: next(drawn))
    assert torch.equal(found, decoder(x))


def test_codes_of_each_codebook() -> None:
    woven = torch.tensor([[0, 11 + 3, 7, 11 + 10]])  # eleven ids a codebook of ten
    assert codebooks(woven, 2, 11, 10).tolist() == [[[0, 7], [3, 9]]]


def test_chunk_mask_is_the_published_one() -> None:
    masks = published(STANDINS, "cosyvoice.masks", "")
    x, seen = torch.zeros(1, 23, 2), torch.ones(1, 1, 23, dtype=torch.bool)
    options = (False, False, 0, 5, -1)
    expected = masks.add_optional_chunk_mask(x, seen, *options)
    assert torch.equal(flow.chunk_mask(x, seen, *options), expected)
    assert torch.equal(flow.no_padding(torch.tensor([23]), 23), masks.make_pad_mask(torch.tensor([23]), 23))


def test_functions_are_swapped_for_a_while() -> None:
    class Code(nn.Module):
        def _stft(self, x: Tensor) -> Tensor:
            return x

    code, held = Code(), Code._stft
    with pytest.raises(ZeroDivisionError), swapped(code, _stft=lambda x: 2 * x):
        assert code._stft(torch.ones(1)) == 2
        raise ZeroDivisionError
    assert code._stft(torch.ones(1)) == 1 and "_stft" not in vars(code)
    masks = published(STANDINS, "cosyvoice.masks", "")
    own = masks.make_pad_mask
    with swapped(masks, make_pad_mask=held):
        assert masks.make_pad_mask is held
    assert masks.make_pad_mask is own
