"""Other trainers of JumpReLU SAEs, as peers in benchmarks.

`SAELens` runs the trainer of the installed sae-lens. `DictionaryLearning` is
the recipe of dictionary_learning 0.1 written anew in PyTorch: that package pins
an nnsight which cannot be installed beside current transformers.
"""

import numpy as np
import torch


class SAELens:
  """sae-lens's JumpReLU trainer, on batches that the caller hands in."""

  def __init__(self, d_in: int, width: int, batch_size: int, **options):
    """Prepares a run.

    Args:
      d_in: D.
      width: F.
      batch_size: B.
      **options: `num_steps`, `l0_coefficient`, `l0_warm_up_steps`, `lr`,
        `lr_warm_up_steps`, `lr_decay_steps`, `adam_beta1`, `bandwidth`,
        `initial_threshold`, `seed`; the rest is sae-lens's default.
    """
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(options.get('seed', 0))
    sae = {
      'l0_coefficient': options.get('l0_coefficient', 1.0),
      'l0_warm_up_steps': options.get('l0_warm_up_steps', 0),
    }
    for ours, theirs in (
      ('bandwidth', 'jumprelu_bandwidth'),
      ('initial_threshold', 'jumprelu_init_threshold'),
    ):
      if ours in options:
        sae[theirs] = options[ours]
    trainer = {
      name: options[name]
      for name in ('lr', 'lr_warm_up_steps', 'lr_decay_steps', 'adam_beta1')
      if name in options
    }
    self.sae = JumpReLUTrainingSAE(
      JumpReLUTrainingSAEConfig(
        d_in=d_in,
        d_sae=width,
        normalize_activations='expected_average_only_in',
        **sae,
      )
    )
    self._trainer = SAETrainer(
      cfg=SAETrainerConfig(
        total_training_samples=options.get('num_steps', 1000) * batch_size,
        train_batch_size_samples=batch_size,
        logger=LoggingConfig(log_to_wandb=False),
        # What its runner sets where the user does not.
        lr_end=trainer.get('lr', 3e-4) / 10,
        **trainer,
      ),
      sae=self.sae,
      data_provider=iter(()),
    )

  def set_scale(self, x: np.ndarray):
    """Takes the scaling factor from a sample, as its `fit` does."""
    norm = np.linalg.norm(x, axis=1).mean()
    self._trainer.activation_scaler.scaling_factor = x.shape[1] ** 0.5 / norm

  def step(self, x: np.ndarray):
    """One update, with what its training loop does in each."""
    trainer = self._trainer
    trainer.maybe_reset_sparsity()
    out = trainer.step(torch.from_numpy(x))
    trainer.n_training_steps += 1
    if trainer.n_training_steps % 100 == 0:
      out.loss.item()

  def finish(self):
    """Folds the scaling factor; the SAE then acts on raw activations."""
    trainer = self._trainer
    factor = trainer.activation_scaler.scaling_factor
    self.sae.fold_activation_norm_scaling_factor(factor)
    trainer.activation_scaler.scaling_factor = None

  @torch.no_grad()
  def encode(self, x: np.ndarray) -> np.ndarray:
    """Latents [n, F]."""
    return self.sae.encode(torch.from_numpy(x)).numpy()

  @torch.no_grad()
  def __call__(self, x: np.ndarray) -> np.ndarray:
    """Reconstructions [n, D]."""
    return self.sae.decode(self.sae.encode(torch.from_numpy(x))).numpy()


class DictionaryLearning:
  """The JumpReLU recipe of dictionary_learning, per update.

  Raw thresholds, a quadratic penalty around a target L0, Adam(0, 0.999), the
  gradient of the decoder projected, all gradients clipped to norm 1, decoder
  rows normalised, and the loss read on the host.
  """

  def __init__(self, d_in: int, width: int, target_l0: float = 50.0):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(width, d_in, generator=generator)
    W /= W.norm(dim=1, keepdim=True)
    self.W_dec = W.requires_grad_()
    self.W_enc = W.detach().T.clone().requires_grad_()
    self.b_enc = torch.zeros(width, requires_grad=True)
    self.b_dec = torch.zeros(d_in, requires_grad=True)
    self.threshold = torch.full((width,), 1e-3, requires_grad=True)
    self._params = [self.W_enc, self.W_dec, self.b_enc, self.b_dec]
    self._params.append(self.threshold)
    self._adam = torch.optim.Adam(self._params, 7e-5, (0.0, 0.999), 1e-8)
    self._target_l0 = target_l0
    self._silent = torch.zeros(width, dtype=torch.long)

  def step(self, x: np.ndarray):
    """Does one update on scaled activations [B, D]."""
    x = torch.from_numpy(x)
    z = x @ self.W_enc + self.b_enc
    f = _Jump.apply(z, self.threshold, 1e-3)
    fired = f.sum(0) > 0
    self._silent += len(x)
    self._silent[fired] = 0
    (self._silent > 10_000_000).sum().item()
    y = f @ self.W_dec + self.b_dec
    l0 = _Step.apply(f, self.threshold, 1e-3).sum(1).mean()
    loss = (x - y).pow(2).sum(1).mean() + (l0 / self._target_l0 - 1).pow(2)
    loss.backward()
    with torch.no_grad():
      W, g = self.W_dec, self.W_dec.grad
      unit = W / W.norm(dim=1, keepdim=True)
      g -= (g * unit).sum(1, keepdim=True) * unit
    torch.nn.utils.clip_grad_norm_(self._params, 1.0)
    self._adam.step()
    self._adam.zero_grad()
    with torch.no_grad():
      self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
    return loss.item()


class _Jump(torch.autograd.Function):
  """z where z > t; the threshold's pseudo-derivative is a rectangle's."""

  @staticmethod
  def forward(ctx, z, t, bandwidth):
    ctx.save_for_backward(z, t)
    ctx.bandwidth = bandwidth
    return z * (z > t).float()

  @staticmethod
  def backward(ctx, g):
    z, t = ctx.saved_tensors
    near = (((z - t) / ctx.bandwidth).abs() < 0.5).float()
    return (z > t).float() * g, -(t / ctx.bandwidth) * near * g, None


class _Step(torch.autograd.Function):
  """1 where z > t."""

  @staticmethod
  def forward(ctx, z, t, bandwidth):
    ctx.save_for_backward(z, t)
    ctx.bandwidth = bandwidth
    return (z > t).float()

  @staticmethod
  def backward(ctx, g):
    z, t = ctx.saved_tensors
    near = (((z - t) / ctx.bandwidth).abs() < 0.5).float()
    return torch.zeros_like(z), -(1 / ctx.bandwidth) * near * g, None
