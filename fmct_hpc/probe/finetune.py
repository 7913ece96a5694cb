"""Full fine-tuning with layer-wise learning rates; from scratch is the same with an untrained encoder."""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fmct_hpc.model.tunable import Tunable
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.draws import path_scales
from fmct_hpc.probe.batches import batches
from fmct_hpc.probe.config import FinetuneConfig, FinetunePool
from fmct_hpc.probe.heads import LinearHead, pooled
from fmct_hpc.train.schedules import cosine, ramp
from shards.errors import FmctError

_ORDER = int.from_bytes(b"order")
_CHANGE = int.from_bytes(b"change")
_NOT_DECAYED = ("prefix_tokens", "positions", "cls_token", "register_tokens", "position_embeddings")


class Rows(NamedTuple):
    """Which volumes are for what; int64 row numbers each."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    """The kept step is chosen on these, and nothing on any other."""
    score: NDArray[np.int64]


class Check(NamedTuple):
    """A look at the validation volumes."""

    step: int
    loss: float
    """Mean training loss since the last look."""
    auc: float
    """Mean over the tasks that have both classes; NaN where none has."""
    validation_loss: float
    """Log loss of the known labels, as far as the training's weights of the classes allow."""


class Finetuned(NamedTuple):
    """What came of it."""

    scores: NDArray[np.float32]
    """Logits (len(rows.score), T) of the kept step."""
    step: int
    checks: list[Check]
    model: "Classifier"
    """Of the kept step, in evaluation mode."""


