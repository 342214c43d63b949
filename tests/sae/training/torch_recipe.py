"""The training recipe again, in PyTorch with autograd, for comparison."""

import math

import torch


class _Jump(torch.autograd.Function):
  """(jumprelu(z, t), heaviside(z, t)) with rectangular pseudo-derivatives."""

  @staticmethod
  def forward(ctx, z, t, bandwidth):
    ctx.save_for_backward(z, t)
    ctx.bandwidth = bandwidth
    on = (z > t).to(z.dtype)
    return z * on, on

  @staticmethod
  def backward(ctx, df, don):
    z, t = ctx.saved_tensors
    near = ((z - t).abs() < ctx.bandwidth / 2).to(z.dtype)
    dt = -(near * (t * df + don)).sum(0) / ctx.bandwidth
    return df * (z > t), dt, None


def train(initial, batches, config, scale):
  """Weights after one update per batch [B, D], float64, from NumPy arrays.

  `initial` has W_enc, W_dec, b_enc, b_dec and log_threshold; `config` is a
  TrainConfig of one run, of which only numbers are read.
  """
  p = {
    name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
    for name, value in initial.items()
  }
  rates = dict.fromkeys(p, config.learning_rate)
  if config.threshold_learning_rate is not None:
    rates['log_threshold'] = config.threshold_learning_rate
  if config.encoder_learning_rate is not None:
    rates['W_enc'] = config.encoder_learning_rate
  if config.bias_learning_rate is not None:
    rates['b_enc'] = rates['b_dec'] = config.bias_learning_rate
  adam = torch.optim.Adam(
    [{'params': [p[name]], 'lr': rates[name]} for name in p],
    betas=(config.adam_b1, config.adam_b2),
    eps=config.adam_eps,
  )
  history = []
  for step, batch in enumerate(batches):
    x = torch.tensor(batch, dtype=torch.float64) / scale
    share = min(1, step / max(1, config.warmup_steps))
    factor = 0.1 + 0.9 * (1 - math.cos(math.pi * share)) / 2
    if config.decay == 'linear':
      factor *= min(1, (config.num_steps - step) / config.decay_steps)
    for group, name in zip(adam.param_groups, p, strict=True):
      group['lr'] = rates[name] * factor
    theta = p['log_threshold'].exp()
    z = torch.relu((x - p['b_dec']) @ p['W_enc'] + p['b_enc'])
    f, on = _Jump.apply(z, theta, config.bandwidth)
    y = f @ p['W_dec'] + p['b_dec']
    mse = ((x - y) ** 2).sum(1).mean()
    l0 = on.sum(1).mean()
    if config.penalty == 'tanh':
      penalty = torch.tanh(config.tanh_scale * x.shape[1] ** 0.5 * f)
      penalty = penalty.sum(1).mean()
    else:
      penalty = l0
    warm = min(1, step / max(1, config.sparsity_warmup_steps))
    loss = mse + config.sparsity * warm * penalty
    adam.zero_grad()
    loss.backward()
    with torch.no_grad():
      W, g = p['W_dec'], p['W_dec'].grad
      g -= (g * W).sum(1, keepdim=True) * W
    adam.step()
    with torch.no_grad():
      p['W_dec'] /= p['W_dec'].norm(dim=1, keepdim=True)
    history.append({'loss': loss.item(), 'mse': mse.item(), 'l0': l0.item()})
  return {name: value.detach().numpy() for name, value in p.items()}, history
