"""Full fine-tuning with layer-wise learning rates; with an untrained encoder, training from scratch."""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.model.tunable import Tunable
from fmct_hpc.objective.draws import path_scales
from fmct_hpc.optimizer import AdamW
from fmct_hpc.probe.batches import batches
from fmct_hpc.probe.goal import Findings, Goal, KindLayer
from fmct_hpc.probe.heads import LinearHead, pooled
from fmct_hpc.probe.methods.finetune import FinetuneConfig, FinetunePool
from fmct_hpc.probe.samples import Members
from fmct_hpc.probe.series import padded
from fmct_hpc.probe.series_attention import SeriesAttention, StudyLinearHead
from fmct_hpc.train.pace import shown
from fmct_hpc.train.schedules import cosine, ramp
from shards.errors import FmctError

_ORDER = int.from_bytes(b"order")
_CHANGE = int.from_bytes(b"change")
_NOT_DECAYED = ("prefix_tokens", "positions", "cls_token", "register_tokens", "position_embeddings")


class Rows(NamedTuple):
    """Row numbers of the volumes for training, validation and scoring, int64."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    """The kept step is chosen on these rows only."""
    score: NDArray[np.int64]


class Check(NamedTuple):
    """One evaluation on the validation volumes."""

    step: int
    loss: float
    """Mean training loss since the last check."""
    auc: float
    """Mean over the tasks with both classes; NaN if there are none. For labels that are not binary 0, or NaN
    without validation volumes."""
    validation_loss: float
    """Log loss of the known labels, corrected for the class weights of training; for other kinds their
    `choice_loss`."""


class Finetuned(NamedTuple):
    """The result of fine-tuning."""

    scores: NDArray[np.float32]
    """Raw outputs (len(rows.score), T) at the kept step; logits for binary labels."""
    step: int
    checks: list[Check]
    model: "Classifier"
    """The model at the kept step, in evaluation mode."""


class Classifier(nn.Module):
    """An encoder and a linear layer on its pooled and standardised tokens.

    Pooled tokens of different volumes have a large common component, which batch normalisation without affine
    parameters removes (He et al. 2022, appendix A.1, on linear probing). For studies, attention first pools
    the tokens over all series.
    """

    def __init__(
        self,
        encoder: Tunable,
        head: nn.Linear | KindLayer,
        config: FinetuneConfig,
        of_studies: bool = False,
    ) -> None:
        """head: the layer returned by `Goal.layer`."""
        super().__init__()
        self.encoder = encoder
        self.pool = pools_of(encoder, config)
        width = pooled_width(encoder, config)
        self.series = SeriesAttention(width) if of_studies else None
        self.standardise = nn.BatchNorm1d(width, affine=False)
        self.head = head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            nn.init.trunc_normal_(self.head.weight, std=0.02)

    def forward(
        self, views: Tensor, path_scales: Tensor | None = None, studies: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, C, D, H, W) -> raw outputs (B, T); logits for binary labels.

        studies: from `padded`, if the views are the series of studies; the output then has a row per study.
        """
        tokens = self.encoder(views) if path_scales is None else self.encoder(views, path_scales=path_scales)
        gathered = pooled(tokens, self.encoder.prefix, self.pool)
        if self.series is not None:
            assert studies is not None
            gathered = self.series(gathered, *studies)
        return self.head(self.standardise(gathered))

    def as_head(self, goal: Goal) -> LinearHead:
        """The head on the pooled tokens, for binary labels that of the first task."""
        norm = self.standardise
        weight, bias = goal.kept(self.head)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        mean, deviation = (part.detach().float().cpu().numpy() for part in (norm.running_mean, scale))
        if self.series is None:
            return LinearHead(mean, deviation, weight, bias)
        attention = (part.detach().float().cpu().numpy() for part in (self.series.weight, self.series.roles))
        return StudyLinearHead(mean, deviation, weight, bias, *attention)


def pooled_width(encoder: Tunable, config: FinetuneConfig) -> int:
    """Input channels of the linear layer."""
    return len(pools_of(encoder, config)) * encoder.width


def pools_of(encoder: Tunable, config: FinetuneConfig) -> tuple[FinetunePool, ...]:
    """The poolings in `config.pool` that the encoder supports; `cls` requires a CLS token."""
    pools = tuple(pool for pool in config.pool if pool != "cls" or encoder.prefix)
    if not pools:
        raise FmctError("finetune.pool: only cls is given, but an encoder has no CLS token; add mean or max")
    return pools


