"""The networks and training steps in PyTorch, at their fastest.

They are built from the same layer tables, with the same losses, clipping, Adam
and moving average. `tests/benchmark` compares their results with ours. Needs
PyTorch.

Shapes: b batch, t five frames, k windows of a clip, d embedding. Pictures are
channels first here, [b, c, h, w], in either memory format.
"""

import contextlib
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lipsync_jax.benchmark import settings
from lipsync_jax.benchmark.timing import Candidates
from lipsync_jax.models import discriminator, generator, syncnet
from lipsync_jax.training import losses

Tensors = dict[str, torch.Tensor]


class Block(nn.Module):
  """One layer of a table."""

  def __init__(self, layer):
    super().__init__()
    self.residual, self.act = layer.residual, layer.act
    shape = layer.cin, layer.cout, layer.kernel, layer.stride, layer.pad
    if layer.up:
      extra = tuple(s - 1 for s in layer.stride)
      self.conv = nn.ConvTranspose2d(*shape, output_padding=extra)
    else:
      self.conv = nn.Conv2d(*shape)
    self.norm = nn.BatchNorm2d(layer.cout) if layer.norm else nn.Identity()

  def forward(self, x):
    y = self.norm(self.conv(x))
    y = y + x if self.residual else y
    if self.act == 'relu':
      return functional.relu(y)
    if self.act == 'leaky':
      return functional.leaky_relu(y, 0.01)
    return y.float().sigmoid() if self.act == 'sigmoid' else y


class Network(nn.Module):
  """A network by its name."""

  def __init__(self, name: str, size: int, width: float):
    super().__init__()
    rooms = {
      'generator': generator,
      'syncnet': syncnet,
      'discriminator': discriminator,
    }
    self.name, self.tables = name, rooms[name].layer_specs(size, width)
    rows = [r for part in self.tables.values() for s in part for r in s]
    self.blocks = nn.ModuleDict({row.name: Block(row) for row in rows})

  def run(self, layer, x):
    return self.blocks[layer.name](x)

  def tower(self, part: str, x):
    for stage in self.tables[part]:
      for layer in stage:
        x = self.run(layer, x)
    return x

  def forward(self, *x):
    if self.name == 'generator':

      def concat(parts):
        return torch.cat(parts, 1)

      return generator.connect(self.tables, self.run, concat, *x)
    if self.name == 'syncnet':
      parts = zip(('audio', 'face'), x, strict=True)
      return tuple(l2_normalize(self.tower(part, x)) for part, x in parts)
    lower = x[0][:, :, x[0].shape[2] // 2 :]
    return self.tower('output', self.tower('encoder', lower)).flatten().float()


def l2_normalize(x):
  """[b, d, 1, 1] to float32 vectors of length one."""
  x = x.flatten(1).float()
  return x / x.square().sum(1, keepdim=True).clamp(min=1e-24).sqrt()


def copy_weights(network: Network, variables: dict) -> None:
  """Copy the weights of our network with the same table."""

  def put(tensor, array):
    with torch.no_grad():
      tensor.copy_(torch.from_numpy(np.array(array)))

  for name, block in network.blocks.items():
    params = variables['params'][name]
    kernel = np.asarray(params['kernel'])  # [kh, kw, i, o]
    if isinstance(block.conv, nn.ConvTranspose2d):
      put(block.conv.weight, kernel[::-1, ::-1].transpose(2, 3, 0, 1))
    else:
      put(block.conv.weight, kernel.transpose(3, 2, 0, 1))
    put(block.conv.bias, params['bias'])
    if 'norm' in params:
      put(block.norm.weight, params['norm']['scale'])
      put(block.norm.bias, params['norm']['bias'])
      stats = variables['batch_stats'][name]['norm']
      put(block.norm.running_mean, stats['mean'])
      put(block.norm.running_var, stats['var'])


# --- losses, as in `lipsync_jax.training.losses`


def log_linear_below_floor(x):
  floor = losses.LOG_FLOOR
  return x.clamp(min=floor).log() + (x - floor).clamp(max=0) / floor


def info_nce(audio, face, log_scale):
  """Mean contrastive loss over all windows of vectors [b, k, d]."""
  scale = log_scale.clamp(max=losses.MAX_LOG_SCALE).exp()
  logits = scale * audio @ face.transpose(1, 2)  # [b, k, k]
  hit = logits.diagonal(dim1=1, dim2=2)
  return ((logits.logsumexp(2) + logits.logsumexp(1)) / 2 - hit).mean()


# --- steps


def to_torch_batch(batch: dict, device, form) -> Tensors:
  """A batch of ours with merged leading axes, channels first."""

  def one(x):
    x = torch.from_numpy(np.array(x)).to(device)
    x = x.flatten(0, -4).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=form)

  return {name: one(x) for name, x in batch.items()}


def syncnet_losses(net, log_scale, batch: Tensors) -> Tensors:
  audio, face = net(batch['mel'], batch['frames'])
  groups = (-1, settings.WINDOWS_PER_CLIP, audio.shape[1])
  audio, face = audio.reshape(groups), face.reshape(groups)
  return {'total': info_nce(audio, face, log_scale)}


