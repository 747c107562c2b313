"""Offline training on a chain whose optimum is known in closed form: does the loss lead where the paper says it does?

The chain has T = 3 steps in two dimensions: x_3 ~ N(0, I) and, under the reference,

    x_{t-1} ~ N(a_t·x_t, s_t²·I),    r(x_0) = w·x_0.

The policy adds a shift b_t to each step's mean and may change its slope a_t. The optimum of Eq. 3 given x_T is
π* = π_ref·exp(r/η)/Z(x_T). With c_0 = w/η and c_t = a_t·c_{t-1}, E_ref[exp(r/η) | x_t] = exp(c_t·x_t + const). So each
step of π* is the reference's, tilted by exp(c_{t-1}·x_{t-1}): a Gaussian of the same variance and slope with the mean

    a_t·x_t + s_t²·c_{t-1},    so b_t* = s_t²·c_{t-1} = s_t²·(a_1···a_{t-1})·w/η.

For trajectories that share x_T the normaliser cancels: η·(Σ_t ℓ_w − Σ_t ℓ_l) = r_w − r_l. So at π* the predicted
preference is σ(r_w − r_l) for every pair, whoever sampled it. With these as soft labels, π* minimises the cross-entropy
and the squared error pair by pair, on any finite data set. Log-ratios are averages over the N = 2 dimensions:
dpo_beta = η·N.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch

from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.targets import LossOptions, Targets
from tests.support.loss_cases import make_targets

STEPS, DIM, PAIRS = 3, 2, 400
ETA = 0.8
SLOPES = torch.tensor([0.9, 0.7, 0.5], dtype=torch.float64)  # of the steps from x_3, x_2, x_1
STDS = torch.tensor([0.8, 0.6, 0.5], dtype=torch.float64)
REWARD = torch.tensor([1.2, -0.7], dtype=torch.float64)  # w
UNCLIPPED = LossOptions(dpo_beta=ETA * DIM, log_ratio_clip=math.inf)


@dataclass(frozen=True)
class Policy:
    """The shift of each step's mean [T, N] and its slope [T]."""

    shifts: torch.Tensor
    slopes: torch.Tensor

    def log_probs(self, chains: torch.Tensor) -> torch.Tensor:
        """log π of every step of chains [U, T+1, N], averaged over dimensions: [U, T]."""
        means = self.slopes[:, None] * chains[:, :-1] + self.shifts
        return torch.distributions.Normal(means, STDS[:, None]).log_prob(chains[:, 1:]).mean(dim=2)

    def sample(self, initial: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Chains [U, T+1, N] from x_T [U, N]."""
        chain = [initial]
        for step in range(STEPS):
            noise = torch.randn(initial.shape, generator=generator, dtype=torch.float64)
            chain.append(self.slopes[step] * chain[-1] + self.shifts[step] + STDS[step] * noise)
        return torch.stack(chain, dim=1)


REFERENCE = Policy(torch.zeros(STEPS, DIM, dtype=torch.float64), SLOPES)


def optimum() -> torch.Tensor:
    """b* [T, N]: a step's noise reaches x_0 through the slopes of the steps after it."""
    later = torch.tensor([float(SLOPES[step + 1 :].prod()) for step in range(STEPS)], dtype=torch.float64)
    return (STDS**2 * later)[:, None] * REWARD / ETA


def pairs(made_by: Policy = REFERENCE, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Chains [2·PAIRS, T+1, N], pair i being rows i and PAIRS + i with the same x_T; and r_i − r_j [PAIRS]."""
    generator = torch.Generator().manual_seed(seed)
    initial = torch.randn(PAIRS, DIM, generator=generator, dtype=torch.float64)
    chains = made_by.sample(torch.cat([initial, initial]), generator)
    rewards = chains[:, -1] @ REWARD
    return chains, rewards[:PAIRS] - rewards[PAIRS:]


def targets_of(labels: torch.Tensor, margins: torch.Tensor) -> Targets:
    first = list(range(PAIRS))
    return make_targets(
        (2 * PAIRS, STEPS),
        chosen=first,
        rejected=[PAIRS + i for i in first],
        labels=labels,
        margins=margins,
    )


class Problem:
    """A loss over the policy's parameters, b and a, which start at the reference."""

    def __init__(
        self, objective: str, chains: torch.Tensor, targets: Targets, options: LossOptions = UNCLIPPED
    ) -> None:
        self.shifts, self.slopes = REFERENCE.shifts.clone(), REFERENCE.slopes.clone()
        self.parameters = [self.shifts.requires_grad_(), self.slopes.requires_grad_()]
        self._chains, self._reference = chains, REFERENCE.log_probs(chains)
        self._loss, self._targets, self._options = OBJECTIVES[objective].loss, targets, options

    def log_ratios(self) -> torch.Tensor:
        return Policy(self.shifts, self.slopes).log_probs(self._chains) - self._reference

    def loss(self) -> torch.Tensor:
        return self._loss(self.log_ratios(), self._targets, self._options)

    def solve(self) -> None:
        """To convergence, by a quasi-Newton method."""
        optimizer = torch.optim.LBFGS(
            self.parameters,
            max_iter=300,
            tolerance_grad=1e-11,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)

    def descend(self, num_steps: int) -> list[float]:
        """Plain gradient descent, as Algorithm 1; the size of b after each step."""
        sizes = []
        for _ in range(num_steps):
            gradients = torch.autograd.grad(self.loss(), self.parameters)
            with torch.no_grad():
                for parameter, gradient in zip(self.parameters, gradients, strict=True):
                    parameter -= 0.3 * gradient
            sizes.append(float(self.shifts.detach().norm()))
        return sizes


MADE_BY = {
    "the-reference": REFERENCE,
    "a-later-stage": Policy(0.5 * optimum() + 0.1, SLOPES),
    "the-optimum": Policy(optimum(), SLOPES),
}


@pytest.mark.parametrize("made_by", MADE_BY)
@pytest.mark.parametrize("objective", ["ppod", "ppod-mse", "prdp"])
def test_with_soft_labels_training_converges_to_the_closed_form_optimum(objective: str, made_by: str) -> None:
    """Whoever made the data, and to the optimizer's precision: every pair's loss is least there."""
    chains, margins = pairs(MADE_BY[made_by])
    problem = Problem(objective, chains, targets_of(torch.sigmoid(margins), margins))
    problem.solve()
    torch.testing.assert_close(problem.shifts.detach(), optimum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(problem.slopes.detach(), SLOPES, rtol=1e-5, atol=1e-5)
    if objective != "ppod":
        assert float(problem.loss().detach()) < 1e-10  # squared errors are 0 only there


def test_the_log_ratios_of_the_optimum_are_the_rewards() -> None:
    """η·D = r_w − r_l for pairs that share x_T: nothing is left to learn, and no other scale of dpo_beta says so."""
    chains, margins = pairs()
    ratios = (Policy(optimum(), SLOPES).log_probs(chains) - REFERENCE.log_probs(chains)).sum(dim=1)
    torch.testing.assert_close(ETA * DIM * (ratios[:PAIRS] - ratios[PAIRS:]), margins)


def test_where_pairs_do_not_share_their_noise_the_normalisers_stay_in_the_way() -> None:
    """η·log Z(x_T) = (a_1·a_2·a_3)·w·x_T + const: what σ(r_w − r_l) asks for is then not what π* says."""
    generator = torch.Generator().manual_seed(2)
    initial = torch.randn(2 * PAIRS, DIM, generator=generator, dtype=torch.float64)
    chains = REFERENCE.sample(initial, generator)
    ratios = (Policy(optimum(), SLOPES).log_probs(chains) - REFERENCE.log_probs(chains)).sum(dim=1)
    values = chains[:, -1] @ REWARD - SLOPES.prod() * (initial @ REWARD)
    torch.testing.assert_close(ETA * DIM * (ratios[:PAIRS] - ratios[PAIRS:]), values[:PAIRS] - values[PAIRS:])


def test_with_judgments_training_converges_within_its_standard_error() -> None:
    """Labels drawn by people, 1 with probability σ(r_i − r_j): maximum likelihood of independent pairs. Its covariance
    is the inverse of the Fisher information, Σ over pairs of p(1 − p)·∇logit∇logitᵀ."""
    chains, margins = pairs()
    drawn = torch.rand(PAIRS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = Problem("ppod", chains, targets_of((drawn < torch.sigmoid(margins)).double(), margins))
    problem.solve()

    def logits(parameters: torch.Tensor) -> torch.Tensor:
        policy = Policy(parameters[: STEPS * DIM].view(STEPS, DIM), parameters[STEPS * DIM :])
        ratios = (policy.log_probs(chains) - REFERENCE.log_probs(chains)).sum(dim=1)
        return ETA * DIM * (ratios[:PAIRS] - ratios[PAIRS:])

    truth = torch.cat([optimum().flatten(), SLOPES])
    jacobian = torch.func.jacrev(logits)(truth)
    p = torch.sigmoid(margins)
    covariance = torch.linalg.inv(jacobian.T @ ((p * (1 - p))[:, None] * jacobian))
    found = torch.cat([problem.shifts.detach().flatten(), problem.slopes.detach()])
    z = (found - truth) / covariance.diagonal().sqrt()
    assert float(z.abs().max()) < 4
    assert float(z.abs().max()) > 0.1  # and it is an estimate, not the truth


def test_a_sigmoid_at_every_step_converges_elsewhere() -> None:
    """D3PO asks every single step to predict the whole preference."""
    chains, margins = pairs()
    problem = Problem("d3po", chains, targets_of(torch.sigmoid(margins), margins))
    problem.solve()
    assert float((problem.shifts.detach() - optimum()).abs().max()) > 0.1


@cache
def sizes_with_hard_labels(options: LossOptions) -> list[float]:
    """The size of b over 900 steps where the better image is chosen with certainty, as a ranking by a reward says."""
    chains, margins = pairs()
    return Problem("ppod", chains, targets_of((margins > 0).double(), margins), options).descend(900)


def test_with_hard_labels_and_no_clip_it_diverges() -> None:
    """The reward separates the pairs, so no finite policy is best: the longer, the farther beyond the optimum."""
    sizes = sizes_with_hard_labels(UNCLIPPED)
    assert float(optimum().norm()) < sizes[99] < sizes[299] < sizes[899]
    assert sizes[299] > 1.3 * sizes[99] and sizes[899] > 1.3 * sizes[299]


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_mode": "paper"},
        {"clip_mode": "pessimistic-step"},
        {"clip_mode": "pessimistic-pair"},
        {"clip_mode": "paper", "pull_back": 1.0},
    ],
    ids=["paper", "pessimistic-step", "pessimistic-pair", "pull-back"],
)
def test_with_hard_labels_a_clip_keeps_it_bounded(changes: dict[str, Any]) -> None:
    """Three times as long is as far, and a fraction of what it is without a clip."""
    sizes = sizes_with_hard_labels(replace(UNCLIPPED, log_ratio_clip=0.2, **changes))
    assert sizes[899] == pytest.approx(sizes[299], rel=0.02)
    assert sizes[899] < 0.15 * sizes_with_hard_labels(UNCLIPPED)[899]
