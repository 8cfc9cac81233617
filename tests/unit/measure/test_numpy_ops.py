import numpy as np
import pytest

from hwsim.measure import numpy_ops as ops


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def finite_difference(function, x, grad, step=1e-6):
    """Return the gradient of sum(grad * function(x)) with regard to x."""
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        up = float((grad * function(x)).sum())
        x[index] = kept - step
        down = float((grad * function(x)).sum())
        x[index] = kept
        out[index] = (up - down) / (2 * step)
    return out


def test_softmax_rows_sum_to_one_and_may_be_in_place(rng):
    x = rng.standard_normal((4, 7)) * 50
    y = ops.softmax(x, np.empty_like(x))
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    assert y == pytest.approx(shifted / shifted.sum(axis=1, keepdims=True))
    assert ops.softmax(x, x) == pytest.approx(y)


def test_norms(rng):
    x, gain, shift = rng.standard_normal((3, 8)), rng.random(8), rng.random(8)
    y = ops.layernorm(x, gain, shift, np.empty_like(x))
    centred = x - x.mean(axis=1, keepdims=True)
    want = centred / np.sqrt(x.var(axis=1, keepdims=True) + ops.EPSILON) * gain + shift
    assert y == pytest.approx(want)
    y = ops.rmsnorm(x, gain, np.empty_like(x))
    root = np.sqrt((x**2).mean(axis=1, keepdims=True) + ops.EPSILON)
    assert y == pytest.approx(x / root * gain)


def test_activations(rng):
    x = rng.standard_normal((5, 6))
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    want = 0.5 * x * (1 + np.tanh(inner))
    assert ops.gelu(x, np.empty_like(x)) == pytest.approx(want)
    logistic = x / (1 + np.exp(-x))
    assert ops.silu(x, np.empty_like(x)) == pytest.approx(logistic)
    gated = ops.silu_and_mul(x, np.empty((5, 3)))
    assert gated == pytest.approx(logistic[:, :3] * x[:, 3:])


def test_rope_keeps_lengths_and_turns_by_the_angle(rng):
    x, angle = rng.standard_normal((4, 2, 6)), rng.random((4, 1, 3))
    y = ops.rope(x, np.cos(angle), np.sin(angle), np.empty_like(x))
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angle)
    assert y[..., :3] == pytest.approx(turned.real)
    assert y[..., 3:] == pytest.approx(turned.imag)


def test_gradients_against_finite_differences(rng):
    x, grad = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
    gain, shift = rng.random(5), rng.random(5)
    got = ops.gelu_backward(grad, x, np.empty_like(x))
    want = finite_difference(lambda v: ops.gelu(v, np.empty_like(v)), x, grad)
    assert got == pytest.approx(want, abs=1e-7)
    y = ops.softmax(x, np.empty_like(x))
    got = ops.softmax_backward(grad, y, np.empty_like(x))
    want = finite_difference(lambda v: ops.softmax(v, np.empty_like(v)), x, grad)
    assert got == pytest.approx(want, abs=1e-7)

    def norm(v):
        return ops.layernorm(v, gain, shift, np.empty_like(v))

    got = np.empty_like(x)
    to_gain, to_shift = ops.layernorm_backward(grad, x, gain, got)
    assert got == pytest.approx(finite_difference(norm, x, grad), abs=1e-7)
    normal = (norm(x) - shift) / gain
    assert to_gain == pytest.approx((grad * normal).sum(axis=0))
    assert to_shift == pytest.approx(grad.sum(axis=0))


def test_embedding_and_its_gradient(rng):
    table, ids = rng.standard_normal((5, 3)), np.array([1, 4, 1])
    out = ops.embedding(table, ids, np.empty((3, 3)))
    assert out == pytest.approx(table[ids])
    back = ops.embedding_backward(np.ones((3, 3)), ids, np.full((5, 3), 9.0))
    assert back[:, 0].tolist() == [0.0, 2.0, 0.0, 0.0, 1.0]


def test_cross_entropy_and_its_gradient(rng):
    logits, target = rng.standard_normal((3, 4)), np.array([0, 3, 2])
    grad = np.empty_like(logits)
    loss = ops.cross_entropy(logits, target, grad)
    want = -np.log(np.exp(logits)[range(3), target] / np.exp(logits).sum(axis=1)).mean()
    assert loss == pytest.approx(want)

    def value(x):
        return np.array(ops.cross_entropy(x, target, np.empty_like(x)))

    assert grad == pytest.approx(finite_difference(value, logits, 1.0), abs=1e-7)


def test_adamw_is_the_textbook_s(rng):
    w, g = rng.standard_normal(6), rng.standard_normal(6)
    m, v = rng.random(6), rng.random(6)
    want_m = ops.BETA1 * m + (1 - ops.BETA1) * g
    want_v = ops.BETA2 * v + (1 - ops.BETA2) * g * g
    move = want_m / (1 - ops.BETA1**3) / (np.sqrt(want_v / (1 - ops.BETA2**3)) + 1e-8)
    want_w = w * (1 - 1e-3 * 0.1) - 1e-3 * move
    ops.adamw(w, g, m, v, 3)
    assert (m, v) == (pytest.approx(want_m), pytest.approx(want_v))
    assert w == pytest.approx(want_w)


def test_attention_sees_no_later_token(rng):
    q, k, v = (rng.standard_normal((2, 3, 5, 4)) for _ in range(3))
    mask = ops.causal_mask(5, np.float64)
    scores, out = np.empty((2, 3, 5, 5)), np.empty_like(q)
    first = ops.attention(q, k, v, scores, out, mask).copy()
    assert first[:, :, 0] == pytest.approx(v[:, :, 0])
    k[:, :, 4] += 9.0
    v[:, :, 4] += 9.0
    again = ops.attention(q, k, v, scores, out, mask)
    assert again[:, :, :4] == pytest.approx(first[:, :, :4])
    assert not np.allclose(again[:, :, 4], first[:, :, 4])