def generator_losses(nets: dict, batch: Tensors):
  """Losses by name with 'total', and the generated faces."""
  made = nets['generator'](batch['mels'], batch['face'])
  half = made[:, :, made.shape[2] // 2 :]
  frames = half.reshape(-1, 3 * settings.FRAMES, *half.shape[2:])
  audio, face = nets['syncnet'](batch['mel'], frames)
  values = {
    'sync': -log_linear_below_floor((audio * face).sum(1)).mean(),
    'l1': (made - batch['target']).abs().mean(),
  }
  rest = 1 - settings.SYNC_WEIGHT
  total = settings.SYNC_WEIGHT * values['sync']
  if 'discriminator' in nets:
    logit = nets['discriminator'](made)
    values['adversarial'] = functional.softplus(-logit).mean()
    total = total + settings.ADVERSARIAL_WEIGHT * values['adversarial']
    rest -= settings.ADVERSARIAL_WEIGHT
  return values | {'total': total + rest * values['l1']}, made


def discriminator_losses(net, true, made) -> Tensors:
  """The discriminator's two losses."""
  return {
    'real': functional.softplus(-net(true)).mean(),
    'fake': functional.softplus(net(made)).mean(),
  }


def build_train_step(
  stage: str, nets: dict, log_scale, low: bool, compiled: bool
):
  """`step(batch) -> losses and gradient norms`, which updates `nets`."""
  names = settings.trained_networks(stage)
  device = log_scale.device
  groups = {name: list(nets[name].parameters()) for name in names}
  if stage == 'syncnet':
    groups['temperature'] = [log_scale]
  tx = {name: adam_optimizer(params) for name, params in groups.items()}
  average = ema_updater(nets[names[0]])
  compiler = torch.compile if compiled else lambda function: function
  judge = compiler(discriminator_losses)
  teach = compiler(syncnet_losses if stage == 'syncnet' else generator_losses)

  def precision():
    return torch.autocast(device.type, torch.bfloat16, enabled=low)

  def step(batch: Tensors) -> Tensors:
    for each in tx.values():
      each.zero_grad(set_to_none=True)
    if stage == 'syncnet':
      with precision():
        values = teach(nets['syncnet'], log_scale, batch)
      values['total'].backward()
    else:
      critic = nets.get('discriminator')
      with precision(), freeze(critic):
        values, made = teach(nets, batch)
      values['total'].backward()
      if critic:
        with precision():
          judged = judge(critic, batch['target'], made.detach())
        sum(judged.values()).backward()
        values = values | judged
    for name, params in groups.items():
      norm = nn.utils.clip_grad_norm_(params, settings.GRAD_CLIP)
      values[f'grad_norm/{name}'] = norm
      tx[name].step()
    average()
    return {name: x.detach() for name, x in values.items()}

  return step


def adam_optimizer(params) -> torch.optim.Optimizer:
  betas = settings.B1, 0.999
  return torch.optim.Adam(
    params, settings.LEARNING_RATE, betas, eps=1e-8, fused=True
  )


def ema_updater(net: Network) -> Callable[[], None]:
  """Update of a moving average of weights and statistics."""
  now = [x for x in net.state_dict().values() if x.is_floating_point()]
  kept = [x.clone() for x in now]
  step = 0

  def average():
    nonlocal step
    decay = min(settings.EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(kept, now, 1 - decay)
    step += 1

  return average


@contextlib.contextmanager
def freeze(net: Network | None):
  """Let gradients pass through a network without computing its own."""
  if net:
    net.requires_grad_(False)
  yield
  if net:
    net.requires_grad_(True)


def build_networks(
  stage: str, size: int, width: float, state, expert_variables: dict | None
) -> dict:
  """The networks of a stage with the weights of our state."""
  found = {}
  for name in settings.trained_networks(stage):
    found[name] = Network(name, size, width)
    stats = state.batch_stats[name]
    copy_weights(
      found[name], {'params': state.params[name], 'batch_stats': stats}
    )
  if stage != 'syncnet':
    expert = Network('syncnet', size, width).eval().requires_grad_(False)
    copy_weights(expert, expert_variables)
    found['syncnet'] = expert
  return found


def build_reference(
  stage: str,
  size: int,
  width: float,
  batch: dict,
  state,
  expert_variables: dict | None,
  *,
  low: bool = False,
  compiled: bool = False,
):
  """`step() -> losses` on one batch.

  Args:
    low: bfloat16 and channels last.
  """
  form = torch.channels_last if low else torch.contiguous_format
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  torch.backends.cudnn.benchmark = True
  nets = build_networks(stage, size, width, state, expert_variables)
  nets = {k: n.to(device, memory_format=form) for k, n in nets.items()}
  scale = torch.tensor(losses.LOG_SCALE, device=device, requires_grad=True)
  step = build_train_step(stage, nets, scale, low, compiled)
  given = to_torch_batch(batch, device, form)
  return lambda: step(given)


def candidates(
  stage: str,
  size: int,
  width: float,
  batch: dict,
  state,
  expert_variables: dict | None,
  eager: bool = False,
) -> Candidates:
  """The PyTorch configurations that run here; failures are named.

  Args:
    eager: without torch.compile.
  """
  gpu = torch.cuda.is_available()
  low = 'PyTorch bf16 channels-last'
  plans = {} if gpu else {'PyTorch f32': {}}
  plans |= {low: {'low': True}}
  if not eager:
    plans[f'{low} compiled'] = {'low': True, 'compiled': True}
  found = {}
  for name, plan in plans.items():
    run = timed_runner(
      build_reference(
        stage, size, width, batch, state, expert_variables, **plan
      ),
      gpu,
    )
    try:
      run(1)
    except Exception as error:  # any exception: compilers fail in many ways
      line = str(error).strip().partition('\n')[0]
      print(f'{stage}: {name} left out: {line}', file=sys.stderr)
    else:
      found[name] = run
  return found


def timed_runner(step, gpu: bool) -> Callable[[int], None]:
  def run(n):
    for _ in range(n):
      step()
    if gpu:
      torch.cuda.synchronize()

  return run
