"""Conditioning against transformers' own forward pass, with a hook that puts the face in as a token."""

from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from d2r_fast.engine.condition import EMPTY_PROMPT, ID_POSITION, NUM_TOKENS, PROMPT, Conditioner
from d2r_fast.engine.errors import UserError

WIDTH, FACE = 64, 40


def make_text_model(**settings: Any) -> CLIPTextModel:
    """A small random encoder that takes faces of 40 values into tokens of 64."""
    config: dict[str, Any] = {
        "vocab_size": 49408, "hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "eos_token_id": 2, "bos_token_id": 0, "id_embedding_dim": FACE,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPTextModel(CLIPTextConfig(**config | settings)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def text_model() -> CLIPTextModel:
    return make_text_model()


@pytest.fixture(scope="module")
def conditioner(text_model: CLIPTextModel) -> Conditioner:
    return Conditioner(text_model, batch_size=4)


def faces(num: int, dim: int = FACE, seed: int = 1) -> torch.Tensor:
    x = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def oracle(model: CLIPTextModel, face: torch.Tensor) -> torch.Tensor:
    """The model's own forward on the prompt, with the padded face as the token embedding of "id" (1014)."""
    padded = torch.nn.functional.pad(face, (0, WIDTH - len(face)))

    def replace(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == 1014)[..., None], padded, output)

    hook = model.embeddings.token_embedding.register_forward_hook(replace)
    try:
        return model(input_ids=torch.tensor([PROMPT])).last_hidden_state[0]
    finally:
        hook.remove()


def test_prompt_is_photo_of_a_id_person() -> None:
    assert PROMPT[:8] == (49406, 1125, 539, 320, 1014, 2533, 49407, 49407)
    assert len(PROMPT) == len(EMPTY_PROMPT) == NUM_TOKENS == 77
    assert set(PROMPT[6:]) == set(EMPTY_PROMPT[1:]) == {49407}
    assert PROMPT.count(1014) == 1
    assert PROMPT.index(1014) == ID_POSITION == 4


def test_equals_the_models_own_forward_with_the_face_hooked_in(
    text_model: CLIPTextModel, conditioner: Conditioner
) -> None:
    x = faces(5)
    expected = torch.stack([oracle(text_model, face) for face in x])
    result = conditioner(x)
    assert result.shape == (5, 77, WIDTH)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_unmodified_prompts_equal_the_models_own_forward(
    text_model: CLIPTextModel, conditioner: Conditioner
) -> None:
    empty = text_model(input_ids=torch.tensor([EMPTY_PROMPT])).last_hidden_state[0]
    torch.testing.assert_close(conditioner.unconditional(), empty, rtol=1e-5, atol=1e-5)
    plain = text_model(input_ids=torch.tensor([PROMPT])).last_hidden_state[0]
    with_face = conditioner(faces(1))[0]
    torch.testing.assert_close(with_face[:ID_POSITION], plain[:ID_POSITION], rtol=1e-5, atol=1e-5)


def test_only_positions_from_the_face_on_know_the_face(conditioner: Conditioner) -> None:
    contexts = conditioner(faces(4))
    assert all(torch.equal(contexts[0, :ID_POSITION], other[:ID_POSITION]) for other in contexts[1:])
    apart = (contexts[0] - contexts[1]).abs().amax(dim=1)
    assert (apart[ID_POSITION:] > 1e-3).all()


@pytest.mark.parametrize("num", [1, 3, 4, 11])
def test_batches_equal_one_by_one(conditioner: Conditioner, num: int) -> None:
    x = faces(num)
    together = conditioner(x)
    alone = torch.cat([conditioner(face[None]) for face in x])
    assert torch.equal(together, alone)
    assert torch.equal(conditioner(x.flip(0)), together.flip(0))


def test_batch_size_changes_rounding_only(text_model: CLIPTextModel) -> None:
    x = faces(7)
    torch.testing.assert_close(
        Conditioner(text_model, batch_size=1)(x),
        Conditioner(text_model, batch_size=7)(x),
        rtol=1e-5,
        atol=1e-5,
    )


def test_only_the_direction_counts(conditioner: Conditioner) -> None:
    x = faces(3)
    torch.testing.assert_close(conditioner(x * 20), conditioner(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(conditioner(x.double()), conditioner(x), rtol=1e-5, atol=1e-5)


def test_no_faces(conditioner: Conditioner) -> None:
    assert conditioner(torch.empty(0, FACE)).shape == (0, 77, WIDTH)


def test_the_released_encoder_takes_512_values() -> None:
    model = make_text_model(hidden_size=512, num_hidden_layers=1, id_embedding_dim=None)
    del model.config.id_embedding_dim
    assert Conditioner(model).embedding_dim == 512


@pytest.mark.parametrize("shape", [(2, FACE + 1), (2, WIDTH), (FACE,), (1, 1, FACE)])
def test_refuses_other_shapes(conditioner: Conditioner, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected \(N, 40\)"):
        conditioner(torch.ones(shape))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_refuses_embeddings_without_a_direction(conditioner: Conditioner, value: float) -> None:
    x = faces(4)
    x[2] = value
    with pytest.raises(UserError, match="face embeddings 2: zero or not finite"):
        conditioner(x)


def test_refuses_an_encoder_whose_tokens_are_too_narrow(text_model: CLIPTextModel) -> None:
    model = make_text_model(id_embedding_dim=WIDTH + 1)
    with pytest.raises(UserError, match="must fit into a token"):
        Conditioner(model)