def finetune(
    encoder: Tunable,
    views: Tensor,
    labels: NDArray[np.floating] | Goal,
    rows: Rows,
    config: FinetuneConfig,
    members: Members | None = None,
    title: str = "fine-tuning",
) -> Finetuned:
    """Train a copy of `encoder` on rows.train, choose the step on rows.validation, and score rows.score.

    views: (N, C, D, H, W) in [0, 1], any floating type; batches are moved to the encoder's device. labels:
    (N, T), 0 or 1, NaN where unknown, or a `Goal` for other kinds of label. Only the labels of rows.train and
    rows.validation are read. Batches, augmentation and stochastic depth are functions of (seed, step, row),
    so that the same call returns the same scores. The kept step has the greatest mean area; ties are broken
    by the lower loss.

    members: given if rows and labels are of studies; the views are then those of their series, concatenated
    (members.volumes is not read). title: prefix of the log lines of progress.
    Raises FmctError if no task has both classes among the training rows.
    """
    goal = labels if isinstance(labels, Goal) else Findings(labels, rows.train, config)
    device = next(encoder.parameters()).device
    drop_path = config.drop_path if encoder.takes_path_scales else 0.0
    layer = goal.layer(pooled_width(encoder, config))
    model = Classifier(copy.deepcopy(encoder), layer, config, members is not None).to(device)
    seen = _Views(views, members)
    optimizer = AdamW(parameter_groups(model, config), lr=config.lr, betas=(0.9, 0.999), fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    best: tuple[tuple[float, float], int, dict[str, Tensor]] | None = None
    checks: list[Check] = []
    losses: list[float] = []
    order = shown(row_batches(len(rows.train), config), config.steps, title)
    for step, places in enumerate(order):
        batch = rows.train[places]
        numbers, of_studies = seen.of(batch)
        changed = augmented(views[torch.from_numpy(numbers)], step, config).to(device)
        scales = path_scales(config.seed, step, numbers, 1, encoder.depth, drop_path)[0].to(device)
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(changed, scales if drop_path else None, of_studies)
        loss = goal.loss(logits.float(), places)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _schedule(config, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % config.check_every == 0 or step + 1 == config.steps:
            scores = _score(model, seen, rows.validation, config)
            auc, loss_now = goal.evaluated(scores, rows.validation)
            checks.append(Check(step + 1, float(np.mean(losses)), auc, loss_now))
            losses.clear()
            # If the validation area is undefined (NaN), the latest step is kept.
            if best is None or math.isnan(auc) or (auc, -loss_now) > best[0]:
                best = (auc, -loss_now), step + 1, copy.deepcopy(model.state_dict())
    assert best is not None  # config.steps is at least 1
    model.load_state_dict(best[2])
    return Finetuned(_score(model, seen, rows.score, config), best[1], checks, model)


class _Views:
    """The views of volumes, or of the series of studies."""

    def __init__(self, views: Tensor, members: Members | None) -> None:
        self.views, self._members = views, members
        if members is not None:  # by the views' own numbers
            self._members = Members(np.arange(len(views)), members.roles, members.counts)

    def of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[Tensor, Tensor] | None]:
        """View numbers of `rows`, and, for `Classifier`, which of the views belong to one study."""
        if self._members is None:
            return rows, None
        some = self._members.of(rows)
        return some.volumes, padded(some.counts, some.roles)


def parameter_groups(model: Classifier, config: FinetuneConfig) -> list[dict[str, object]]:
    """Parameter groups with lr · decay^(layers above); no weight decay for vectors, tokens and positions.

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
    """The learning rate relative to its peak: linear warm-up, then a half cosine to 0."""
    warmup = config.steps * config.warmup
    if step < warmup:
        return ramp(step + 1, warmup)
    return cosine(1.0, 0.0, (step - warmup) / max(1.0, config.steps - warmup))


def row_batches(count: int, config: FinetuneConfig) -> Iterator[NDArray[np.int64]]:
    """Row numbers below `count` for each step."""

    def order(number: int) -> NDArray[np.int64]:
        return _generator(config.seed, _ORDER, number).permutation(count)

    return batches(count, config.batch, config.steps, order)


def augmented(views: Tensor, step: int, config: FinetuneConfig) -> Tensor:
    """The batch (B, C, D, H, W) as float32, randomly flipped, translated (padded with 0) and brightened."""
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
    model: Classifier, seen: _Views, rows: NDArray[np.int64], config: FinetuneConfig
) -> NDArray[np.float32]:
    """Logits of the rows' views without augmentation: (len(rows), T)."""
    model.eval()
    device = model.head.weight.device
    scores = [np.empty((0, model.head.out_features), np.float32)]
    for start in range(0, len(rows), config.batch):
        numbers, of_studies = seen.of(rows[start : start + config.batch])
        batch = seen.views[torch.from_numpy(numbers)].float().to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            scores.append(model(batch, None, of_studies).float().cpu().numpy())
    return np.concatenate(scores)


def _generator(seed: int, stream: int, first: int, second: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, first, second]))