class Classifier(nn.Module):
    """An encoder and a linear layer on its pooled and standardised tokens.

    Pooled tokens of different heads differ little beside what they have in common, which batch normalisation
    without an affine part takes away (He et al. 2022, appendix A.1, of linear probing).
    """

    def __init__(self, encoder: Tunable, tasks: int, config: FinetuneConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = pools_of(encoder, config)
        width = len(self.pool) * encoder.width
        self.standardise = nn.BatchNorm1d(width, affine=False)
        self.head = nn.Linear(width, tasks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, views: Tensor, path_scales: Tensor | None = None) -> Tensor:
        """(B, C, D, H, W) -> logits (B, T)."""
        tokens = self.encoder(views) if path_scales is None else self.encoder(views, path_scales=path_scales)
        return self.head(self.standardise(pooled(tokens, self.encoder.prefix, self.pool)))

    def as_head(self, shift: float) -> LinearHead:
        """What classifies the first task, on the pooled tokens; shift: taken from its logits."""
        norm, weight, bias = self.standardise, self.head.weight[0], self.head.bias[0] - shift
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        parts = [part.detach().float().cpu().numpy() for part in (norm.running_mean, scale, weight, bias)]
        return LinearHead(*parts)


def pools_of(encoder: Tunable, config: FinetuneConfig) -> tuple[FinetunePool, ...]:
    """What the linear layer sees of an encoder: `config.pool` without a CLS token that it does not have."""
    pools = tuple(pool for pool in config.pool if pool != "cls" or encoder.prefix)
    if not pools:
        raise FmctError("finetune.pool: cls, and an encoder has no CLS token; give mean or max too")
    return pools


def finetune(
    encoder: Tunable,
    views: Tensor,
    labels: NDArray[np.floating],
    rows: Rows,
    config: FinetuneConfig,
) -> Finetuned:
    """Train a copy of `encoder` on some rows' labels, choose the step on others, score the rest.

    views: (N, C, D, H, W) in [0, 1], of any floating type; batches go to the encoder's device. labels:
    (N, T), 0 or 1, NaN where unknown. Only those of rows.train and rows.validation are read. A batch, what
    is changed about its views and the skipped branches are functions of (seed, step, row), so the same call
    gives the same scores. The step of the greatest mean area is taken, of equal ones that of the least log
    loss. Raises FmctError where no task has both classes among the training rows.
    """
    known = torch.from_numpy(np.asarray(labels[rows.train], dtype=np.float32))
    positive_weights = _positive_weights(known, config.most_positive_weight)
    device = next(encoder.parameters()).device
    drop_path = config.drop_path if isinstance(encoder, VisionTransformer) else 0.0
    model = Classifier(copy.deepcopy(encoder), labels.shape[1], config).to(device)
    optimizer = torch.optim.AdamW(_groups(model, config), lr=config.lr, betas=(0.9, 0.999), fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    best: tuple[tuple[float, float], int, dict[str, Tensor]] | None = None
    checks: list[Check] = []
    losses: list[float] = []
    for step, places in enumerate(_batches(len(rows.train), config)):
        batch = rows.train[places]
        changed = _changed(views[torch.from_numpy(batch)], step, config).to(device)
        scales = path_scales(config.seed, step, batch, 1, encoder.depth, drop_path)[0].to(device)
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(changed, scales if drop_path else None)
        loss = _loss(logits.float(), known[torch.from_numpy(places)].to(device), positive_weights.to(device))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _schedule(config, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % config.check_every == 0 or step + 1 == config.steps:
            scores = _score(model, views, rows.validation, config)
            odds = torch.from_numpy(scores) - positive_weights.log()  # the loss weighs them by so much
            truth = torch.from_numpy(np.asarray(labels[rows.validation], dtype=np.float32))
            loss_now = _loss(odds, truth, torch.ones_like(positive_weights)).item()
            auc = _mean_auc(scores, labels[rows.validation])
            checks.append(Check(step + 1, float(np.mean(losses)), auc, loss_now))
            losses.clear()
            # Where validation can't tell (NaN), the latest is kept.
            if best is None or math.isnan(auc) or (auc, -loss_now) > best[0]:
                best = (auc, -loss_now), step + 1, copy.deepcopy(model.state_dict())
    assert best is not None  # config.steps is at least 1
    model.load_state_dict(best[2])
    return Finetuned(_score(model, views, rows.score, config), best[1], checks, model)


def _positive_weights(known: Tensor, most: float) -> Tensor:
    """negatives / positives of each task, float32 (T,); 1 where one is absent."""
    positives, negatives = (known == 1).sum(dim=0), (known == 0).sum(dim=0)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        raise FmctError("fine-tuning: no task has both positive and negative training volumes")
    weights = negatives / positives.clamp(min=1)
    return torch.where(both, weights, torch.ones_like(weights)).clamp(1 / most, most)


def _loss(logits: Tensor, labels: Tensor, positive_weights: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the known labels (0 where there is none)."""
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), pos_weight=positive_weights, reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def _groups(model: Classifier, config: FinetuneConfig) -> list[dict[str, object]]:
    """Parameters with lr · decay^(layers above them); no weight decay on vectors, tokens and positions.

    Bao et al. 2022 (BEiT), appendix: embedding and tokens are the lowest layer, the head the highest.
    """
    depth = model.encoder.depth
    groups = []
    for name, parameter in model.named_parameters():
        within = name.removeprefix("encoder.")
        layer = model.encoder.layer_of(within) if within != name else depth + 1
        decays = parameter.ndim > 1 and not name.endswith(_NOT_DECAYED)
        groups.append(
            {
                "params": [parameter],
                "lr": config.lr * config.layer_decay ** (depth + 1 - layer),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
        )
    return groups


def _schedule(config: FinetuneConfig, step: int) -> float:
    """Share of the peak rate: a linear warm-up times half a cosine to 0."""
    warmup = config.steps * config.warmup
    if step < warmup:
        return ramp(step + 1, warmup)
    return cosine(1.0, 0.0, (step - warmup) / max(1.0, config.steps - warmup))


def _batches(count: int, config: FinetuneConfig) -> Iterator[NDArray[np.int64]]:
    """Places among `count` rows for each step."""

    def order(number: int) -> NDArray[np.int64]:
        return _generator(config.seed, _ORDER, number).permutation(count)

    return batches(count, config.batch, config.steps, order)


def _changed(views: Tensor, step: int, config: FinetuneConfig) -> Tensor:
    """The batch (B, C, D, H, W) as float32, by chance mirrored, moved (0 comes in), brightened."""
    changed = torch.zeros(views.shape)
    sizes = np.array(views.shape[2:])
    for place, (target, view) in enumerate(zip(changed, views, strict=True)):
        generator = _generator(config.seed, _CHANGE, step, place)
        mirrored = generator.random() < config.flip_probability
        move = generator.integers(-config.move, config.move, size=3, endpoint=True)
        move = np.clip(move, 1 - sizes, sizes - 1)
        source = view.float().flip(-1) if mirrored else view.float()
        to = tuple(slice(max(m, 0), size + min(m, 0)) for m, size in zip(move, sizes, strict=True))
        of = tuple(slice(max(-m, 0), size - max(m, 0)) for m, size in zip(move, sizes, strict=True))
        target[(slice(None), *to)] = source[(slice(None), *of)]
        target += float(generator.uniform(-config.shift, config.shift))
    return changed


@torch.no_grad()
def _score(
    model: Classifier, views: Tensor, rows: NDArray[np.int64], config: FinetuneConfig
) -> NDArray[np.float32]:
    """Logits of the rows' unchanged views: (len(rows), T)."""
    model.eval()
    device = model.head.weight.device
    scores = [np.empty((0, model.head.out_features), np.float32)]
    for start in range(0, len(rows), config.batch):
        batch = views[torch.from_numpy(rows[start : start + config.batch])].float().to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            scores.append(model(batch).float().cpu().numpy())
    return np.concatenate(scores)


def _mean_auc(scores: NDArray[np.float32], labels: NDArray[np.floating]) -> float:
    areas = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            areas.append(roc_auc_score(truth[known], column[known]))
    return float(np.mean(areas)) if areas else float("nan")


def _generator(seed: int, stream: int, first: int, second: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, first, second]))
